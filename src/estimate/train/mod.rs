//! One optimiser step: memory of every stage and where the time goes.

mod layer;
mod memory;
mod practice;
mod time;

pub(crate) use layer::Groups;
pub use memory::{memory, stage_memory, stage_params};
pub(crate) use time::step_within;
pub use time::{Step, forward_flop_per_token, step};

use crate::job::Train;
use crate::plan::Plan;

/// Tokens one rank works on per micro-batch, before sequence parallelism cuts them.
fn tokens(train: &Train, plan: &Plan) -> f64 {
    f64::from(train.seq_len) * f64::from(plan.knobs.micro_batch) / f64::from(plan.mesh.cp())
}

/// What sequence parallelism divides by.
fn sp_degree(plan: &Plan) -> f64 {
    if plan.knobs.sequence_parallel { f64::from(plan.mesh.tp()) } else { 1.0 }
}

/// Micro-batches of a data-parallel rank; at least one, so that a refused plan can still be priced.
#[must_use]
pub fn micro_batches(train: &Train, plan: &Plan) -> u32 {
    (train.global_batch / plan.knobs.micro_batch.saturating_mul(plan.mesh.dp_attention()).max(1)).max(1)
}
