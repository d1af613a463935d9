//! `verify`: does a written plan hold?

use super::{Verdict, out};
use crate::error::{Error, Result};
use crate::export::verify::{VerifyFormat, render};
use crate::import::verify::{VerifyRequest, run as check};
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// Documents, launch scripts, or folders of them; `-` is stdin.
    #[arg(required = true)]
    paths: Vec<String>,
    /// The model, when the document names none.
    #[arg(long)]
    model: Option<String>,
    /// The cluster, when the document names none.
    #[arg(long)]
    cluster: Option<String>,
    /// GPUs there are, when the document does not say.
    #[arg(long)]
    gpus: Option<u64>,
    /// Routed experts, when the document does not say.
    #[arg(long)]
    experts: Option<u64>,
    /// The convention in force (default: what the document names, else product).
    #[arg(long)]
    convention: Option<String>,
    /// The framework in force.
    #[arg(long)]
    framework: Option<String>,
    /// table, json, jsonl, markdown, sarif or junit (default: table).
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Write the result here instead of stdout.
    #[arg(long, short, value_name = "FILE")]
    output: Option<String>,
    /// Nothing on stderr but errors.
    #[arg(long, short)]
    quiet: bool,
}

pub(super) fn run(args: &VerifyArgs) -> Result<Verdict> {
    let format = match &args.format {
        None => VerifyFormat::Table,
        Some(name) => {
            VerifyFormat::ALL.into_iter().find(|f| f.name() == name.to_ascii_lowercase()).ok_or_else(|| {
                let names: Vec<&str> = VerifyFormat::ALL.iter().map(|f| f.name()).collect();
                Error::invalid("--format", "", name, names.join(", "))
            })?
        }
    };
    let request = VerifyRequest {
        paths: args.paths.clone(),
        model: args.model.clone(),
        cluster: args.cluster.clone(),
        gpus: args.gpus,
        experts: args.experts,
        convention: args.convention.clone(),
        framework: args.framework.clone(),
    };
    let outcome = check(&request)?;
    for (file, why) in &outcome.skipped {
        out::note(args.quiet, &format!("skipped {file}: {why}"));
    }
    out::write(args.output.as_deref(), &render(&outcome, format))?;
    Ok(Verdict::of(outcome.holds()))
}
