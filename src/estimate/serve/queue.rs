//! A service under its load: how many requests are in flight when targets or a rate set it, how long they wait for each other,
//! and what the unlucky ones see.
//!
//! One attention rank of one replica is one engine, `r` its requests in flight, `L = TTFT + (osl - 1) TPOT` the time of an
//! answer, `S` the time one prefill keeps the engine busy, `D` a decode step. Little's law ties the load to the rate: `r = lambda L`
//! in a closed loop; a request that comes at random finds `lambda L` others and adds itself, so there `r = lambda L + 1`.
//!
//! ```text
//! wait for prefills (M/G/1, Pollaczek-Khinchine)   W = rho S (1 + cv^2) / (2 (1 - rho)),  rho = lambda S
//! its quantiles (exponential tail)                 W_q = W / rho (ln rho + ln 1/(1 - q)), not below 0
//! wait for the KV cache (M/M/c, Sakasegawa)        L / (c (1 - u)) u^(sqrt(2 (c + 1)) - 1), u = r / c, c requests held
//! spread of TPOT                                   (S sqrt(lambda L (1 + cv^2)) / osl + sqrt(2/3) (D(r + sqrt r) - D(r))) / (1 - v):
//!                                                  prefills that fell into one answer, and requests in flight over it; what
//!                                                  makes answers longer lets more of them overlap, v = lambda (S + osl D'(r))
//! ```
//! Sources: Kleinrock, Queueing Systems I, ch. 5; Sakasegawa 1977; the variance of a Poisson population of fixed stay `L`,
//! averaged over a window of `L`, is 2/3 of its mean. `queue_tests.rs` plays the same engine out, request by request.

use super::{EngineProfile, Load as Sizes, Service, kv_tokens_per_rank, service};
use crate::job::{Arrivals, Job, Load, Percentile, Serve};
use crate::lengths::{exp, ln};
use crate::mesh::Convention;
use crate::plan::Plan;

/// Mean and percentiles of a latency, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Latency {
    /// Mean.
    pub mean: f64,
    /// Half of the requests see less.
    pub p50: f64,
    /// One in ten sees more.
    pub p90: f64,
    /// One in twenty sees more.
    pub p95: f64,
    /// One in a hundred sees more.
    pub p99: f64,
}

/// Normal quantiles and `ln 1/(1 - q)` of the median, 90, 95 and 99 %.
const QUANTILES: [(f64, f64); 4] = [
    (0.0, std::f64::consts::LN_2),
    (1.281_55, std::f64::consts::LN_10),
    (1.644_85, 2.995_732),
    (2.326_35, 2.0 * std::f64::consts::LN_10),
];

impl Latency {
    /// One of the figures.
    #[must_use]
    pub const fn at(&self, which: Percentile) -> f64 {
        match which {
            Percentile::Mean => self.mean,
            Percentile::P50 => self.p50,
            Percentile::P90 => self.p90,
            Percentile::P95 => self.p95,
            Percentile::P99 => self.p99,
        }
    }

    /// A mean and how far each quantile lies from it; none below `least`, and in order.
    fn around(mean: f64, least: f64, off: impl Fn(f64, f64) -> f64) -> Self {
        let mut at = QUANTILES.map(|(z, tail)| (mean + off(z, tail)).max(least));
        for i in 1..at.len() {
            at[i] = at[i].max(at[i - 1]);
        }
        Self { mean, p50: at[0], p90: at[1], p95: at[2], p99: at[3] }
    }
}

/// What a load does to a service.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Loaded {
    /// Requests in flight that the plan was priced at, all GPUs together.
    pub concurrency: u32,
    /// Requests answered a second, all GPUs together.
    pub requests_per_s: f64,
    /// Requests a second that the KV cache and the engine's own limit allow; only looked for when a rate is given.
    pub capacity_per_s: f64,
    /// Time to the first token.
    pub ttft: Latency,
    /// Time per further token, of a request.
    pub tpot: Latency,
    /// Share of the GPUs' busy time that prefills take.
    pub prefill_share: f64,
    /// KV tokens that the requests in flight need at the end of their answers over those there are: above 1 some are preempted
    /// or wait when many end together.
    pub kv_pressure: f64,
}

/// Where the linear view of the feedback ends.
const MOST_FEEDBACK: f64 = 0.9;

/// A wait before service: its mean, and the load of the server.
#[derive(Debug, Clone, Copy)]
struct Wait {
    mean: f64,
    rho: f64,
}

impl Wait {
    const NONE: Self = Self { mean: 0.0, rho: 0.0 };

    /// For prefills of `seconds` each that come `rate` a second at random.
    fn for_prefills(rate: f64, seconds: f64, cv2: f64) -> Self {
        // An engine that takes its load has room for the decode steps, and so stays below 1.
        let rho = (rate * seconds).min(0.999);
        Self { mean: rho * seconds * (1.0 + cv2) / (2.0 * (1.0 - rho)), rho }
    }

    /// For room in a cache that holds `slots` requests of `stay` seconds, `flight` of them there on average.
    fn for_room(flight: f64, slots: f64, stay: f64) -> Self {
        let used = (flight / slots).min(0.999);
        if used <= 0.0 {
            return Self::NONE;
        }
        let full = exp(ln(used) * ((2.0 * (slots + 1.0)).sqrt() - 1.0));
        Self { mean: full * stay / (slots * (1.0 - used)), rho: full }
    }

    /// The quantile whose `ln 1/(1 - q)` is given.
    fn quantile(&self, tail: f64) -> f64 {
        if self.rho <= 0.0 { 0.0 } else { (self.mean / self.rho * (ln(self.rho) + tail)).max(0.0) }
    }
}

/// A plan with what does not change with its load.
struct Engine<'a> {
    job: &'a Job,
    serve: Serve,
    convention: Convention,
    plan: &'a Plan,
    /// Attention ranks of all replicas.
    ranks: f64,
    /// Requests that the KV cache of one rank holds at their mean context.
    slots: f64,
}

impl<'a> Engine<'a> {
    fn new(job: &'a Job, serve: &Serve, convention: Convention, plan: &'a Plan) -> Self {
        let sizes = Sizes::new(serve, plan);
        let slots = (kv_tokens_per_rank(job, serve, convention, plan) / sizes.context).floor().max(1.0);
        Self { job, serve: *serve, convention, plan, ranks: sizes.ranks * sizes.replicas, slots }
    }

    /// The most requests one rank has in flight: what its cache holds, and what the engine takes.
    fn most(&self) -> u32 {
        self.slots.min(EngineProfile::of(self.convention).max_sequences).min(1e6) as u32
    }

    /// The workload with `requests` in flight on every rank.
    fn with(&self, requests: u32) -> Serve {
        let all = (f64::from(requests) * self.ranks).min(f64::from(1 << 24));
        Serve { concurrency: all as u32, ..self.serve }
    }

    fn price(&self, serve: &Serve) -> Service {
        service(self.job, serve, self.convention, self.plan)
    }

    /// Seconds from a request's arrival to its last token.
    fn stay(&self, service: &Service) -> f64 {
        service.ttft_steady_s + (self.serve.mean_lengths().1 - 1.0) * service.tpot_s
    }

    /// Requests a second of one rank on which a request finds itself among `requests`.
    fn rate(&self, requests: f64, service: &Service) -> f64 {
        let others = match self.serve.arrivals {
            Arrivals::Steady | Arrivals::Burst10x => requests,
            // A request that is alone finds nobody half of the time.
            Arrivals::Poisson => (requests - 1.0).max(0.5),
        };
        others / self.stay(service)
    }

    /// The most requests on a rank that meet the targets; 1 when none does.
    fn most_under_targets(&self) -> u32 {
        let meets = |requests: u32| {
            let serve = self.with(requests);
            let service = self.price(&serve);
            let loaded = self.loaded(&serve, &service, None);
            let at = |latency: &Latency| latency.at(serve.percentile);
            serve.ttft.is_none_or(|t| at(&loaded.ttft) <= t.get())
                && serve.tpot.is_none_or(|t| at(&loaded.tpot) <= t.get())
        };
        largest(1, self.most().max(1), meets).unwrap_or(1)
    }

    /// The fewest requests on a rank that answer `rate` a second of it; the most, when they do not.
    fn fewest_for(&self, rate: f64) -> u32 {
        let most = self.most().max(1);
        let short = |requests: u32| self.rate(f64::from(requests), &self.price(&self.with(requests))) < rate;
        largest(1, most, short).map_or(1, |short| (short + 1).min(most))
    }

    /// What the load does; `rate` is of one rank, when it is given.
    fn loaded(&self, serve: &Serve, service: &Service, rate: Option<f64>) -> Loaded {
        let sizes = Sizes::new(serve, self.plan);
        let requests = sizes.requests.min(self.slots);
        let stay = self.stay(service);
        let lambda = rate.unwrap_or_else(|| self.rate(requests, service));
        let (_, osl) = serve.mean_lengths();
        let stall = service.prefill_stall_s;
        let own = |z: f64| service.prefill_s * (serve.isl_spread.quantile(z) - 1.0);
        let least = service.prefill_s.min(service.ttft_s);
        let (ttft, tpot) = match serve.arrivals {
            Arrivals::Poisson => {
                let prefills = Wait::for_prefills(lambda, stall, serve.isl_spread.cv2);
                let room = Wait::for_room(lambda * stay, self.slots, stay);
                let mean = service.ttft_s + prefills.mean + room.mean;
                let ttft = Latency::around(mean, least, |z, tail| {
                    let late = prefills.quantile(tail) + room.quantile(tail) - prefills.mean - room.mean;
                    joined(late, own(z))
                });
                let others = stall * (lambda * stay * (1.0 + serve.isl_spread.cv2)).sqrt() / osl;
                let extra = requests.sqrt().ceil();
                let more = self.with((requests + extra).min(1e6) as u32);
                let slower = (self.price(&more).decode_step_s - service.decode_step_s).max(0.0);
                let feedback = (lambda * (stall + osl * slower / extra)).min(MOST_FEEDBACK);
                let spread = (others + slower * (2.0_f64 / 3.0).sqrt()) / (1.0 - feedback);
                let tpot = Latency::around(service.tpot_s, service.decode_step_s, |z, _| z * spread);
                (ttft, tpot)
            }
            Arrivals::Steady => {
                // A request finds the others at random points of their answers, never itself.
                let others = lambda * (requests - 1.0) / requests;
                let wait = Wait::for_prefills(others, stall, serve.isl_spread.cv2);
                let ttft =
                    Latency::around(service.ttft_s, least, |z, tail| joined(wait.quantile(tail) - wait.mean, own(z)));
                let spread = stall * (serve.isl_spread.cv2 * requests).sqrt() / osl;
                (ttft, Latency::around(service.tpot_s, service.decode_step_s, |z, _| z * spread))
            }
            Arrivals::Burst10x => {
                // One request in ten came with the burst and waits for up to all of it; the others find a steady loop.
                let burst = (service.ttft_s - service.ttft_steady_s).max(0.0) * 10.0;
                let steady = service.ttft_steady_s;
                let ttft = Latency {
                    mean: service.ttft_s,
                    p50: steady,
                    p90: steady,
                    p95: steady + burst,
                    p99: steady + 1.8 * burst,
                };
                (ttft, Latency::around(service.tpot_s, service.decode_step_s, |_, _| 0.0))
            }
        };
        let requests_per_s = match (rate, serve.arrivals) {
            (None, Arrivals::Steady | Arrivals::Burst10x) => service.output_tokens_per_s / osl,
            (Some(_), _) | (None, Arrivals::Poisson) => lambda * self.ranks,
        };
        Loaded {
            concurrency: serve.concurrency,
            requests_per_s,
            capacity_per_s: requests_per_s,
            ttft,
            tpot,
            prefill_share: stall / (stall + osl * service.decode_step_s / requests),
            kv_pressure: requests * sizes.longest / (self.slots * sizes.context),
        }
    }
}

/// Two independent deviations as one: beyond the mean the root of their squares; before it their mean weighted by squares, as the
/// median of a sum lies off its mean by third over second cumulants, both of which add.
fn joined(a: f64, b: f64) -> f64 {
    let squares = a * a + b * b;
    if squares <= 0.0 {
        0.0
    } else if a > 0.0 && b > 0.0 {
        squares.sqrt()
    } else {
        (a * a * a + b * b * b) / squares
    }
}

/// The largest number of a range for which something holds that, once it fails, fails for all larger ones.
pub(crate) fn largest(from: u32, to: u32, holds: impl Fn(u32) -> bool) -> Option<u32> {
    if !holds(from) {
        return None;
    }
    if holds(to) {
        return Some(to);
    }
    let (mut low, mut high) = (from, to);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if holds(middle) { low = middle } else { high = middle }
    }
    Some(low)
}

/// The workload as a plan meets it: the requests in flight that follow from targets or a rate are filled in.
#[must_use]
pub fn settle(job: &Job, serve: &Serve, convention: Convention, plan: &Plan) -> Serve {
    let engine = || Engine::new(job, serve, convention, plan);
    match serve.load {
        Load::InFlight => *serve,
        Load::Most => {
            let engine = engine();
            engine.with(engine.most_under_targets())
        }
        Load::Rate(rate) => {
            let engine = engine();
            engine.with(engine.fewest_for(rate / engine.ranks))
        }
    }
}

/// Prices a plan under its load: the workload it settles at, what it reaches there, and what the unlucky requests see.
#[must_use]
pub fn under_load(job: &Job, serve: &Serve, convention: Convention, plan: &Plan) -> (Serve, Service, Loaded) {
    let settled = settle(job, serve, convention, plan);
    let engine = Engine::new(job, &settled, convention, plan);
    let mut service = engine.price(&settled);
    let mut loaded;
    if let Load::Rate(rate) = settled.load {
        let most = engine.with(engine.most().max(1));
        let at_most = engine.price(&most);
        let capacity = engine.rate(Sizes::new(&most, plan).requests, &at_most) * engine.ranks;
        loaded = engine.loaded(&settled, &service, Some(rate.min(capacity) / engine.ranks));
        loaded.capacity_per_s = capacity;
    } else {
        loaded = engine.loaded(&settled, &service, None);
    }
    service.output_tokens_per_s = loaded.requests_per_s * settled.mean_lengths().1;
    service.ttft_s = loaded.ttft.mean;
    (settled, service, loaded)
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
