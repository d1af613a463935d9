//! How far a ranking can be trusted: what wins when the inputs of time move within their bands, and which plan loses least.
//!
//! Each world is the job with bandwidths, kernels and imbalance scaled together, spread evenly over the bands; the whole space is
//! searched again in every one, so that a world's best plan is its true best. The worlds are the same on every run.

use crate::cluster::Cluster;
use crate::estimate;
use crate::job::{Job, Train, Workload};
use crate::plan::Plan;
use crate::rank::{Objective, Row, TIE};
use crate::search::{SearchOptions, Watch, search_space};
use crate::space::{Space, SpaceOptions};
use crate::units::Seconds;
use std::sync::atomic::Ordering;

/// An input of time and how far it may be off.
#[derive(Debug, Clone, Copy)]
pub struct Band {
    /// The name in outputs.
    pub key: &'static str,
    /// The lowest factor.
    pub low: f64,
    /// The highest factor.
    pub high: f64,
    /// What it scales and why so far.
    pub meaning: &'static str,
    apply: fn(&mut Job, f64),
}

impl PartialEq for Band {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

/// Every input that moves. The bands are those in which this model's own sources scatter.
pub const BANDS: [Band; 7] = [
    Band {
        key: "network_bandwidth",
        low: 0.75,
        high: 1.10,
        meaning: "network rate: collectives reach 35 to 46 of 50 GB/s of a NIC, and share the spine with others",
        apply: |job, by| job.cluster.network.bandwidth = job.cluster.network.bandwidth * by,
    },
    Band {
        key: "network_latency",
        low: 0.7,
        high: 1.5,
        meaning: "network latency: 60 to 90 us for a small all-reduce of two nodes",
        apply: |job, by| job.cluster.network.latency = Seconds::new(job.cluster.network.latency.get() * by),
    },
    Band {
        key: "scale_up_bandwidth",
        low: 0.85,
        high: 1.05,
        meaning: "links inside the domain: what measured bus bandwidths of one GPU type differ by",
        apply: |job, by| job.cluster.scale_up.bandwidth = job.cluster.scale_up.bandwidth * by,
    },
    Band {
        key: "gemm_efficiency",
        low: 0.87,
        high: 1.13,
        meaning: "speed of matrix products: the median error of their fitted curves is up to 13%",
        apply: |job, by| {
            for fit in job.cluster.gpu.efficiency.gemm.iter_mut().flatten() {
                fit.compute *= by;
            }
            job.cluster.gpu.efficiency.moe.compute *= by;
        },
    },
    Band {
        key: "attention_efficiency",
        low: 0.75,
        high: 1.3,
        meaning: "speed of attention: kernels of one GPU differ by as much between versions",
        apply: |job, by| job.cluster.gpu.efficiency.prefill_attention.compute *= by,
    },
    Band {
        key: "memory_bandwidth",
        low: 0.9,
        high: 1.1,
        meaning: "memory bandwidth that elementwise kernels and decoding reach: 60 to 70% of the datasheet",
        apply: |job, by| job.cluster.gpu.hbm = job.cluster.gpu.hbm * by,
    },
    Band {
        key: "expert_imbalance",
        low: 1.0,
        high: 1.3,
        meaning: "tokens of the fullest expert rank: measured multipliers lie between 1.05 and 1.3 (training; it takes memory too)",
        apply: |job, by| {
            if let Workload::Train(train) = job.workload {
                job.workload = Workload::Train(Train { moe_balance: train.moe_balance * by, ..train });
            }
        },
    },
];

/// Bases of the sequence that spreads worlds over the bands (Halton 1960): the first primes.
const BASES: [u32; 7] = [2, 3, 5, 7, 11, 13, 17];

/// A plan in all worlds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The plan, priced as the job says.
    pub row: Row,
    /// Share of worlds in which it is the best.
    pub best: f64,
    /// Share in which it is as good as the best within [`TIE`].
    pub ties: f64,
    /// Share in which it fits.
    pub fits: f64,
    /// What it loses against each world's best, on average; worlds in which it does not fit aside.
    pub mean_regret: f64,
    /// The same at worst; infinite when there is a world in which it does not fit.
    pub worst_regret: f64,
}

/// One input at one end of its band, alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flip {
    /// The input.
    pub band: &'static Band,
    /// The factor.
    pub by: f64,
    /// What wins then.
    pub winner: Plan,
    /// What the old winner loses against it; infinite when it does not fit any more.
    pub regret: f64,
}

/// How a ranking stands in other worlds.
#[derive(Debug, Clone, PartialEq)]
pub struct Robustness {
    /// Worlds that were searched.
    pub worlds: u32,
    /// The winner, the other rows and every world's winner, the most robust first: least worst regret, then least mean regret.
    pub candidates: Vec<Candidate>,
    /// How the job's own winner stands.
    pub winner: Candidate,
    /// Inputs that change the winner by themselves, at an end of their band.
    pub flips: Vec<Flip>,
}

/// The `i`-th number of the van der Corput sequence of a base, in (0, 1).
fn spread(mut i: u32, base: u32) -> f64 {
    let (mut at, mut share) = (0.0, 1.0);
    while i > 0 {
        share /= f64::from(base);
        at += share * f64::from(i % base);
        i /= base;
    }
    at
}

/// A world: every input somewhere in its band.
fn world(job: &Job, i: u32) -> Job {
    let mut other = job.clone();
    for (band, base) in BANDS.iter().zip(BASES) {
        (band.apply)(&mut other, band.low + (band.high - band.low) * spread(i + 1, base));
    }
    other
}

/// Whether an input means anything for a job.
fn matters(job: &Job, band: &Band) -> bool {
    let one_domain = |c: &Cluster| c.gpus() <= c.domain();
    match band.key {
        "network_bandwidth" | "network_latency" => !one_domain(&job.cluster),
        "expert_imbalance" => job.model.moe().is_some() && job.train().is_some(),
        _ => true,
    }
}

/// How the rows of a search stand in `worlds` other worlds; `None` when there are none, or when it was stopped.
#[must_use]
pub fn robustness(
    job: &Job,
    space: &SpaceOptions,
    objective: Objective,
    rows: &[Row],
    worlds: u32,
    watch: &Watch<'_>,
) -> Option<Robustness> {
    let first = rows.first()?;
    let plans = Space::new(job, space);
    let options = SearchOptions { objective, top: 1, ..SearchOptions::default() };
    let best = |world: &Job| search_space(world, space, &plans, &options, watch).rows.first().copied();
    // What a plan is worth in a world: nothing when it does not fit there.
    let value = |world: &Job, plan: &Plan| -> Option<f64> {
        let estimate = estimate::estimate(world, space.convention(), plan);
        estimate::verdict(world, &estimate).is_empty().then(|| objective.value(world, plan, &estimate))
    };
    let all: Vec<Job> = (0..worlds).map(|i| world(job, i)).collect();
    let winners: Vec<Option<Row>> = all.iter().map(best).collect();
    let mut plans_at_hand: Vec<Row> = rows.to_vec();
    for winner in winners.iter().flatten() {
        if !plans_at_hand.iter().any(|row| row.plan == winner.plan) {
            let estimate = estimate::estimate(job, space.convention(), &winner.plan);
            let value = objective.value(job, &winner.plan, &estimate);
            plans_at_hand.push(Row { plan: winner.plan, estimate, value });
        }
    }
    let stand = |row: &Row| {
        let (mut best, mut ties, mut fits, mut sum, mut worst) = (0_u32, 0_u32, 0_u32, 0.0, 0.0_f64);
        for (world, winner) in all.iter().zip(&winners) {
            let Some(winner) = winner else { continue };
            let Some(value) = value(world, &row.plan) else {
                worst = f64::INFINITY;
                continue;
            };
            let regret = (value / winner.value - 1.0).max(0.0);
            fits += 1;
            best += u32::from(row.plan == winner.plan);
            ties += u32::from(regret <= TIE);
            sum += regret;
            worst = worst.max(regret);
        }
        let share = |count: u32| f64::from(count) / f64::from(worlds.max(1));
        let mean_regret = sum / f64::from(fits.max(1));
        Candidate {
            row: *row,
            best: share(best),
            ties: share(ties),
            fits: share(fits),
            mean_regret,
            worst_regret: worst,
        }
    };
    let mut candidates: Vec<Candidate> = plans_at_hand.iter().map(stand).collect();
    let winner = candidates[0];
    candidates.sort_by(|a, b| {
        a.worst_regret
            .total_cmp(&b.worst_regret)
            .then(a.mean_regret.total_cmp(&b.mean_regret))
            .then_with(|| a.row.order(&b.row))
    });
    let mut flips = Vec::new();
    for band in BANDS.iter().filter(|band| matters(job, band)) {
        for by in [band.low, band.high] {
            let mut other = job.clone();
            (band.apply)(&mut other, by);
            if let Some(now) = best(&other).filter(|now| now.plan != first.plan) {
                let regret = value(&other, &first.plan).map_or(f64::INFINITY, |v| (v / now.value - 1.0).max(0.0));
                flips.push(Flip { band, by, winner: now.plan, regret });
            }
        }
    }
    (!watch.stop.load(Ordering::Relaxed)).then_some(Robustness { worlds, candidates, winner, flips })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog;
    use crate::search::search;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn worlds_lie_in_their_bands_and_are_always_the_same() {
        for i in 1..200 {
            for base in BASES {
                let at = spread(i, base);
                assert!(at > 0.0 && at < 1.0, "{i} {base}: {at}");
            }
        }
        for (i, at) in [(1, 0.5), (2, 0.25), (3, 0.75)] {
            assert!((spread(i, 2) - at).abs() < 1e-15, "{i}");
        }
    }

    #[test]
    fn regrets_are_against_the_best_of_each_world() {
        let job = Job::new(
            catalog::model("qwen3-30b-a3b").expect("a built-in model"),
            catalog::cluster("16xh100").expect("a built-in GPU in a readable shape"),
            Workload::Train(Train::default()),
        );
        let job = job.expect("a workload the model takes");
        let space = SpaceOptions::default();
        let watch = Watch { stop: &AtomicBool::new(false), progress: &|_| {} };
        let rows = search(&job, &space, &SearchOptions::default(), &watch).rows;
        let found =
            robustness(&job, &space, Objective::Throughput, &rows, 8, &watch).expect("a job with plans that fit");
        assert_eq!(found.winner.row.plan, rows[0].plan);
        assert!(found.candidates.len() >= rows.len());
        for c in &found.candidates {
            assert!(c.mean_regret >= 0.0 && c.mean_regret <= c.worst_regret, "{c:?}");
            assert!(c.best <= c.ties && c.ties <= c.fits && c.fits <= 1.0, "{c:?}");
        }
        let all: f64 = found.candidates.iter().map(|c| c.best).sum();
        assert!((all - 1.0).abs() < 1e-12, "every world has one winner: {all}");
        assert!(found.candidates[0].worst_regret <= found.winner.worst_regret);
        let again =
            robustness(&job, &space, Objective::Throughput, &rows, 8, &watch).expect("a job with plans that fit");
        assert_eq!(found, again);
        for stopped in [true, false] {
            let watch = Watch { stop: &AtomicBool::new(stopped), progress: &|_| {} };
            assert_eq!(robustness(&job, &space, Objective::Throughput, &rows, 1, &watch).is_none(), stopped);
        }
    }
}
