//! What the engine's own code asks.

use super::Sink;
use crate::job::Job;
use crate::plan::Plan;

/// Degrees.
pub(super) fn check_mesh(_job: &Job, _plan: &Plan, _out: &mut impl Sink) {}
