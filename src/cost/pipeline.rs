//! Pipeline schedules in closed form: how many micro-batches are in flight, and how long a step takes.
//!
//! [`crate::cost::schedule`] runs the same schedules event by event and is the oracle of this file (`tests/it/pipelines.rs`).

use crate::plan::Schedule;

/// Micro-batches of one round of an interleaved pipeline: Megatron's `microbatch_group_size_per_vp_stage`, the smallest size from
/// `pp` up that leaves no round shorter than the pipeline; all of them when there are fewer than `pp`.
///
/// Source: Megatron-Core `schedules.py` (`micro_batches % group == 0 or micro_batches % group >= pp`, or it would deadlock).
///
/// ```
/// # use meshwright::cost::pipeline::round;
/// assert_eq!(round(4, 8), 4);
/// assert_eq!(round(4, 10), 5);
/// assert_eq!(round(4, 3), 3);
/// ```
#[must_use]
pub fn round(pp: u32, micro_batches: u32) -> u32 {
    let n = micro_batches.max(1);
    let fits = |g: &u32| n.is_multiple_of(*g) || n % g >= pp;
    (pp.max(1)..n).find(fits).unwrap_or(n)
}

/// Micro-batches (as a fraction of the stage's layers) whose activations a stage holds at its peak.
///
/// One-forward-one-backward holds `min(n, p - i)`; interleaving `min(n v, 2 (p - i - 1) + (v - 1) g + 1)` chunks of `1/v` of the stage
/// with rounds of `g` micro-batches ([`round`]); GPipe all `n`; zero bubble H1 `min(n, p)` on every stage, because a micro-batch's
/// inputs stay until its weight gradients are taken; `DualPipe` `p + 1`, of both directions together.
/// Source: Narayanan et al. 2021; Megatron-Core `schedules.py`; Qi et al. 2023; DeepSeek-V3 report. Exact: the simulated peaks are these.
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
        Schedule::ZbH1 => f64::from(micro_batches.min(pp)),
        Schedule::OneFOneB => {
            if vpp > 1 {
                let held = warm_up(pp, vpp, micro_batches, stage).saturating_add(1);
                f64::from(held.min(micro_batches.saturating_mul(vpp))) / f64::from(vpp)
            } else {
                f64::from(micro_batches.min(pp - stage))
            }
        }
    }
}

/// Chunks that a stage of a one-forward-one-backward pipeline runs forward before its first backward pass, at most.
pub(super) fn warm_up(pp: u32, vpp: u32, micro_batches: u32, stage: u32) -> u32 {
    let below = pp.saturating_sub(stage + 1);
    if vpp > 1 { 2 * below + (vpp - 1).saturating_mul(round(pp, micro_batches)) } else { below }
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

/// Seconds that the slowest stage waits while the pipeline fills and drains, from sums alone: `sum - slowest` for 1F1B and GPipe, over
/// `v` when interleaved; zero bubble H1 and `DualPipe` as in the latter's report.
///
/// Exact when all stages are alike and there are at least `pp` micro-batches (`DualPipe`: `2 pp`), for 1F1B and GPipe also when only
/// the last is slower. A slow stage elsewhere waits less, as the others have time to spare: [`makespan`] knows, this is an upper bound.
#[must_use]
pub fn bubble(schedule: Schedule, pp: u32, vpp: u32, micro_batches: u32, stages: Stages) -> f64 {
    if pp <= 1 {
        return 0.0;
    }
    let fill = stages.sum - stages.slowest;
    let n = f64::from(micro_batches);
    match schedule {
        Schedule::Gpipe => fill,
        Schedule::OneFOneB => {
            let v = f64::from(vpp.max(1));
            // Fewer micro-batches than stages: a chunk waits for the one before it to come round.
            let round_trip = stages.sum + (n - 1.0) * stages.slowest / v - n * stages.slowest;
            (fill / v).max(round_trip)
        }
        // (p - 1)(F + B - 2W), with F + B the whole stage and W its weight gradients.
        Schedule::ZbH1 => fill * (1.0 - 2.0 * stages.weight_share).max(0.0),
        // A third of the stage is its forward pass.
        Schedule::DualPipe => {
            let backward = (2.0 / 3.0 - stages.weight_share).max(0.0);
            let time = StageTime { forward: 1.0 / 3.0, backward, weight: stages.weight_share };
            fill * (f64::from(pp) / 2.0 - 1.0).max(0.0) / f64::from(pp - 1) * dual_wait(time)
        }
    }
}

/// Seconds of one micro-batch on one stage, all its chunks.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StageTime {
    /// Forward pass.
    pub forward: f64,
    /// Backward pass without the weight gradients: gradients of the inputs, and what is recomputed for them.
    pub backward: f64,
    /// Weight gradients.
    pub weight: f64,
}

impl StageTime {
    /// All of it.
    #[must_use]
    pub fn sum(self) -> f64 {
        self.forward + self.backward + self.weight
    }
}

/// What a rank of `DualPipe` waits for each pair of ranks outside it: `F + max(F, B) + max(0, B - W)`.
///
/// With `B <= F` it is what the published order of slices gives; else an upper bound, the report's `F&B + B - 3W`.
fn dual_wait(t: StageTime) -> f64 {
    t.forward + t.forward.max(t.backward) + (t.backward - t.weight).max(0.0)
}

/// Seconds from the first forward pass to the last weight gradient of a step of `micro_batches`. What a stage waits for its sends and
/// receives belongs to its times.
///
/// For every rank, the longest chain through it: its first micro-batch arrives, runs down the pipeline and comes back while the rank
/// warms up; the rank works; its last one goes down and comes back, then up to the first stage. The longest of these chains is
///
/// - **exact** for GPipe; for 1F1B, interleaving and zero bubble H1 with stages alike, at least as many micro-batches as
///   stages (1F1B: any number); for `DualPipe` with stages alike and `B <= F`;
/// - a **lower bound** for stages that differ: 1F1B and interleaving within 1 % from 8 micro-batches a stage on, within a tenth with
///   fewer; H1 within 2 % from 8 a stage on;
/// - for `DualPipe` otherwise an approximation: alike it is at most 3 % too long, with stages that differ by a factor of three within
///   9 %, 1 % on average.
///
/// `tests/it/pipelines.rs` holds these figures against the simulation. Cost: one pass over the stages.
///
/// ```
/// # use meshwright::cost::pipeline::{StageTime, makespan};
/// # use meshwright::plan::Schedule;
/// let stage = StageTime { forward: 1.0, backward: 1.0, weight: 1.0 };
/// // Eight micro-batches of three seconds, and three more for each stage before the last.
/// assert_eq!(makespan(Schedule::OneFOneB, 1, 8, &[stage; 4]), 33.0);
/// assert_eq!(makespan(Schedule::OneFOneB, 2, 8, &[stage; 4]), 28.5);
/// assert_eq!(makespan(Schedule::ZbH1, 1, 8, &[stage; 4]), 27.0);
/// ```
#[must_use]
pub fn makespan(schedule: Schedule, vpp: u32, micro_batches: u32, stages: &[StageTime]) -> f64 {
    let pp = u32::try_from(stages.len()).unwrap_or(u32::MAX);
    let n = f64::from(micro_batches.max(1));
    let most = |of: fn(&StageTime) -> f64| stages.iter().map(of).fold(0.0, f64::max);
    let total = |of: fn(&StageTime) -> f64| stages.iter().map(of).sum::<f64>();
    let back = |t: &StageTime| t.backward + t.weight;
    match schedule {
        Schedule::Gpipe => {
            let (forward, backward) = (total(|t| t.forward), total(back));
            forward + backward + (n - 1.0) * (most(|t| t.forward) + most(back))
        }
        Schedule::OneFOneB if vpp > 1 => {
            let chunks = f64::from(vpp);
            let cut =
                |t: &StageTime| StageTime { forward: t.forward / chunks, backward: back(t) / chunks, weight: 0.0 };
            let warm = |stage| warm_up(pp, vpp, micro_batches, stage);
            let g = f64::from(round(pp, micro_batches));
            // A micro-batch's next chunk starts when it has come round, and when the round before is through.
            let loops = |all: f64, slowest: f64| (chunks - 1.0) * (all / chunks).max(g * slowest / chunks);
            let forward = loops(total(|t| t.forward), most(|t| t.forward));
            let backward = loops(total(back), most(back));
            let chain = longest(n * chunks, stages.iter().map(cut), warm, (forward, backward));
            chain.max(total(|t| t.sum()) + (n - 1.0) * most(|t| t.sum()) / chunks)
        }
        Schedule::OneFOneB => {
            let whole = |t: &StageTime| StageTime { forward: t.forward, backward: back(t), weight: 0.0 };
            longest(n, stages.iter().map(whole), |stage| pp - stage - 1, (0.0, 0.0))
        }
        Schedule::ZbH1 => longest(n, stages.iter().copied(), |stage| pp - stage - 1, (0.0, 0.0)),
        Schedule::DualPipe => {
            // Rank i serves stage i of one direction and stage p - 1 - i of the other.
            let pace = stages.iter().zip(stages.iter().rev()).map(|(a, b)| f64::midpoint(a.sum(), b.sum()));
            let p = f64::from(pp.max(1));
            let mean = |of: fn(&StageTime) -> f64| total(of) / p;
            let time =
                StageTime { forward: mean(|t| t.forward), backward: mean(|t| t.backward), weight: mean(|t| t.weight) };
            let wait = (p / 2.0 - 1.0).max(0.0) * dual_wait(time);
            // Of the wait, a slower rank gains what the others have to spare on the `p` micro-batches in flight.
            pace.map(|t| n * t + (wait - p * (t - time.sum())).max(0.0)).fold(0.0, f64::max)
        }
    }
}

/// The longest chain of `n` slices each way through one of the ranks; `loops` is what a micro-batch needs besides to come round to
/// a rank's last chunk, forward and backward.
fn longest(
    n: f64,
    times: impl Iterator<Item = StageTime> + Clone,
    warm_up: impl Fn(u32) -> u32,
    loops: (f64, f64),
) -> f64 {
    let first_weight = times.clone().next().map_or(0.0, |t| t.weight);
    let mut below: f64 = times.clone().map(|t| t.forward + t.backward).sum();
    let (mut forward_above, mut backward_above) = (0.0, 0.0);
    let mut longest = 0.0_f64;
    for (stage, t) in (0_u32..).zip(times) {
        below -= t.forward + t.backward;
        let k = f64::from(warm_up(stage)).min(n - 1.0);
        let (f, b) = (t.forward, t.backward + t.weight);
        let filling = (below + loops.0).max(k * f);
        let draining = (below + loops.1).max(k * b);
        let work = if n > k + 1.0 {
            n * (f + b) - k * (f + b) + filling + draining
        } else {
            // All forward passes come before the first backward one: only one of the two waits is on a chain.
            f + b + (k * f + draining).max(filling + k * b)
        };
        // The weight gradients that H1 still owes here need not wait for the first stage, and it has one left.
        let owed = (1.0 + f64::from(stage).min(n - 1.0)) * t.weight;
        longest = longest.max(forward_above + work + (backward_above - owed + first_weight).max(0.0));
        forward_above += t.forward;
        backward_above += t.backward;
    }
    longest
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
