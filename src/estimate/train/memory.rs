//! What every stage of a training run must hold.

use super::{Split, micro_batches, sp_degree, tokens};
use crate::cost::memory as mem;
use crate::cost::ops;
use crate::cost::pipeline;
use crate::cost::stack::Stack;
use crate::cost::{MemoryLedger, MemoryTerm};
use crate::estimate::{Alike, Cut, Memory, StageSpan, worst};
use crate::job::{Job, Train};
use crate::mesh::{Convention, Mesh};
use crate::model::{MOST_KINDS, Model};
use crate::plan::{Plan, Recompute, Toggle};
use std::cell::Cell;

/// Memory of the stage that needs most.
#[must_use]
pub fn memory(job: &Job, train: &Train, convention: Convention, plan: &Plan) -> Memory {
    let run = Priced::new(job, train, convention, plan);
    run.worst(&run.cut())
}

/// Parameters that one rank of a stage holds.
#[must_use]
pub fn stage_params(job: &Job, convention: Convention, plan: &Plan, stage: u32) -> mem::RankParams {
    let span = StageSpan::of(convention, &job.model, plan, stage);
    rank_params(&job.model, &plan.mesh, &Alike::one(&job.model, stage, span))
}

/// Parameters that one rank of a sort of stages holds.
pub(super) fn rank_params(model: &Model, mesh: &Mesh, at: &Alike) -> mem::RankParams {
    let mut params = mem::RankParams::default();
    for (kind, block) in model.blocks().iter().enumerate() {
        let kv = block.mixer.gqa().map(|a| a.kv_heads);
        let one = mem::block_params(&model.block_params(block), kv, mesh);
        params.add(one, at.count(kind));
    }
    params.dense += end_params(model, mesh, at.stage);
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
pub(super) struct KindBytes {
    pub(super) params: mem::RankParams,
    /// Kept for the backward pass, per token, by a layer of which the plan's share is recomputed.
    pub(super) stays: f64,
    /// The same by a layer of which nothing is.
    pub(super) whole: f64,
    /// Working set of its backward pass, per token.
    pub(super) working: f64,
}

/// A plan with everything priced that its stages share: plans are compared by the million.
///
/// What blocks hold (`kinds`) follows from the mesh and from recomputation alone, so [`Priced::aim`] takes it over to plans that
/// differ in other knobs.
#[derive(Debug, Clone)]
pub(crate) struct Priced<'a> {
    pub(super) job: &'a Job,
    pub(super) train: &'a Train,
    pub(super) convention: Convention,
    pub(super) plan: Plan,
    pub(super) stack: Stack,
    pub(super) micro: u32,
    pub(super) split: Split,
    pub(super) kinds: [KindBytes; MOST_KINDS],
    /// Weight-gradient buffers of the last set of kinds asked for, with and without the head: neighbours hold the same.
    buffers: Cell<Option<(u32, bool, f64)>>,
}

/// Memory of one stage's ranks.
///
/// `static + in flight * kept + buffers + max(largest layer's working set, loss)`: the formulas are in `docs/MODEL-memory.md`.
#[must_use]
pub fn stage_memory(job: &Job, train: &Train, convention: Convention, plan: &Plan, stage: u32) -> MemoryLedger {
    let run = Priced::new(job, train, convention, plan);
    run.stage(&Alike::one(&job.model, stage, run.span(stage)))
}

impl<'a> Priced<'a> {
    pub(crate) fn new(job: &'a Job, train: &'a Train, convention: Convention, plan: &Plan) -> Self {
        let (model, mesh, knobs) = (&job.model, &plan.mesh, &plan.knobs);
        let micro = micro_batches(train, plan);
        let stack = Stack::of(job, train.precision, convention, knobs).piped(mesh.pp());
        let r = sp_degree(plan);
        let checkpoint = 2.0 * f64::from(model.spec().hidden) / stack.residual_cut(r);
        let mut kinds = [KindBytes::default(); MOST_KINDS];
        for (kind, block) in kinds.iter_mut().zip(model.blocks()) {
            let layer = ops::kept(model, block, mesh, r, train.moe_balance, &stack);
            let (stays, back) = mem::activation(&layer, checkpoint, knobs.recompute);
            let heads = block.mixer.gqa().map(|a| a.kv_heads);
            kind.params = mem::block_params(&model.block_params(block), heads, mesh);
            kind.stays = stays;
            kind.whole = layer.total();
            kind.working = ops::transient(model, block, mesh, train.moe_balance, &stack) + back;
        }
        let split = Split::of(job, convention, plan, &stack);
        Self { job, train, convention, plan: *plan, stack, micro, split, kinds, buffers: Cell::new(None) }
    }

    /// Turns to a plan that differs in micro-batch, interleaving, ZeRO, schedule or offload only.
    pub(crate) fn aim(&mut self, plan: &Plan) {
        let said = |plan: &Plan| (plan.knobs.vpp, plan.knobs.first_stage_layers, plan.knobs.last_stage_layers);
        let cut_alike = said(plan) == said(&self.plan);
        self.plan = *plan;
        self.micro = micro_batches(self.train, plan);
        let stack = Stack::of(self.job, self.train.precision, self.convention, &plan.knobs);
        self.stack = stack.piped(plan.mesh.pp());
        if !cut_alike {
            self.split = Split::of(self.job, self.convention, plan, &self.stack);
        }
    }

    /// Where the layers of a stage lie.
    pub(super) fn span(&self, stage: u32) -> StageSpan {
        self.split.span(self.job, self.convention, &self.plan, stage)
    }

    /// The sorts of stages there are.
    pub(crate) fn cut(&self) -> Cut {
        Cut::new(&self.job.model, self.plan.mesh.pp(), |stage| self.span(stage))
    }

    /// The stage that needs most. Of alike stages it is the first: it has the most micro-batches in flight.
    pub(crate) fn worst(&self, cut: &Cut) -> Memory {
        worst(self.job.cluster.gpu.memory, cut.sorts.iter().map(|at| (at.stage, self.stage(at))))
    }

    fn stage(&self, at: &Alike) -> MemoryLedger {
        let mut ledger = MemoryLedger::EMPTY;
        self.add_held(at, &mut ledger);
        self.add_moving(at, &mut ledger);
        add_fragmentation(&mut ledger, self.stream(), self.stack.fragmented_states);
        ledger
    }

    /// What a stage holds through a step: with [`Priced::moving_floor`] a floor of its memory, the allocator's own part aside.
    pub(crate) fn held_floor(&self, at: &Alike) -> f64 {
        let mut ledger = MemoryLedger::EMPTY;
        self.add_held(at, &mut ledger);
        ledger.total()
    }

    /// What moves in a stage, to be added to [`Priced::held_floor`].
    pub(crate) fn moving_floor(&self, at: &Alike) -> f64 {
        let mut ledger = MemoryLedger::EMPTY;
        self.add_moving(at, &mut ledger);
        ledger.total()
    }

    /// The most that a stage whose two floors add up to `floor` needs.
    pub(crate) fn ceiling(&self, floor: f64) -> f64 {
        floor * (1.0 + mem::FRAGMENTATION + self.stack.fragmented_states) + mem::FRAGMENTATION * self.stream()
    }

    /// Elements of the residual stream of one micro-batch.
    fn stream(&self) -> f64 {
        tokens(self.train, &self.plan) * f64::from(self.job.model.spec().hidden)
    }

    /// What a stage holds from the first step to the last: independent of micro-batch and recomputation.
    fn add_held(&self, at: &Alike, ledger: &mut MemoryLedger) {
        let (model, mesh, knobs) = (&self.job.model, &self.plan.mesh, &self.plan.knobs);
        let mut params = mem::RankParams { dense: end_params(model, mesh, at.stage), routed: 0.0 };
        let mut gathered = 0.0_f64;
        let mut held = 0_u32;
        for (i, kind) in self.kinds.iter().enumerate().take(model.blocks().len()) {
            let count = at.count(i);
            if count > 0.0 {
                held |= 1 << i;
                params.add(kind.params, count);
                gathered = gathered.max(kind.params.dense + kind.params.routed);
            }
        }
        if at.stage + 1 == mesh.pp() {
            let mtp = f64::from(self.train.mtp_layers);
            params.add(self.kinds[model.last_kind()].params, mtp);
            params.dense += mtp * mem::predictor_params(model, mesh.tp());
            if mtp > 0.0 && mesh.pp() > 1 {
                // Its inputs are embedded where it stands.
                params.dense += mem::padded_vocab(model.spec().vocab, mesh.tp()) * f64::from(model.spec().hidden)
                    / f64::from(mesh.tp());
            }
        }
        self.add_states(ledger, params);
        ledger.add(MemoryTerm::GradWork, (params.dense + params.routed) * self.stack.bucket);
        if self.stack.dummies(knobs) {
            let last = at.stage + 1 == mesh.pp();
            ledger.add(MemoryTerm::GradWork, self.buffers(held, last.then(|| self.vocab())));
        } else if knobs.zero >= 3 {
            // Two layers are gathered at once: the running one and the prefetched one.
            ledger.add(MemoryTerm::Gathered, 2.0 * 2.0 * gathered);
        }
        // Data parallel groups count from one rank on, so that more of them never cost more.
        let groups = [mesh.tp(), mesh.cp(), mesh.dp_attention().max(2), mesh.pp(), mesh.ep(), mesh.edp().max(2)];
        ledger.add(MemoryTerm::Communication, mem::communicators(&groups));
        ledger.add(MemoryTerm::Workspaces, mem::workspaces(&self.job.cluster.gpu));
        ledger.add(MemoryTerm::Context, mem::CONTEXT);
    }

    /// Micro-batches whose activations a stage holds at its peak.
    pub(super) fn in_flight(&self, stage: u32) -> f64 {
        let knobs = &self.plan.knobs;
        let pp = self.plan.mesh.pp();
        let held = pipeline::in_flight(knobs.schedule, pp, knobs.vpp, self.micro, stage);
        if knobs.ep_overlap == Toggle::On && knobs.vpp > 1 && pp > 1 {
            // The forward pass that hides an expert exchange runs beside the backward pass: a chunk more.
            return (held + 1.0 / f64::from(knobs.vpp)).min(f64::from(self.micro));
        }
        held
    }

    /// Columns of the head on this rank.
    pub(super) fn vocab(&self) -> f64 {
        let tp = self.plan.mesh.tp();
        mem::padded_vocab(self.job.model.spec().vocab, tp) / f64::from(tp)
    }

    /// What comes and goes with micro-batches: independent of ZeRO and offload.
    fn add_moving(&self, at: &Alike, ledger: &mut MemoryLedger) {
        let Self { job, train, plan, stack, .. } = self;
        let (model, mesh, knobs) = (&job.model, &plan.mesh, &plan.knobs);
        let t = tokens(train, plan);
        let h = f64::from(model.spec().hidden);
        let (mut kept, mut working_set) = (0.0, 0.0_f64);
        let mut first = match knobs.recompute {
            Recompute::Block(_) => knobs.recompute.whole_layers(f64::INFINITY, knobs.vpp),
            Recompute::None | Recompute::Modules(_) | Recompute::Full | Recompute::Uniform(_) => f64::INFINITY,
        };
        for (i, kind) in self.kinds.iter().enumerate().take(model.blocks().len()) {
            let count = at.count(i);
            if count > 0.0 {
                // Of a block, the stage's first layers are recomputed.
                let again = count.min(first);
                first -= again;
                kept += again * (t * kind.stays) + (count - again) * (t * kind.whole);
                working_set = working_set.max(t * kind.working);
            }
        }
        let mut loss = 0.0;
        if at.stage + 1 == mesh.pp() {
            // Input of the last norm and of the head, logits and loss (twice with CP), gradients of the stream.
            let twice = if mesh.cp() > 1 { 2.0 } else { 1.0 };
            let mtp = f64::from(train.mtp_layers);
            let logits = stack.loss * self.vocab() * twice * (1.0 + mtp);
            loss = t * (4.0 * h / sp_degree(plan) + logits + (stack.working - 2.0) * h);
            // Norms of the stream and of the next embedding, their concatenation, and the layer itself.
            kept += mtp * t * (self.kinds[model.last_kind()].stays + 8.0 * h / sp_degree(plan));
        }
        ledger.add(MemoryTerm::Activations, kept * self.in_flight(at.stage));
        if loss > working_set {
            ledger.add(MemoryTerm::Logits, loss);
        } else {
            ledger.add(MemoryTerm::Transients, working_set);
        }
        if knobs.tp_overlap == Toggle::On && mesh.tp() > 1 {
            ledger.add(MemoryTerm::Communication, mem::OVERLAP_BUFFERS * 2.0 * t * h);
        }
    }

    /// Ranks that share the optimizer of the dense parameters.
    pub(super) fn shards(&self) -> f64 {
        let mesh = &self.plan.mesh;
        f64::from(mesh.dp_attention() * mesh.cp()) / f64::from(self.plan.knobs.dp_replicate.max(1))
    }

    fn add_states(&self, ledger: &mut MemoryLedger, params: mem::RankParams) {
        let (mesh, knobs) = (&self.plan.mesh, &self.plan.knobs);
        let grad = self.stack.gradients.unwrap_or(self.train.grad_dtype);
        let copies = pipeline::weight_copies(knobs.schedule);
        let offload = f64::from(knobs.optimizer_offload) / 100.0;
        for (count, shards) in [(params.dense, self.shards()), (params.routed, f64::from(mesh.edp()))] {
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

/// What the allocator reserves beside its live tensors; `stream` elements of the residual stream move in any case.
fn add_fragmentation(ledger: &mut MemoryLedger, stream: f64, fragmented_states: f64) {
    let moving = [MemoryTerm::Activations, MemoryTerm::Logits, MemoryTerm::Transients, MemoryTerm::Gathered];
    let dynamic: f64 = moving.iter().map(|term| ledger.get(*term)).sum();
    let states: f64 =
        [MemoryTerm::Weights, MemoryTerm::Gradients, MemoryTerm::Optimizer].iter().map(|term| ledger.get(*term)).sum();
    ledger.add(MemoryTerm::Fragmentation, mem::FRAGMENTATION * dynamic.max(stream) + fragmented_states * states);
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
