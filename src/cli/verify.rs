//! `verify`: does a written plan hold?

use super::{Verdict, out};
use crate::error::Result;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// Documents or folders; `-` is stdin.
    #[arg(required = true)]
    paths: Vec<String>,
}

pub(super) fn run(args: &VerifyArgs) -> Result<Verdict> {
    out::note(false, &args.paths.join(" "));
    Ok(Verdict::Fails)
}
