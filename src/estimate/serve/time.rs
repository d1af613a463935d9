//! How fast a plan answers under its load.

use super::{EngineProfile, Load, kv_tokens_per_rank};
use crate::cluster::{Collective, GemmKind};
use crate::cost::compute::{self, Engine};
use crate::cost::memory as mem;
use crate::cost::network::{self, Tier};
use crate::cost::ops::{self, Part};
use crate::estimate::StageSpan;
use crate::estimate::train::Groups;
use crate::job::{Arrivals, Job, Serve};
use crate::mesh::Convention;
use crate::model::{Block, MOST_KINDS, Mixer, WeightFormat, matrices};
use crate::plan::Plan;

/// What a service reaches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Service {
    /// Seconds to the first token, mean, for the job's arrivals.
    pub ttft_s: f64,
    /// Seconds to the first token in the steady state.
    pub ttft_steady_s: f64,
    /// Seconds to the first token when all requests come at once.
    pub ttft_burst_s: f64,
    /// Seconds per further token of a request, other requests' prefills included.
    pub tpot_s: f64,
    /// Seconds of one decode step alone.
    pub decode_step_s: f64,
    /// Seconds to prefill one request.
    pub prefill_s: f64,
    /// Seconds that one request's prefill keeps its rank from decoding: all of it, or its share of the slowest stage.
    pub prefill_stall_s: f64,
    /// Generated tokens per second of the whole plan.
    pub output_tokens_per_s: f64,
    /// Generated tokens per second of one request.
    pub tokens_per_s_per_user: f64,
    /// KV-cache tokens of one replica.
    pub kv_tokens_per_replica: f64,
    /// KV-cache tokens of the whole plan.
    pub kv_capacity_tokens: f64,
    /// Requests of the job's length that the KV cache holds at once, whole plan.
    pub max_concurrency: f64,
    /// Requests really in flight: the job's concurrency, or what the cache holds.
    pub concurrency: f64,
}

struct Pricing<'a> {
    job: &'a Job,
    serve: &'a Serve,
    convention: Convention,
    plan: &'a Plan,
    groups: Groups,
    load: Load,
    attention: (Engine, f64),
    dense: (Engine, f64),
    plain: Engine,
}

/// A step of the engine on one attention rank.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// So many tokens of requests of this length.
    Prefill { length: f64 },
    /// One token of each request, on average in this context.
    Decode { context: f64 },
}

impl<'a> Pricing<'a> {
    fn new(job: &'a Job, serve: &'a Serve, convention: Convention, plan: &'a Plan) -> Self {
        let gpu = &job.cluster.gpu;
        let engine = |format: WeightFormat| (Engine::new(gpu, compute::serve_kind(format, gpu)), format.bytes());
        Self {
            job,
            serve,
            convention,
            plan,
            groups: Groups::new(&job.cluster, convention, &plan.mesh, plan.knobs.replicas),
            load: Load::new(serve, plan),
            attention: engine(serve.quant.attention()),
            dense: engine(serve.quant.dense()),
            plain: Engine::new(gpu, GemmKind::Bf16),
        }
    }

    /// Seconds of one layer of a kind for `tokens` tokens on each attention rank.
    fn layer(&self, kind: usize, tokens: f64, phase: Phase) -> f64 {
        let model = &self.job.model;
        let block = &model.blocks()[kind];
        let mesh = &self.plan.mesh;
        let gpu = &self.job.cluster.gpu;
        let mut seconds = 0.0;
        ops::gemms(model, block, mesh, &mut |g| {
            seconds += match g.part {
                Part::Attention => self.attention.0.gemm(tokens, g.n, g.k, 1.0, self.attention.1),
                Part::Dense => self.dense.0.gemm(tokens, g.n, g.k, 1.0, self.dense.1),
                Part::Router => self.plain.gemm(tokens, g.n, g.k, 1.0, 2.0),
                // The fused kernel below.
                Part::Experts => 0.0,
            };
        });
        seconds += self.core(block, tokens, phase);
        let h = f64::from(model.spec().hidden);
        // Two norms, rotary embedding and activation function, fused: 2 us each and their bytes.
        seconds += 4.0 * (2e-6 + tokens * h * 4.0 / (0.8 * gpu.hbm.get()));
        seconds + self.experts(block, tokens) + self.communication(block, tokens, phase)
    }

    fn core(&self, block: &Block, tokens: f64, phase: Phase) -> f64 {
        let mesh = &self.plan.mesh;
        let gpu = &self.job.cluster.gpu;
        match phase {
            Phase::Prefill { length } => compute::attention(gpu, tokens * ops::core_flop(block, mesh, length), length),
            Phase::Decode { context } => {
                let kept = mem::window_tokens(block, context);
                let kept = match block.mixer {
                    Mixer::Mla(a) => a.indexer.map_or(kept, |i| kept.min(f64::from(i.top_k))),
                    Mixer::Gqa(_) | Mixer::DeltaNet(_) | Mixer::Mamba2(_) | Mixer::None {} => kept,
                };
                let per_token = mem::kv_per_token(block, mesh, self.plan.knobs.dcp, self.serve.kv_cache.bytes());
                let state = 2.0 * mem::state_per_request(block, mesh);
                let read = compute::decode_attention(gpu, tokens * (kept * per_token + state));
                match block.mixer {
                    Mixer::Mla(a) => {
                        // Absorbed weights: every head works on the latent, which takes FLOP as well as bytes.
                        let heads = f64::from(a.heads) / f64::from(mesh.tp());
                        let (latent, rope) = (f64::from(a.kv_lora), f64::from(a.rope));
                        let flop = 2.0 * tokens * heads * (2.0 * latent + rope) * kept;
                        let absorb = 2.0 * tokens * heads * latent * (f64::from(a.nope) + f64::from(a.v));
                        let peak = gpu.peak16().get();
                        read.max(flop / (0.72 * peak) + 14.5e-6) + absorb / (0.5 * peak)
                    }
                    Mixer::None {} => 0.0,
                    Mixer::Gqa(_) | Mixer::DeltaNet(_) | Mixer::Mamba2(_) => read,
                }
            }
        }
    }

    /// The fused expert kernel: `t0 + hypot(FLOP, weights of the experts that are hit) + permutation`.
    fn experts(&self, block: &Block, tokens: f64) -> f64 {
        let Some(moe) = block.mlp.moe else { return 0.0 };
        let mesh = &self.plan.mesh;
        let gpu = &self.job.cluster.gpu;
        let fit = gpu.efficiency.moe;
        let format = self.serve.quant.experts();
        let h = f64::from(self.job.model.spec().hidden);
        let inner = f64::from(moe.ffn) / f64::from(mesh.etp());
        let experts = f64::from(moe.experts);
        let ep = f64::from(mesh.ep());
        // All attention ranks of a stage route into the same experts.
        let routed = tokens * self.load.ranks * f64::from(moe.top_k);
        let hit = experts / ep * (1.0 - (1.0 - 1.0 / experts).powi(routed.min(1e6) as i32));
        let weights = matrices(moe.gated) as f64 * h * inner;
        // Ranks of one expert group hold uneven shares of the tokens.
        let balance = if mesh.ep() > 1 { IMBALANCE } else { 1.0 };
        let flop = 2.0 * routed / ep * weights * balance;
        let peak = gpu.gemm_peak(compute::serve_kind(format, gpu)).get();
        let compute = flop / (fit.compute * peak);
        let memory = hit * weights * format.bytes() / (fit.memory * gpu.hbm.get());
        let moved = fit.permute * routed * (4.0 * h + 6.0 * inner) * (0.4 + 0.6 / ep) / gpu.hbm.get();
        fit.t0.get() + (compute * compute + memory * memory).sqrt() + moved
    }

    /// Collectives of one layer.
    fn communication(&self, block: &Block, tokens: f64, phase: Phase) -> f64 {
        let mesh = &self.plan.mesh;
        let cluster = &self.job.cluster;
        let h = f64::from(self.job.model.spec().hidden);
        let stream = 2.0 * tokens * h;
        let mixer = u32::from(!matches!(block.mixer, Mixer::None {}));
        let reduce = network::small_all_reduce(cluster, self.groups.tp, stream).get();
        let Some(moe) = block.mlp.moe else {
            return reduce * f64::from(mixer + u32::from(block.mlp.dense.is_some()));
        };
        let after_mixer = reduce * f64::from(mixer);
        if self.load.ranks <= 1.0 {
            // Tokens are on every rank of the stage already: one all-reduce over it.
            return after_mixer + reduce;
        }
        let shared = if moe.shared_ffn > 0 && mesh.tp() > 1 { reduce } else { 0.0 };
        if mesh.ep() > 1 {
            let sent = tokens / f64::from(mesh.tp()) * f64::from(moe.top_k);
            // fp8 with a scale per 128 out, 16 bits back.
            let (out, back) = (sent * (h + 4.0 * h / 128.0 + 16.0), sent * 2.0 * h);
            let exchange = |bytes: f64| match phase {
                Phase::Decode { .. } => network::low_latency_exchange(cluster, self.groups.ep, bytes).get(),
                Phase::Prefill { .. } => {
                    // A token crosses to a node once, however many of its experts live there.
                    let far = f64::from(self.groups.ep.size.div_ceil(self.groups.ep.near.max(1)));
                    let once = if self.groups.ep.tier == Tier::Network { far.min(f64::from(moe.top_k)) } else { 4.63 };
                    let share = (once / f64::from(moe.top_k)).min(1.0);
                    network::collective(cluster, self.groups.ep, Collective::AllToAll, bytes * share).get()
                }
            };
            return after_mixer + shared + exchange(out) + exchange(back);
        }
        // Experts cut over all ranks of the stage: everyone's tokens are gathered, and the sums scattered back.
        let all = stream * self.load.ranks;
        after_mixer
            + shared
            + network::collective(cluster, self.groups.etp, Collective::AllGather, all).get()
            + network::collective(cluster, self.groups.etp, Collective::ReduceScatter, all).get()
    }

    /// Seconds of every stage for `tokens` tokens a rank: their sum and the slowest.
    fn stages(&self, tokens: f64, sampled: f64, phase: Phase) -> (f64, f64) {
        let model = &self.job.model;
        let mesh = &self.plan.mesh;
        let mut kinds = [0.0; MOST_KINDS];
        for (kind, seconds) in kinds.iter_mut().enumerate().take(model.blocks().len()) {
            *seconds = self.layer(kind, tokens, phase);
        }
        let h = f64::from(model.spec().hidden);
        let width = f64::from(model.spec().vocab) / f64::from(mesh.tp());
        let head = self.plain.gemm(sampled, width, h, 1.0, 2.0);
        let (mut sum, mut slowest) = (0.0, 0.0_f64);
        for stage in 0..mesh.pp() {
            let span = StageSpan::of(self.convention, model, self.plan, stage);
            let mut seconds: f64 =
                (0..model.blocks().len()).map(|kind| kinds[kind] * f64::from(span.count(model, kind))).sum();
            if stage + 1 == mesh.pp() {
                seconds += head;
            }
            sum += seconds;
            slowest = slowest.max(seconds);
        }
        (sum, slowest)
    }

    fn hop(&self, tokens: f64) -> f64 {
        if self.plan.mesh.pp() == 1 {
            return 0.0;
        }
        let h = f64::from(self.job.model.spec().hidden);
        network::collective(&self.job.cluster, self.groups.pp, Collective::SendRecv, 2.0 * tokens * h).get()
    }
}

/// Load of the fullest expert rank over the mean: measured multipliers of MoE latency lie between 1.05 and 1.3.
const IMBALANCE: f64 = 1.1;

/// What a plan reaches under its load.
///
/// ```text
/// TPOT = decode step (b, isl + osl/2) + (b - 1)/osl * prefill(isl)
/// TTFT = steady: prefill + decode step; burst: c0 + decode step + prefill (1 + kappa (b - 1))
/// ```
/// With a pipeline, `pp` groups of requests are in flight, and a step takes as long as its slowest stage lets it.
#[must_use]
pub fn service(job: &Job, serve: &Serve, convention: Convention, plan: &Plan) -> Service {
    let pricing = Pricing::new(job, serve, convention, plan);
    let profile = EngineProfile::of(convention);
    let mut load = pricing.load;
    let per_rank = kv_tokens_per_rank(job, serve, convention, plan);
    let holds = (per_rank / load.longest).floor().max(0.0);
    let wanted = load.requests;
    // Requests in flight stand at all points of their answers: together they hold their mean context, not their longest.
    let running = (per_rank / load.context).floor().max(1.0);
    load.requests = wanted.min(running);

    let pp = f64::from(plan.mesh.pp());
    let batch = (load.requests / pp).max(1.0);
    let (sum, slowest) = pricing.stages(batch, batch, Phase::Decode { context: load.context });
    let hops = pp * pricing.hop(batch);
    // Fewer requests than stages leave stages idle; then a token passes through all of them.
    let decode = (sum + hops).max(pp.min(load.requests) * slowest) + profile.host_s;

    let isl = f64::from(serve.isl);
    let fresh = (isl * (1.0 - serve.prefix_hit)).max(1.0);
    let chunks = (fresh / profile.chunk).ceil().max(1.0);
    let each = fresh / chunks;
    // Attention works on squares of lengths, whose mean grows with their spread.
    let length = isl * (1.0 + serve.isl_spread.cv2);
    let (sum, slowest) = pricing.stages(each, 1.0, Phase::Prefill { length });
    let prefill = sum + (chunks - 1.0) * slowest + pp * pricing.hop(each) + profile.host_s;
    // While one request prefills, the others of its rank wait, on the slowest stage only when there is a pipeline.
    let stall = (chunks * slowest).min(prefill);

    let osl = f64::from(serve.osl);
    let tpot = decode + (load.requests - 1.0) / osl * stall;
    let steady = prefill + decode;
    let burst = profile.first_token_s + decode + prefill * (1.0 + profile.burst_share * (load.requests - 1.0));
    // What the cache cannot hold waits for a whole answer of those before it.
    let queue = (wanted / load.requests - 1.0).max(0.0) * (steady + osl * tpot);
    let ttft = match serve.arrivals {
        Arrivals::Steady | Arrivals::Poisson => steady,
        Arrivals::Burst10x => burst,
    } + queue;
    let in_flight = (load.requests * load.ranks * load.replicas).min(f64::from(serve.concurrency));
    let answer = steady + (osl - 1.0) * tpot;
    let kv_replica = per_rank * load.ranks;
    Service {
        ttft_s: ttft,
        ttft_steady_s: steady + queue,
        ttft_burst_s: burst + queue,
        tpot_s: tpot,
        decode_step_s: decode,
        prefill_s: prefill,
        prefill_stall_s: stall,
        output_tokens_per_s: in_flight * osl / answer,
        tokens_per_s_per_user: 1.0 / tpot,
        kv_tokens_per_replica: kv_replica,
        kv_capacity_tokens: kv_replica * load.replicas,
        max_concurrency: holds * load.ranks * load.replicas,
        concurrency: in_flight,
    }
}
