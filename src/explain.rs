//! Why a plan costs what it costs, why one does not fit, and the smallest changes that make it fit.

use crate::cluster::Dtype;
use crate::cost::network::{self, Tier};
use crate::cost::{MemoryTerm, Term};
use crate::estimate::{self, Estimate, Time};
use crate::framework::{Framework, GroupKind, group};
use crate::job::{GradDtype, Job, KvFormat, Serve, Train, Workload};
use crate::mesh::{Convention, Mesh};
use crate::model::{Quant, QuantScope, WeightFormat};
use crate::plan::{Draft, Knobs, Plan, Recompute};
use crate::rules;
use crate::units::Bytes;
use std::collections::BTreeMap;

/// The groups of a plan that leave their scale-up domain.
#[must_use]
pub fn over_network(job: &Job, convention: Convention, plan: &Plan) -> Vec<GroupKind> {
    let tier = |kind| {
        let ranks = group(convention, &plan.mesh, plan.knobs.replicas, kind);
        network::place(&job.cluster, ranks).tier
    };
    let moe = job.model.moe().is_some();
    GroupKind::ALL
        .into_iter()
        .filter(|kind| match kind {
            GroupKind::Ep | GroupKind::Etp | GroupKind::Edp => moe,
            // Shown by its two halves already.
            GroupKind::DpCp => false,
            GroupKind::Dp => job.train().is_some() || moe,
            GroupKind::Tp | GroupKind::Cp | GroupKind::Pp => true,
        })
        .filter(|kind| tier(*kind) == Tier::Network)
        .collect()
}

/// One line on what a plan spends its time on and what crosses the network.
#[must_use]
pub fn reason(job: &Job, convention: Convention, plan: &Plan, estimate: &Estimate) -> String {
    let mut parts = Vec::new();
    let mut terms = estimate.time.parts();
    let total: f64 = terms.iter().map(|part| part.seconds).sum();
    // Stable: equal terms keep the order of columns.
    terms.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let shown = terms.iter().filter(|part| part.seconds >= 0.03 * total).take(3);
    parts
        .extend(shown.map(|part| format!("{} {:.0}%", part.key.replace("_exposed", ""), part.seconds / total * 100.0)));
    if let Time::Serve(service) = &estimate.time
        && service.concurrency + 0.5 < f64::from(estimate.load.concurrency)
    {
        parts.push("KV cache limits the load".to_owned());
    }
    let over: Vec<&str> = over_network(job, convention, plan).iter().map(|kind| kind.name()).collect();
    if !over.is_empty() {
        parts.push(format!("{} over network", over.join("+")));
    }
    parts.join(", ")
}

/// A change of a plan that makes it fit.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// What changes, in words.
    pub what: String,
    /// The changed plan.
    pub plan: Plan,
    /// GPUs it takes.
    pub gpus: u32,
    /// What it costs.
    pub estimate: Estimate,
}

/// Changes of a plan so far: in words, the workload and the plan they lead to.
struct Move {
    what: String,
    workload: Workload,
    plan: Plan,
}

/// Every single change that needs less memory: of knobs, number formats, or one degree.
fn moves(job: &Job, from: &Move) -> Vec<Move> {
    let Move { workload, plan, .. } = from;
    let knobs = plan.knobs;
    let mut out = Vec::new();
    let mut add = |what: &str, workload: Workload, plan: Plan| {
        let what = if from.what.is_empty() { what.to_owned() } else { format!("{}, {what}", from.what) };
        out.push(Move { what, workload, plan });
    };
    if let Workload::Train(_) = workload {
        let mut turn = |what: &str, knobs| add(what, *workload, Plan { mesh: plan.mesh, knobs });
        if knobs.recompute != Recompute::Full {
            turn("recompute=full", Knobs { recompute: Recompute::Full, ..knobs });
        }
        let mut micro_batch = knobs.micro_batch / 2;
        while micro_batch >= 1 {
            turn(&format!("micro_batch={micro_batch}"), Knobs { micro_batch, ..knobs });
            micro_batch /= 2;
        }
        for zero in knobs.zero + 1..=3 {
            turn(&format!("zero={zero}"), Knobs { zero, ..knobs });
        }
        for optimizer_offload in [50, 100] {
            if optimizer_offload > knobs.optimizer_offload {
                let what = format!("optimizer_offload={}", f64::from(optimizer_offload) / 100.0);
                turn(&what, Knobs { optimizer_offload, ..knobs });
            }
        }
    }
    for (what, thinner) in lower_precision(job, workload) {
        add(&what, thinner, *plan);
    }
    for (what, mesh) in wider(&plan.mesh) {
        let mut changed = Plan { mesh, knobs };
        // A split of the layers belongs to its number of stages.
        (changed.knobs.first_stage_layers, changed.knobs.last_stage_layers) = (0, 0);
        if let Workload::Serve(_) = workload {
            changed.knobs.replicas = knobs.replicas.min(mesh.product_dp().unwrap_or(1)).max(1);
        }
        add(&what, *workload, changed);
    }
    out
}

/// How many changes are tried together.
const MOST_MOVES: usize = 3;

/// The changes that make a plan fit, cheapest first, each checked against every rule and priced again; at most `most`. Where no
/// single one does, two are tried together, then three.
///
/// Cheapest is the smallest loss of tokens per second and GPU; more GPUs come after what fits on these.
#[must_use]
pub fn changes(job: &Job, framework: Option<Framework>, plan: &Plan, most: usize) -> Vec<Change> {
    let convention = framework.map_or(Convention::Product, Framework::convention);
    let knobs = plan.knobs;
    let priced = |made: &Move| {
        let job = Job { workload: made.workload, ..job.clone() };
        if !rules::broken(&job, framework, &made.plan).is_empty() {
            return None;
        }
        let estimate = estimate::estimate(&job, convention, &made.plan);
        let gpus = made.plan.mesh.world();
        let change = Change { what: made.what.clone(), plan: made.plan, gpus, estimate };
        estimate::verdict(&job, &estimate).is_empty().then_some(change)
    };
    let start = Move { what: String::new(), workload: job.workload, plan: *plan };
    let mut level = moves(job, &start);
    for recomputed in
        [smallest_recompute(job, framework, plan), fewest_layers(job, framework, plan)].into_iter().flatten()
    {
        let what = format!("recompute={}", recomputed.knobs.recompute);
        level.push(Move { what, workload: job.workload, plan: recomputed });
    }
    let mut seen: BTreeMap<Plan, Vec<Workload>> = BTreeMap::new();
    let mut out: Vec<Change> = Vec::new();
    for depth in 1..=MOST_MOVES {
        // The same changes in another order, and whole layers where a block of them does.
        level.retain(|made| {
            let known = seen.entry(made.plan).or_default();
            let new = !known.contains(&made.workload);
            known.push(made.workload);
            new
        });
        out.extend(level.iter().filter_map(priced));
        if !out.is_empty() || depth == MOST_MOVES {
            break;
        }
        level = level.iter().flat_map(|made| moves(job, made)).collect();
    }
    let scale = |change: &Change| change.estimate.tokens_per_s(job) / f64::from(change.gpus);
    out.sort_by(|a, b| scale(b).total_cmp(&scale(a)).then_with(|| a.plan.cmp(&b.plan)));
    let mut more: Vec<Change> = Vec::new();
    if out.len() < most {
        for factor in [2, 4, 8] {
            let Some(gpus) = job.gpus().checked_mul(factor).filter(|g| *g <= crate::job::MOST_GPUS) else { break };
            let bigger = Job { cluster: job.cluster.resized(gpus), ..job.clone() };
            let dp = plan.mesh.dp_attention() * factor;
            let meshes = [
                Mesh::new(plan.mesh.tp(), plan.mesh.cp(), plan.mesh.pp(), dp, plan.mesh.ep(), plan.mesh.etp()),
                Mesh::new(
                    plan.mesh.tp(),
                    plan.mesh.cp(),
                    plan.mesh.pp() * factor,
                    plan.mesh.dp_attention(),
                    plan.mesh.ep(),
                    plan.mesh.etp(),
                ),
                plan.mesh
                    .ep()
                    .checked_mul(factor)
                    .and_then(|ep| Mesh::new(plan.mesh.tp(), plan.mesh.cp(), plan.mesh.pp(), dp, ep, plan.mesh.etp())),
            ];
            for mesh in meshes.into_iter().flatten() {
                let changed = Plan { mesh, knobs };
                if rules::broken(&bigger, framework, &changed).is_empty() {
                    let estimate = estimate::estimate(&bigger, convention, &changed);
                    if estimate::verdict(&bigger, &estimate).is_empty() {
                        more.push(Change { what: format!("{gpus} GPUs"), plan: changed, gpus, estimate });
                    }
                }
            }
            if !more.is_empty() {
                break;
            }
        }
    }
    out.extend(more);
    out.truncate(most);
    out
}

/// The cheapest of the smallest sets of modules whose recomputation makes a plan fit: no set is looked at that holds one that
/// fits, as recomputing more never costs less.
fn smallest_recompute(job: &Job, framework: Option<Framework>, plan: &Plan) -> Option<Plan> {
    let convention = framework.map_or(Convention::Product, Framework::convention);
    let held = match plan.knobs.recompute {
        Recompute::None => 0,
        Recompute::Modules(set) => set,
        Recompute::Full | Recompute::Uniform(_) | Recompute::Block(_) => return None,
    };
    let with = |recompute| Plan { mesh: plan.mesh, knobs: Knobs { recompute, ..plan.knobs } };
    let fits =
        |plan: &Plan| rules::broken(job, framework, plan).is_empty() && estimate::memory(job, convention, plan).fits();
    let mut sets: Vec<u8> = module_sets(job)
        .into_iter()
        .filter_map(|set| match set {
            Recompute::Modules(set) if set & !held != 0 => Some(set | held),
            Recompute::Modules(_) | Recompute::None | Recompute::Full | Recompute::Uniform(_) | Recompute::Block(_) => {
                None
            }
        })
        .collect();
    sets.sort_unstable_by_key(|set| (set.count_ones(), *set));
    sets.dedup();
    let mut smallest: Vec<u8> = Vec::new();
    for set in sets {
        if !smallest.iter().any(|small| set & small == *small) && fits(&with(Recompute::Modules(set))) {
            smallest.push(set);
        }
    }
    let speed = |plan: &Plan| estimate::estimate(job, convention, plan).tokens_per_s(job);
    let best = smallest.into_iter().map(|set| with(Recompute::Modules(set))).max_by(|a, b| {
        // Of equal speed, the first is the smaller set.
        speed(a).total_cmp(&speed(b)).then_with(|| b.cmp(a))
    });
    let whole = with(Recompute::Full);
    best.or_else(|| fits(&whole).then_some(whole))
}

/// The fewest whole layers of each stage whose recomputation makes a plan fit, where the framework can say so; more of them never
/// need more memory.
fn fewest_layers(job: &Job, framework: Option<Framework>, plan: &Plan) -> Option<Plan> {
    if !matches!(framework, None | Some(Framework::Megatron | Framework::Bridge)) {
        return None;
    }
    if matches!(plan.knobs.recompute, Recompute::Full | Recompute::Uniform(_) | Recompute::Block(_)) {
        return None;
    }
    let convention = framework.map_or(Convention::Product, Framework::convention);
    let with = |layers: u16| {
        let knobs = Knobs { recompute: Recompute::Block(layers), ..plan.knobs };
        Plan { mesh: plan.mesh, knobs }
    };
    let fits = |layers: u16| estimate::memory(job, convention, &with(layers)).fits();
    let stages = estimate::stage_layers(job, convention, plan);
    let most = u16::try_from(stages.into_iter().max()?.div_ceil(plan.knobs.vpp.max(1))).ok()?;
    let (mut too_few, mut enough) = (0, most);
    if !fits(most) {
        return None;
    }
    while enough - too_few > 1 {
        let middle = too_few.midpoint(enough);
        if fits(middle) { enough = middle } else { too_few = middle }
    }
    (enough < most).then(|| with(enough))
}

/// The same workload in thinner number formats, with what changes.
fn lower_precision(job: &Job, workload: &Workload) -> Vec<(String, Workload)> {
    let mut out = Vec::new();
    let mut add = |what: &str, workload| out.push((what.to_owned(), workload));
    match *workload {
        Workload::Train(train) => {
            if train.grad_dtype == GradDtype::Fp32 {
                add("grad_dtype=bf16", Workload::Train(Train { grad_dtype: GradDtype::Bf16, ..train }));
            }
        }
        Workload::Serve(serve) => {
            let widest = serve.quant.format.bytes();
            for (format, dtype) in [(WeightFormat::Fp8, Dtype::Fp8), (WeightFormat::Int4, Dtype::Bf16)] {
                if format.bytes() < 0.9 * widest && job.cluster.gpu.peak(dtype).is_some() {
                    let quant = Quant { format, scope: QuantScope::Linears };
                    add(&format!("weights in {format}"), Workload::Serve(Serve { quant, ..serve }));
                }
            }
            if serve.kv_cache == KvFormat::Bf16 {
                add("kv_cache=fp8", Workload::Serve(Serve { kv_cache: KvFormat::Fp8, ..serve }));
            }
        }
    }
    out
}

/// Sets of modules to recompute, found by trying all of them.
fn module_sets(job: &Job) -> Vec<Recompute> {
    use crate::plan::Module;
    let bit = |m: Module| 1_u8 << m as u8;
    let mut useful = vec![bit(Module::CoreAttn), bit(Module::Layernorm), bit(Module::MlpAct)];
    if job.model.is_mla() {
        useful.push(bit(Module::MlaUpProj));
    }
    if job.model.dense_ffn().is_some() {
        useful.push(bit(Module::Mlp));
    }
    if job.model.moe().is_some() {
        useful.push(bit(Module::Moe));
        if job.model.moe().is_some_and(|m| m.shared_ffn > 0) {
            useful.push(bit(Module::SharedExperts));
        }
    }
    (1..1_u32 << useful.len())
        .map(|choice| {
            let chosen = useful.iter().enumerate().filter(|(i, _)| choice & (1 << i) != 0);
            Recompute::Modules(chosen.map(|(_, bit)| bit).fold(0, |set, bit| set | bit))
        })
        .collect()
}

/// The same GPUs with one degree doubled at the cost of data parallelism.
fn wider(mesh: &Mesh) -> Vec<(String, Mesh)> {
    let (tp, cp, pp, dp, ep, etp) = (mesh.tp(), mesh.cp(), mesh.pp(), mesh.dp_attention(), mesh.ep(), mesh.etp());
    let mut out = Vec::new();
    for factor in [2, 4, 8] {
        if dp % factor == 0 {
            let tied = if etp == tp { etp * factor } else { etp };
            let forms = [
                (format!("tp {tp} to {}", tp * factor), Mesh::new(tp * factor, cp, pp, dp / factor, ep, tied)),
                (format!("pp {pp} to {}", pp * factor), Mesh::new(tp, cp, pp * factor, dp / factor, ep, etp)),
            ];
            out.extend(forms.into_iter().filter_map(|(name, mesh)| mesh.map(|m| (name, m))));
        }
        if ep > 1 || mesh.edp() > 1 {
            let form = Mesh::new(tp, cp, pp, dp, ep * factor, etp);
            out.extend(form.map(|m| (format!("ep {ep} to {}", ep * factor), m)));
        }
    }
    out
}

/// What to know about a plan that holds: the framework's silent choices, and how tight the memory is.
#[must_use]
pub fn remarks(
    job: &Job,
    framework: Option<Framework>,
    plan: &Plan,
    draft: Option<&Draft>,
    estimate: &Estimate,
) -> Vec<String> {
    let mut out: Vec<String> = rules::warnings(job, framework, plan, draft).iter().map(ToString::to_string).collect();
    if let Some(used) = estimate.memory.tight() {
        out.push(format!(
            "tight: {:.1}% of the memory is used, and the model's own error is of that order; leave 5% or try it first",
            used * 100.0
        ));
    }
    out
}

/// How much too much a plan needs, on which stage, and which term is largest.
#[must_use]
pub fn shortfall(estimate: &Estimate) -> Option<String> {
    let memory = &estimate.memory;
    if memory.fits() {
        return None;
    }
    let over = memory.ledger.bytes() - memory.capacity;
    let largest: MemoryTerm = memory.largest();
    let amount = Bytes::new(memory.ledger.get(largest));
    Some(format!(
        "needs {} per GPU on stage {}, has {}: {over} too much; the largest term is {} with {amount}",
        memory.ledger.bytes(),
        memory.worst_stage,
        memory.capacity,
        largest.key(),
    ))
}
