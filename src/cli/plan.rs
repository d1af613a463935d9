//! `plan`: the best plans that fit.

use super::args::{JobArgs, OutputArgs, SpaceArgs, objective};
use super::watched::{EffortArgs, Watched};
use super::{Verdict, out};
use crate::error::Result;
use crate::export::{self, Format, Ranking, funnel_lines, json, text};
use crate::goal::{self, Fleets};
use crate::import::job::ReadJob;
use crate::job::{Load, MTP_ACCEPTANCE, Serve};
use crate::mesh::Convention;
use crate::plan::Plan;
use crate::rank::{Row, TIE};
use crate::robust::Robustness;
use crate::rules::Rule;
use crate::search::{Outcome, SearchOptions, StopReason};
use crate::space::{Scope, SpaceOptions};
use clap::Args;
use std::fmt::Write as _;
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
    /// The Pareto frontier instead of a ranking, drawn: tokens/s/GPU against tokens/s/user (training: memory left). When
    /// serving without --concurrency, --rate and targets, over every load as well.
    #[arg(long)]
    pareto: bool,
    /// Serving: prefill and decode in pools of their own, matched by rate, against the best plan that does both.
    #[arg(long, conflicts_with_all = ["pareto", "objective", "top", "variants"])]
    disaggregated: bool,
    /// How the ranking stands when bandwidths, efficiencies and imbalance move within their bands: searched again in so many
    /// worlds (32 unless said).
    #[arg(long, value_name = "WORLDS", num_args = 0..=1, default_missing_value = "32")]
    robust: Option<u32>,
    #[command(flatten)]
    effort: EffortArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &PlanArgs) -> Result<Verdict> {
    let format = args.output.format(&Format::ALL)?;
    args.output.set_threads()?;
    let (origin, file) = args.job.file()?;
    let load_said = file.serve.as_ref().is_some_and(|s| s.concurrency.is_some());
    let read = file.read(&origin)?;
    if args.disaggregated {
        return super::pools::run(&read, &args.space, &args.output, format);
    }
    let objective = objective(args.objective.as_deref())?;
    if !(1..=100_000).contains(&args.top) {
        return Err(super::flag_error("--top", &args.top.to_string(), "1 to 100000"));
    }
    let space = args.space.options(&read)?;
    let options =
        SearchOptions { objective, top: args.top, variants: args.variants.max(1), exhaustive: args.effort.exhaustive };
    if let Some(worlds) = args.robust {
        if !(1..=10_000).contains(&worlds) {
            return Err(super::flag_error("--robust", &worlds.to_string(), "1 to 10000 worlds"));
        }
        if !matches!(format, Format::Table | Format::Json) {
            return Err(super::flag_error("--robust", format.name(), "the formats table and json"));
        }
    }
    let quiet = args.output.quiet;
    note_assumptions(quiet, &read);
    let watched = Watched::new(!quiet && !args.output.no_progress && out::stderr_is_terminal(), args.effort.limit()?);
    let started = Instant::now();
    let load = read.job.serve().map(|s| s.load);
    let every_load = args.pareto && load == Some(Load::InFlight) && !load_said;
    let mut fleets = None;
    let mut outcome = match load {
        Some(Load::Rate(_)) if !args.pareto => {
            fleets = watched.watch(|watch| goal::fleets(&read.job, &space, &options, watch));
            fleets.as_mut().map_or_else(|| watched.search(&read, &space, &options), |f| f.outcome.clone())
        }
        _ if every_load => watched.watch(|watch| goal::sweep(&read.job, &space, &options, watch)),
        _ => watched.search(&read, &space, &options),
    };
    if args.pareto {
        outcome.rows = outcome.frontier.clone();
    }
    let folded = if args.pareto { None } else { best_folded(&watched, &read, &space, &options, &outcome) };
    let ranking = Ranking {
        pareto: args.pareto,
        every_load,
        job: &read.job,
        convention: space.convention(),
        objective,
        outcome: &outcome,
        folded: folded.as_ref(),
    };
    let robust = args.robust.and_then(|worlds| watched.robustness(&read, &space, objective, &outcome, worlds));
    let rendered = match format {
        Format::Table => {
            let lines = robust.as_ref().map(|robust| robust_lines(&ranking, robust)).unwrap_or_default();
            format!("{}{lines}", table(&ranking, &read, fleets.as_ref()))
        }
        Format::Json => {
            let mut value = json::ranking(&ranking);
            if let (Some(robust), Some(map)) = (&robust, value.as_object_mut()) {
                map.insert("robustness".into(), json::robustness(&ranking, robust));
            }
            out::pretty(&value)
        }
        Format::Jsonl => {
            let rows = outcome.rows.iter().enumerate();
            rows.map(|(i, row)| format!("{}\n", json::row(&ranking, i, row))).collect()
        }
        Format::Csv => text::csv(&ranking),
        Format::Markdown => text::markdown(&ranking),
        Format::Html => export::html::page(&ranking),
    };
    out::write(args.output.output.as_deref(), &rendered)?;
    if outcome.stop != StopReason::Exhausted {
        let share = outcome.share() * 100.0;
        out::note(quiet, &format!("{}: the best of the {share:.1}% of plans that were covered", watched.why()));
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

/// The best plan with experts cut differently from attention, when it beats every product.
fn best_folded(
    watched: &Watched,
    read: &ReadJob,
    space: &SpaceOptions,
    options: &SearchOptions,
    found: &Outcome,
) -> Option<Row> {
    let training_moe = read.job.train().is_some() && read.job.model.moe().is_some();
    if space.scope != Scope::Product || space.framework.is_some() || !training_moe {
        return None;
    }
    let mut wider = space.clone();
    wider.scope = Scope::Folded;
    (wider.bounds.etp, wider.bounds.cp) = (vec![1], vec![1]);
    let outcome = watched.search(read, &wider, &SearchOptions { top: 1, ..*options });
    if outcome.stop != StopReason::Exhausted {
        // The best of some share would depend on the moment.
        return None;
    }
    let best = outcome.rows.first().copied()?;
    let beats = found.rows.first().is_none_or(|product| best.value < product.value * (1.0 - 1e-9));
    beats.then_some(best)
}

/// What the best fleet is, plainly, or the one that would do.
fn fleet_lines(r: &Ranking<'_>, fleets: &Fleets, text: &mut String) {
    let Some(serve) = r.job.serve() else { return };
    let Load::Rate(rate) = serve.load else { return };
    let sizes: Vec<String> = fleets.sizes.iter().map(u32::to_string).collect();
    let describe = |row: &Row| {
        let (replicas, world) = (row.plan.knobs.replicas, row.plan.mesh.world());
        let one = world / replicas;
        let noun = if replicas == 1 { "replica" } else { "replicas" };
        format!("{replicas} {noun} x {one} GPUs = {world}")
    };
    match (fleets.outcome.rows.first(), &fleets.beyond) {
        (Some(best), _) => {
            let busy = rate / best.estimate.load.capacity_per_s * 100.0;
            let _ = writeln!(
                text,
                "\nfewest GPUs for {rate} requests/s: {} of {} GPUs, {busy:.0}% of what their KV caches and engines allow",
                describe(best),
                r.job.gpus()
            );
        }
        (None, Some(beyond)) => {
            let plan = beyond.plan.text(beyond.plan.convention(r.convention), r.purpose());
            let _ = writeln!(
                text,
                "{rate} requests/s take {} GPUs, and there are {} ({plan})",
                describe(beyond),
                r.job.gpus()
            );
        }
        (None, None) => {}
    }
    let _ = writeln!(text, "sizes of a replica that were tried: {} GPUs", sizes.join(", "));
    if serve.ttft.is_none() && serve.tpot.is_none() {
        text.push_str("no target: replicas run as full as their KV caches allow; give --ttft or --tpot\n");
    }
}

fn table(r: &Ranking<'_>, read: &ReadJob, fleets: Option<&Fleets>) -> String {
    let job = r.job;
    let mut text = heading_at(job, r.every_load);
    let _ = writeln!(text, "convention {}: {}\n", r.convention, r.convention.identity());
    if r.pareto {
        text.push_str(&export::frontier_chart(r).text(out::width()));
        text.push('\n');
    }
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
        if !r.pareto && fleets.is_none() {
            text.push_str(&frontier_line(r));
        }
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
    if let Some(fleets) = fleets {
        fleet_lines(r, fleets, &mut text);
    }
    if let Some(serve) = job.serve() {
        for line in load_lines(serve) {
            let _ = writeln!(text, "{line}");
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

/// What the figures of a service mean under its load.
pub(super) fn load_lines(serve: &Serve) -> Vec<String> {
    let mut out = vec!["$/Mtok: input tokens carry the GPU time of prefill, output tokens that of decode".to_owned()];
    if serve.mtp > 0 {
        let each = crate::estimate::serve::yields(serve);
        out.push(format!(
            "{} speculative tokens a step, each taken with {:.0}%{}: {each:.2} tokens a step",
            serve.mtp,
            serve.mtp_acceptance * 100.0,
            if serve.mtp_acceptance == MTP_ACCEPTANCE { " (measured on random prompts)" } else { "" }
        ));
    }
    let names: Vec<String> = [("TTFT", serve.ttft), ("TPOT", serve.tpot)]
        .iter()
        .filter_map(|(name, target)| target.map(|t| format!("{name} {} {t}", serve.percentile.name())))
        .collect();
    if !names.is_empty() {
        let load = match serve.load {
            Load::InFlight => "",
            Load::Most => "; requests in flight: the most that meet them, plan by plan",
            Load::Rate(_) => "; requests in flight follow from the rate",
        };
        out.push(format!("targets: {}{load}", names.join(", ")));
    }
    out
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

/// Candidates of other worlds that are named.
const SHOWN_CANDIDATES: usize = 5;

/// How the ranking stands in other worlds.
fn robust_lines(r: &Ranking<'_>, robust: &Robustness) -> String {
    let name = |plan: &Plan| plan.text(plan.convention(r.convention), r.purpose());
    let percent = |share: f64| format!("{:.0}%", share * 100.0);
    let loss = |regret: f64| {
        if regret.is_finite() { format!("{:.1}% at worst", regret * 100.0) } else { "does not fit in some".to_owned() }
    };
    let winner = &robust.winner;
    let mut text = format!(
        "\nsensitivity, {} worlds with inputs moved within their bands, each searched anew:\n\
         1 stays the best in {} of them, within {} of the best in {}; it loses {:.1}% on average, {}\n",
        robust.worlds,
        percent(winner.best),
        percent(TIE),
        percent(winner.ties),
        winner.mean_regret * 100.0,
        loss(winner.worst_regret)
    );
    let choice = &robust.candidates[0];
    let same = if choice.row.plan == winner.row.plan { " (1 itself)" } else { "" };
    let _ = writeln!(
        text,
        "robust choice{same}: {}: loses {:.1}% on average, {}",
        name(&choice.row.plan),
        choice.mean_regret * 100.0,
        loss(choice.worst_regret)
    );
    let mut others: Vec<_> =
        robust.candidates.iter().filter(|c| c.best > 0.0 && c.row.plan != winner.row.plan).collect();
    others.sort_by(|a, b| b.best.total_cmp(&a.best).then_with(|| a.row.order(&b.row)));
    for other in others.iter().take(SHOWN_CANDIDATES) {
        let _ = writeln!(text, "  best in {}: {}", percent(other.best), name(&other.row.plan));
    }
    for flip in &robust.flips {
        let _ = writeln!(
            text,
            "  {} alone times {:.2} makes {} the best; 1 then loses {}",
            flip.band.key,
            flip.by,
            name(&flip.winner),
            if flip.regret.is_finite() {
                format!("{:.1}%", flip.regret * 100.0)
            } else {
                "its place in memory".to_owned()
            }
        );
    }
    text
}

/// Model, cluster and workload in words.
pub(super) fn heading(job: &crate::job::Job) -> String {
    heading_at(job, false)
}

/// The same; `every_load` when the answer is not of one load.
pub(super) fn heading_at(job: &crate::job::Job, every_load: bool) -> String {
    let billions = |count: u64| count as f64 / 1e9;
    format!(
        "{} ({:.2}B parameters, {:.2}B active) on {}\n{}\n",
        job.model.name(),
        billions(job.model.params()),
        billions(job.model.active_params()),
        job.cluster,
        workload_line(job, every_load)
    )
}

/// The workload in words.
fn workload_line(job: &crate::job::Job, every_load: bool) -> String {
    match &job.workload {
        crate::job::Workload::Train(t) => format!(
            "training: sequences of {} tokens, {} a step, {} with {} gradients",
            t.seq_len,
            t.global_batch,
            t.precision.name(),
            t.grad_dtype.name()
        ),
        crate::job::Workload::Serve(s) => {
            let load = match s.load {
                Load::InFlight if every_load => "any number of requests in flight".to_owned(),
                Load::InFlight => format!("{} requests in flight on the whole plan", s.concurrency),
                Load::Most => "as many requests in flight as meet the targets".to_owned(),
                Load::Rate(rate) => format!("{rate} requests/s ({})", s.arrivals.name()),
            };
            format!(
                "serving: {} tokens in, {} out, {load}, {} weights, {} KV cache",
                length(s.isl, &s.isl_spread),
                length(s.osl, &s.osl_spread),
                s.quant.format,
                s.kv_cache.name()
            )
        }
    }
}

/// A length, with its spread where there is one.
fn length(mean: u32, spread: &crate::lengths::Spread) -> String {
    if spread.cv2 > 0.0 { format!("{mean} (p95 {})", spread.p95) } else { mean.to_string() }
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
    // A plan that misses a target fits the memory, and so is nearer than one that does not.
    let target = binding.clone().find(|t| matches!(t.rule, Rule::Ttft | Rule::Tpot | Rule::Rate));
    let memory = target.or(binding.clone().find(|t| t.rule == Rule::Memory));
    let Some((plan, miss)) = memory.or(binding.max_by_key(|t| t.refused)).and_then(|t| t.nearest) else { return };
    let said = plan.convention(r.convention);
    let _ = writeln!(text, "nearest: {}: {miss}", plan.text(said, r.purpose()));
    if miss.rule == Rule::Memory {
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
