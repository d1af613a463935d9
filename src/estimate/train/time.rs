//! Where the time of a training step goes.

use super::{micro_batches, sp_degree, stage_params, tokens};
use crate::cluster::{Cluster, Collective};
use crate::cost::compute::{self, Engine};
use crate::cost::memory as mem;
use crate::cost::network::{self, Placed};
use crate::cost::ops::{self, Part};
use crate::cost::pipeline;
use crate::cost::{TimeLedger, TimeTerm};
use crate::estimate::StageSpan;
use crate::framework::{GroupKind, group};
use crate::job::{Job, Train};
use crate::mesh::{Convention, Mesh};
use crate::model::{MOST_KINDS, Mixer, Model};
use crate::plan::{Knobs, Module, Plan, Recompute};
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

/// Seconds of one layer and one micro-batch on one rank.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct LayerTime {
    forward: f64,
    backward: f64,
    recompute: f64,
    tp: f64,
    cp: f64,
    ep: f64,
    /// Share of the backward pass that is weight gradients.
    weight_grads: f64,
}

impl LayerTime {
    fn busy(&self) -> f64 {
        self.forward + self.backward + self.recompute + self.tp + self.cp + self.ep
    }
}

/// The groups of a plan on its cluster.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Groups {
    pub(crate) tp: Placed,
    pub(crate) cp: Placed,
    pub(crate) ep: Placed,
    pub(crate) etp: Placed,
    pub(crate) dp_cp: Placed,
    pub(crate) edp: Placed,
    pub(crate) pp: Placed,
}

impl Groups {
    pub(crate) fn new(cluster: &Cluster, convention: Convention, mesh: &Mesh, replicas: u32) -> Self {
        let at = |kind| network::place(cluster, group(convention, mesh, replicas, kind));
        Self {
            tp: at(GroupKind::Tp),
            cp: at(GroupKind::Cp),
            ep: at(GroupKind::Ep),
            etp: at(GroupKind::Etp),
            dp_cp: at(GroupKind::DpCp),
            edp: at(GroupKind::Edp),
            pp: at(GroupKind::Pp),
        }
    }
}

/// Share of an isolated GEMM's speed that a training step sustains: clocks under full power, kernels that do not overlap
/// their tails, optimizer hooks. One constant for all GPUs, from the step times of `docs/VALIDATION.md`.
const SUSTAINED: f64 = 0.80;

/// Host time to launch one kernel, training without CUDA graphs.
const LAUNCH: f64 = 4e-6;

struct Pricing<'a> {
    job: &'a Job,
    train: &'a Train,
    plan: &'a Plan,
    groups: Groups,
    gemm: Engine,
    plain: Engine,
    weight_bytes: f64,
}

impl Pricing<'_> {
    fn collective(&self, placed: Placed, kind: Collective, bytes: f64) -> f64 {
        network::collective(&self.job.cluster, placed, kind, bytes).get()
    }

    /// One layer of a kind.
    fn layer(&self, kind: usize) -> LayerTime {
        let model = &self.job.model;
        let block = &model.blocks()[kind];
        let mesh = &self.plan.mesh;
        let knobs = &self.plan.knobs;
        let gpu = &self.job.cluster.gpu;
        let t = tokens(self.train, self.plan);
        let r = sp_degree(self.plan);
        let seq = f64::from(self.train.seq_len);
        let balance = self.train.moe_balance;
        let mut time = LayerTime::default();

        let mut up_projection = 0.0;
        let mut dense = 0.0;
        let mut experts = 0.0;
        let mut gemm_backward = 0.0;
        ops::gemms(model, block, mesh, &mut |g| {
            let load = if g.part == Part::Experts { balance } else { 1.0 };
            let rows = t * g.rows * load;
            let (engine, bytes) =
                if g.part == Part::Router { (&self.plain, 2.0) } else { (&self.gemm, self.weight_bytes) };
            let forward = engine.gemm(rows, g.n, g.k, g.count, bytes) / SUSTAINED;
            let data = engine.gemm(rows, g.k, g.n, g.count, bytes) / SUSTAINED;
            // Weight gradients are read, added to and written in fp32.
            let weights = engine.gemm(rows, g.n, g.k, g.count, 8.0) / SUSTAINED;
            time.forward += forward;
            gemm_backward += data + weights;
            time.weight_grads += weights;
            match g.part {
                Part::Experts => experts += forward,
                Part::Dense => dense += forward,
                Part::Attention => up_projection += forward,
                Part::Router => {}
            }
        });
        let core = compute::attention(gpu, t * ops::core_flop(block, mesh, seq), seq) / SUSTAINED;
        let light = compute::elementwise(gpu, t * ops::elementwise_bytes(model, block, mesh, r));
        let launches = ops::kernels(block) * LAUNCH;
        time.forward = (time.forward + core + light).max(launches);
        time.backward = (gemm_backward + 2.5 * core + 2.0 * light).max(2.0 * launches);
        time.weight_grads /= time.backward.max(1e-12);

        let stream = 2.0 * t * f64::from(model.spec().hidden);
        let (mut tp_forward, mut ep_forward) = (0.0, 0.0);
        if mesh.tp() > 1 {
            // One pass through TP for the mixer and one for a dense part; routed experts have their own exchange.
            let dense_part = block.mlp.dense.is_some() || block.mlp.moe.is_some_and(|m| m.shared_ffn > 0);
            let passes = f64::from(u32::from(!matches!(block.mixer, Mixer::None {})) + u32::from(dense_part));
            if knobs.sequence_parallel {
                let gather = self.collective(self.groups.tp, Collective::AllGather, stream);
                let scatter = self.collective(self.groups.tp, Collective::ReduceScatter, stream);
                tp_forward = passes * (gather + scatter);
                // Backward gathers the inputs once more for the weight gradients.
                time.tp = tp_forward + passes * (2.0 * gather + scatter);
            } else {
                let reduce = self.collective(self.groups.tp, Collective::AllReduce, stream);
                tp_forward = passes * reduce;
                time.tp = 2.0 * tp_forward;
            }
            if knobs.tp_overlap.or(false) {
                time.tp *= 0.5;
            }
        }
        if let Some(moe) = block.mlp.moe {
            let sent = 2.0 * f64::from(moe.top_k) * (t / r) * f64::from(model.spec().hidden) * balance;
            let exchange = self.collective(self.groups.ep, Collective::AllToAll, sent);
            let gathered = 2.0 * t * ops::routed_rows(moe.top_k, mesh) * f64::from(model.spec().hidden) * balance;
            let around = if mesh.etp() > 1 {
                self.collective(self.groups.etp, Collective::AllGather, gathered)
                    + self.collective(self.groups.etp, Collective::ReduceScatter, gathered)
            } else {
                0.0
            };
            ep_forward = 2.0 * exchange + around;
            time.ep = 2.0 * ep_forward;
            if knobs.ep_overlap.or(false) {
                // Another micro-batch's compute hides the exchange.
                time.ep = (time.ep - (time.forward + time.backward)).max(0.1 * time.ep);
            }
        }
        if mesh.cp() > 1 {
            let kv = match block.mixer {
                Mixer::Gqa(a) => 4.0 * ops::local_kv_heads(a.kv_heads, mesh.tp()) * f64::from(a.head_dim),
                Mixer::Mla(a) => {
                    let widths = f64::from(a.nope) + f64::from(a.rope) + f64::from(a.v);
                    2.0 * f64::from(a.heads) / f64::from(mesh.tp()) * widths
                }
                Mixer::DeltaNet(_) | Mixer::Mamba2(_) | Mixer::None {} => 0.0,
            };
            let hops = f64::from(mesh.cp() - 1);
            let hop = self.collective(self.groups.cp, Collective::SendRecv, t * kv);
            time.cp = (hops * hop - core).max(hop) + (2.0 * hops * hop - 2.5 * core).max(hop);
        }
        time.recompute = match knobs.recompute {
            Recompute::None => 0.0,
            Recompute::Full => time.forward + tp_forward + ep_forward,
            Recompute::Modules(_) => {
                let mut again = 0.0;
                let mut add = |module, seconds: f64| {
                    if knobs.recompute.has(module) {
                        again += seconds;
                    }
                };
                // Flash attention recomputes its scores in any case: only its own pass is paid again.
                add(Module::CoreAttn, core);
                add(Module::Layernorm, light * 0.3);
                add(Module::MlaUpProj, if block.mixer.gqa().is_none() { up_projection * 0.5 } else { 0.0 });
                add(Module::Mlp, dense);
                add(Module::MlpAct, light * 0.3);
                add(Module::Moe, experts + ep_forward);
                add(Module::SharedExperts, dense);
                again
            }
        };
        time
    }
}

/// One optimiser step.
///
/// `T = n t_slowest + bubble + exposed data parallel traffic + optimizer`, the slowest stage's micro-batches split into compute,
/// recomputation and what communication is not hidden.
#[must_use]
pub fn step(job: &Job, train: &Train, convention: Convention, plan: &Plan) -> Step {
    let model = &job.model;
    let mesh = &plan.mesh;
    let knobs = &plan.knobs;
    let gpu = &job.cluster.gpu;
    let groups = Groups::new(&job.cluster, convention, mesh, 1);
    let weight_bytes = match train.precision {
        crate::job::Precision::Bf16 | crate::job::Precision::Fp16 => 2.0,
        crate::job::Precision::Fp8 | crate::job::Precision::Mxfp8 => 1.0,
        crate::job::Precision::Nvfp4 => 0.5625,
    };
    let pricing = Pricing {
        job,
        train,
        plan,
        groups,
        gemm: Engine::new(gpu, train.precision.gemm()),
        plain: Engine::new(gpu, crate::cluster::GemmKind::Bf16),
        weight_bytes,
    };
    let mut kinds = [LayerTime::default(); MOST_KINDS];
    for (kind, time) in kinds.iter_mut().enumerate().take(model.blocks().len()) {
        *time = pricing.layer(kind);
    }

    let t = tokens(train, plan);
    let r = sp_degree(plan);
    let h = f64::from(model.spec().hidden);
    let vocab = mem::padded_vocab(model.spec().vocab, mesh.tp()) / f64::from(mesh.tp());
    let head_gemm = pricing.plain.gemm(t, vocab, h, 1.0, 2.0) / SUSTAINED;
    // Softmax and its gradient pass over the logits twice in fp32.
    let head = 3.0 * head_gemm + compute::elementwise(gpu, 12.0 * t * vocab);
    let hop = if mesh.pp() > 1 { pricing.collective(groups.pp, Collective::SendRecv, 2.0 * t * h / r) } else { 0.0 };
    // Interleaving overlaps its hops; a plain pipeline waits for one each way.
    let hops = if mesh.pp() == 1 {
        0.0
    } else if knobs.vpp > 1 {
        0.2 * f64::from(knobs.vpp) * 2.0 * hop
    } else {
        2.0 * hop
    };

    let mut slowest = (0.0, 0, LayerTime::default());
    let mut sum = 0.0;
    for stage in 0..mesh.pp() {
        let span = StageSpan::of(convention, model, plan, stage);
        let mut time = LayerTime::default();
        for (kind, layer) in kinds.iter().enumerate().take(model.blocks().len()) {
            let count = f64::from(span.count(model, kind));
            time.forward += count * layer.forward;
            time.backward += count * layer.backward;
            time.recompute += count * layer.recompute;
            time.tp += count * layer.tp;
            time.cp += count * layer.cp;
            time.ep += count * layer.ep;
            time.weight_grads += count * layer.weight_grads * layer.backward;
        }
        if stage + 1 == mesh.pp() {
            time.forward += head / 3.0;
            time.backward += head * 2.0 / 3.0;
        }
        let all = time.busy() + hops;
        sum += all;
        if all > slowest.0 {
            slowest = (all, stage, time);
        }
    }
    let (pace, slowest_stage, time) = slowest;
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

    let params = stage_params(job, convention, plan, slowest_stage);
    ledger.add(TimeTerm::DpExposed, data_parallel(&pricing, params, &time, n));
    ledger.add(TimeTerm::Optimizer, optimizer(gpu.hbm.get(), train, knobs, mesh, params));
    Step { ledger, slowest_stage }
}

/// Gradient reduction and parameter gather that nothing hides.
///
/// ZeRO-0 reduces gradients once a step; ZeRO-1 and 2 reduce-scatter them and gather the updated weights; ZeRO-3 gathers and
/// scatters every micro-batch. With overlap the reduction hides behind the last micro-batch's backward pass and the gather
/// behind the first one's forward pass; one bucket always shows.
fn data_parallel(pricing: &Pricing<'_>, params: mem::RankParams, time: &LayerTime, micro: u32) -> f64 {
    let knobs = &pricing.plan.knobs;
    let grad = pricing.train.grad_dtype.bytes();
    let groups = [(params.dense, pricing.groups.dp_cp), (params.routed, pricing.groups.edp)];
    let total = |kind, bytes: f64| -> f64 {
        groups.iter().map(|(count, placed)| pricing.collective(*placed, kind, count * bytes)).sum()
    };
    let overlap = knobs.dp_overlap.or(true);
    let (forward, backward) = (time.forward, time.backward + time.recompute);
    // The part that cannot overlap: the last bucket of the reduction, the first of the gather.
    let shown = |traffic: f64, window: f64| {
        if overlap { (traffic - window).max(traffic * 0.05) } else { traffic }
    };
    match knobs.zero {
        0 => shown(total(Collective::AllReduce, grad), backward),
        1 | 2 => {
            shown(total(Collective::ReduceScatter, grad), backward) + shown(total(Collective::AllGather, 2.0), forward)
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
