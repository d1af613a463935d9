//! A step slice by slice: the estimate's own stage times run through the simulated schedule.

use super::layer::{Bare, LayerTime, Pricing};
use super::micro_batches;
use super::time::{Step, step_by_stage};
use crate::cost::TimeTerm;
use crate::cost::pipeline::StageTime;
use crate::cost::schedule::{Pipeline, Run};
use crate::estimate::Cut;
use crate::job::{Job, Train};
use crate::mesh::Convention;
use crate::plan::Plan;

/// A training step in time.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeline {
    /// The micro-batches.
    pub run: Run,
    /// Seconds of sending and receiving at the end of each slice, during which the stage waits.
    pub p2p: f64,
    /// Seconds after the last micro-batch: data parallel traffic that nothing hides, then the optimizer.
    pub after: [(TimeTerm, f64); 2],
    /// What the estimate says of the same step.
    pub step: Step,
}

impl Timeline {
    /// When the step ends.
    #[must_use]
    pub fn end(&self) -> f64 {
        self.run.end + self.after.iter().map(|(_, seconds)| seconds).sum::<f64>()
    }
}

/// Share of each kind of communication that belongs to the forward pass: two of five collectives of TP (backward gathers once more), a
/// third of CP's ring, half of EP's exchanges.
const FORWARD: [f64; 3] = [0.4, 1.0 / 3.0, 0.5];

/// The time of one plan's step, slice by slice; `None` where its schedule has no order for its numbers or too many slices to look at
/// ([`Pipeline::exists`]).
///
/// Stage times add up to the estimate's ledger, so its end departs from the estimated step only by what the closed form of the pipeline
/// does from its simulation ([`crate::cost::pipeline::bubble`]).
#[must_use]
pub fn timeline(job: &Job, train: &Train, convention: Convention, plan: &Plan) -> Option<Timeline> {
    let mut stages: Vec<LayerTime> = Vec::with_capacity(plan.mesh.pp() as usize);
    let pricing = Pricing::new(job, train, convention, plan);
    let cut = Cut::apart(convention, &job.model, plan);
    let bare: Vec<Bare> = pricing.bare().collect();
    let layers: Vec<LayerTime> = pricing.recomputed(&bare).collect();
    let step = step_by_stage(&pricing, &layers, &cut, &mut |time| stages.push(*time));
    let n = micro_batches(train, plan);
    let knobs = &plan.knobs;
    let micro = f64::from(n);
    let hops = step.ledger.get(TimeTerm::PpExposed) / micro;
    let mut stages: Vec<StageTime> = stages.iter().map(|time| passes(time, hops)).collect();
    let in_micro_batches = [
        TimeTerm::Compute,
        TimeTerm::Recompute,
        TimeTerm::TpExposed,
        TimeTerm::CpExposed,
        TimeTerm::EpExposed,
        TimeTerm::PpExposed,
    ];
    fit(&mut stages, in_micro_batches.iter().map(|term| step.ledger.get(*term)).sum::<f64>() / micro);
    let pipeline = Pipeline { schedule: knobs.schedule, vpp: knobs.vpp, micro_batches: n, stages: &stages, hop: 0.0 };
    let run = pipeline.simulate()?;
    let after = [TimeTerm::DpExposed, TimeTerm::Optimizer].map(|term| (term, step.ledger.get(term)));
    Some(Timeline { run, p2p: hops / 2.0 / f64::from(knobs.vpp.max(1)), after, step })
}

/// A stage's passes, each with its communication and half of the hops.
fn passes(time: &LayerTime, hops: f64) -> StageTime {
    let shown = [time.tp, time.cp, time.ep];
    let forward: f64 = shown.iter().zip(FORWARD).map(|(all, share)| all * share).sum();
    let rest = shown.iter().sum::<f64>() - forward;
    let weight = time.weight_grads.min(time.backward);
    StageTime {
        forward: time.forward + forward + hops / 2.0,
        backward: time.backward - weight + time.recompute + rest + hops / 2.0,
        weight,
    }
}

/// Makes the slowest stage as long as the ledger's pace: what a framework balances moves to the other stages, what every stage
/// has besides its layers (accumulation of gradients) lengthens all.
fn fit(stages: &mut [StageTime], pace: f64) {
    let slowest = stages.iter().map(|t| t.sum()).fold(0.0, f64::max);
    if slowest <= 0.0 {
        return;
    }
    let scale = |stage: &mut StageTime, by: f64| {
        *stage = StageTime { forward: stage.forward * by, backward: stage.backward * by, weight: stage.weight * by };
    };
    if pace >= slowest {
        stages.iter_mut().for_each(|stage| scale(stage, pace / slowest));
        return;
    }
    let over: f64 = stages.iter().map(|t| (t.sum() - pace).max(0.0)).sum();
    let room: f64 = stages.iter().map(|t| (pace - t.sum()).max(0.0)).sum();
    // Nowhere to move it to: all stages are shorter than they looked.
    let filled = if room > 0.0 { (over / room).min(1.0) } else { 0.0 };
    for stage in stages {
        let now = stage.sum();
        let to = if now > pace { pace } else { now + filled * (pace - now) };
        if now > 0.0 {
            scale(stage, to / now);
        }
    }
}
