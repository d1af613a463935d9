//! One layer, one micro-batch, one rank: kernels, host, and what its groups exchange.

use super::practice::{Attention, Practice};
use super::tokens;
use crate::cluster::{Architecture, Cluster, Collective, GemmKind, Gpu};
use crate::cost::compute::{self, Engine};
use crate::cost::network::{self, Placed};
use crate::cost::ops::{self, Part};
use crate::framework::{GroupKind, group};
use crate::job::{Job, Train};
use crate::mesh::{Convention, Mesh};
use crate::model::{Block, Mixer};
use crate::plan::{Module, Plan, Recompute};

/// Seconds of one layer and one micro-batch on one rank.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct LayerTime {
    pub(super) forward: f64,
    pub(super) backward: f64,
    pub(super) recompute: f64,
    pub(super) tp: f64,
    pub(super) cp: f64,
    pub(super) ep: f64,
    /// The part of the backward pass that is weight gradients.
    pub(super) weight_grads: f64,
}

impl LayerTime {
    pub(super) fn busy(&self) -> f64 {
        self.forward + self.backward + self.recompute + self.tp + self.cp + self.ep
    }

    /// Adds another, some times over.
    pub(super) fn add(&mut self, other: &Self, times: f64) {
        self.forward += times * other.forward;
        self.backward += times * other.backward;
        self.recompute += times * other.recompute;
        self.tp += times * other.tp;
        self.cp += times * other.cp;
        self.ep += times * other.ep;
        self.weight_grads += times * other.weight_grads;
    }

    /// All of it, longer or shorter.
    pub(super) fn scaled(&self, by: f64) -> Self {
        let mut out = Self::default();
        out.add(self, by);
        out
    }
}

/// One layer before anything is recomputed, and what recomputing would repeat.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bare {
    time: LayerTime,
    up_projection: f64,
    dense: f64,
    experts: f64,
    core: f64,
    light: f64,
    tp_forward: f64,
    ep_forward: f64,
}

/// See [`Pricing::like`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LikeLayers {
    degrees: [u32; 4],
    groups: [Placed; 4],
    sequence_parallel: bool,
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

/// Share of an isolated 16-bit GEMM's speed that a training step sustains, by architecture: what clocks do under full power.
/// An A100 holds its clocks (and large products are a little faster than its fitted curve), later ones do not (H100 near 1.4 of
/// 1.98 GHz, B200 worse). Eight-bit and narrower kernels reach a smaller share of their peak and are not slowed further.
const fn sustained(gpu: &Gpu) -> f64 {
    match gpu.architecture {
        Architecture::Volta | Architecture::Ampere | Architecture::Ada => 1.02,
        Architecture::Hopper | Architecture::Cdna3 | Architecture::Gaudi3 => 0.84,
        Architecture::Blackwell | Architecture::Cdna4 => 0.57,
    }
}

/// Backward over forward of an attention core: 2.5 times the FLOP (its scores are computed again) at 77 % of the speed.
const ATTENTION_BACKWARD: f64 = 2.5 * 1.3;

/// Host time of one operator issued from Python, and how many make one kernel of a fused layer. About 4 ms per layer, forward
/// and backward, bound small layers of every eager framework (vTrain's and nanotron's grids both show it).
const OPERATOR: f64 = 8e-6;
const OPERATORS_PER_KERNEL: f64 = 7.0;

/// Host time that tensor parallelism adds to a layer's forward pass: two all-reduces, or under sequence parallelism two gathers and
/// two scatters with their buffers, streams and autograd nodes. Layers of nanotron's grid take 4.4 ms at any TP and micro-batch
/// once the GPU is faster, of vTrain's 3.5.
const HOST_TP: f64 = 70e-6;
const HOST_TP_SEQUENCE: f64 = 350e-6;

/// Time on the GPU that an unfused layer needs beyond what its bytes and FLOP take, per kernel of a fused one: launches, and tails that
/// leave most of the GPU idle. Fitted; both vTrain's and nanotron's order of layouts want it.
const KERNEL: f64 = 8e-6;

/// Host time of the backward pass over that of the forward pass.
const HOST_BACKWARD: f64 = 3.0;

/// Nodes beyond which experts are taken to be sent one copy of a token per node. Measured runs on two nodes use either way, those of
/// Qwen3-235B and DeepSeek-V3 on four and eight `DeepEP` (NVIDIA's recipes, Megatron Bridge, Automodel).
const ONE_COPY_BEYOND: u32 = 2;

/// Share of a hidden collective's time that still shows: the SMs and the memory bandwidth it takes from the kernels it hides behind.
const OVERLAPPED: f64 = 0.15;

/// What shows of communication that may hide behind `window` seconds of compute.
pub(super) fn exposed(traffic: f64, window: f64) -> f64 {
    let hidden = traffic.min(window);
    traffic - hidden + OVERLAPPED * hidden
}

/// What pricing a plan's layers takes. Nothing but `plan` looks at knobs beside `fused_kernels`: plans of one mesh may share it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pricing<'a> {
    pub(super) job: &'a Job,
    pub(super) train: &'a Train,
    pub(super) plan: Plan,
    pub(super) groups: Groups,
    gemm: Engine,
    plain: Engine,
    weight_bytes: f64,
    /// Weights in 8 bits or fewer.
    narrow: bool,
    pub(super) practice: Practice,
}

/// Forward and weight-gradient time of the products that TP cuts by columns, whose inputs and input gradients TP exchanges.
#[derive(Debug, Clone, Copy, Default)]
struct Columns {
    forward: f64,
    weights: f64,
}

impl Columns {
    /// Adds a product if TP cuts it by columns.
    fn add(&mut self, column: bool, forward: f64, weights: f64) {
        if column {
            self.forward += forward;
            self.weights += weights;
        }
    }
}

impl<'a> Pricing<'a> {
    pub(crate) fn new(job: &'a Job, train: &'a Train, convention: Convention, plan: &Plan) -> Self {
        let gpu = &job.cluster.gpu;
        let kind = train.precision.gemm();
        let narrow = kind != GemmKind::Bf16;
        Self {
            job,
            train,
            plan: *plan,
            groups: Groups::new(&job.cluster, convention, &plan.mesh, 1),
            gemm: Engine::new(gpu, kind),
            plain: Engine::new(gpu, GemmKind::Bf16),
            weight_bytes: match train.precision {
                crate::job::Precision::Bf16 | crate::job::Precision::Fp16 => 2.0,
                crate::job::Precision::Fp8 | crate::job::Precision::Mxfp8 => 1.0,
                crate::job::Precision::Nvfp4 => 0.5625,
            },
            narrow,
            practice: Practice::of(job, train, plan),
        }
    }

    pub(super) fn collective(&self, placed: Placed, kind: Collective, bytes: f64) -> f64 {
        network::collective(&self.job.cluster, placed, kind, bytes).get()
    }

    /// A 16-bit GEMM in a training step: router and head.
    pub(super) fn plain_gemm(&self, rows: f64, n: f64, k: f64) -> f64 {
        self.plain.gemm(rows, n, k, 1.0, 2.0) / sustained(&self.job.cluster.gpu)
    }

    /// Turns to a plan of the same mesh.
    pub(crate) fn aim(&mut self, plan: &Plan) {
        self.plan = *plan;
        self.practice = Practice::of(self.job, self.train, plan);
    }

    /// The software that is assumed of the plan.
    pub(crate) const fn practice(&self) -> Practice {
        self.practice
    }

    /// Layers of every kind, of a plan by itself.
    pub(super) fn layers(&self) -> Vec<LayerTime> {
        let bare: Vec<Bare> = self.bare().collect();
        self.recomputed(&bare).collect()
    }

    /// What the layers follow from, micro-batch and recomputation aside: meshes that are equal in it may share them.
    pub(crate) const fn like(&self) -> LikeLayers {
        let (mesh, groups) = (&self.plan.mesh, &self.groups);
        LikeLayers {
            degrees: [mesh.tp(), mesh.cp(), mesh.ep(), mesh.etp()],
            groups: [groups.tp, groups.cp, groups.ep, groups.etp],
            sequence_parallel: self.plan.knobs.sequence_parallel,
        }
    }

    /// Layers of every kind before anything is recomputed: they follow from [`Pricing::like`] and the micro-batch.
    pub(crate) fn bare(&self) -> impl Iterator<Item = Bare> + '_ {
        (0..self.job.model.blocks().len()).map(|kind| self.bare_layer(kind))
    }

    /// Layers of every kind with what the plan recomputes, and what share of it.
    pub(crate) fn recomputed(&self, bare: &[Bare]) -> impl Iterator<Item = LayerTime> {
        self.job.model.blocks().iter().zip(bare).map(|(block, bare)| self.layer(block, *bare))
    }

    /// One layer of a kind, nothing recomputed.
    fn bare_layer(&self, kind: usize) -> Bare {
        let model = &self.job.model;
        let block = &model.blocks()[kind];
        let mesh = &self.plan.mesh;
        let gpu = &self.job.cluster.gpu;
        let t = tokens(self.train, &self.plan);
        let r = self.practice.sp;
        let hidden = f64::from(model.spec().hidden);
        let balance = self.train.moe_balance;
        let mut time = LayerTime::default();

        let mut up_projection = 0.0;
        let mut dense = 0.0;
        let mut experts = 0.0;
        let mut columns = [Columns::default(); 2];
        let clock = sustained(gpu);
        ops::gemms(model, block, mesh, &mut |g| {
            let load = if g.part == Part::Experts { balance } else { 1.0 };
            let rows = t * g.rows * load;
            let narrow = self.narrow && g.part != Part::Router;
            // Quantisation is part of the measured narrow products.
            let forward = if narrow {
                self.gemm.gemm(rows, g.n, g.k, g.count, self.weight_bytes)
            } else {
                self.plain.gemm(rows, g.n, g.k, g.count, 2.0) / clock
            };
            // Training frameworks issue one product per expert.
            let forward = forward + (g.count - 1.0).max(0.0) * OPERATOR;
            // Weight gradients are added to fp32 ones while the product runs.
            let weights = compute::overlapped(forward, 8.0 * g.count * g.n * g.k / gpu.hbm.get());
            time.forward += forward;
            time.backward += forward + weights;
            time.weight_grads += weights;
            // Products cut by rows lead back to the stream from a cut width.
            let column = (g.n - hidden).abs() > 0.5 || (g.k - hidden).abs() < 0.5;
            match g.part {
                Part::Experts => experts += forward,
                Part::Dense => {
                    dense += forward;
                    columns[1].add(column, forward, weights);
                }
                Part::Attention => {
                    up_projection += forward;
                    columns[0].add(column, forward, weights);
                }
                Part::Router => {}
            }
        });
        let (core, core_backward) = self.attention(block, t);
        let bytes =
            ops::elementwise_bytes(model, block, mesh, r) + self.practice.norm * f64::from(block.norms) * hidden / r;
        let starts = if self.practice.fused { 0.0 } else { ops::kernels(block) * KERNEL };
        let light = compute::elementwise(gpu, t * bytes) + starts;
        time.forward += core + light;
        time.backward += core_backward + 2.0 * light;

        let tp_forward = self.tensor_parallel(block, t, &columns, &mut time);
        let ep_forward = self.expert_parallel(block, t, &mut time);
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
            time.cp = (hops * hop - core).max(hop) + (2.0 * hops * hop - core_backward).max(hop);
        }
        Bare { time, up_projection, dense, experts, core, light, tp_forward, ep_forward }
    }

    /// One layer with what is recomputed, as slow as the host at least.
    fn layer(&self, block: &Block, bare: Bare) -> LayerTime {
        let knobs = &self.plan.knobs;
        let Bare { mut time, up_projection, dense, experts, core, light, tp_forward, ep_forward } = bare;
        time.recompute = match knobs.recompute {
            Recompute::None => 0.0,
            Recompute::Full | Recompute::Uniform(_) | Recompute::Block(_) => {
                // Of a block of layers, each carries its share.
                let share = self.plan.recomputed_share(self.job.model.layers());
                share * (time.forward + tp_forward + ep_forward)
            }
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
        self.wait_for_host(block, &mut time);
        time
    }

    /// The attention core, forward and backward.
    fn attention(&self, block: &Block, t: f64) -> (f64, f64) {
        let gpu = &self.job.cluster.gpu;
        let mesh = &self.plan.mesh;
        let seq = f64::from(self.train.seq_len);
        let flop = t * ops::core_flop(block, mesh, seq);
        match (self.practice.attention, block.mixer) {
            (Attention::Separate, Mixer::Gqa(a)) => {
                let scores = t * seq * f64::from(a.heads) / f64::from(mesh.tp());
                let core = compute::separate_attention(gpu, flop, scores);
                (core, 2.0 * core)
            }
            (Attention::Flash(percent), _) => {
                let core = compute::attention(gpu, flop, seq) * f64::from(percent) / 100.0;
                (core, ATTENTION_BACKWARD * core)
            }
            (Attention::Separate, _) => {
                let core = compute::attention(gpu, flop, seq);
                (core, ATTENTION_BACKWARD * core)
            }
        }
    }

    /// TP's collectives of both passes into `time`; those of the forward pass are returned.
    ///
    /// In the backward pass the input is gathered again behind the data gradient, and the input's gradient is reduced behind the
    /// weight gradient: Megatron's asynchronous linear layers, which nanotron and others took over. The code of the A100's years waits for
    /// each.
    fn tensor_parallel(&self, block: &Block, t: f64, columns: &[Columns; 2], time: &mut LayerTime) -> f64 {
        let knobs = &self.plan.knobs;
        if self.plan.mesh.tp() <= 1 {
            return 0.0;
        }
        let stream = 2.0 * t * f64::from(self.job.model.spec().hidden);
        // One pass through TP for the mixer and one for a dense part; routed experts have their own exchange.
        let dense_part = block.mlp.dense.is_some() || block.mlp.moe.is_some_and(|m| m.shared_ffn > 0);
        let passes = [(!matches!(block.mixer, Mixer::None {}), columns[0]), (dense_part, columns[1])];
        // The recipes of 8-bit training overlap TP through user buffers; half of it shows.
        let shown = if knobs.tp_overlap.or(self.narrow) { 0.5 } else { 1.0 };
        let waits = self.practice.early;
        let mut forward = 0.0;
        let mut backward = 0.0;
        if self.practice.sp > 1.0 {
            let gather = self.collective(self.groups.tp, Collective::AllGather, stream);
            let scatter = self.collective(self.groups.tp, Collective::ReduceScatter, stream);
            for (_, column) in passes.iter().filter(|p| p.0) {
                forward += gather + scatter;
                let behind = |traffic: f64, window: f64| if waits { traffic } else { exposed(traffic, window) };
                backward += gather + behind(gather, column.forward) + behind(scatter, column.weights);
            }
        } else {
            let reduce = self.collective(self.groups.tp, Collective::AllReduce, stream);
            for (_, column) in passes.iter().filter(|p| p.0) {
                forward += reduce;
                backward += if waits { reduce } else { exposed(reduce, column.weights) };
            }
        }
        time.tp = shown * (forward + backward);
        shown * forward
    }

    /// EP's exchanges of both passes into `time`; those of the forward pass are returned.
    fn expert_parallel(&self, block: &Block, t: f64, time: &mut LayerTime) -> f64 {
        let mesh = &self.plan.mesh;
        let Some(moe) = block.mlp.moe else { return 0.0 };
        let hidden = f64::from(self.job.model.spec().hidden);
        let balance = self.train.moe_balance;
        let placed = self.groups.ep;
        let sent = 2.0 * f64::from(moe.top_k) * (t / self.practice.sp) * hidden * balance;
        let nodes = placed.size.div_ceil(placed.near.max(1));
        let exchange = if self.practice.one_copy && nodes > ONE_COPY_BEYOND {
            network::one_copy_exchange(&self.job.cluster, placed, sent, &moe).get()
        } else {
            self.collective(placed, Collective::AllToAll, sent)
        };
        let gathered = 2.0 * t * ops::routed_rows(moe.top_k, mesh) * hidden * balance;
        let around = if mesh.etp() > 1 {
            self.collective(self.groups.etp, Collective::AllGather, gathered)
                + self.collective(self.groups.etp, Collective::ReduceScatter, gathered)
        } else {
            0.0
        };
        let forward = 2.0 * exchange + around;
        time.ep = 2.0 * forward;
        if self.plan.knobs.ep_overlap.or(false) {
            // Another micro-batch's compute hides the exchange.
            time.ep = (time.ep - (time.forward + time.backward)).max(0.1 * time.ep);
        }
        forward
    }

    /// Lengthens the passes to what the host needs to issue them; the two overlap except near a tie.
    fn wait_for_host(&self, block: &Block, time: &mut LayerTime) {
        let tp = match (self.plan.mesh.tp() > 1, self.practice.sp > 1.0) {
            (false, _) => 0.0,
            (true, false) => HOST_TP,
            (true, true) => HOST_TP_SEQUENCE,
        };
        let forward = ops::kernels(block) * OPERATORS_PER_KERNEL * OPERATOR + tp;
        let again = f64::from(u32::from(self.plan.knobs.recompute.whole_layers(1.0, 1) > 0.0));
        let host = forward * (1.0 + HOST_BACKWARD + again);
        let busy = time.busy();
        let wait = compute::overlapped(host, busy) - busy;
        time.forward += wait / 3.0;
        time.backward += wait * 2.0 / 3.0;
    }
}
