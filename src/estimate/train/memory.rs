//! What every stage of a training run must hold.

use super::{micro_batches, sp_degree, tokens};
use crate::cost::memory as mem;
use crate::cost::ops;
use crate::cost::pipeline;
use crate::cost::stack::Stack;
use crate::cost::{MemoryLedger, MemoryTerm};
use crate::estimate::{Memory, StageSpan, worst};
use crate::job::{Job, Train};
use crate::mesh::{Convention, Mesh};
use crate::model::MOST_KINDS;
use crate::plan::{Plan, Toggle};

/// Memory of the stage that needs most.
#[must_use]
pub fn memory(job: &Job, train: &Train, convention: Convention, plan: &Plan) -> Memory {
    worst(plan.mesh.pp(), job.cluster.gpu.memory, |i| stage_memory(job, train, convention, plan, i))
}

/// Parameters that one rank of a stage holds.
#[must_use]
pub fn stage_params(job: &Job, convention: Convention, plan: &Plan, stage: u32) -> mem::RankParams {
    let model = &job.model;
    let mesh = &plan.mesh;
    let span = StageSpan::of(convention, model, plan, stage);
    let mut params = mem::RankParams::default();
    for (kind, block) in model.blocks().iter().enumerate() {
        let kv = block.mixer.gqa().map(|a| a.kv_heads);
        let one = mem::block_params(&model.block_params(block), kv, mesh);
        params.add(one, f64::from(span.count(model, kind)));
    }
    let h = f64::from(model.spec().hidden);
    let table = mem::padded_vocab(model.spec().vocab, mesh.tp()) * h / f64::from(mesh.tp());
    let (first, last) = (stage == 0, stage + 1 == mesh.pp());
    if first {
        params.dense += table + model.position_params() as f64;
    }
    if last {
        params.dense += h * model.spec().norm.vectors() as f64;
        // A tied head is the embedding itself, unless they lie on different stages.
        if !(model.spec().tied_embeddings && first) {
            params.dense += table;
        }
    }
    params
}

/// Memory of one stage's ranks.
///
/// `static + in flight * kept + buffers + max(largest layer's working set, loss)`: the formulas are in `docs/MODEL.md`.
#[must_use]
pub fn stage_memory(job: &Job, train: &Train, convention: Convention, plan: &Plan, stage: u32) -> MemoryLedger {
    let model = &job.model;
    let mesh = &plan.mesh;
    let knobs = &plan.knobs;
    let micro = micro_batches(train, plan);
    let stack = Stack::of(job, train.precision, convention, knobs).piped(mesh.pp(), micro);
    let grad = stack.gradients.unwrap_or(train.grad_dtype);
    let span = StageSpan::of(convention, model, plan, stage);
    let params = stage_params(job, convention, plan, stage);
    let mut ledger = MemoryLedger::EMPTY;

    let copies = pipeline::weight_copies(knobs.schedule);
    let offload = f64::from(knobs.optimizer_offload) / 100.0;
    let shards = f64::from(mesh.dp_attention() * mesh.cp()) / f64::from(knobs.dp_replicate.max(1));
    let expert_shards = f64::from(mesh.edp());
    for (count, shards) in [(params.dense, shards), (params.routed, expert_shards)] {
        let per = mem::state_bytes(train.precision, grad, knobs.zero, shards.max(1.0), offload);
        ledger.add(MemoryTerm::Weights, copies * count * per.weights);
        ledger.add(MemoryTerm::Gradients, count * per.gradients);
        ledger.add(MemoryTerm::Optimizer, count * per.optimizer);
    }

    let t = tokens(train, plan);
    let r = sp_degree(plan);
    let h = f64::from(model.spec().hidden);
    let mut kept = 0.0;
    let mut working_set: f64 = 0.0;
    let mut kinds = [0_usize; MOST_KINDS];
    let mut live = 0;
    let mut gathered: f64 = 0.0;
    for (kind, block) in model.blocks().iter().enumerate() {
        let count = span.count(model, kind);
        if count == 0 {
            continue;
        }
        kinds[live] = kind;
        live += 1;
        let layer = ops::kept(model, block, mesh, r, train.moe_balance, &stack);
        let (stays, back) = mem::activation(&layer, 2.0 * h / stack.residual_cut(r), knobs.recompute);
        kept += f64::from(count) * t * stays;
        working_set = working_set.max(t * (ops::transient(model, block, mesh, train.moe_balance, &stack) + back));
        let kv = block.mixer.gqa().map(|a| a.kv_heads);
        let one = mem::block_params(&model.block_params(block), kv, mesh);
        gathered = gathered.max(one.dense + one.routed);
    }
    let in_flight = stack.slack * pipeline::in_flight(knobs.schedule, mesh.pp(), knobs.vpp, micro, stage);
    ledger.add(MemoryTerm::Activations, kept * in_flight);

    let last = stage + 1 == mesh.pp();
    let vocab = mem::padded_vocab(model.spec().vocab, mesh.tp()) / f64::from(mesh.tp());
    let mut loss = 0.0;
    if last {
        // Input of the last norm and of the head, logits of a fused loss (twice with CP), one gradient of the stream.
        let twice = if mesh.cp() > 1 { 2.0 } else { 1.0 };
        loss = t * (4.0 * h / r + stack.loss * vocab * twice + (stack.working - 2.0) * h);
    }
    if loss > working_set {
        ledger.add(MemoryTerm::Logits, loss);
    } else {
        ledger.add(MemoryTerm::Transients, working_set);
    }
    ledger.add(MemoryTerm::GradWork, (params.dense + params.routed) * stack.bucket);
    if stack.dummies(knobs) {
        let head = last.then_some(vocab);
        ledger.add(MemoryTerm::GradWork, mem::grad_work(model, &kinds[..live], mesh, head));
    } else if knobs.zero >= 3 {
        // Two layers are gathered at once: the running one and the prefetched one.
        ledger.add(MemoryTerm::Gathered, 2.0 * 2.0 * gathered);
    }
    if knobs.tp_overlap == Toggle::On && mesh.tp() > 1 {
        ledger.add(MemoryTerm::Communication, mem::OVERLAP_BUFFERS * 2.0 * t * h);
    }
    add_overheads(&mut ledger, mesh, t * h, stack.fragmented_states);
    ledger
}

/// What is held outside the allocator's live tensors.
fn add_overheads(ledger: &mut MemoryLedger, mesh: &Mesh, stream: f64, fragmented_states: f64) {
    // Data parallel groups count from one rank on, so that more of them never cost more.
    let groups = [mesh.tp(), mesh.cp(), mesh.dp_attention().max(2), mesh.pp(), mesh.ep(), mesh.edp().max(2)];
    ledger.add(MemoryTerm::Communication, mem::communicators(&groups));
    ledger.add(MemoryTerm::Context, mem::CONTEXT);
    let moving = [MemoryTerm::Activations, MemoryTerm::Logits, MemoryTerm::Transients, MemoryTerm::Gathered];
    let dynamic: f64 = moving.iter().map(|term| ledger.get(*term)).sum();
    let states: f64 =
        [MemoryTerm::Weights, MemoryTerm::Gradients, MemoryTerm::Optimizer].iter().map(|term| ledger.get(*term)).sum();
    ledger.add(MemoryTerm::Fragmentation, mem::FRAGMENTATION * dynamic.max(stream) + fragmented_states * states);
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
