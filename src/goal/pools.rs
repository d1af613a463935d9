//! Prefill and decode apart: pools of workers matched by rate, and whether that pays.
//!
//! A prefill worker is one replica that only reads prompts, a decode worker one that only writes answers; each has its own plan
//! and its own number of GPUs. `x` of the one and `y` of the other share the GPUs so that neither waits for the other.
//!
//! ```text
//! prefill worker   X_p = rho ranks / S,  rho <= .9 and as high as the target leaves time to wait: W = rho S / (2 (1 - rho))
//! decode worker    X_d = ranks (r - 1) / (osl D(r)),  the most r with D(r) within the target and room in the KV cache
//! pools            rate = min(x X_p, y X_d),  x g_p + y g_d <= GPUs
//! KV transfer      t = alpha + bytes / (link min(GPUs of a prefill rank, of a decode rank)); layer by layer behind the prefill,
//!                  so that max(t / L, t - prefill (L - 1) / L) of it shows
//! TTFT = W + prefill + what shows of t + D(r);  TPOT = D(r)
//! ```
//! The link is NVLink where all workers lie in one domain, else a GPU's share of the NICs, and no worker sends or receives more
//! than its links carry. Means, under independent arrivals; the plans that do both are priced under the same.

use super::{sizes, with_serve};
use crate::cost::memory as mem;
use crate::cost::network::{self, Placed, Tier};
use crate::estimate::{self, serve};
use crate::job::{Arrivals, Job, Load, Percentile, Serve};
use crate::mesh::{Convention, Mesh};
use crate::plan::Plan;
use crate::rank::Row;
use crate::rules;
use crate::search::{SearchOptions, Watch, search};
use crate::space::{Space, SpaceOptions};
use crate::units::Seconds;

/// The most of its time a prefill worker is busy: beyond, its queue grows faster than its work (4.5 prefills at .9).
const BUSIEST: f64 = 0.9;

/// Workers of one kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pool {
    /// The plan of one worker.
    pub plan: Plan,
    /// How many workers.
    pub workers: u32,
    /// Requests a second that one of them takes.
    pub rate: f64,
    /// Requests in flight on one of them.
    pub in_flight: f64,
}

impl Pool {
    /// GPUs of all workers.
    #[must_use]
    pub const fn gpus(&self) -> u32 {
        self.workers * self.plan.mesh.world()
    }
}

/// A deployment with prefill and decode apart.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Split {
    /// Reads prompts.
    pub prefill: Pool,
    /// Writes answers.
    pub decode: Pool,
    /// Requests answered a second.
    pub requests_per_s: f64,
    /// Seconds to the first token, mean, the KV cache's way included.
    pub ttft_s: f64,
    /// Seconds per further token, mean.
    pub tpot_s: f64,
    /// Bytes of KV cache that a request takes from worker to worker.
    pub transfer_bytes: f64,
    /// Seconds they take.
    pub transfer_s: f64,
    /// Seconds of them that do not hide behind the prefill.
    pub exposed_s: f64,
    /// What carries them.
    pub link: Tier,
    /// Share of the busier side's links that they use.
    pub link_share: f64,
}

impl Split {
    /// GPUs of both pools.
    #[must_use]
    pub const fn gpus(&self) -> u32 {
        self.prefill.gpus() + self.decode.gpus()
    }
}

/// The best of both kinds within one target of the time per token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rung {
    /// The target of the time per token, in seconds.
    pub tpot_s: f64,
    /// The best plan whose replicas do both.
    pub together: Option<Row>,
    /// The best pools.
    pub apart: Option<Split>,
}

impl Rung {
    /// Output tokens per second and GPU of the cluster: together, apart; zero where nothing meets the targets.
    #[must_use]
    pub fn speeds(&self, job: &Job) -> (f64, f64) {
        let gpus = f64::from(job.gpus());
        let osl = job.serve().map_or(0.0, |s| f64::from(s.osl));
        let of = |rate: Option<f64>| rate.unwrap_or(0.0) * osl / gpus;
        (of(self.together.map(|r| r.estimate.load.requests_per_s)), of(self.apart.map(|s| s.requests_per_s)))
    }
}

/// A plan that one worker may have, with what does not change with the load.
struct Candidate {
    plan: Plan,
    /// Attention ranks.
    ranks: f64,
    /// GPUs that hold one rank's KV cache.
    rails: f64,
    prefill_s: f64,
    stall_s: f64,
    /// Requests that one rank's KV cache holds.
    slots: u32,
    job: Job,
}

impl Candidate {
    fn decode_step(&self, convention: Convention, requests: u32) -> f64 {
        let at = with_serve(&self.job, |s| s.concurrency = (f64::from(requests) * self.ranks) as u32);
        at.serve().map_or(f64::INFINITY, |s| serve::service(&at, s, convention, &self.plan).decode_step_s)
    }
}

/// Every legal plan of one worker of every size.
fn candidates(job: &Job, space: &SpaceOptions) -> Vec<Candidate> {
    let convention = space.convention();
    let mut one = space.clone();
    (one.use_fewer, one.bounds.replicas) = (false, vec![1]);
    let mut out = Vec::new();
    for gpus in sizes(job) {
        let mut worker = with_serve(job, |s| (s.load, s.concurrency) = (Load::InFlight, 1));
        worker.cluster = job.cluster.resized(gpus);
        for block in Space::new(&worker, &one).blocks() {
            let plan = block.sample();
            if !rules::broken(&worker, space.framework, &plan).is_empty()
                || !estimate::memory(&worker, convention, &plan).fits()
            {
                continue;
            }
            let ranks = plan.mesh.dp_attention();
            let full = with_serve(&worker, |s| s.concurrency = ranks);
            let Some(load) = full.serve() else { continue };
            let service = serve::service(&full, load, convention, &plan);
            let context = f64::from(load.isl) + f64::from(load.osl) * (1.0 + load.osl_spread.cv2) / 2.0;
            let slots = service.kv_tokens_per_replica / f64::from(ranks) / context;
            let most = serve::EngineProfile::of(convention).max_sequences;
            if service.kv_tokens_per_replica / f64::from(ranks) < f64::from(load.isl) + f64::from(load.osl) {
                continue;
            }
            out.push(Candidate {
                plan,
                ranks: f64::from(ranks),
                rails: f64::from(plan.mesh.tp() * plan.mesh.cp() * plan.mesh.pp()),
                prefill_s: service.prefill_s,
                // Nothing decodes beside it.
                stall_s: service.prefill_stall_s.max(service.prefill_s / f64::from(plan.mesh.pp())),
                slots: slots.min(most).max(1.0) as u32,
                job: full,
            });
        }
    }
    out
}

/// Bytes of KV cache and state that a request's prompt leaves, all layers, one copy.
#[must_use]
pub fn transfer_bytes(job: &Job, serve: &Serve) -> f64 {
    let Some(alone) = Mesh::product(1, 1, 1, 1, 1) else { return 0.0 };
    let model = &job.model;
    let each = model.blocks().iter().enumerate().map(|(kind, block)| {
        let kept = mem::window_tokens(block, f64::from(serve.isl));
        let bytes = kept * mem::kv_per_token(block, &alone, 1, serve.kv_cache.bytes());
        f64::from(model.count(kind, 0, model.layers())) * (bytes + mem::state_per_request(block, &alone))
    });
    each.sum()
}

/// Where the workers' links lie: one domain, or the network.
fn link(job: &Job) -> Placed {
    let near = job.gpus() <= job.cluster.domain();
    let inside = if job.gpus() <= job.cluster.gpus_per_node { Tier::ScaleUp } else { Tier::Domain };
    Placed { size: 2, near: if near { 2 } else { 1 }, tier: if near { inside } else { Tier::Network } }
}

/// A worker of either kind at one target: its plan, rate, requests in flight, and its latencies.
#[derive(Clone, Copy)]
struct Worker<'a> {
    at: &'a Candidate,
    rate: f64,
    in_flight: f64,
    /// Prefill: wait and prefill. Decode: a token.
    seconds: f64,
}

/// The best pools within targets, all GPUs of the job at hand.
fn apart(job: &Job, convention: Convention, all: &[Candidate], tpot: f64) -> Option<Split> {
    let load = job.serve()?;
    let (osl, bytes, placed) = (f64::from(load.osl), transfer_bytes(job, load), link(job));
    let layers = f64::from(job.model.layers());
    // A decoder's first token waits for a whole step.
    let yields = serve::yields(load);
    let send =
        |bytes: f64| network::collective(&job.cluster, placed, crate::cluster::Collective::SendRecv, bytes).get();
    // What one GPU's links carry, by the same law.
    let per_gpu = 1e9 / (send(2e9) - send(1e9));
    let shown = |prefill: f64, rails: f64| {
        let whole = send(bytes / rails);
        (whole, (whole / layers).max(whole - prefill * (layers - 1.0) / layers))
    };
    let decoders: Vec<Worker<'_>> = all
        .iter()
        .filter_map(|at| {
            let within = |r: u32| at.decode_step(convention, r) <= tpot;
            let most = serve::largest(2, at.slots, within)?;
            let step = at.decode_step(convention, most);
            let in_flight = at.ranks * f64::from(most - 1);
            let carried = per_gpu * f64::from(at.plan.mesh.world()) / bytes;
            Some(Worker { at, rate: (in_flight / (osl * step)).min(carried), in_flight, seconds: step })
        })
        .collect();
    let mut best: Option<Split> = None;
    // A pair of sizes needs only the fastest decoder and the fastest prefiller that still meets the target with it.
    for decoder in fastest(&decoders) {
        let prefillers: Vec<Worker<'_>> = all
            .iter()
            .filter_map(|at| {
                let (_, exposed) = shown(at.prefill_s, at.rails.min(decoder.at.rails));
                let rho = match load.ttft {
                    None => BUSIEST,
                    Some(target) => {
                        let slack = target.get() - at.prefill_s - exposed - decoder.seconds * yields;
                        (2.0 * slack / (at.stall_s * (1.0 + load.isl_spread.cv2) + 2.0 * slack)).min(BUSIEST)
                    }
                };
                let carried = per_gpu * f64::from(at.plan.mesh.world()) / bytes;
                let rate = (rho * at.ranks / at.stall_s).min(carried);
                (rho > 0.0).then_some(Worker { at, rate, in_flight: rho * at.ranks, seconds: at.prefill_s })
            })
            .collect();
        for prefiller in fastest(&prefillers) {
            let Some((x, y)) = matched(job.gpus(), &prefiller, &decoder) else { continue };
            let rate = (f64::from(x) * prefiller.rate).min(f64::from(y) * decoder.rate);
            let rho = rate / f64::from(x) * prefiller.at.stall_s / prefiller.at.ranks;
            let wait = rho * prefiller.at.stall_s * (1.0 + load.isl_spread.cv2) / (2.0 * (1.0 - rho));
            let (whole, exposed) = shown(prefiller.at.prefill_s, prefiller.at.rails.min(decoder.at.rails));
            let gpus = |worker: &Worker<'_>, count: u32| f64::from(worker.at.plan.mesh.world() * count);
            let narrow = gpus(&prefiller, x).min(gpus(&decoder, y));
            let pool = |worker: &Worker<'_>, workers: u32| Pool {
                plan: worker.at.plan,
                workers,
                rate: worker.rate,
                in_flight: worker.in_flight,
            };
            let split = Split {
                prefill: pool(&prefiller, x),
                decode: pool(&decoder, y),
                requests_per_s: rate,
                ttft_s: wait + prefiller.seconds + exposed + decoder.seconds * yields,
                tpot_s: decoder.seconds,
                transfer_bytes: bytes,
                transfer_s: whole,
                exposed_s: exposed,
                link: placed.tier,
                link_share: rate * bytes / (narrow * per_gpu),
            };
            let better = best.as_ref().is_none_or(|b| {
                let key = |s: &Split| (-s.requests_per_s, s.gpus());
                let (new, old) = (key(&split), key(b));
                new.0.total_cmp(&old.0).then(new.1.cmp(&old.1)).is_lt()
            });
            if better {
                best = Some(split);
            }
        }
    }
    best
}

/// The fastest worker of every size; of equal ones the first plan.
fn fastest<'a>(all: &[Worker<'a>]) -> Vec<Worker<'a>> {
    let mut out: Vec<Worker<'a>> = Vec::new();
    for worker in all {
        let gpus = worker.at.plan.mesh.world();
        match out.iter_mut().find(|w| w.at.plan.mesh.world() == gpus) {
            None => out.push(*worker),
            Some(best) if worker.rate > best.rate => *best = *worker,
            Some(_) => {}
        }
    }
    out
}

/// How many workers of each kind: the highest rate, then the fewest GPUs.
fn matched(gpus: u32, prefill: &Worker<'_>, decode: &Worker<'_>) -> Option<(u32, u32)> {
    let (g_p, g_d) = (prefill.at.plan.mesh.world(), decode.at.plan.mesh.world());
    let mut best: Option<(f64, u32, (u32, u32))> = None;
    for x in 1..=gpus / g_p {
        let room = (gpus - x * g_p) / g_d;
        if room == 0 {
            break;
        }
        let asked = (f64::from(x) * prefill.rate / decode.rate).ceil().clamp(1.0, f64::from(room));
        let y = asked as u32;
        let rate = (f64::from(x) * prefill.rate).min(f64::from(y) * decode.rate);
        let used = x * g_p + y * g_d;
        if best.is_none_or(|(most, fewest, _)| rate > most * (1.0 + 1e-9) || rate >= most && used < fewest) {
            best = Some((rate, used, (x, y)));
        }
    }
    best.map(|(_, _, pair)| pair)
}

/// Rungs of the ladder of targets, as multiples of the shortest time per token that any plan reaches.
const LADDER: [f64; 9] = [1.1, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0];

/// Together against apart at a ladder of targets of the time per token, the job's own among them, shortest first; the job's
/// target of the first token holds at every one. Empty for a training job.
#[must_use]
pub fn ladder(job: &Job, space: &SpaceOptions, watch: &Watch<'_>) -> Vec<Rung> {
    let Some(asked) = job.serve() else { return Vec::new() };
    let convention = space.convention();
    let random = with_serve(job, |s| (s.arrivals, s.percentile) = (Arrivals::Poisson, Percentile::Mean));
    let all = candidates(&random, space);
    let shortest = all.iter().map(|c| c.decode_step(convention, 1)).fold(f64::INFINITY, f64::min);
    if !shortest.is_finite() {
        return Vec::new();
    }
    let mut targets: Vec<f64> = LADDER.iter().map(|m| m * shortest).collect();
    targets.extend(asked.tpot.map(Seconds::get));
    targets.sort_by(f64::total_cmp);
    targets
        .into_iter()
        .map(|tpot_s| {
            let at = with_serve(&random, |s| (s.load, s.tpot) = (Load::Most, Some(Seconds::new(tpot_s))));
            let found = search(&at, space, &SearchOptions { top: 1, ..SearchOptions::default() }, watch);
            Rung { tpot_s, together: found.rows.first().copied(), apart: apart(&at, convention, &all, tpot_s) }
        })
        .collect()
}
