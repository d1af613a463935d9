//! A search that people wait for: a progress bar, Ctrl-C, a time limit. What was found so far is the answer in any case.

use super::flag_error;
use crate::error::Result;
use crate::goal;
use crate::import::job::ReadJob;
use crate::rank::Objective;
use crate::robust::{self, Robustness};
use crate::search::{Outcome, SearchOptions, StopReason, Watch, search_space};
use crate::space::{Space, SpaceOptions};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The longest time limit, in seconds: a year.
const LONGEST: f64 = 366.0 * 86_400.0;

/// How long to search, and how thoroughly.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Search")]
pub(super) struct EffortArgs {
    /// Price every plan in full, also those that cannot matter: the same answer, later.
    #[arg(long)]
    pub(super) exhaustive: bool,
    /// Stop after so many seconds with the best so far, and say what share of the plans was covered.
    #[arg(long, value_name = "SECONDS")]
    time_limit: Option<f64>,
}

impl EffortArgs {
    /// The time limit, if one was given.
    pub(super) fn limit(&self) -> Result<Option<Duration>> {
        match self.time_limit {
            None => Ok(None),
            Some(s) if s > 0.0 && s <= LONGEST => Ok(Some(Duration::from_secs_f64(s))),
            Some(s) => Err(flag_error("--time-limit", &s.to_string(), "seconds above 0, at most a year")),
        }
    }
}

/// A search with a progress bar, Ctrl-C and a time limit.
pub(super) struct Watched {
    stop: Arc<AtomicBool>,
    late: Arc<AtomicBool>,
    bar: bool,
}

impl Watched {
    /// Starts the clock.
    pub(super) fn new(bar: bool, limit: Option<Duration>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        // A second handler is refused (tests in one process); then Ctrl-C ends the process as usual.
        let _already_set = ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed));
        let late = Arc::new(AtomicBool::new(false));
        if let Some(limit) = limit {
            let (stop, late) = (Arc::clone(&stop), Arc::clone(&late));
            // Ends with the process: nothing waits for it.
            let _timer = std::thread::spawn(move || {
                std::thread::sleep(limit);
                late.store(true, Ordering::Relaxed);
                stop.store(true, Ordering::Relaxed);
            });
        }
        Self { stop, late, bar }
    }

    /// Whether to stop.
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Why it stopped, in the words of a note.
    pub(super) fn why(&self) -> &'static str {
        if self.late.load(Ordering::Relaxed) { "time limit reached" } else { "stopped early" }
    }

    /// Something that searches more than once, without a bar.
    pub(super) fn watch<T>(&self, look: impl FnOnce(&Watch<'_>) -> T) -> T {
        look(&Watch { stop: &self.stop, progress: &|_| {} })
    }

    /// Searches until it is done or told to stop.
    pub(super) fn search(&self, read: &ReadJob, space: &SpaceOptions, options: &SearchOptions) -> Outcome {
        let plans = Space::new(&read.job, space);
        let bar = if self.bar {
            let template = "{bar:32} {percent:>3}%  {human_pos}/{human_len} plans  {per_sec}  {eta} left";
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(plans.len()).with_style(style);
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        } else {
            ProgressBar::hidden()
        };
        let watch = Watch { stop: &self.stop, progress: &|plans| bar.inc(plans) };
        // A rate asks for the fewest GPUs; nothing is left of a training job's or a closed loop's question.
        let fleets = goal::fleets(&read.job, space, options, &watch);
        let mut outcome =
            fleets.map_or_else(|| search_space(&read.job, space, &plans, options, &watch), |found| found.outcome);
        bar.finish_and_clear();
        if outcome.stop == StopReason::Interrupted && self.late.load(Ordering::Relaxed) {
            outcome.stop = StopReason::TimeLimit;
        }
        outcome
    }

    /// How a search's rows stand in other worlds, unless it was stopped.
    pub(super) fn robustness(
        &self,
        read: &ReadJob,
        space: &SpaceOptions,
        objective: Objective,
        found: &Outcome,
        worlds: u32,
    ) -> Option<Robustness> {
        let watch = Watch { stop: &self.stop, progress: &|_| {} };
        robust::robustness(&read.job, space, objective, &found.rows, worlds, &watch)
    }
}
