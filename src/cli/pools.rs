//! `plan --disaggregated`: pools of prefill and decode against plans that do both.

use super::args::{OutputArgs, SpaceArgs};
use super::{Verdict, out};
use crate::error::Result;
use crate::export::Format;
use crate::import::job::ReadJob;

pub(super) fn run(_read: &ReadJob, _space: &SpaceArgs, output: &OutputArgs, _format: Format) -> Result<Verdict> {
    out::write(output.output.as_deref(), "")?;
    Ok(Verdict::Holds)
}
