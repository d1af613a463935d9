//! What makes one plan better than another: objectives, a total order, ties, the Pareto frontier.

use crate::estimate::{Estimate, Time};
use crate::job::Job;
use crate::plan::Plan;
use std::cmp::Ordering;

/// What to optimise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Objective {
    /// Tokens per second of the whole plan.
    #[default]
    Throughput,
    /// Seconds of a step; seconds per token, then to the first token.
    Latency,
    /// Memory left on the fullest GPU.
    Headroom,
    /// Dollars per million tokens.
    Cost,
    /// Speed, with a penalty for the last tenth of memory; when serving, speed per GPU and per user at once.
    Balanced,
}

impl Objective {
    /// Every objective.
    pub const ALL: [Self; 5] = [Self::Throughput, Self::Latency, Self::Headroom, Self::Cost, Self::Balanced];

    /// The name in flags and files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Latency => "latency",
            Self::Headroom => "headroom",
            Self::Cost => "cost",
            Self::Balanced => "balanced",
        }
    }

    /// What it is, for help texts.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Throughput => "most tokens per second of the whole plan",
            Self::Latency => "shortest step; when serving, shortest time per token",
            Self::Headroom => "most memory left on the fullest GPU",
            Self::Cost => "least dollars per million tokens, at the price of the GPUs used",
            Self::Balanced => "speed, but not at the price of the last tenth of memory or of the single user",
        }
    }

    /// The value to minimise.
    #[must_use]
    pub fn value(self, job: &Job, plan: &Plan, estimate: &Estimate) -> f64 {
        match self {
            Self::Throughput => 1.0 / estimate.tokens_per_s(job),
            Self::Latency => match &estimate.time {
                Time::Train(step) => step.seconds().get(),
                Time::Serve(service) => service.tpot_s + 1e-3 * service.ttft_s,
            },
            Self::Headroom => estimate.memory.utilization(),
            Self::Cost => f64::from(plan.mesh.world()) / estimate.tokens_per_s(job),
            Self::Balanced => match &estimate.time {
                Time::Train(step) => {
                    step.seconds().get() * (1.0 + 2.0 * (estimate.memory.utilization() - 0.9).max(0.0))
                }
                Time::Serve(service) => 1.0 / (service.output_tokens_per_s * service.tokens_per_s_per_user).sqrt(),
            },
        }
    }
}

/// Dollars per million tokens, when the GPU has a price.
#[must_use]
pub fn dollars_per_million(job: &Job, plan: &Plan, estimate: &Estimate) -> Option<f64> {
    let price = job.cluster.gpu.price?.get();
    Some(price * f64::from(plan.mesh.world()) / 3600.0 / estimate.tokens_per_s(job) * 1e6)
}

/// Dollars per million input and per million output tokens of a service, when the GPU has a price.
///
/// What a request costs is split by the GPU time its two parts keep busy: the prefill is the price of the input, cached or not, the
/// decode steps, shared among all that are in flight, that of the output. Idle time is paid for in the same shares.
#[must_use]
pub fn dollars_in_and_out(job: &Job, plan: &Plan, estimate: &Estimate) -> Option<(f64, f64)> {
    let price = job.cluster.gpu.price?.get();
    let serve = job.serve()?;
    let request = price * f64::from(plan.mesh.world()) / 3600.0 / estimate.load.requests_per_s;
    let share = estimate.load.prefill_share;
    let (isl, osl) = serve.mean_lengths();
    Some((request * share / isl * 1e6, request * (1.0 - share) / osl * 1e6))
}

/// Plans closer than this to the best are called ties: two layouts of one job share most of the model's error, and published
/// repeats of one run differ by as much.
pub const TIE: f64 = 0.03;

/// A plan with its price.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// The plan.
    pub plan: Plan,
    /// What it costs.
    pub estimate: Estimate,
    /// The value of the objective, to be minimised.
    pub value: f64,
}

impl Row {
    /// The total order: the objective, then memory, then the plan itself.
    #[must_use]
    pub fn order(&self, other: &Self) -> Ordering {
        self.value
            .total_cmp(&other.value)
            .then_with(|| {
                let total = |row: &Self| row.estimate.memory.ledger.total();
                total(self).total_cmp(&total(other))
            })
            .then_with(|| self.plan.cmp(&other.plan))
    }

    /// Whether the row is as good as the best within [`TIE`].
    #[must_use]
    pub fn ties_with(&self, best: &Self) -> bool {
        self.value <= best.value * (1.0 + TIE)
    }
}

/// The two things a frontier trades: speed against memory when training, tokens per GPU against tokens per user when serving;
/// both to be maximised.
#[must_use]
pub fn trade(job: &Job, row: &Row) -> (f64, f64) {
    let gpus = f64::from(row.plan.mesh.world());
    match &row.estimate.time {
        Time::Train(_) => (row.estimate.tokens_per_s(job) / gpus, 1.0 - row.estimate.memory.utilization()),
        Time::Serve(service) => (service.output_tokens_per_s / gpus, service.tokens_per_s_per_user),
    }
}

/// The rows that no other row beats in both, best first component first.
#[must_use]
pub fn frontier(job: &Job, rows: &[Row]) -> Vec<Row> {
    let mut sorted: Vec<(f64, f64, &Row)> = rows
        .iter()
        .map(|row| {
            let (a, b) = trade(job, row);
            (a, b, row)
        })
        .collect();
    sorted.sort_by(|x, y| y.0.total_cmp(&x.0).then(y.1.total_cmp(&x.1)).then_with(|| x.2.plan.cmp(&y.2.plan)));
    let mut best = f64::NEG_INFINITY;
    let mut out = Vec::new();
    for (_, second, row) in sorted {
        if second > best {
            best = second;
            out.push(*row);
        }
    }
    out
}
