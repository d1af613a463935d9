//! `plan`: the best plans that fit.

use super::args::{JobArgs, OutputArgs, SpaceArgs, objective};
use super::{Verdict, out};
use crate::error::Result;
use crate::export::{self, Format, Ranking, funnel_lines, json, text};
use crate::import::job::ReadJob;
use crate::mesh::Convention;
use crate::rank::{Row, TIE};
use crate::search::{Outcome, SearchOptions, StopReason, Watch, search};
use crate::space::{Scope, Space, SpaceOptions};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    space: SpaceArgs,
    /// throughput, latency, headroom, cost or balanced (default: throughput).
    #[arg(long)]
    objective: Option<String>,
    /// How many plans.
    #[arg(long, default_value_t = 10)]
    top: usize,
    /// How many variants (micro-batch, recompute, ...) of one mesh may be among them.
    #[arg(long, default_value_t = 1)]
    variants: usize,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &PlanArgs) -> Result<Verdict> {
    let format = args.output.format(&Format::ALL)?;
    args.output.set_threads()?;
    let read = args.job.read()?;
    let objective = objective(args.objective.as_deref())?;
    if !(1..=100_000).contains(&args.top) {
        return Err(super::flag_error("--top", &args.top.to_string(), "1 to 100000"));
    }
    let space = args.space.options(&read)?;
    let options = SearchOptions { objective, top: args.top, variants: args.variants.max(1) };
    let quiet = args.output.quiet;
    note_assumptions(quiet, &read);
    let watched = Watched::new(!quiet && !args.output.no_progress && out::stderr_is_terminal());
    let started = Instant::now();
    let outcome = watched.search(&read, &space, &options);
    let folded = best_folded(&read, &space, &options, &outcome);
    let ranking = Ranking {
        job: &read.job,
        convention: space.convention(),
        objective,
        outcome: &outcome,
        folded: folded.as_ref(),
    };
    let rendered = match format {
        Format::Table => table(&ranking, &read),
        Format::Json => out::pretty(&json::ranking(&ranking)),
        Format::Jsonl => {
            let rows = outcome.rows.iter().enumerate();
            rows.map(|(i, row)| format!("{}\n", json::row(&ranking, i, row))).collect()
        }
        Format::Csv => text::csv(&ranking),
        Format::Markdown => text::markdown(&ranking),
        Format::Html => export::html::page(&ranking),
    };
    out::write(args.output.output.as_deref(), &rendered)?;
    if outcome.stop == StopReason::Stopped {
        let share = outcome.covered as f64 / outcome.plans.max(1) as f64 * 100.0;
        out::note(quiet, &format!("stopped early: the best of the {share:.1}% of plans that were covered"));
    }
    let seconds = started.elapsed().as_secs_f64();
    let rate = outcome.covered as f64 / seconds.max(1e-9);
    let plans = export::grouped(outcome.covered as f64);
    out::note(quiet, &format!("{plans} plans in {:.0} ms ({} plans/s)", seconds * 1e3, export::grouped(rate)));
    Ok(Verdict::of(!outcome.rows.is_empty()))
}

/// What had to be assumed to read the model.
pub(super) fn note_assumptions(quiet: bool, read: &ReadJob) {
    for assumption in &read.job.model.assumptions {
        out::note(quiet, &format!("note: {}: {assumption}", read.job.model.name()));
    }
}

/// A search with a progress bar and Ctrl-C.
pub(super) struct Watched {
    stop: Arc<AtomicBool>,
    bar: bool,
}

impl Watched {
    pub(super) fn new(bar: bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        // A second handler is refused (tests in one process); then Ctrl-C ends the process as usual.
        let _already_set = ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed));
        Self { stop, bar }
    }

    /// Whether Ctrl-C was pressed.
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn search(&self, read: &ReadJob, space: &SpaceOptions, options: &SearchOptions) -> Outcome {
        let bar = if self.bar {
            let template = "{bar:32} {percent:>3}%  {human_pos}/{human_len} plans  {per_sec}  {eta} left";
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(Space::new(&read.job, space).len()).with_style(style)
        } else {
            ProgressBar::hidden()
        };
        let watch = Watch { stop: &self.stop, progress: &|plans| bar.inc(plans) };
        let outcome = search(&read.job, space, options, &watch);
        bar.finish_and_clear();
        outcome
    }
}

/// The best plan with experts cut differently from attention, when it beats every product.
fn best_folded(read: &ReadJob, space: &SpaceOptions, options: &SearchOptions, found: &Outcome) -> Option<Row> {
    let training_moe = read.job.train().is_some() && read.job.model.moe().is_some();
    if space.scope != Scope::Product || space.framework.is_some() || !training_moe {
        return None;
    }
    let mut wider = space.clone();
    wider.scope = Scope::Folded;
    (wider.bounds.etp, wider.bounds.cp) = (vec![1], vec![1]);
    let quiet = Watch { stop: &AtomicBool::new(false), progress: &|_| {} };
    let outcome = search(&read.job, &wider, &SearchOptions { top: 1, ..*options }, &quiet);
    let best = outcome.rows.first().copied()?;
    let beats = found.rows.first().is_none_or(|product| best.value < product.value * (1.0 - 1e-9));
    beats.then_some(best)
}

fn table(r: &Ranking<'_>, read: &ReadJob) -> String {
    let job = r.job;
    let mut text = heading(job);
    let _ = writeln!(text, "convention {}: {}\n", r.convention, r.convention.identity());
    if r.outcome.rows.is_empty() {
        nothing_fits(r, read, &mut text);
    } else {
        let (head, rows) = text::cells(r);
        let why = head.len() - 1;
        text.push_str(&out::table(&head, &rows, &[1, why]));
        let best = &r.outcome.rows[0];
        let said = best.plan.convention(r.convention);
        let _ = writeln!(text, "\n1: {}", said.formula(&best.plan.mesh));
        let idle = job.gpus() - best.plan.mesh.world();
        if idle > 0 {
            let _ = writeln!(text, "1 leaves {idle} of {} GPUs idle", job.gpus());
        }
        for warning in crate::explain::remarks(job, read.framework, &best.plan, None, &best.estimate) {
            let _ = writeln!(text, "1: {warning}");
        }
        if r.outcome.rows.iter().skip(1).any(|row| row.ties_with(best)) {
            let _ = writeln!(text, "= as good as the best within {:.0}%: measure both", TIE * 100.0);
        }
        text.push_str(&frontier_line(r));
        if let Some(folded) = r.folded {
            let plan = folded.plan.text(Convention::Megatron, r.purpose());
            let gain = r.outcome.rows[0].value / folded.value * 100.0 - 100.0;
            let _ = writeln!(
                text,
                "a folded plan is {gain:.0}% better by {}: {plan} (--convention megatron; more with --space folded)",
                r.objective.name()
            );
        }
    }
    text.push('\n');
    for line in funnel_lines(r) {
        let _ = writeln!(text, "{line}");
    }
    let _ = writeln!(text, "{} plans fit", export::grouped(r.outcome.fit as f64));
    if let Some(best) = r.outcome.rows.first() {
        for line in export::band_lines(&export::bands(job, read.framework, &best.plan, &best.estimate)) {
            let _ = writeln!(text, "times of 1 {line}");
        }
    }
    text.push_str("times are modelled; legality and memory are what to rely on (see `validate`)\n");
    text
}

/// Plans of a frontier that are named on one line; the rest is in the JSON and HTML forms.
const SHOWN_FRONTIER: usize = 5;

/// The plans that no other beats in both of the things a frontier trades.
fn frontier_line(r: &Ranking<'_>) -> String {
    let traded =
        if r.job.train().is_some() { "tokens/s/GPU against memory left" } else { "tokens/s/GPU against tokens/s/user" };
    let all = &r.outcome.frontier;
    let names: Vec<String> = all
        .iter()
        .take(SHOWN_FRONTIER)
        .map(|row| row.plan.text(row.plan.convention(r.convention), r.purpose()))
        .collect();
    let more = all.len().saturating_sub(SHOWN_FRONTIER);
    let rest = if more > 0 { format!("; and {more} more in --format json or html") } else { String::new() };
    format!("Pareto frontier, {traded}: {}{rest}\n", names.join("; "))
}

/// Model, cluster and workload in words.
pub(super) fn heading(job: &crate::job::Job) -> String {
    let billions = |count: u64| count as f64 / 1e9;
    format!(
        "{} ({:.2}B parameters, {:.2}B active) on {}\n{}\n",
        job.model.name(),
        billions(job.model.params()),
        billions(job.model.active_params()),
        job.cluster,
        workload_line(job)
    )
}

/// The workload in words.
fn workload_line(job: &crate::job::Job) -> String {
    match &job.workload {
        crate::job::Workload::Train(t) => format!(
            "training: sequences of {} tokens, {} a step, {} with {} gradients",
            t.seq_len,
            t.global_batch,
            t.precision.name(),
            t.grad_dtype.name()
        ),
        crate::job::Workload::Serve(s) => format!(
            "serving: {} tokens in, {} out, {} requests in flight on the whole plan, {} weights, {} KV cache",
            s.isl,
            s.osl,
            s.concurrency,
            s.quant.format,
            s.kv_cache.name()
        ),
    }
}

/// The answer when nothing fits: which rule binds, what comes nearest, what would help.
pub(super) fn nothing_fits(r: &Ranking<'_>, read: &ReadJob, text: &mut String) {
    let _ = writeln!(text, "no plan fits ({} tried)", export::grouped(r.outcome.plans as f64));
    let funnel = &r.outcome.funnel;
    if funnel.meshes == 0 {
        let gpus = r.job.gpus();
        let legal: Vec<String> = crate::mesh::divisors(u64::from(gpus)).iter().map(u64::to_string).collect();
        let _ = writeln!(
            text,
            "no factorisation of {gpus} GPUs has the degrees asked for: each must divide {gpus} ({})",
            legal.join(", ")
        );
    }
    let binding = funnel.plan_rules.iter().chain(&funnel.mesh_rules).filter(|t| t.nearest.is_some());
    let memory = binding.clone().find(|t| t.rule == crate::rules::Rule::Memory);
    let Some((plan, miss)) = memory.or(binding.max_by_key(|t| t.refused)).and_then(|t| t.nearest) else { return };
    let said = plan.convention(r.convention);
    let _ = writeln!(text, "nearest: {}: {miss}", plan.text(said, r.purpose()));
    if miss.rule == crate::rules::Rule::Memory {
        let estimate = crate::estimate::estimate(r.job, r.convention, &plan);
        if let Some(words) = crate::explain::shortfall(&estimate) {
            let _ = writeln!(text, "it {words}");
        }
    }
    for change in crate::explain::changes(r.job, read.framework, &plan, 3) {
        let memory = &change.estimate.memory;
        let plan = change.plan.text(change.plan.convention(r.convention), r.purpose());
        let _ =
            writeln!(text, "try: {} -> {} per GPU of {} ({plan})", change.what, memory.ledger.bytes(), memory.capacity);
    }
}
