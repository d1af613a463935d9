//! Where the time of a training step goes.

use super::layer::{LayerTime, Pricing, exposed};
use super::memory::rank_params;
use super::practice::is_early;
use super::{micro_batches, tokens};
use crate::cluster::Collective;
use crate::cost::compute;
use crate::cost::memory as mem;
use crate::cost::network::{self, Placed};
use crate::cost::ops;
use crate::cost::pipeline;
use crate::cost::stack::Stack;
use crate::cost::{TimeLedger, TimeTerm};
use crate::estimate::{Cut, Memory};
use crate::job::{Job, Train};
use crate::mesh::{Convention, Mesh};
use crate::model::Model;
use crate::plan::{Knobs, Plan, Schedule, Toggle};
use crate::units::Seconds;

/// Where a step's time goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Term by term; their sum is the step.
    pub ledger: TimeLedger,
    /// The stage that sets the pace.
    pub slowest_stage: u32,
}

impl Step {
    /// The whole step.
    #[must_use]
    pub fn seconds(&self) -> Seconds {
        self.ledger.seconds()
    }

    /// Tokens per second of all GPUs together.
    #[must_use]
    pub fn tokens_per_s(&self, job: &Job) -> f64 {
        job.train().map_or(0.0, |t| f64::from(t.global_batch) * f64::from(t.seq_len)) / self.seconds().get()
    }

    /// Model FLOP per second and GPU: causal attention halved, recomputation not counted (Megatron's convention).
    #[must_use]
    pub fn model_flops_per_gpu(&self, job: &Job, gpus: u32) -> f64 {
        job.train().map_or(0.0, |t| {
            let tokens = f64::from(t.global_batch) * f64::from(t.seq_len);
            3.0 * forward_flop_per_token(&job.model, f64::from(t.seq_len)) * tokens
        }) / self.seconds().get()
            / f64::from(gpus)
    }
}

/// Forward FLOP of the whole model per token, head included, causal attention halved.
#[must_use]
pub fn forward_flop_per_token(model: &Model, seq: f64) -> f64 {
    let one = Mesh::new(1, 1, 1, 1, 1, 1).expect("one GPU is a mesh");
    let mut flop = 2.0 * f64::from(model.spec().hidden) * f64::from(model.spec().vocab);
    for (kind, block) in model.blocks().iter().enumerate() {
        let mut layer = ops::core_flop(block, &one, seq);
        ops::gemms(model, block, &one, &mut |g| layer += 2.0 * g.rows * g.n * g.k);
        flop += layer * f64::from(model.count(kind, 0, model.layers()));
    }
    flop
}

/// Bytes per logit that softmax, loss and their gradient move: a 16-bit copy in and a gradient out (4), and nine passes in fp32.
const LOSS: f64 = 40.0;

/// Time of the optimizer over that of its ideal passes: unfused Adam, casts, and the norm's extra pass.
const OPTIMIZER_PASSES: f64 = 2.0;

/// The same of Apex's fused Adam, which the code of the A100's years ran: 29 and 32 ps a parameter separate vTrain's runs of one model
/// from a whole number of micro-batches, and the ideal passes take 28.
const OPTIMIZER_PASSES_EARLY: f64 = 1.0;

/// Host time of one step outside its micro-batches: data, gradient norm, logging. Fused stacks and those of the A100's years do little
/// of it; nanotron and llm-foundry wait for their loggers.
const STEP: f64 = 3e-3;
const STEP_NATIVE: f64 = 40e-3;

/// Time of a micro-batch whose allocations find no free block: `PyTorch`'s allocator gives back its whole cache and asks the driver
/// again. nanotron's runs at the end of memory take .5 to 2 s a micro-batch more than the same layout with room.
const RETRY: f64 = 0.5;

/// Share of memory at which the first micro-batches wait, and at which all do.
const CROWDED: (f64, f64) = (0.93, 0.98);

/// Share of memory beyond which a plan cannot be what was assumed of its kernels: a whole source of Megatron runs on H100 needs 1.7
/// to 2.3 times the memory by the count for `PyTorch`'s own operations, and ran.
const BEYOND: f64 = 1.5;

/// One optimiser step, as the plan's memory lets it run.
///
/// On `PyTorch`'s own allocations a plan near the end of memory waits for the driver. (Megatron's fused buffers, FSDP's flat ones and
/// the A100 runs at hand show nothing of the kind.) One far beyond it could only run on fused kernels, and is priced on them; its
/// memory stays what it is.
pub(crate) fn step_within(job: &Job, train: &Train, convention: Convention, plan: &Plan, memory: &Memory) -> Step {
    let fill = memory.ledger.total() / memory.capacity.get();
    if fill > BEYOND && is_crowded(job, train, convention, plan) && plan.knobs.fused_kernels == Toggle::Default {
        let knobs = Knobs { fused_kernels: Toggle::On, ..plan.knobs };
        return step(job, train, convention, &Plan { knobs, ..*plan });
    }
    let mut step = step(job, train, convention, plan);
    crowd(&mut step, job, train, convention, plan, memory);
    step
}

/// Whether a plan's software takes its memory piece by piece from the allocator.
fn is_crowded(job: &Job, train: &Train, convention: Convention, plan: &Plan) -> bool {
    let stack = Stack::of(job, train.precision, convention, &plan.knobs);
    !stack.fused && !is_early(&job.cluster.gpu) && plan.knobs.zero < 3
}

/// Adds to the step of a plan that may fit what its memory costs it.
pub(crate) fn crowd(step: &mut Step, job: &Job, train: &Train, convention: Convention, plan: &Plan, memory: &Memory) {
    if !is_crowded(job, train, convention, plan) {
        return;
    }
    let (from, to) = CROWDED;
    let share = ((memory.ledger.total() / memory.capacity.get() - from) / (to - from)).clamp(0.0, 1.0);
    step.ledger.add(TimeTerm::Allocator, f64::from(micro_batches(train, plan)) * RETRY * share);
}

/// One optimiser step.
///
/// `T = n t_slowest + bubble + exposed data parallel traffic + optimizer`, the slowest stage's micro-batches split into compute,
/// recomputation and what communication is not hidden.
#[must_use]
pub fn step(job: &Job, train: &Train, convention: Convention, plan: &Plan) -> Step {
    let pricing = Pricing::new(job, train, convention, plan);
    step_of(&pricing, &pricing.layers(), &Cut::of(convention, &job.model, plan))
}

/// One optimiser step of layers that were priced before: they follow from the mesh, the micro-batch and recomputation alone, the
/// cut from PP and interleaving, so that plans that differ in nothing else share them.
pub(crate) fn step_of(pricing: &Pricing<'_>, kinds: &[LayerTime], cut: &Cut) -> Step {
    step_by_stage(pricing, kinds, cut, &mut |_| {})
}

/// The same; `each` sees one micro-batch on every sort of stages of the cut, without its hops and before stages are balanced.
pub(super) fn step_by_stage(
    pricing: &Pricing<'_>,
    kinds: &[LayerTime],
    cut: &Cut,
    each: &mut impl FnMut(&LayerTime),
) -> Step {
    let Pricing { job, train, ref plan, .. } = *pricing;
    let model = &job.model;
    let mesh = &plan.mesh;
    let knobs = &plan.knobs;
    let gpu = &job.cluster.gpu;

    let t = tokens(train, plan);
    let h = f64::from(model.spec().hidden);
    let vocab = mem::padded_vocab(model.spec().vocab, mesh.tp()) / f64::from(mesh.tp());
    let mtp = f64::from(train.mtp_layers);
    let head = (1.0 + mtp) * (3.0 * pricing.plain_gemm(t, vocab, h) + compute::elementwise(gpu, LOSS * t * vocab));
    let hop = if mesh.pp() > 1 { hop(pricing, 2.0 * t * h) } else { 0.0 };
    // Interleaving overlaps its hops; a plain pipeline waits for one each way.
    let shown = if knobs.pp_overlap.or(knobs.vpp > 1) { 0.2 } else { 1.0 };
    let hops = shown * f64::from(knobs.vpp.max(1)) * 2.0 * hop;

    let mut slowest = (0.0, &cut.sorts[0], LayerTime::default());
    let mut sum = 0.0;
    for at in &cut.sorts {
        let mut time = LayerTime::default();
        for (kind, layer) in kinds.iter().enumerate() {
            time.add(layer, at.count(kind));
        }
        if at.stage + 1 == mesh.pp() {
            if mtp > 0.0 {
                let joined = 3.0 * pricing.plain_gemm(t, h / f64::from(mesh.tp()), 2.0 * h);
                time.add(&kinds[model.last_kind()], mtp);
                time.forward += mtp * joined / 3.0;
                time.backward += mtp * joined * 2.0 / 3.0;
            }
            time.forward += head / 3.0;
            time.backward += head * 2.0 / 3.0;
        }
        each(&time);
        let all = time.busy() + hops;
        sum += f64::from(at.stages) * all;
        if all > slowest.0 {
            slowest = (all, at, time);
        }
    }
    let (mut pace, slowest_at, mut time) = slowest;
    let cut_by_plan = knobs.vpp > 1 || knobs.first_stage_layers > 0 || knobs.last_stage_layers > 0;
    if mesh.pp() > 1 && !cut_by_plan && !pricing.practice.early && knobs.fused_kernels != Toggle::On {
        // Who leaves the cut to the framework is taken to have it balance the head; Megatron, named by its kernels, and the code of
        // the A100's years cut evenly.
        let layer = (sum - head) / f64::from(model.layers().max(1))
            - hops * f64::from(mesh.pp()) / f64::from(model.layers().max(1));
        let best = pipeline::balanced(model.layers(), mesh.pp(), layer, head);
        let even = time.busy();
        if best < even {
            time = time.scaled(best / even);
            pace = best + hops;
        }
    }
    let n = micro_batches(train, plan);
    let micro = f64::from(n);
    let mut ledger = TimeLedger::EMPTY;
    ledger.add(TimeTerm::Compute, micro * (time.forward + time.backward));
    ledger.add(TimeTerm::Recompute, micro * time.recompute);
    ledger.add(TimeTerm::TpExposed, micro * time.tp);
    ledger.add(TimeTerm::CpExposed, micro * time.cp);
    ledger.add(TimeTerm::EpExposed, micro * time.ep);
    ledger.add(TimeTerm::PpExposed, micro * hops);
    let weight_share = time.weight_grads / pace.max(1e-12);
    let stages = pipeline::Stages { sum, slowest: pace, weight_share };
    ledger.add(TimeTerm::PpBubble, pipeline::bubble(knobs.schedule, mesh.pp(), knobs.vpp, n, stages));

    let params = rank_params(model, mesh, slowest_at);
    if n > 1 && !pricing.practice.fused {
        // Adding 16-bit gradients to accumulated ones where the weight-gradient product does not: one read, and one read and written.
        let accumulate = 2.0 + 2.0 * pricing.practice.grad;
        ledger.add(TimeTerm::Compute, micro * accumulate * (params.dense + params.routed) / gpu.hbm.get());
    }
    let native = !pricing.practice.fused && !pricing.practice.early;
    ledger.add(TimeTerm::Optimizer, if native { STEP_NATIVE } else { STEP });
    let layers: f64 = (0..kinds.len()).map(|kind| slowest_at.count(kind)).sum();
    ledger.add(TimeTerm::DpExposed, data_parallel(pricing, params, layers, &time, n));
    let passes = if pricing.practice.early { OPTIMIZER_PASSES_EARLY } else { OPTIMIZER_PASSES };
    ledger.add(TimeTerm::Optimizer, passes * optimizer(gpu.hbm.get(), train, knobs, mesh, params));
    Step { ledger, slowest_stage: slowest_at.stage }
}

/// Sending one micro-batch's activations of `bytes` to the next stage. Each TP rank sends its share, and where sequence parallelism does
/// not leave it at that, the receivers gather the shares inside their node.
///
/// Source: Narayanan et al. 2021, scatter/gather optimization; `DeepSpeed` partitions activations likewise.
fn hop(pricing: &Pricing<'_>, bytes: f64) -> f64 {
    let tp = f64::from(pricing.plan.mesh.tp());
    let sent = pricing.collective(pricing.groups.pp, Collective::SendRecv, bytes / tp);
    let whole = pricing.practice.sp < tp;
    sent + if whole { pricing.collective(pricing.groups.tp, Collective::AllGather, bytes) } else { 0.0 }
}

/// A floor of [`step_of`], whatever the cut: the slowest of `pp` stages works at least as long as their mean, and a pipeline fills
/// and drains. Heads, hops, data parallelism and the optimizer only add to it.
pub(crate) fn step_floor(pricing: &Pricing<'_>, kinds: &[LayerTime]) -> f64 {
    let Pricing { job, train, ref plan, .. } = *pricing;
    let model = &job.model;
    let all: f64 =
        (0..kinds.len()).map(|kind| f64::from(model.count(kind, 0, model.layers())) * kinds[kind].busy()).sum();
    let mean = all / f64::from(plan.mesh.pp());
    let fill = match plan.knobs.schedule {
        Schedule::OneFOneB => (all - mean) / f64::from(plan.knobs.vpp.max(1)),
        Schedule::Gpipe => all - mean,
        // These fill their bubble with other work, up to all of it.
        Schedule::ZbH1 | Schedule::DualPipe => 0.0,
    };
    f64::from(micro_batches(train, plan)) * mean + fill
}

/// Parameters of one bucket of gradients or weights, each of which is a collective of its own: Megatron's 40 million. FSDP gathers and
/// reduces a layer at a time.
const BUCKET: f64 = 40e6;

/// Gradient reduction and parameter gather that nothing hides.
///
/// ZeRO-0 reduces gradients once a step; ZeRO-1 reduce-scatters them and gathers the updated weights, ZeRO-2 reduce-scatters every
/// micro-batch; ZeRO-3 gathers and scatters every micro-batch. With overlap the reduction hides behind the last micro-batch's backward
/// pass and the gather behind the first one's forward pass.
fn data_parallel(pricing: &Pricing<'_>, params: mem::RankParams, layers: f64, time: &LayerTime, micro: u32) -> f64 {
    let knobs = &pricing.plan.knobs;
    let grad = pricing.practice.grad;
    let groups = [(params.dense, pricing.groups.dp_cp), (params.routed, pricing.groups.edp)];
    let total = |kind, bytes: f64| -> f64 {
        let group = |&(count, placed): &(f64, Placed)| {
            let pieces = if knobs.zero >= 3 { layers } else { count / BUCKET };
            let further = (pieces - 1.0).max(0.0);
            pricing.collective(placed, kind, count * bytes)
                + further * network::fixed(&pricing.job.cluster, placed, kind).get()
        };
        groups.iter().filter(|(count, _)| *count > 0.0).map(group).sum()
    };
    // PyTorch's DDP and FSDP overlap by themselves, DDP's hooks not under a pipeline's own backward passes; of the distributed optimizers
    // DeepSpeed's and InternEvo's do without a pipeline (DeepSpeed: "Pipeline parallelism does not support overlapped communication"),
    // Megatron's and nanotron's when asked.
    let unpipelined = pricing.plan.mesh.pp() == 1;
    let usual = knobs.zero >= 3 || (unpipelined && (pricing.practice.early || knobs.zero == 0));
    let overlap = knobs.dp_overlap.or(usual);
    let (forward, backward) = (time.forward, time.backward + time.recompute);
    let shown = |traffic: f64, window: f64| if overlap { exposed(traffic, window) } else { traffic };
    match knobs.zero {
        0 => shown(total(Collective::AllReduce, grad), backward),
        // ZeRO-2 keeps no whole gradient to add up in: every micro-batch is reduced into the shards.
        1 | 2 => {
            let reductions = if knobs.zero == 2 { f64::from(micro) } else { 1.0 };
            // ZeRO-1 of the A100's years reduces whole gradients on every rank before each updates its share: assumed, as Hagemann et
            // al.'s steps hold more traffic per parameter than a scatter and a gather.
            let whole = pricing.practice.early && knobs.zero == 1;
            let reduce = if whole { Collective::AllReduce } else { Collective::ReduceScatter };
            reductions * shown(total(reduce, grad), backward) + shown(total(Collective::AllGather, 2.0), forward)
        }
        _ => {
            let each = shown(total(Collective::AllGather, 2.0), forward)
                + shown(total(Collective::AllGather, 2.0) + total(Collective::ReduceScatter, grad), backward);
            each * f64::from(micro)
        }
    }
}

/// The optimizer's passes over memory: zeroing, norm and clipping of the gradients, then reading and writing the shard.
fn optimizer(hbm: f64, train: &Train, knobs: &Knobs, mesh: &Mesh, params: mem::RankParams) -> f64 {
    let shards = f64::from(mesh.dp_attention() * mesh.cp());
    let expert_shards = f64::from(mesh.edp());
    let grad = train.grad_dtype.bytes();
    let bytes = |count: f64, shards: f64| {
        let shard = if knobs.zero == 0 { 1.0 } else { shards.max(1.0) };
        count * (3.0 * grad / if knobs.zero >= 2 { shard } else { 1.0 } + 26.0 / shard)
    };
    (bytes(params.dense, shards) + bytes(params.routed, expert_shards)) / (compute::ELEMENTWISE * hbm)
}

#[cfg(test)]
#[path = "time_tests.rs"]
mod tests;
