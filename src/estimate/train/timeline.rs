//! A step slice by slice: the estimate's own stage times run through the simulated schedule.

use super::micro_batches;
use super::time::{Step, step_by_stage};
use crate::cost::TimeTerm;
use crate::cost::pipeline;
use crate::cost::schedule::{Pipeline, Run};
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

/// The time of one plan's step, slice by slice; `None` where its schedule has no order for its numbers or too many slices to look at
/// ([`Pipeline::exists`]).
///
/// Stage times add up to the estimate's ledger, so its end departs from the estimated step only by what the closed form of the pipeline
/// does from its simulation ([`crate::cost::pipeline::makespan`]).
#[must_use]
pub fn timeline(job: &Job, train: &Train, convention: Convention, plan: &Plan) -> Option<Timeline> {
    let (step, mut stages) = step_by_stage(job, train, convention, plan);
    let n = micro_batches(train, plan);
    let knobs = &plan.knobs;
    let micro = f64::from(n);
    let hops = step.ledger.get(TimeTerm::PpExposed) / micro;
    let in_micro_batches = [
        TimeTerm::Compute,
        TimeTerm::Recompute,
        TimeTerm::TpExposed,
        TimeTerm::CpExposed,
        TimeTerm::EpExposed,
        TimeTerm::PpExposed,
    ];
    pipeline::level(&mut stages, in_micro_batches.iter().map(|term| step.ledger.get(*term)).sum::<f64>() / micro);
    let pipeline = Pipeline { schedule: knobs.schedule, vpp: knobs.vpp, micro_batches: n, stages: &stages, hop: 0.0 };
    let run = pipeline.simulate()?;
    let after = [TimeTerm::DpExposed, TimeTerm::Optimizer].map(|term| (term, step.ledger.get(term)));
    Some(Timeline { run, p2p: hops / 2.0 / f64::from(knobs.vpp.max(1)), after, step })
}
