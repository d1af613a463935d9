//! The command line: flags to jobs, results to stdout, the rest to stderr.

mod args;
mod compare;
mod estimate;
mod explain;
mod launch;
mod list;
mod out;
mod plan;
mod pools;
mod validate;
mod verify;
mod watched;
mod what_if;

use crate::error::Error;
use clap::{CommandFactory, Parser, Subcommand};
use std::io::Write as _;
use std::process::ExitCode;

/// Which split of this model over these GPUs?
///
/// Exit codes: 0 a plan was found or everything holds, 1 nothing fits or a violation, 2 bad input. Results go to stdout,
/// progress and notes to stderr.
#[derive(Debug, Parser)]
#[command(name = "meshwright", version, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The best plans of a job that fit, why that order, what was refused and why.
    Plan(Box<plan::PlanArgs>),
    /// One plan in full: memory by term and stage, time by term, communication by group and link.
    Estimate(Box<estimate::EstimateArgs>),
    /// Named plans side by side, and what makes the difference.
    Compare(Box<compare::CompareArgs>),
    /// The best plan at each of several GPU counts, GPU types or link speeds.
    WhatIf(Box<what_if::WhatIfArgs>),
    /// Does a written plan hold? All violations, the verdict by convention and framework, fixes that hold.
    Verify(Box<verify::VerifyArgs>),
    /// The commands and files that start a plan on a framework.
    Launch(Box<launch::LaunchArgs>),
    /// Why a plan ranks where it does, or cannot work, and the smallest changes that make it work.
    Explain(Box<explain::ExplainArgs>),
    /// What is built in: models, gpus, clusters, frameworks, rules, objectives.
    List(list::ListArgs),
    /// Predicted against published measurements, with the error of every row.
    Validate(validate::ValidateArgs),
    /// Completions for a shell.
    #[command(hide = true)]
    Completions {
        /// bash, zsh, fish, elvish or powershell.
        shell: clap_complete::Shell,
    },
}

/// How a command ended, beside errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// A plan was found, or everything holds.
    Holds,
    /// Nothing fits, or something is violated.
    Fails,
}

impl Verdict {
    /// Holds or fails.
    pub(crate) const fn of(holds: bool) -> Self {
        if holds { Self::Holds } else { Self::Fails }
    }
}

/// Runs the command line and says how it ended.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return refuse(&one_line(&error)),
        Err(help) => {
            // Help and version are results; a closed pipe is success.
            let _closed_pipe = help.print();
            return ExitCode::SUCCESS;
        }
    };
    let result = match cli.command {
        Command::Plan(args) => plan::run(&args),
        Command::Estimate(args) => estimate::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::WhatIf(args) => what_if::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Launch(args) => launch::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::List(args) => list::run(&args),
        Command::Validate(args) => validate::run(&args),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "meshwright", &mut text);
            out::write_stdout(&text).map(|()| Verdict::Holds)
        }
    };
    match result {
        Ok(Verdict::Holds) => ExitCode::SUCCESS,
        Ok(Verdict::Fails) => ExitCode::from(1),
        Err(error) => refuse(&error.to_string()),
    }
}

fn refuse(message: &str) -> ExitCode {
    let style = anstyle::Style::new().bold().fg_color(Some(anstyle::AnsiColor::Red.into()));
    let _closed_pipe = writeln!(anstream::stderr(), "{style}error:{style:#} {message}");
    ExitCode::from(2)
}

/// clap's message on one line, its usage block left out.
fn one_line(error: &clap::Error) -> String {
    if error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a command is missing: plan, estimate, compare, what-if, verify, launch, explain, list, validate; \
                see --help"
            .to_owned();
    }
    let text = error.render().to_string();
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:"))
        .filter(|line| !line.is_empty() && !line.starts_with("For more information"))
        .collect();
    lines.join("; ").trim_start_matches("error: ").to_owned()
}

/// A flag's value that is not allowed, in the tool's own words.
pub(crate) fn flag_error(flag: &str, value: &str, allowed: &str) -> Error {
    Error::invalid(flag, "", value, allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_agrees_with_itself() {
        Cli::command().debug_assert();
    }
}
