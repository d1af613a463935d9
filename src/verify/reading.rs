//! How each convention reads the same numbers: what they multiply to, and what its framework's own check says.
//!
//! This is arithmetic alone, so it needs no model; `rules` reads the same grids for a whole job, and a test holds the two
//! together.

use super::Finding;
use crate::framework::Framework;
use crate::mesh::Convention;
use crate::plan::Draft;
use crate::rules::Rule;

/// One convention's reading of a plan's numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The convention.
    pub convention: Convention,
    /// GPUs the numbers ask for.
    pub needed: u64,
    /// The products with their numbers.
    pub formula: String,
    /// DP of this convention, stated or derived.
    pub dp: Option<u64>,
    /// GPUs left over.
    pub idle: u64,
    /// The reasons against it; empty when it holds.
    pub broken: Vec<Finding>,
    /// What else is worth saying.
    pub remark: String,
}

impl Reading {
    /// Whether the numbers work as written.
    #[must_use]
    pub const fn holds(&self) -> bool {
        self.broken.is_empty()
    }

    /// Why it holds or does not, in one line.
    #[must_use]
    pub fn why(&self) -> String {
        if self.broken.is_empty() {
            return self.remark.clone();
        }
        let reasons: Vec<&str> = self.broken.iter().map(|f| f.message.as_str()).collect();
        reasons.join("; ")
    }

    fn new(convention: Convention, needed: u64, formula: String, dp: Option<u64>) -> Self {
        Self { convention, needed, formula, dp, idle: 0, broken: Vec::new(), remark: String::new() }
    }

    fn refuse(&mut self, rule: Rule, message: String, claimed: u64, actual: u64) {
        let asked_by = rule.asked_by().iter().copied().find(|s| s.framework == Framework::of(self.convention));
        let finding = Finding { asked_by, ..Finding::violation(rule.id(), message) };
        self.broken.push(finding.with(claimed, actual));
    }

    /// The world against the GPUs there are.
    fn compare(&mut self, available: Option<u64>, spare: Spare, hint: &str) {
        let Some(available) = available else { return };
        let (needed, formula) = (self.needed, self.formula.clone());
        if needed == available {
            return;
        }
        let share = share(needed, available);
        if needed > available {
            let message = format!("{formula} GPUs, {share} of the {available} available: {} short", needed - available);
            self.refuse(Rule::World, message, available, needed);
            return;
        }
        self.idle = available - needed;
        let message = format!("{formula} GPUs, {share} of the {available} available: {} idle{hint}", self.idle);
        match spare {
            Spare::Violation => {
                self.broken.push(Finding::violation("idle", message).with(available, needed));
            }
            Spare::Fine => self.remark = message,
        }
    }
}

/// Whether GPUs left over are against the plan: a document says for how many GPUs it is, a command does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spare {
    /// The plan was to use them.
    Violation,
    /// Whoever started it may want them for something else.
    Fine,
}

/// `200%`, `51.56%`.
pub(super) fn share(part: u64, whole: u64) -> String {
    super::percent(part as f64 / whole.max(1) as f64)
}

/// The sizes of a draft, whatever names it uses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) tp: u64,
    pub(super) cp: u64,
    pub(super) pp: u64,
    pub(super) ep: u64,
    pub(super) etp: Option<u64>,
    pub(super) dp: Option<u64>,
    replicate: u64,
    pub(super) replicas: u64,
}

impl Sizes {
    pub(super) fn of(draft: &Draft) -> Self {
        let wide = |degree: Option<u32>| degree.map(u64::from);
        let (tp, pp) = (wide(draft.tp).unwrap_or(1), wide(draft.pp).unwrap_or(1));
        let cp = wide(draft.cp).or(wide(draft.pcp)).unwrap_or(1);
        let replicate = wide(draft.dp_replicate).unwrap_or(1);
        let halves = || match (draft.dp_replicate, draft.dp_shard) {
            (None, None) => None,
            (Some(_), None) => None,
            (_, Some(shard)) => Some(replicate.saturating_mul(u64::from(shard))),
        };
        let dp = wide(draft.dp).or_else(halves);
        let ep = match (wide(draft.ep).or(wide(draft.moe_ep)), draft.expert_parallel) {
            (Some(ep), _) => ep,
            (None, Some(true)) => times(&[tp, cp, dp.unwrap_or(1)]),
            (None, _) => 1,
        };
        let etp = wide(draft.etp).or(wide(draft.moe_tp));
        Self { tp, cp, pp, ep, etp, dp, replicate, replicas: u64::from(draft.knobs.replicas.max(1)) }
    }
}

/// Products of what people write may be of any size.
pub(super) fn times(degrees: &[u64]) -> u64 {
    degrees.iter().fold(1_u64, |p, d| p.saturating_mul(*d))
}

/// `TP*EP = 2*4 = 8`; CP is left out while it is 1.
pub(super) fn text(terms: &[(&str, u64)]) -> String {
    let shown: Vec<&(&str, u64)> =
        terms.iter().filter(|(n, d)| !(*d == 1 && matches!(*n, "CP" | "REPLICAS"))).collect();
    let names: Vec<&str> = shown.iter().map(|(n, _)| *n).collect();
    let degrees: Vec<String> = shown.iter().map(|(_, d)| d.to_string()).collect();
    let product = shown.iter().fold(1_u64, |p, (_, d)| p.saturating_mul(*d));
    format!("{} = {} = {product}", names.join("*"), degrees.join("*"))
}

/// Reads the numbers of a draft as a convention would, against the GPUs there are.
#[must_use]
pub fn read(convention: Convention, draft: &Draft, available: Option<u64>, spare: Spare) -> Reading {
    let s = Sizes::of(draft);
    match convention {
        Convention::Product => product(s, available, spare),
        Convention::Megatron | Convention::Bridge => megatron(convention, s, available, spare),
        Convention::Torchtitan => torchtitan(s, available, spare),
        Convention::Deepspeed => deepspeed(s, available, spare),
        Convention::Vllm => vllm(draft, s, available, spare),
        Convention::Sglang => sglang(draft, s, available, spare),
        Convention::Trtllm => trtllm(draft, s, available, spare),
    }
}

/// The DP that is left when it is not stated.
fn left(cut: u64, available: Option<u64>) -> Option<u64> {
    available.filter(|w| w.is_multiple_of(cut)).map(|w| w / cut)
}

fn product(s: Sizes, available: Option<u64>, spare: Spare) -> Reading {
    let cut = times(&[s.tp, s.cp, s.ep, s.pp]);
    let known = s.dp.or_else(|| left(cut, available));
    let dp = known.unwrap_or(1);
    let needed = cut.saturating_mul(dp);
    let formula = text(&[("TP", s.tp), ("CP", s.cp), ("EP", s.ep), ("PP", s.pp), ("DP", dp)]);
    let mut r = Reading::new(Convention::Product, needed, formula, known);
    match (known, available) {
        (None, Some(w)) if w > cut => {
            let cut = text(&[("TP", s.tp), ("CP", s.cp), ("EP", s.ep), ("PP", s.pp)]);
            r.refuse(Rule::World, format!("the {w} GPUs are not a multiple of {cut}"), w, needed);
        }
        _ => r.compare(available, spare, ""),
    }
    let etp = s.etp.unwrap_or(s.tp);
    let expert = times(&[s.ep, etp, s.pp]);
    if !needed.is_multiple_of(expert) {
        let grid = text(&[("ETP", etp), ("EP", s.ep), ("PP", s.pp)]);
        r.refuse(Rule::ExpertGrid, format!("{grid} does not divide the {needed} GPUs"), needed, expert);
    }
    if r.remark.is_empty() {
        let from = if s.dp.is_none() && known.is_some() { ", DP being what is left" } else { "" };
        r.remark = format!("{}{from}", r.formula);
    }
    r
}

fn megatron(convention: Convention, s: Sizes, available: Option<u64>, spare: Spare) -> Reading {
    let name = if convention == Convention::Bridge { "Megatron Bridge" } else { "Megatron-LM" };
    let unset = if convention == Convention::Bridge && s.ep > 1 { 1 } else { s.tp };
    let etp = s.etp.unwrap_or(unset);
    let dense = times(&[s.tp, s.cp, s.pp]);
    let expert = times(&[etp, s.ep, s.pp]);
    let least = (dense / gcd(dense, expert).max(1)).saturating_mul(expert);
    // Both grids hold PP, so their least common multiple is PP * lcm(TP*CP, ETP*EP).
    let needed = match (s.dp, available) {
        (Some(dp), _) => dense.saturating_mul(dp),
        (None, Some(w)) if w.is_multiple_of(least) => w,
        (None, _) => least,
    };
    let expert_text = text(&[("ETP", etp), ("EP", s.ep), ("PP", s.pp)]);
    let ranks = match s.dp {
        Some(dp) => text(&[("TP", s.tp), ("CP", s.cp), ("PP", s.pp), ("DP", dp)]),
        None => text(&[("TP", s.tp), ("CP", s.cp), ("PP", s.pp)]),
    };
    let both = if s.ep > 1 || s.etp.is_some() { format!("{ranks}, {expert_text}") } else { ranks.clone() };
    let world = available.unwrap_or(needed);
    let derived = left(dense, Some(world));
    let mut r = Reading::new(convention, needed, ranks, s.dp.or(derived));
    let unset_note = |world: u64| {
        if s.etp.is_some() || etp == 1 {
            return String::new();
        }
        let bare = times(&[s.ep, s.pp]);
        let verdict = if world.is_multiple_of(bare) { ", which divides" } else { "" };
        format!("; ETP unset means ETP = TP = {etp}, and ETP 1 makes it {bare}{verdict}")
    };
    if s.dp.is_some() {
        let mut hint = String::new();
        if let (Some(derived), true) = (derived, needed < world) {
            hint = format!("; {name} derives DP = {world}/{dense} = {derived} from {world} ranks");
            if !needed.is_multiple_of(expert) {
                hint.push_str(&format!(", and on {needed} ranks {expert_text} does not divide{}", unset_note(needed)));
            }
        }
        r.compare(available, spare, &hint);
    }
    r.formula = both;
    let smallest =
        if s.dp.is_none() { format!("; the smallest world of both grids is {least}") } else { String::new() };
    if !world.is_multiple_of(dense) && (s.dp.is_none() || needed < world) {
        let grid = text(&[("TP", s.tp), ("CP", s.cp), ("PP", s.pp)]);
        r.refuse(Rule::DenseGrid, format!("{grid} does not divide the {world} GPUs{smallest}"), world, dense);
    }
    // A plan that is too large is asked about its own ranks.
    let asked = if needed > world { needed } else { world };
    let asked = if s.dp.is_none() { world } else { asked };
    if !asked.is_multiple_of(expert) {
        let message = format!("{expert_text} does not divide the {asked} GPUs{}{smallest}", unset_note(asked));
        r.refuse(Rule::ExpertGrid, message, asked, expert);
    }
    if r.remark.is_empty() {
        let dp = derived.unwrap_or(1);
        r.remark = format!(
            "TP*CP*PP = {dense} and ETP*EP*PP = {expert} divide {world}: DP {dp}, EDP {}",
            world / expert.max(1)
        );
    }
    r
}

fn torchtitan(s: Sizes, available: Option<u64>, spare: Spare) -> Reading {
    let cut = times(&[s.tp, s.cp, s.pp]);
    let known = s.dp.or_else(|| left(times(&[cut, s.replicate]), available).map(|shard| shard * s.replicate));
    let dp = known.unwrap_or(s.replicate);
    let needed = cut.saturating_mul(dp);
    let formula = text(&[("TP", s.tp), ("CP", s.cp), ("PP", s.pp), ("DP", dp)]);
    let mut r = Reading::new(Convention::Torchtitan, needed, formula, known);
    let hint = left(cut, available).map(|dp| format!("; DP {dp} would use all, and the world must be exact"));
    r.compare(available, spare, &hint.unwrap_or_default());
    if !dp.is_multiple_of(s.replicate) {
        let message = format!("DP = {dp} is not a multiple of dp_replicate = {}", s.replicate);
        r.refuse(Rule::DataParallel, message, dp, s.replicate);
    }
    let borrowed = times(&[dp / s.replicate.max(1), s.cp, s.tp]);
    if !borrowed.is_multiple_of(s.ep) {
        let message = format!("EP = {} does not divide dp_shard*cp*tp = {borrowed}", s.ep);
        r.refuse(Rule::ExpertFold, message, s.ep, borrowed);
    }
    if let Some(etp) = s.etp.filter(|etp| *etp > 1) {
        r.refuse(Rule::NotExpressible, format!("there is no expert TP here, and ETP is {etp}"), etp, 1);
    }
    r.remark = or(&r.remark, format!("{}, and EP {} divides dp_shard*cp*tp = {borrowed}", r.formula, s.ep));
    r
}

fn deepspeed(s: Sizes, available: Option<u64>, spare: Spare) -> Reading {
    let dense = times(&[s.tp, s.pp]);
    let needed = match (s.dp, available) {
        (Some(dp), _) => dense.saturating_mul(dp),
        (None, Some(w)) => w.max(dense),
        (None, None) => times(&[dense, s.ep]),
    };
    let world = available.unwrap_or(needed);
    let derived = left(dense, Some(world));
    let dp = s.dp.or(derived);
    let formula = text(&[("TP", s.tp), ("PP", s.pp), ("DP", dp.unwrap_or(1))]);
    let mut r = Reading::new(Convention::Deepspeed, needed, formula, dp);
    let hint = derived.map(|d| format!("; DeepSpeed derives DP = {world}/{dense} = {d}"));
    r.compare(available, spare, &hint.unwrap_or_default());
    if s.cp > 1 {
        r.refuse(Rule::ContextParallel, format!("there is no CP degree here, and CP is {}", s.cp), s.cp, 1);
    }
    if derived.is_none() && needed <= world {
        r.refuse(Rule::DenseGrid, format!("TP*PP = {dense} does not divide the {world} GPUs"), world, dense);
    }
    // EP lives inside the DP that the started ranks give.
    let inside = if needed > world { s.dp } else { derived };
    // AutoEP leaves experts whole and spreads them over the stage.
    let (lanes, over) = if s.etp == Some(1) && s.ep > 1 && s.tp > 1 { (s.tp, "TP*DP") } else { (1, "DP") };
    if let Some(ranks) = inside.map(|dp| dp.saturating_mul(lanes))
        && !ranks.is_multiple_of(s.ep)
    {
        r.refuse(Rule::ExpertFold, format!("EP = {} does not divide {over} = {ranks}", s.ep), s.ep, ranks);
    }
    r.remark = or(&r.remark, format!("{}, and EP {} divides {over}", r.formula, s.ep));
    r
}

fn vllm(draft: &Draft, s: Sizes, available: Option<u64>, spare: Spare) -> Reading {
    let dp = s.dp.unwrap_or(1);
    let stage = times(&[s.tp, s.cp, dp]);
    let needed = times(&[stage, s.pp, s.replicas]);
    let formula = text(&[("TP", s.tp), ("CP", s.cp), ("PP", s.pp), ("DP", dp), ("REPLICAS", s.replicas)]);
    let mut r = Reading::new(Convention::Vllm, needed, formula, Some(dp));
    r.compare(available, spare, &replicas(needed, available));
    if let Some(ep) = draft.ep.or(draft.moe_ep).map(u64::from).filter(|ep| *ep > 1 && *ep != stage) {
        let message = format!("EP is a switch: on means EP = TP*DP = {stage}, and the plan says {ep}");
        r.refuse(Rule::NotExpressible, message, ep, stage);
    }
    let switch = if s.ep > 1 { format!(", expert parallelism on: EP = TP*DP = {stage}") } else { String::new() };
    r.remark = or(&r.remark, format!("{}{switch}", r.formula));
    r
}

fn sglang(draft: &Draft, s: Sizes, available: Option<u64>, spare: Spare) -> Reading {
    let dp = s.dp.unwrap_or(1);
    let needed = times(&[s.tp, s.pp, dp, s.replicas]);
    let formula = text(&[("TP_SIZE", s.tp), ("PP", s.pp), ("DP_SIZE", dp), ("REPLICAS", s.replicas)]);
    let mut r = Reading::new(Convention::Sglang, needed, formula, Some(dp));
    r.compare(available, spare, &replicas(needed, available));
    let ep = if draft.knobs.a2a { s.tp } else { s.ep };
    if ep > s.tp {
        let message = format!("EP = {ep} exceeds the TP size {}, which it divides", s.tp);
        r.refuse(Rule::ExpertFold, message, ep, s.tp);
    }
    let attention = times(&[draft.attn_dp.map_or(1, u64::from), s.cp]);
    if !s.tp.is_multiple_of(attention) {
        let message = format!("attention DP times CP = {attention} does not divide the TP size {}", s.tp);
        r.refuse(Rule::AttentionDp, message, attention, s.tp);
    }
    let untiled =
        if ep < s.tp && !s.tp.is_multiple_of(ep) { "; EP leaves ranks of the TP size without experts" } else { "" };
    r.remark = or(&r.remark, format!("{}{untiled}", r.formula));
    r
}

fn trtllm(draft: &Draft, s: Sizes, available: Option<u64>, spare: Spare) -> Reading {
    // There is no DP size: copies are launched one by one.
    let copies = times(&[s.dp.unwrap_or(1), s.replicas]);
    let needed = times(&[s.tp, s.pp, s.cp, copies]);
    let formula = text(&[("TP", s.tp), ("PP", s.pp), ("CP", s.cp), ("REPLICAS", copies)]);
    let mut r = Reading::new(Convention::Trtllm, needed, formula, None);
    r.compare(available, spare, &replicas(needed, available));
    let named = draft.ep.or(draft.moe_ep).map(u64::from);
    let (moe_tp, moe_ep) = match (s.etp, named) {
        (Some(t), Some(e)) => (t, e),
        (Some(t), None) => (t, (s.tp / t.max(1)).max(1)),
        (None, Some(e)) => ((s.tp / e.max(1)).max(1), e),
        (None, None) => (s.tp, 1),
    };
    let experts = times(&[moe_tp, moe_ep]);
    if experts != s.tp && experts != times(&[s.tp, s.cp]) {
        let message = format!("MOE_TP*MOE_EP = {moe_tp}*{moe_ep} = {experts} is not TP = {}", s.tp);
        r.refuse(Rule::ExpertSplit, message, experts, s.tp);
    }
    r.remark = or(&r.remark, format!("{}, MOE_TP*MOE_EP = {moe_tp}*{moe_ep} = {experts}", r.formula));
    r
}

/// What an engine does with GPUs left over.
fn replicas(needed: u64, available: Option<u64>) -> String {
    match available {
        Some(w) if needed > 0 && w > needed && w.is_multiple_of(needed) => {
            format!("; {} such replicas would use all", w / needed)
        }
        _ => String::new(),
    }
}

fn or(said: &str, other: String) -> String {
    if said.is_empty() { other } else { said.to_owned() }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
