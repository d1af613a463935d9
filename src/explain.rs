//! Why a plan costs what it costs, why one does not fit, and the smallest changes that make it fit.

use crate::cluster::Dtype;
use crate::cost::network::{self, Tier};
use crate::cost::{MemoryTerm, Term, TimeTerm};
use crate::estimate::{self, Estimate, Time};
use crate::framework::{Framework, GroupKind, group};
use crate::job::{GradDtype, Job, KvFormat, Serve, Train, Workload};
use crate::mesh::{Convention, Mesh};
use crate::model::{Quant, QuantScope, WeightFormat};
use crate::plan::{Draft, Plan, Recompute};
use crate::rules;
use crate::units::Bytes;

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
    match &estimate.time {
        Time::Train(step) => {
            let total = step.seconds().get();
            let mut terms: Vec<(TimeTerm, f64)> =
                TimeTerm::ALL.iter().map(|t| (*t, step.ledger.get(*t) / total)).collect();
            terms.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let shown = terms.iter().filter(|(_, share)| *share >= 0.03).take(3);
            parts.extend(shown.map(|(t, share)| format!("{} {:.0}%", t.key().replace("_exposed", ""), share * 100.0)));
        }
        Time::Serve(service) => {
            let share = (service.tpot_s - service.decode_step_s) / service.tpot_s;
            parts.push(format!("decode {:.0}%", (1.0 - share) * 100.0));
            if share >= 0.03 {
                parts.push(format!("others' prefill {:.0}%", share * 100.0));
            }
            if service.concurrency + 0.5 < f64::from(estimate.load.concurrency) {
                parts.push("KV cache limits the load".to_owned());
            }
        }
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

/// The changes that make a plan fit, cheapest first, each checked against every rule and priced again; at most `most`.
///
/// Cheapest is the smallest loss of tokens per second and GPU; more GPUs come after what fits on these.
#[must_use]
pub fn changes(job: &Job, framework: Option<Framework>, plan: &Plan, most: usize) -> Vec<Change> {
    let convention = framework.map_or(Convention::Product, Framework::convention);
    let mut out: Vec<Change> = Vec::new();
    let mut offer = |what: String, job: &Job, plan: Plan| {
        if !rules::broken(job, framework, &plan).is_empty() {
            return;
        }
        let estimate = estimate::estimate(job, convention, &plan);
        if estimate::verdict(job, &estimate).is_empty() {
            out.push(Change { what, plan, gpus: plan.mesh.world(), estimate });
        }
    };
    let knobs = plan.knobs;
    let with = |knobs| Plan { mesh: plan.mesh, knobs };
    if let Workload::Train(_) = &job.workload {
        if let Some((set, recomputed)) = smallest_recompute(job, framework, plan) {
            offer(format!("recompute={set}"), job, recomputed);
        }
        let mut micro = knobs.micro_batch / 2;
        while micro >= 1 {
            offer(format!("micro_batch={micro}"), job, with(crate::plan::Knobs { micro_batch: micro, ..knobs }));
            micro /= 2;
        }
        for zero in knobs.zero + 1..=3 {
            offer(format!("zero={zero}"), job, with(crate::plan::Knobs { zero, ..knobs }));
        }
        for offload in [50, 100] {
            if offload > knobs.optimizer_offload {
                let changed = crate::plan::Knobs { optimizer_offload: offload, ..knobs };
                offer(format!("optimizer_offload={}", f64::from(offload) / 100.0), job, with(changed));
            }
        }
    }
    for (what, thinner) in lower_precision(job) {
        offer(what, &thinner, *plan);
    }
    for (name, mesh) in wider(&plan.mesh) {
        let mut changed = Plan { mesh, knobs };
        // A split of the layers belongs to its number of stages.
        (changed.knobs.first_stage_layers, changed.knobs.last_stage_layers) = (0, 0);
        if job.serve().is_some() {
            changed.knobs.replicas = knobs.replicas.min(mesh.product_dp().unwrap_or(1)).max(1);
        }
        offer(name, job, changed);
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
fn smallest_recompute(job: &Job, framework: Option<Framework>, plan: &Plan) -> Option<(Recompute, Plan)> {
    let convention = framework.map_or(Convention::Product, Framework::convention);
    let held = match plan.knobs.recompute {
        Recompute::None => 0,
        Recompute::Modules(set) => set,
        Recompute::Full => return None,
    };
    let with = |recompute| Plan { mesh: plan.mesh, knobs: crate::plan::Knobs { recompute, ..plan.knobs } };
    let fits =
        |plan: &Plan| rules::broken(job, framework, plan).is_empty() && estimate::memory(job, convention, plan).fits();
    let mut sets: Vec<u8> = module_sets(job)
        .into_iter()
        .filter_map(|set| match set {
            Recompute::Modules(set) if set & !held != 0 => Some(set | held),
            Recompute::Modules(_) | Recompute::None | Recompute::Full => None,
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
    best.or_else(|| fits(&whole).then_some(whole)).map(|plan| (plan.knobs.recompute, plan))
}

/// The same job in thinner number formats, with what changes.
fn lower_precision(job: &Job) -> Vec<(String, Job)> {
    let mut out = Vec::new();
    let mut add = |what: &str, workload| out.push((what.to_owned(), Job { workload, ..job.clone() }));
    match job.workload {
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
