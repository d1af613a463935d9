//! What would make a plan hold. A fix is offered only after the whole check has passed on it.

use super::reading::{Reading, Sizes, read};
use super::{Facts, Jobs, shape};
use crate::framework::Framework;
use crate::job::{Job, MOST_GPUS};
use crate::mesh::{Convention, divisors};
use crate::plan::{Draft, Toggle};

/// A change after which the plan holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Fix {
    /// What to change: `EP 4 -> 2`.
    pub change: String,
    /// The plan after it, in the text form of its convention.
    pub plan: String,
    /// Whose names those are.
    pub convention: Convention,
    /// GPUs it uses.
    pub gpus: u64,
    /// How many numbers change.
    pub changed: usize,
    /// What the plan is like then.
    pub note: String,
}

/// Most fixes that are worth reading.
const MOST: usize = 12;

/// Candidates that are looked at in full; the nearest come first.
const MOST_TRIED: usize = 2000;

/// Candidates that are noted at all, so that a cluster with very many divisors stays quick.
const MOST_NOTED: usize = 60_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    Ep,
    Tp,
    Dp,
    Pp,
    Cp,
    Etp,
}

impl Size {
    const fn title(self) -> &'static str {
        match self {
            Self::Ep => "EP",
            Self::Tp => "TP",
            Self::Dp => "DP",
            Self::Pp => "PP",
            Self::Cp => "CP",
            Self::Etp => "ETP",
        }
    }

    /// The degree, where the draft keeps it.
    fn slot(self, draft: &mut Draft) -> &mut Option<u32> {
        match self {
            Self::Ep if draft.moe_ep.is_some() => &mut draft.moe_ep,
            Self::Ep => &mut draft.ep,
            Self::Tp => &mut draft.tp,
            Self::Dp if draft.dp_shard.is_some() => &mut draft.dp_shard,
            Self::Dp => &mut draft.dp,
            Self::Pp => &mut draft.pp,
            Self::Cp if draft.pcp.is_some() => &mut draft.pcp,
            Self::Cp => &mut draft.cp,
            Self::Etp if draft.moe_tp.is_some() => &mut draft.moe_tp,
            Self::Etp => &mut draft.etp,
        }
    }

    /// Whether two candidates give it the same degree.
    fn same(self, one: &Candidate, other: &Candidate) -> bool {
        self.get(&one.draft) == self.get(&other.draft)
    }

    fn get(self, draft: &Draft) -> Option<u32> {
        let mut copy = *draft;
        *self.slot(&mut copy)
    }
}

#[derive(Clone)]
struct Candidate {
    draft: Draft,
    changed: Vec<Size>,
    /// Other changes than of degrees, in words, one for each number or switch.
    beside: Vec<String>,
    /// Product of the ratios of change: 2 for one halving.
    distance: f64,
}

/// Everything that would make the plan hold, fewest changed numbers first.
pub(super) fn fixes(draft: &Draft, facts: &Facts<'_>, own: &Reading, readings: &[Reading]) -> Vec<Fix> {
    let mut out: Vec<Fix> = Vec::new();
    if own.holds() {
        return out;
    }
    if !facts.named {
        out.extend(by_naming(draft, facts, readings));
    }
    let Some(available) = facts.available else { return out };
    let folded = if facts.named || !out.is_empty() { Vec::new() } else { folded(draft, facts, own) };
    let more = more_gpus(draft, facts, own, available);
    let reserved = out.len() + folded.len() + usize::from(more.is_some());
    out.extend(within(draft, facts, MOST.saturating_sub(reserved)));
    out.extend(folded);
    out.extend(more);
    out.sort_by_key(|fix| fix.changed);
    out
}

/// Frameworks in which the numbers hold as they stand: to name one is enough.
fn by_naming(draft: &Draft, facts: &Facts<'_>, readings: &[Reading]) -> Option<Fix> {
    let reading = readings.iter().find(|r| r.holds() && r.idle == 0 && r.convention != facts.convention)?;
    let title = Framework::of(reading.convention).map_or("product", Framework::title);
    Some(Fix {
        change: format!("name {title} as the framework: its numbers hold as written"),
        plan: plan_text(reading.convention, &shape::said_in(reading.convention, draft)),
        convention: reading.convention,
        gpus: reading.needed,
        changed: 0,
        note: reading.why(),
    })
}

/// The nearest fix in Megatron's convention, which most documents that leave EP out of their product mean.
fn folded(draft: &Draft, facts: &Facts<'_>, own: &Reading) -> Vec<Fix> {
    if own.convention != Convention::Product || read_ep(draft) <= 1 {
        return Vec::new();
    }
    let facts = Facts { convention: Convention::Megatron, ..*facts };
    let said = shape::said_in(Convention::Megatron, draft);
    within(&said, &facts, 1).into_iter().filter(|fix| fix.changed == 1).collect()
}

fn read_ep(draft: &Draft) -> u32 {
    draft.ep.or(draft.moe_ep).unwrap_or(1)
}

/// As many GPUs as the numbers ask for.
fn more_gpus(draft: &Draft, facts: &Facts<'_>, own: &Reading, available: u64) -> Option<Fix> {
    if own.needed == available || own.needed == 0 || own.needed > u64::from(MOST_GPUS) {
        return None;
    }
    let gpus = u32::try_from(own.needed).ok()?;
    let resized = |job: Option<&Job>| job.map(|job| Job { cluster: job.cluster.resized(gpus), ..job.clone() });
    let train = resized(facts.jobs.and_then(|jobs| jobs.train));
    let serve = resized(facts.jobs.and_then(|jobs| jobs.serve));
    let jobs = facts.jobs.map(|jobs| Jobs { train: train.as_ref(), serve: serve.as_ref(), ..jobs });
    let facts = Facts { available: Some(own.needed), jobs, ..*facts };
    if !passes(draft, &facts) {
        return None;
    }
    let verb = if own.needed > available { "more" } else { "fewer" };
    let note = format!("ask for {} GPUs: {} {verb}; {}", own.needed, own.needed.abs_diff(available), own.formula);
    Some(Fix {
        change: format!("GPUs {available} -> {}", own.needed),
        plan: plan_text(facts.convention, draft),
        convention: facts.convention,
        gpus: own.needed,
        changed: 1,
        note,
    })
}

/// The whole check of the convention in force.
fn passes(draft: &Draft, facts: &Facts<'_>) -> bool {
    let convention = facts.convention;
    read(convention, draft, facts.available, facts.spare).holds()
        && shape::experts(facts, convention, draft).is_empty()
        && shape::shapes(facts, convention, draft).is_empty()
        && shape::memory(facts, convention, draft).is_empty()
}

/// Other degrees on the same GPUs.
fn within(draft: &Draft, facts: &Facts<'_>, most: usize) -> Vec<Fix> {
    let Some(available) = facts.available.filter(|w| (1..=u64::from(MOST_GPUS)).contains(w)) else { return Vec::new() };
    let own = Candidate { draft: *draft, changed: Vec::new(), beside: Vec::new(), distance: 1.0 };
    let mut candidates: Vec<Candidate> = Some(own).filter(|_| comes_out(facts, available, draft)).into_iter().collect();
    for changes in 1..=3 {
        collect(draft, facts, available, changes, &mut candidates);
        if changes < 3 && candidates.len() >= 4 * MOST {
            break;
        }
    }
    candidates.sort_by(|a, b| a.changed.len().cmp(&b.changed.len()).then(a.distance.total_cmp(&b.distance)));
    let mut out: Vec<Fix> = Vec::new();
    let mut taken: Vec<Candidate> = Vec::new();
    for candidate in candidates.iter().take(MOST_TRIED) {
        if out.len() >= most {
            break;
        }
        if needless(candidate, &taken) {
            continue;
        }
        let good = if passes(&candidate.draft, facts) {
            Some(candidate.clone())
        } else {
            helped(candidate, facts).filter(|helped| !needless(helped, &taken) && passes(&helped.draft, facts))
        };
        if let Some(good) = good {
            out.push(worded(draft, &good, facts, available));
            taken.push(good);
        }
    }
    fastest_first(out, &taken, facts)
}

/// Fixes of equally many changes in the order of what they reach, where the hardware is known; the nearest first otherwise.
fn fastest_first(fixes: Vec<Fix>, taken: &[Candidate], facts: &Facts<'_>) -> Vec<Fix> {
    let mut priced: Vec<(Fix, f64)> =
        fixes.into_iter().zip(taken).map(|(fix, c)| (fix, tokens_per_s(&c.draft, facts).unwrap_or(0.0))).collect();
    priced.sort_by(|(a, fast), (b, slow)| a.changed.cmp(&b.changed).then(slow.total_cmp(fast)));
    priced.into_iter().map(|(fix, _)| fix).collect()
}

/// What a plan is estimated to reach, when its hardware and workload are known.
fn tokens_per_s(draft: &Draft, facts: &Facts<'_>) -> Option<f64> {
    let jobs = facts.jobs.filter(|jobs| jobs.hardware && jobs.memory)?;
    let serves = Framework::of(facts.convention).is_some_and(Framework::serves);
    let job = if serves { jobs.serve } else { jobs.train.or(jobs.serve) }?;
    let plan = crate::rules::resolve(job, draft).plan?;
    Some(crate::estimate::estimate(job, facts.convention, &plan).tokens_per_s(job))
}

/// Whether fewer of the same changes were enough already.
fn needless(candidate: &Candidate, taken: &[Candidate]) -> bool {
    taken.iter().any(|t| {
        t.changed.iter().all(|s| candidate.changed.contains(s) && s.same(t, candidate))
            && t.beside.iter().all(|b| candidate.beside.contains(b))
    })
}

/// The candidate with what its degrees ask for beside them: a switch, or stages of unequal length.
fn helped(candidate: &Candidate, facts: &Facts<'_>) -> Option<Candidate> {
    let mut out = candidate.clone();
    let d = &mut out.draft;
    let jobs = facts.jobs?;
    match facts.convention {
        Convention::Vllm => {
            jobs.serve?.model.moe()?;
            let on = !d.expert_parallel.unwrap_or(false);
            if d.ep.is_some() {
                return None;
            }
            d.expert_parallel = Some(on);
            out.beside.push(format!("expert parallelism {}", if on { "on" } else { "off" }));
        }
        Convention::Megatron | Convention::Bridge => {
            let model = &jobs.train?.model;
            if d.sequence_parallel == Some(false) && d.tp.unwrap_or(1) > 1 && model.moe().is_some() {
                d.sequence_parallel = Some(true);
                out.beside.push("sequence parallelism on".to_owned());
            }
            let (first, last) = uneven(model.layers(), d)?;
            if let Some((first, last)) = (first > 0).then_some((first, last)) {
                (d.knobs.first_stage_layers, d.knobs.last_stage_layers) = (first, last);
                out.beside.push(format!("first_stage_layers {first}"));
                out.beside.push(format!("last_stage_layers {last}"));
            }
        }
        Convention::Product
        | Convention::Torchtitan
        | Convention::Deepspeed
        | Convention::Sglang
        | Convention::Trtllm => {}
    }
    (!out.beside.is_empty()).then_some(out)
}

/// Layers of the first and the last stage that make the others equal; 0 when all are equal, nothing when there is no way.
fn uneven(layers: u32, draft: &Draft) -> Option<(u32, u32)> {
    let k = &draft.knobs;
    let pp = draft.pp.unwrap_or(1).max(1);
    if layers.is_multiple_of(pp.checked_mul(k.vpp.max(1))?) || k.first_stage_layers > 0 || k.last_stage_layers > 0 {
        return Some((0, 0));
    }
    if k.vpp > 1 || pp < 2 || layers < pp {
        return None;
    }
    // The middle takes one more than its share, so that the ends, which have more to do, hold fewer.
    let rest = layers.checked_sub(layers.div_ceil(pp).checked_mul(pp - 2)?).filter(|rest| *rest >= 2)?;
    Some((rest.div_ceil(2), rest / 2))
}

/// Every choice of so many degrees whose product can come out, without repeats.
fn collect(draft: &Draft, facts: &Facts<'_>, available: u64, changes: usize, out: &mut Vec<Candidate>) {
    let values: Vec<u32> = divisors(available).into_iter().filter_map(|d| u32::try_from(d).ok()).collect();
    let sizes = sizes(draft, facts.convention);
    for set in subsets(&sizes, changes) {
        assign(draft, facts, available, &set, &values, &mut Vec::new(), out);
    }
}

/// The degrees that may be changed.
fn sizes(draft: &Draft, convention: Convention) -> Vec<Size> {
    let mut out = Vec::new();
    // An engine whose EP is a switch has no number to change.
    if convention != Convention::Vllm || draft.ep.is_some() {
        out.push(Size::Ep);
    }
    out.push(Size::Tp);
    // A DP that nobody wrote is whatever is left.
    if Size::Dp.get(draft).is_some() {
        out.push(Size::Dp);
    }
    out.push(Size::Pp);
    if Size::Cp.get(draft).is_some_and(|cp| cp > 1) {
        out.push(Size::Cp);
    }
    if matches!(convention, Convention::Megatron | Convention::Bridge) && read_ep(draft) > 1 {
        out.push(Size::Etp);
    }
    out
}

fn subsets(sizes: &[Size], count: usize) -> Vec<Vec<Size>> {
    (0_u32..1 << sizes.len())
        .filter(|set| set.count_ones() as usize == count)
        .map(|set| sizes.iter().enumerate().filter(|(i, _)| set & (1 << i) != 0).map(|(_, s)| *s).collect())
        .collect()
}

fn assign(
    draft: &Draft,
    facts: &Facts<'_>,
    available: u64,
    set: &[Size],
    values: &[u32],
    chosen: &mut Vec<(Size, u32)>,
    out: &mut Vec<Candidate>,
) {
    let Some((size, rest)) = set.split_first() else {
        let mut changed = *draft;
        let mut distance = 1.0;
        for (size, value) in chosen.iter() {
            let old = f64::from(size.get(draft).unwrap_or(1).max(1));
            let new = f64::from(*value);
            distance *= (old / new).max(new / old);
            *size.slot(&mut changed) = Some(*value);
        }
        if comes_out(facts, available, &changed) {
            out.push(Candidate { draft: changed, changed: set_of(chosen), beside: Vec::new(), distance });
        }
        return;
    };
    for value in values {
        if size.get(draft).unwrap_or(1) == *value && (*size != Size::Etp || size.get(draft).is_some()) {
            continue;
        }
        if out.len() >= MOST_NOTED {
            return;
        }
        chosen.push((*size, *value));
        let product = chosen
            .iter()
            .filter(|(s, _)| divides_world(*s, facts.convention))
            .fold(1_u64, |p, (_, v)| p.saturating_mul(u64::from(*v)));
        if available.is_multiple_of(product) {
            assign(draft, facts, available, rest, values, chosen, out);
        }
        chosen.pop();
    }
}

fn set_of(chosen: &[(Size, u32)]) -> Vec<Size> {
    chosen.iter().map(|(size, _)| *size).collect()
}

/// Whether a degree is a factor of the world.
fn divides_world(size: Size, convention: Convention) -> bool {
    match size {
        Size::Ep => convention == Convention::Product,
        Size::Etp => false,
        Size::Tp | Size::Dp | Size::Pp | Size::Cp => true,
    }
}

/// A quick look before the whole check.
fn comes_out(facts: &Facts<'_>, available: u64, draft: &Draft) -> bool {
    let of = |size: Size| u64::from(size.get(draft).unwrap_or(1));
    if let Some(experts) = facts.experts
        && !experts.is_multiple_of(of(Size::Ep))
    {
        return false;
    }
    let mut world = of(Size::Tp).saturating_mul(of(Size::Pp)).saturating_mul(of(Size::Cp));
    if facts.convention == Convention::Product {
        world = world.saturating_mul(of(Size::Ep));
    }
    let copies = u64::from(draft.dp_replicate.unwrap_or(1)).saturating_mul(u64::from(draft.knobs.replicas.max(1)));
    match Size::Dp.get(draft) {
        Some(dp) => world.saturating_mul(u64::from(dp)).saturating_mul(copies) == available,
        None => available.is_multiple_of(world.saturating_mul(copies)),
    }
}

fn worded(draft: &Draft, candidate: &Candidate, facts: &Facts<'_>, available: u64) -> Fix {
    let changes: Vec<String> = candidate
        .changed
        .iter()
        .map(|size| {
            let old = match (size.get(draft), size) {
                (Some(old), _) => old.to_string(),
                (None, Size::Etp) => "unset".to_owned(),
                (None, _) => "1".to_owned(),
            };
            format!("{} {old} -> {}", size.title(), size.get(&candidate.draft).unwrap_or(1))
        })
        .collect();
    let changes: Vec<String> = changes.into_iter().chain(candidate.beside.iter().cloned()).collect();
    let mut notes = Vec::new();
    let reading = read(facts.convention, &candidate.draft, facts.available, facts.spare);
    notes.push(reading.formula);
    let ep = Sizes::of(&candidate.draft).ep;
    if let Some(experts) = facts.experts.filter(|_| ep > 0) {
        notes.push(format!("{} experts on a GPU", experts / ep));
    }
    Fix {
        change: changes.join(", "),
        plan: plan_text(facts.convention, &candidate.draft),
        convention: facts.convention,
        gpus: available,
        changed: changes.len(),
        note: notes.join("; "),
    }
}

/// A draft in the text form of a convention, which `Draft::parse` reads back.
pub(super) fn plan_text(convention: Convention, draft: &Draft) -> String {
    let d = shape::said_in(convention, draft);
    let mut out: Vec<String> = Vec::new();
    let mut put = |name: &str, degree: Option<u32>| {
        if let Some(degree) = degree {
            out.push(if name.contains('_') { format!("{name}={degree}") } else { format!("{name}{degree}") });
        }
    };
    let one = |degree: Option<u32>| degree.or(Some(1));
    put("tp", one(d.tp));
    let has_ep = d.expert_parallel.unwrap_or_else(|| d.ep.is_some_and(|ep| ep > 1));
    if !matches!(convention, Convention::Vllm | Convention::Trtllm) {
        put("ep", one(d.ep));
    }
    put("pp", one(d.pp));
    put("dp", d.dp);
    if matches!(convention, Convention::Vllm | Convention::Sglang) {
        put("pcp", d.pcp.filter(|cp| *cp > 1));
    } else {
        put("cp", d.cp.filter(|cp| *cp > 1));
    }
    for (name, degree) in [
        ("etp", d.etp),
        ("dp_replicate", d.dp_replicate),
        ("dp_shard", d.dp_shard),
        ("attn_dp", d.attn_dp),
        ("moe_tp", d.moe_tp),
        ("moe_ep", d.moe_ep),
        ("mb", Some(d.knobs.micro_batch).filter(|mb| *mb > 1)),
        ("vpp", Some(d.knobs.vpp).filter(|vpp| *vpp > 1)),
        ("first_stage_layers", Some(d.knobs.first_stage_layers).filter(|n| *n > 0)),
        ("last_stage_layers", Some(d.knobs.last_stage_layers).filter(|n| *n > 0)),
        ("replicas", Some(d.knobs.replicas).filter(|n| *n > 1)),
    ] {
        put(name, degree);
    }
    if convention == Convention::Vllm {
        out.push(format!("ep={has_ep}"));
    }
    let trains = Framework::of(convention).is_some_and(|framework| !framework.serves());
    if trains && d.sequence_parallel == Some(false) && d.tp.is_some_and(|tp| tp > 1) {
        out.push("sequence_parallel=false".to_owned());
    }
    if d.knobs.ep_overlap == Toggle::On && !trains {
        out.push("ep_overlap=true".to_owned());
    }
    if d.attention_dp == Some(true) {
        out.push("attention_dp=true".to_owned());
    }
    out.join(" ")
}
