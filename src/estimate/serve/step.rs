//! One step of an engine: some requests decode a token each, and its drafts; some tokens of a prompt are prefilled beside them.

use super::{EngineProfile, Load};
use crate::cluster::{Architecture, Collective, ExpertFit, GemmKind, KernelMaker};
use crate::cost::compute::{self, Engine};
use crate::cost::memory as mem;
use crate::cost::network::{self, Exchange, Tier};
use crate::cost::ops::{self, Part};
use crate::cost::{ServeLedger, ServeTerm};
use crate::estimate::StageSpan;
use crate::estimate::train::Groups;
use crate::job::{Job, Serve};
use crate::mesh::Convention;
use crate::model::{Block, Gqa, MOST_KINDS, Mixer, Mla, QkNorm, WeightFormat, matrices};
use crate::plan::{Plan, Toggle};

/// Share of a kernel's fixed time that is left when kernels follow each other in a captured graph. Fitted.
const IN_GRAPH: f64 = 0.55;

/// Small kernels around a projection of 8-bit weights: its norm, activation or rotary embedding writes the narrow input. 16-bit
/// projections have them fused. This and the next seven are near a free fit of those times.
const AROUND_PROJECTION: f64 = 1.0;

/// The same for nvfp4 weights, whose inputs are scaled by blocks of 16.
const AROUND_NVFP4_PROJECTION: f64 = 1.9;

/// The same for weights scaled by blocks, whose inputs are quantised by a kernel of their own and whose scales are laid out anew.
const AROUND_BLOCK_PROJECTION: f64 = 3.0;

/// Small kernels beside the experts' fused one: two norms, router, scores, top-k, sorting, sum.
const AROUND_EXPERTS: f64 = 15.0;

/// Small kernels of shared experts: their gate, and adding them.
const AROUND_SHARED: f64 = 2.0;

/// Small kernels of norms on every query and key head (Qwen3).
const AROUND_HEAD_NORMS: f64 = 5.0;

/// Small kernels of norms over the full width of queries and keys, or of the latents (`MiniMax`, `DeepSeek`).
const AROUND_WIDE_NORMS: f64 = 1.0;

/// Small kernels of a linear-attention layer: convolution, gates, norms of keys and queries, the scan, its norm and gate.
const AROUND_LINEAR: f64 = 17.0;

/// Load of the fullest expert rank over the mean: the tables' power-law routing multiplies MoE latency by 1.05 to 1.3.
const IMBALANCE: f64 = 1.2;

/// Twice the shape of the gamma distribution of experts' popularity, 1.5: of models whose routers were trained to spread the load.
/// Fitted, as is the next.
const TWICE_SHAPE: u32 = 3;

/// The same of gpt-oss, .5: it wants so in all three engines.
const TWICE_GPT_OSS_SHAPE: u32 = 1;

/// Tokens of a rank from which engines cut a step in two: vLLM's `dbo_decode_token_threshold` and `dbo_prefill_token_threshold`.
const TWO_BATCH_DECODE: f64 = 32.0;
const TWO_BATCH_PREFILL: f64 = 512.0;

/// Share of an H100's SMs that `DeepEP`'s kernels of prefill take by default.
const EXCHANGE_SMS: f64 = 20.0 / 132.0;

/// Whether a rank cuts a step of so many tokens in two, so that each half hides the other's exchange with the experts.
pub(crate) fn in_two_batches(plan: &Plan, tokens: f64, prefills: bool) -> bool {
    let ranks = plan.mesh.dp_attention() / plan.knobs.replicas.max(1);
    let least = if prefills { TWO_BATCH_PREFILL } else { TWO_BATCH_DECODE };
    plan.knobs.ep_overlap == Toggle::On && ranks > 1 && plan.mesh.ep() > 1 && tokens >= least
}

/// A step on one attention rank.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    /// Requests that decode.
    pub(super) decode: f64,
    /// Tokens each of them decodes: one, and the drafts it checks.
    pub(super) rows: f64,
    /// Their mean context.
    pub(super) context: f64,
    /// Tokens that are prefilled.
    pub(super) prefill: f64,
    /// Length of the prompts they are part of.
    pub(super) length: f64,
}

impl Step {
    const fn decoded(self) -> f64 {
        self.decode * self.rows
    }

    const fn tokens(self) -> f64 {
        self.decoded() + self.prefill
    }
}

/// GEMMs of one weight format.
struct Gemms {
    engine: Engine,
    /// Bytes of a weight.
    bytes: f64,
    /// Seconds of the small kernels around one of them.
    around: f64,
}

/// What pricing a step takes, looked up once.
pub(super) struct Pricing<'a> {
    pub(super) job: &'a Job,
    serve: &'a Serve,
    convention: Convention,
    plan: &'a Plan,
    groups: Groups,
    pub(super) load: Load,
    pub(super) profile: EngineProfile,
    attention: Gemms,
    dense: Gemms,
    plain: Gemms,
    experts: Option<ExpertFit>,
    small_kernel: f64,
}

/// Share of experts that get any of `each` tokens on average: 1 - (1 + each/r)^-r, for twice the shape `r`.
pub(super) fn hit_share(each: f64, twice: u32) -> f64 {
    1.0 - (1.0 + 2.0 * each / f64::from(twice)).sqrt().powi(-(twice as i32))
}

/// Small kernels around a projection.
fn around(format: WeightFormat, kernels: KernelMaker, on: Architecture) -> f64 {
    match format {
        WeightFormat::Fp8 | WeightFormat::Int8 => AROUND_PROJECTION,
        WeightFormat::Nvfp4 => AROUND_NVFP4_PROJECTION,
        // FlashInfer's GEMM, which takes the scales as they are written: assumed, as measured points want it.
        WeightFormat::Fp8Block if kernels == KernelMaker::Sglang && on == Architecture::Blackwell => AROUND_PROJECTION,
        WeightFormat::Fp8Block => AROUND_BLOCK_PROJECTION,
        // No narrow input to write.
        WeightFormat::Fp32 | WeightFormat::Bf16 | WeightFormat::Fp16 | WeightFormat::Int4 | WeightFormat::Mxfp4 => 0.0,
    }
}

/// Small kernels in a mixer, beside those around its projections.
const fn around_mixer(mixer: &Mixer) -> f64 {
    match mixer {
        Mixer::Gqa(a) => match a.qk_norm {
            QkNorm::None => 0.0,
            QkNorm::PerHead => AROUND_HEAD_NORMS,
            QkNorm::Full => AROUND_WIDE_NORMS,
        },
        Mixer::Mla(_) => AROUND_WIDE_NORMS,
        Mixer::DeltaNet(_) | Mixer::Mamba2(_) => AROUND_LINEAR,
        Mixer::None {} => 0.0,
    }
}

impl<'a> Pricing<'a> {
    pub(super) fn new(job: &'a Job, serve: &'a Serve, convention: Convention, plan: &'a Plan) -> Self {
        let gpu = &job.cluster.gpu;
        let profile = EngineProfile::of(convention);
        let small_kernel = profile.small_kernel(serve.release, gpu.architecture);
        let engine = |format: WeightFormat| Gemms {
            engine: Engine::new(gpu, compute::serve_kind(format, gpu)),
            bytes: format.bytes(),
            around: small_kernel * around(format, profile.kernels, gpu.architecture),
        };
        Self {
            job,
            serve,
            convention,
            plan,
            groups: Groups::new(&job.cluster, convention, &plan.mesh, plan.knobs.replicas),
            load: Load::new(serve, plan),
            profile,
            attention: engine(serve.quant.attention()),
            dense: engine(serve.quant.dense()),
            plain: Gemms { engine: Engine::new(gpu, GemmKind::Bf16), bytes: 2.0, around: 0.0 },
            experts: gpu.efficiency.experts(profile.kernels, serve.quant.experts()),
            small_kernel,
        }
    }

    /// Seconds of one layer of a kind, by term; with two-batch overlap, if the step has tokens enough to cut.
    fn layer(&self, kind: usize, step: Step) -> ServeLedger {
        if !in_two_batches(self.plan, step.tokens(), step.prefill > 0.0) {
            return self.whole_layer(kind, step);
        }
        let half = self.whole_layer(kind, Step { decode: step.decode / 2.0, prefill: step.prefill / 2.0, ..step });
        let exchange = half.get(ServeTerm::Ep);
        let mut compute = ServeLedger::EMPTY;
        // Decode's dispatch leaves all SMs to what it hides behind, prefill's takes some: TP's all-reduces run on SMs too.
        let slower = if step.prefill > 0.0 && exchange > 0.0 { 1.0 / (1.0 - EXCHANGE_SMS) } else { 1.0 };
        compute.add_all(&half.without(ServeTerm::Ep), 2.0 * slower);
        let shows = (2.0 * exchange - compute.total()).max(0.0);
        compute.add(ServeTerm::Ep, shows);
        compute
    }

    /// Seconds of one layer of a kind and all of a step's tokens, by term.
    fn whole_layer(&self, kind: usize, step: Step) -> ServeLedger {
        let model = &self.job.model;
        let block = &model.blocks()[kind];
        let mesh = &self.plan.mesh;
        let tokens = step.tokens();
        let latent = match block.mixer {
            Mixer::Mla(a) => Some(a),
            Mixer::Gqa(_) | Mixer::DeltaNet(_) | Mixer::Mamba2(_) | Mixer::None {} => None,
        };
        let h = f64::from(model.spec().hidden);
        let mut time = ServeLedger::EMPTY;
        let mut gemm = |of: &Gemms, n: f64, k: f64| {
            time.add(ServeTerm::Projections, of.engine.gemm_in_graph(tokens, n, k, of.bytes, IN_GRAPH));
            time.add(ServeTerm::SmallKernels, of.around);
        };
        ops::gemms(model, block, mesh, &mut |g| match g.part {
            // Below: engines fuse and absorb some of latent attention's projections.
            Part::Attention if latent.is_some() => {}
            Part::Attention => gemm(&self.attention, g.n, g.k),
            Part::Dense => gemm(&self.dense, g.n, g.k),
            Part::Router => gemm(&self.plain, g.n, g.k),
            // The fused kernel below.
            Part::Experts => {}
        });
        if let Some(a) = latent {
            latent_projections(&a, h, f64::from(mesh.tp()), &mut |n, k| gemm(&self.attention, n, k));
        }
        time.add(ServeTerm::SmallKernels, self.small_kernel * around_mixer(&block.mixer));
        time.add(ServeTerm::Attention, self.decode_core(block, step) + self.prefill_core(block, step));
        // Bytes of two norms, rotary embedding and activation function.
        time.add(ServeTerm::SmallKernels, 4.0 * tokens * h * 4.0 / (0.8 * self.job.cluster.gpu.hbm.get()));
        if let Some(moe) = block.mlp.moe {
            let shared = if moe.shared_ffn > 0 { AROUND_SHARED } else { 0.0 };
            time.add(ServeTerm::SmallKernels, self.small_kernel * (AROUND_EXPERTS + shared));
            time.add(ServeTerm::Experts, self.experts(block, step));
        }
        self.communication(block, step, &mut time);
        time
    }

    fn decode_core(&self, block: &Block, step: Step) -> f64 {
        let requests = step.decode;
        if requests <= 0.0 {
            return 0.0;
        }
        let mesh = &self.plan.mesh;
        let gpu = &self.job.cluster.gpu;
        let fit = gpu.efficiency.decode_attention;
        let kept = mem::window_tokens(block, step.context);
        let number = self.serve.kv_cache.bytes();
        let per_token = mem::kv_per_token(block, mesh, self.plan.knobs.dcp, number);
        let bandwidth = |share: f64| share * gpu.hbm.get();
        match block.mixer {
            Mixer::None {} => 0.0,
            Mixer::Gqa(_) => IN_GRAPH * fit.t0.get() + requests * kept * per_token / bandwidth(fit.share(number)),
            // The state is read and written.
            Mixer::DeltaNet(_) | Mixer::Mamba2(_) => {
                requests * 2.0 * mem::state_per_request(block, mesh) / (0.8 * gpu.hbm.get())
            }
            Mixer::Mla(a) => {
                // Absorbed weights: every head works on the latent, which takes FLOP as well as bytes.
                let seen = a.indexer.map_or(kept, |i| kept.min(f64::from(i.top_k)));
                let heads = f64::from(a.heads) / f64::from(mesh.tp());
                let (latent, rope) = (f64::from(a.kv_lora), f64::from(a.rope));
                let peak = gpu.peak16().get();
                let flop = 2.0 * step.decoded() * heads * (2.0 * latent + rope) * seen;
                // The indexer reads its own key of every token.
                let index = a.indexer.map_or(0.0, |i| kept * (f64::from(i.dim) + 4.0));
                let bytes =
                    requests * (seen * (latent + rope) * number + index) / f64::from(self.plan.knobs.dcp.max(1));
                let absorbed = heads * latent * (f64::from(a.nope) + f64::from(a.v));
                IN_GRAPH * 14.5e-6
                    + (flop / (0.72 * peak)).hypot(bytes / bandwidth(fit.memory))
                    + 2.0 * step.decoded() * absorbed / (0.5 * peak)
                    + 2.0 * absorbed / (0.8 * gpu.hbm.get())
            }
        }
    }

    fn prefill_core(&self, block: &Block, step: Step) -> f64 {
        if step.prefill <= 0.0 {
            return 0.0;
        }
        let gpu = &self.job.cluster.gpu;
        let mesh = &self.plan.mesh;
        let flop = step.prefill * ops::core_flop(block, mesh, step.length);
        match block.mixer {
            Mixer::None {} => 0.0,
            Mixer::Gqa(_) => compute::attention(gpu, flop, step.length),
            Mixer::Mla(a) => {
                let heads = f64::from(a.heads) / f64::from(mesh.tp());
                let up = 2.0 * step.prefill * heads * (f64::from(a.nope) + f64::from(a.v)) * f64::from(a.kv_lora);
                let fit = gpu.efficiency.latent_prefill(self.profile.kernels);
                compute::attention_by(&fit, gpu, flop, step.length) + up / (0.6 * gpu.peak16().get())
            }
            // Chunked scans: small matrix products, and four passes over the inputs.
            Mixer::DeltaNet(_) | Mixer::Mamba2(_) => {
                let width = ops::linear_width(block) / f64::from(mesh.tp());
                30e-6 + flop / (0.15 * gpu.peak16().get()) + compute::elementwise(gpu, 8.0 * step.prefill * width)
            }
        }
    }

    /// The fused expert kernel of the engine.
    fn experts(&self, block: &Block, step: Step) -> f64 {
        let Some(moe) = block.mlp.moe else { return 0.0 };
        let mesh = &self.plan.mesh;
        let gpu = &self.job.cluster.gpu;
        let format = self.serve.quant.experts();
        let peak = gpu.gemm_peak(compute::serve_kind(format, gpu)).get();
        let fit = self.experts.unwrap_or_else(|| gpu.efficiency.moe.of(format));
        let h = f64::from(self.job.model.spec().hidden);
        let inner = f64::from(moe.ffn) / f64::from(mesh.etp());
        let experts = f64::from(moe.experts);
        let ep = f64::from(mesh.ep());
        // All attention ranks of a stage route into the same experts; their prefills coincide where the engine sees to it.
        let together = if self.profile.aligned_prefill { self.load.ranks } else { 1.0 };
        let routed = (step.decoded() * self.load.ranks + step.prefill * together) * f64::from(moe.top_k);
        let each = routed / experts;
        // Biases in experts and router are gpt-oss's mark.
        let twice = if moe.bias { TWICE_GPT_OSS_SHAPE } else { TWICE_SHAPE };
        // The experts of one token differ.
        let hit = experts / ep * hit_share(each, twice).max(each.min(f64::from(moe.top_k) / experts));
        let weights = matrices(moe.gated) as f64 * h * inner;
        let balance = if mesh.ep() > 1 { IMBALANCE } else { 1.0 };
        let rows = (routed / ep * balance).max(hit * fit.rows);
        let compute = 2.0 * rows * weights / (fit.compute * peak);
        let memory = hit * weights * format.bytes() / (fit.memory * gpu.hbm.get());
        let passes = routed * (4.0 * h + 6.0 * inner) * (1.0 - fit.spread + fit.spread / ep) / gpu.hbm.get();
        IN_GRAPH * fit.t0.get() + compute.hypot(memory) + fit.permute * passes
    }

    /// Collectives of one layer.
    fn communication(&self, block: &Block, step: Step, time: &mut ServeLedger) {
        let mesh = &self.plan.mesh;
        let cluster = &self.job.cluster;
        let tokens = step.tokens();
        let h = f64::from(self.job.model.spec().hidden);
        let stream = 2.0 * tokens * h;
        let mixer = u32::from(!matches!(block.mixer, Mixer::None {}));
        let small = |bytes| network::small_all_reduce(cluster, self.groups.tp, self.profile.kernels, bytes).get();
        let reduce = small(stream);
        if let Mixer::Gqa(Gqa { qk_norm: QkNorm::Full, .. }) = block.mixer {
            // A norm over all heads: a sum of squares of queries and one of keys, 32 bits each.
            time.add(ServeTerm::Tp, small(8.0 * tokens));
        }
        let Some(moe) = block.mlp.moe else {
            time.add(ServeTerm::Tp, reduce * f64::from(mixer + u32::from(block.mlp.dense.is_some())));
            return;
        };
        time.add(ServeTerm::Tp, reduce * f64::from(mixer));
        if self.load.ranks <= 1.0 {
            // Tokens are on every rank of the stage already: one all-reduce over it.
            time.add(ServeTerm::Tp, reduce);
            return;
        }
        if moe.shared_ffn > 0 && mesh.tp() > 1 {
            time.add(ServeTerm::Tp, reduce);
        }
        // Experts cut over all ranks of the stage: everyone's tokens are gathered, and the sums scattered back.
        let group = if mesh.ep() > 1 { self.groups.ep } else { self.groups.etp };
        let all = stream * self.load.ranks;
        let gathered = network::collective(cluster, group, Collective::AllGather, all).get()
            + network::collective(cluster, group, Collective::ReduceScatter, all).get();
        if mesh.ep() <= 1 {
            time.add(ServeTerm::Ep, gathered);
            return;
        }
        let sent = tokens / f64::from(mesh.tp()) * f64::from(moe.top_k);
        // fp8 with a scale per 128 out, 16 bits back.
        let (out, back) = (sent * (h + 4.0 * h / 128.0 + 16.0), sent * 2.0 * h);
        let exchange = |way: Exchange, bytes: f64| {
            let low_latency = network::low_latency_exchange(cluster, group, way, bytes).get();
            // A token crosses to a node once, however many of its experts live there.
            let far = f64::from(group.size.div_ceil(group.near.max(1)));
            let once = if group.tier == Tier::Network { far.min(f64::from(moe.top_k)) } else { 4.63 };
            let share = (once / f64::from(moe.top_k)).min(1.0);
            low_latency.min(network::collective(cluster, group, Collective::AllToAll, bytes * share).get())
        };
        let exchanged = exchange(Exchange::Dispatch, out) + exchange(Exchange::Combine, back);
        // Inside a domain the engines' default is to gather; dispatch kernels are for groups that gathering does not suit.
        time.add(ServeTerm::Ep, if group.tier == Tier::Network { exchanged } else { gathered.min(exchanged) });
    }

    /// Seconds of every stage by term: their sum, and of the slowest all of it. Host time is not in it.
    pub(super) fn stages(&self, step: Step) -> (ServeLedger, f64) {
        let model = &self.job.model;
        let mesh = &self.plan.mesh;
        let mut kinds = [ServeLedger::EMPTY; MOST_KINDS];
        for (kind, time) in kinds.iter_mut().enumerate().take(model.blocks().len()) {
            *time = self.layer(kind, step);
        }
        let sampled = step.decoded() + step.prefill / step.length.max(1.0);
        let (mut sum, mut slowest) = (ServeLedger::EMPTY, 0.0_f64);
        for stage in 0..mesh.pp() {
            let span = StageSpan::of(self.convention, model, self.plan, stage);
            let mut time = ServeLedger::EMPTY;
            for (kind, layer) in kinds.iter().enumerate().take(model.blocks().len()) {
                time.add_all(layer, f64::from(span.count(model, kind)));
            }
            if stage + 1 == mesh.pp() {
                time.add(ServeTerm::Projections, self.head(sampled));
            }
            sum.add_all(&time, 1.0);
            slowest = slowest.max(time.total());
        }
        (sum, slowest)
    }

    /// Seconds of drafting one token a request: a layer like the last, and the head.
    pub(super) fn draft(&self, step: Step) -> ServeLedger {
        let mut time = self.layer(self.job.model.last_kind(), step);
        time.add(ServeTerm::Projections, self.head(step.decoded()));
        time
    }

    /// Seconds of the output projection.
    fn head(&self, sampled: f64) -> f64 {
        let spec = self.job.model.spec();
        let width = f64::from(spec.vocab) / f64::from(self.plan.mesh.tp());
        self.plain.engine.gemm(sampled, width, f64::from(spec.hidden), 1.0, 2.0)
    }

    /// Seconds that a step with prefill takes on one stage at least.
    pub(super) fn eager_s(&self) -> f64 {
        let model = &self.job.model;
        let count = |kind: usize| f64::from(model.count(kind, 0, model.layers()));
        let experts: f64 =
            model.blocks().iter().enumerate().filter(|(_, b)| b.mlp.moe.is_some()).map(|(kind, _)| count(kind)).sum();
        let stages = f64::from(self.plan.mesh.pp());
        self.profile.eager_s(f64::from(model.layers()) / stages, experts / stages, self.job.cluster.gpu.architecture)
    }

    /// Seconds of all hops between stages for so many tokens.
    pub(super) fn hops(&self, tokens: f64) -> f64 {
        let pp = self.plan.mesh.pp();
        if pp == 1 {
            return 0.0;
        }
        let h = f64::from(self.job.model.spec().hidden);
        let hop = network::collective(&self.job.cluster, self.groups.pp, Collective::SendRecv, 2.0 * tokens * h);
        f64::from(pp) * hop.get()
    }
}

/// Latent attention as engines run it: both down-projections in one GEMM, queries up, the output; the up-projection of keys and
/// values is absorbed in decode and priced with the core in prefill.
fn latent_projections(a: &Mla, h: f64, tp: f64, one: &mut impl FnMut(f64, f64)) {
    let heads = f64::from(a.heads) / tp;
    let (query, low) = (f64::from(a.nope) + f64::from(a.rope), f64::from(a.kv_lora) + f64::from(a.rope));
    if a.q_lora > 0 {
        one(f64::from(a.q_lora) + low, h);
        one(heads * query, f64::from(a.q_lora));
    } else {
        one(heads * query + low, h);
    }
    one(h, heads * f64::from(a.v));
    if let Some(i) = a.indexer {
        let from = if a.q_lora > 0 { f64::from(a.q_lora) } else { h };
        one(f64::from(i.heads) * f64::from(i.dim), from);
        one(f64::from(i.dim) + f64::from(i.heads), h);
    }
}
