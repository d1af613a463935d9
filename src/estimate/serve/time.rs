//! How fast a plan answers under its load.

use super::memory::prefill_tokens;
use super::step::{Pricing, Step};
use super::{kv_tokens_per_rank, yields};
use crate::cost::{ServeLedger, ServeTerm};
use crate::job::{Arrivals, Job, Serve};
use crate::mesh::Convention;
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
    /// The same by term.
    pub tpot: ServeLedger,
    /// Seconds of one decode step alone, over the tokens that it yields.
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

/// How many prefills long a request waits, of the time that it spends waiting while others of the loop decode: what falls in it
/// stalls nobody's answer. Fitted.
const WAIT: f64 = 4.0;

/// Time before a request's first step: tokenising, scheduling, the way back. Fitted.
const FIRST_TOKEN_S: f64 = 12e-3;

/// Steps that TensorRT-LLM's balancer of attention data parallelism holds a request back for others to prefill beside it:
/// `attention_dp_config.timeout_iters`, 50 by default, 60 in published recipes. Measured first tokens come 59 steps later (median of
/// 61 points).
const BALANCED_STEPS: f64 = 60.0;

/// Share of all prefills that the first of ten waves adds to the mean wait: half of its own.
const FIRST_WAVE: f64 = 0.05;

/// What a plan reaches under its load.
///
/// ```text
/// stall = what one request's prefill adds to the steps it runs in
/// TPOT  = decode step with host (b, isl + osl/2) / y + others/osl stall f,  f = osl TPOT / (osl TPOT + 4 stall + cohorts)
/// TTFT  = c0 + first steps + prefill + kappa others stall; in the steady state without the first wave's .05 of kappa: cohorts
/// step  = D(n + 1 rows a request) + n (a layer + the head),  y = 1 + a + ... + a^n tokens of a step, with n drafted ones
/// ```
/// In a closed loop every other request prefills once in my lifetime; `f` of them while I decode. With many requests of short
/// answers several prefill in one step. With a pipeline, `pp` groups of requests are in flight, and a step takes as long as its
/// slowest stage lets it.
#[must_use]
pub fn service(job: &Job, serve: &Serve, convention: Convention, plan: &Plan) -> Service {
    let pricing = Pricing::new(job, serve, convention, plan);
    let profile = pricing.profile;
    let mut load = pricing.load;
    let per_rank = kv_tokens_per_rank(job, serve, convention, plan);
    let holds = (per_rank / load.longest).floor().max(0.0);
    let wanted = load.requests;
    // Requests in flight stand at all points of their answers: together they hold their mean context, not their longest.
    let running = (per_rank / load.context).floor().max(1.0);
    load.requests = wanted.min(running);

    let pp = f64::from(plan.mesh.pp());
    let batch = (load.requests / pp).max(1.0);
    let (isl, osl) = serve.mean_lengths();
    let rows = f64::from(serve.mtp + 1);
    let yields = yields(serve);
    let alone = Step { decode: batch, rows, context: load.context, prefill: 0.0, length: isl };
    // Every row is sampled.
    let host = |rows: f64| profile.host_s + profile.request_s * load.requests * rows * load.ranks;
    // Groups of requests in flight.
    let groups = pp.min(load.requests);
    let (mut step, slowest) = pricing.stages(alone);
    // Fewer requests than stages leave stages idle; then a token passes through all of them.
    let apart = step.total();
    step.add(ServeTerm::Pp, pricing.hops(batch * rows).max(groups * slowest - apart));
    if serve.mtp > 0 {
        // Each draft takes one more layer and the head on the last stage, a row a request.
        step.add_all(&pricing.draft(Step { rows: 1.0, ..alone }), f64::from(serve.mtp) * groups);
    }
    step.add(ServeTerm::Host, host(rows));
    let mut token = ServeLedger::EMPTY;
    token.add_all(&step, 1.0 / yields);
    let decode = step.total();

    // Every other request of my rank prefills once while I am there; where ranks do not prefill together, each rank's stalls all.
    let ranks = if profile.aligned_prefill { 1.0 } else { load.ranks };
    let present = load.requests.min(f64::from(serve.concurrency) / (load.ranks * load.replicas));
    let others = (present * ranks - 1.0).max(0.0) / ranks;
    // In the step of one group.
    let rate = others * yields / osl / groups;
    let chunk = prefill_tokens(job, convention);
    let fresh = (isl * (1.0 - serve.prefix_hit)).max(1.0);
    let tokens = (fresh * rate.max(1.0)).min(chunk);
    // Attention works on squares of lengths, whose mean grows with their spread.
    let length = isl * (1.0 + serve.isl_spread.cv2);
    let prefill_step = Step { decode: 0.0, prefill: tokens, length, ..alone };
    let (_, apart) = pricing.stages(prefill_step);
    // What a step takes longer when it prefills so many tokens. Not less: a step that mixes is cut in two only from more tokens on, and
    // a few more of them may take less than two halves.
    let eager = pricing.eager_s();
    let longer = if profile.mixes {
        let mixed = pricing.stages(Step { decode: batch, ..prefill_step }).1;
        ((mixed - slowest).max(0.0) + (profile.prefill - 1.0) * apart).max(eager - slowest)
    } else {
        (profile.prefill * apart).max(eager) + host(1.0)
    };
    let stall = fresh / tokens * longer;
    let queue = others * stall;
    // What prefills together ends together: cohorts of a closed loop wait for each other, its first wave most of all. Requests that
    // come by themselves form none; what they wait is the queue's business.
    let cohorts = match serve.arrivals {
        Arrivals::Steady | Arrivals::Burst10x => (profile.burst_share - FIRST_WAVE).max(0.0) * queue,
        Arrivals::Poisson => 0.0,
    };
    let mut tpot = decode / yields;
    for _ in 0..4 {
        let answering = osl * tpot / (osl * tpot + WAIT * stall + cohorts);
        let own = rate * fresh / tokens * answering;
        // A step is longer when any rank prefills in it. Prefills that have steps of their own may take more than one.
        let some = if own < 1.0 {
            1.0 - (1.0 - own).powi(ranks as i32)
        } else if profile.mixes {
            1.0
        } else {
            own
        };
        tpot = (decode + groups * some * longer) / yields;
    }

    token.add(ServeTerm::Prefill, tpot - decode / yields);
    let tpot = token.total();

    let chunks = (fresh / chunk).ceil().max(1.0);
    let each = fresh / chunks;
    let (sum, slowest) = pricing.stages(Step { prefill: each, ..prefill_step });
    let prefill = (profile.prefill * sum.total()).max(pp * eager)
        + (chunks - 1.0) * (profile.prefill * slowest).max(eager)
        + pricing.hops(each);

    let balanced = if profile.aligned_prefill && load.ranks > 1.0 { BALANCED_STEPS * decode } else { 0.0 };
    let first = FIRST_TOKEN_S + profile.first_steps * decode + balanced + prefill;
    let burst = first + profile.burst_share * queue;
    let steady = first + cohorts;
    // What the cache cannot hold waits for a whole answer of those before it.
    let waiting = (wanted / load.requests - 1.0).max(0.0) * (prefill + osl * tpot);
    let ttft = match serve.arrivals {
        Arrivals::Steady | Arrivals::Poisson => steady,
        Arrivals::Burst10x => burst,
    } + waiting;
    let in_flight = (load.requests * load.ranks * load.replicas).min(f64::from(serve.concurrency));
    let answer = steady + (osl - 1.0) * tpot;
    let kv_replica = per_rank * load.ranks;
    Service {
        ttft_s: ttft,
        ttft_steady_s: steady + waiting,
        ttft_burst_s: burst + waiting,
        tpot_s: tpot,
        tpot: token,
        decode_step_s: decode / yields,
        prefill_s: prefill,
        prefill_stall_s: stall * ranks,
        output_tokens_per_s: in_flight * osl / answer,
        tokens_per_s_per_user: 1.0 / tpot,
        kv_tokens_per_replica: kv_replica,
        kv_capacity_tokens: kv_replica * load.replicas,
        max_concurrency: holds * load.ranks * load.replicas,
        concurrency: in_flight,
    }
}

#[cfg(test)]
#[path = "time_tests.rs"]
mod tests;
