//! What every stage of a training run must hold.

use super::{Cut, micro_batches, sp_degree, tokens};
use crate::cost::memory as mem;
use crate::cost::ops;
use crate::cost::pipeline;
use crate::cost::stack::Stack;
use crate::cost::{MemoryLedger, MemoryTerm};
use crate::estimate::{Memory, StageSpan, worst};
use crate::job::{Job, Train};
use crate::mesh::{Convention, Mesh};
use crate::model::{MOST_KINDS, Model};
use crate::plan::{Plan, Toggle};
use std::cell::Cell;

/// Memory of the stage that needs most.
#[must_use]
pub fn memory(job: &Job, train: &Train, convention: Convention, plan: &Plan) -> Memory {
    let run = Priced::new(job, train, convention, plan);
    worst(plan.mesh.pp(), job.cluster.gpu.memory, |i| run.stage(i))
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
    params.dense += end_params(model, mesh, stage);
    params
}

/// Parameters of the embedding and the head, on the stages that hold them.
fn end_params(model: &Model, mesh: &Mesh, stage: u32) -> f64 {
    let h = f64::from(model.spec().hidden);
    let table = mem::padded_vocab(model.spec().vocab, mesh.tp()) * h / f64::from(mesh.tp());
    let (first, last) = (stage == 0, stage + 1 == mesh.pp());
    let mut params = 0.0;
    if first {
        params += table + model.position_params() as f64;
    }
    if last {
        params += h * model.spec().norm.vectors() as f64;
        // A tied head is the embedding itself, unless they lie on different stages.
        if !(model.spec().tied_embeddings && first) {
            params += table;
        }
    }
    params
}

/// One kind of block on one rank.
#[derive(Debug, Clone, Copy, Default)]
struct KindBytes {
    params: mem::RankParams,
    /// Kept for the backward pass of one micro-batch.
    stays: f64,
    /// Working set of its backward pass.
    working: f64,
}

/// A plan with everything priced that its stages share: plans are compared by the million.
struct Priced<'a> {
    job: &'a Job,
    train: &'a Train,
    convention: Convention,
    plan: &'a Plan,
    stack: Stack,
    micro: u32,
    cut: Cut,
    kinds: [KindBytes; MOST_KINDS],
    /// Weight-gradient buffers of the last set of kinds asked for, with and without the head: neighbours hold the same.
    buffers: Cell<Option<(u32, bool, f64)>>,
}

/// Memory of one stage's ranks.
///
/// `static + in flight * kept + buffers + max(largest layer's working set, loss)`: the formulas are in `docs/MODEL-memory.md`.
#[must_use]
pub fn stage_memory(job: &Job, train: &Train, convention: Convention, plan: &Plan, stage: u32) -> MemoryLedger {
    Priced::new(job, train, convention, plan).stage(stage)
}

impl<'a> Priced<'a> {
    fn new(job: &'a Job, train: &'a Train, convention: Convention, plan: &'a Plan) -> Self {
        let (model, mesh, knobs) = (&job.model, &plan.mesh, &plan.knobs);
        let micro = micro_batches(train, plan);
        let stack = Stack::of(job, train.precision, convention, knobs).piped(mesh.pp());
        let t = tokens(train, plan);
        let r = sp_degree(plan);
        let checkpoint = 2.0 * f64::from(model.spec().hidden) / stack.residual_cut(r);
        let mut kinds = [KindBytes::default(); MOST_KINDS];
        for (kind, block) in kinds.iter_mut().zip(model.blocks()) {
            let layer = ops::kept(model, block, mesh, r, train.moe_balance, &stack);
            let (stays, back) = mem::activation(&layer, checkpoint, knobs.recompute);
            let heads = block.mixer.gqa().map(|a| a.kv_heads);
            kind.params = mem::block_params(&model.block_params(block), heads, mesh);
            kind.stays = t * stays;
            kind.working = t * (ops::transient(model, block, mesh, train.moe_balance, &stack) + back);
        }
        Self { job, train, convention, plan, stack, micro, cut: Cut::of(job, convention, plan, &stack), kinds, buffers: Cell::new(None) }
    }

    fn stage(&self, stage: u32) -> MemoryLedger {
        let Self { job, train, plan, stack, .. } = *self;
        let (model, mesh, knobs) = (&job.model, &plan.mesh, &plan.knobs);
        let span = self.cut.span(job, self.convention, plan, stage);
        let mut ledger = MemoryLedger::EMPTY;
        let mut params = mem::RankParams { dense: end_params(model, mesh, stage), routed: 0.0 };
        let (mut kept, mut working_set, mut gathered) = (0.0, 0.0_f64, 0.0_f64);
        let mut held = 0_u32;
        for (i, kind) in self.kinds.iter().enumerate().take(model.blocks().len()) {
            let count = f64::from(span.count(model, i));
            if count > 0.0 {
                held |= 1 << i;
                params.add(kind.params, count);
                kept += count * kind.stays;
                working_set = working_set.max(kind.working);
                gathered = gathered.max(kind.params.dense + kind.params.routed);
            }
        }
        self.add_states(&mut ledger, params);

        let t = tokens(train, plan);
        let h = f64::from(model.spec().hidden);
        let in_flight = pipeline::in_flight(knobs.schedule, mesh.pp(), knobs.vpp, self.micro, stage);
        ledger.add(MemoryTerm::Activations, kept * in_flight);
        let last = stage + 1 == mesh.pp();
        let vocab = mem::padded_vocab(model.spec().vocab, mesh.tp()) / f64::from(mesh.tp());
        let mut loss = 0.0;
        if last {
            // Input of the last norm and of the head, logits and loss (twice with CP), gradients of the stream.
            let twice = if mesh.cp() > 1 { 2.0 } else { 1.0 };
            loss = t * (4.0 * h / sp_degree(plan) + stack.loss * vocab * twice + (stack.working - 2.0) * h);
        }
        if loss > working_set {
            ledger.add(MemoryTerm::Logits, loss);
        } else {
            ledger.add(MemoryTerm::Transients, working_set);
        }
        ledger.add(MemoryTerm::GradWork, (params.dense + params.routed) * stack.bucket);
        if stack.dummies(knobs) {
            ledger.add(MemoryTerm::GradWork, self.buffers(held, last.then_some(vocab)));
        } else if knobs.zero >= 3 {
            // Two layers are gathered at once: the running one and the prefetched one.
            ledger.add(MemoryTerm::Gathered, 2.0 * 2.0 * gathered);
        }
        if knobs.tp_overlap == Toggle::On && mesh.tp() > 1 {
            ledger.add(MemoryTerm::Communication, mem::OVERLAP_BUFFERS * 2.0 * t * h);
        }
        ledger.add(MemoryTerm::Workspaces, mem::workspaces(&job.cluster.gpu));
        add_overheads(&mut ledger, mesh, t * h, stack.fragmented_states);
        ledger
    }

    fn add_states(&self, ledger: &mut MemoryLedger, params: mem::RankParams) {
        let (mesh, knobs) = (&self.plan.mesh, &self.plan.knobs);
        let grad = self.stack.gradients.unwrap_or(self.train.grad_dtype);
        let copies = pipeline::weight_copies(knobs.schedule);
        let offload = f64::from(knobs.optimizer_offload) / 100.0;
        let shards = f64::from(mesh.dp_attention() * mesh.cp()) / f64::from(knobs.dp_replicate.max(1));
        for (count, shards) in [(params.dense, shards), (params.routed, f64::from(mesh.edp()))] {
            let per = mem::state_bytes(self.train.precision, grad, knobs.zero, shards.max(1.0), offload);
            ledger.add(MemoryTerm::Weights, copies * count * per.weights);
            ledger.add(MemoryTerm::Gradients, count * per.gradients);
            ledger.add(MemoryTerm::Optimizer, count * per.optimizer);
        }
    }

    /// Buffers of fused gradient accumulation for a set of kinds of blocks.
    fn buffers(&self, held: u32, head: Option<f64>) -> f64 {
        if let Some((kinds, with_head, bytes)) = self.buffers.get()
            && kinds == held
            && with_head == head.is_some()
        {
            return bytes;
        }
        let mut list = [0_usize; MOST_KINDS];
        let mut live = 0;
        for kind in (0..MOST_KINDS).filter(|kind| held & (1 << kind) != 0) {
            list[live] = kind;
            live += 1;
        }
        let bytes = mem::grad_work(&self.job.model, &list[..live], &self.plan.mesh, head);
        self.buffers.set(Some((held, head.is_some(), bytes)));
        bytes
    }
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
