//! Pipeline schedules: how many micro-batches are in flight, and how long stages wait for each other.

use crate::plan::Schedule;

/// Micro-batches (as a fraction of the stage's layers) whose activations a stage holds at its peak.
///
/// One-forward-one-backward holds `min(n, p - i)`; interleaving `min(n v, 2 (p - i - 1) + (v - 1) p + 1)` chunks of `1/v` of the stage;
/// GPipe all `n`; zero bubble H1 as 1F1B; DualPipe `p + 1`.
/// Source: Narayanan et al. 2021; Megatron-Core `schedules.py`; Qi et al. 2023; DeepSeek-V3 report.
///
/// ```
/// # use meshwright::cost::pipeline::in_flight;
/// # use meshwright::plan::Schedule;
/// assert_eq!(in_flight(Schedule::OneFOneB, 4, 1, 8, 0), 4.0);
/// assert_eq!(in_flight(Schedule::OneFOneB, 4, 8, 32, 0), 35.0 / 8.0);
/// ```
#[must_use]
pub fn in_flight(schedule: Schedule, pp: u32, vpp: u32, micro_batches: u32, stage: u32) -> f64 {
    if pp <= 1 {
        return 1.0;
    }
    match schedule {
        Schedule::Gpipe => f64::from(micro_batches),
        Schedule::DualPipe => f64::from(micro_batches.min(pp + 1)),
        Schedule::OneFOneB | Schedule::ZbH1 => {
            if vpp > 1 {
                let warm = 2 * (pp - stage - 1) + (vpp - 1) * pp + 1;
                let all = micro_batches.saturating_mul(vpp);
                f64::from(warm.min(all)) / f64::from(vpp)
            } else {
                f64::from(micro_batches.min(pp - stage))
            }
        }
    }
}

/// Copies of the weights a stage holds: two in DualPipe, where every rank serves both directions.
#[must_use]
pub const fn weight_copies(schedule: Schedule) -> f64 {
    match schedule {
        Schedule::DualPipe => 2.0,
        Schedule::OneFOneB | Schedule::Gpipe | Schedule::ZbH1 => 1.0,
    }
}

/// A pipeline's times: one micro-batch on each stage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stages {
    /// Of all stages together.
    pub sum: f64,
    /// Of the slowest.
    pub slowest: f64,
    /// Share of it that is weight gradients, which zero-bubble schedules move.
    pub weight_share: f64,
}

/// Seconds that the slowest stage waits while the pipeline fills and drains: `sum - slowest` for 1F1B and GPipe, over `v` when
/// interleaved, with the ragged part of a last round added; zero bubble H1 and DualPipe as in the latter's paper.
///
/// `T = sum + (n - 1) slowest` is exact for unequal stages whose slowest one never starves.
#[must_use]
pub fn bubble(schedule: Schedule, pp: u32, vpp: u32, micro_batches: u32, stages: Stages) -> f64 {
    if pp <= 1 {
        return 0.0;
    }
    let fill = stages.sum - stages.slowest;
    match schedule {
        Schedule::Gpipe => fill,
        Schedule::OneFOneB => {
            let v = f64::from(vpp.max(1));
            let left = micro_batches % pp;
            let ragged = if vpp > 1 && left > 0 {
                (v - 1.0) * f64::from(pp - left) * stages.slowest / v / f64::from(pp)
            } else {
                0.0
            };
            fill / v + ragged
        }
        // (p - 1)(F + B - 2W), with F + B the whole stage and W its weight gradients.
        Schedule::ZbH1 => fill * (1.0 - 2.0 * stages.weight_share).max(0.0),
        // (p/2 - 1)(F&B + B - 3W): the two directions fill each other.
        Schedule::DualPipe => {
            let half = (f64::from(pp) / 2.0 - 1.0).max(0.0) / f64::from(pp - 1);
            fill * half * (1.0 + 2.0 / 3.0 - 3.0 * stages.weight_share).max(0.0)
        }
    }
}

/// Seconds of the slowest of `pp` stages when `layers` of `layer` seconds are cut so that the last stage, which also has the
/// `head`, gets fewer of them: the least of `max(c layer, last layer + head)` over whole numbers of layers `c` in the others.
///
/// Source: nanotron cuts by cumulative cost with the head as a block; Megatron-Core has
/// `account_for_loss_in_pipeline_split` and `num_layers_in_last_pipeline_stage` for the same.
///
/// ```
/// # use meshwright::cost::pipeline::balanced;
/// // Sixteen layers and a head worth four of them: five a stage.
/// assert_eq!(balanced(16, 4, 1.0, 4.0), 5.0);
/// // No head: an even split.
/// assert_eq!(balanced(16, 4, 1.0, 0.0), 4.0);
/// ```
#[must_use]
pub fn balanced(layers: u32, pp: u32, layer: f64, head: f64) -> f64 {
    let all = f64::from(layers);
    if pp <= 1 {
        return all * layer + head;
    }
    let others = f64::from(pp - 1);
    let with = |c: f64| {
        let last = (all - c * others).max(0.0);
        (c * layer).max(last * layer + head)
    };
    // The best `c` is next to the fractional optimum, or what the others need when the head fills its stage.
    let even = ((all + head / layer.max(1e-15)) / f64::from(pp)).floor();
    let full = (all / others).ceil();
    let at = |c: f64| with(c.clamp(0.0, full));
    at(even).min(at(even + 1.0)).min(at(full))
}
