//! `explain`: why a plan costs what it costs or cannot work, and the smallest changes that make it work.

use super::args::{JobArgs, OutputArgs};
use super::{Verdict, flag_error, out};
use crate::cost::{MemoryTerm, Term};
use crate::error::Result;
use crate::estimate::train::Utilization;
use crate::estimate::train::{micro_batches, timeline};
use crate::estimate::{self, Assessment, Estimate, Time, assess};
use crate::explain::{changes, reason, shortfall};
use crate::export::{Format, SCHEMA, banded, bands, json};
use crate::import::job::ReadJob;
use crate::plan::{Plan, Purpose, Schedule};
use crate::rank::Objective;
use crate::search::{SearchOptions, Watch, search};
use crate::space::SpaceOptions;
use crate::units::{Bytes, Seconds};
use clap::Args;
use serde_json::json;
use std::fmt::Write as _;
use std::sync::atomic::AtomicBool;

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    job: JobArgs,
    /// The plan; without one, the whole job is explained.
    plan: Option<String>,
    /// Also write the training step as a Chrome trace, for ui.perfetto.dev: every pass of every stage, transfers, optimizer.
    #[arg(long, value_name = "FILE")]
    trace: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &ExplainArgs) -> Result<Verdict> {
    let format = args.output.format(&[Format::Table, Format::Json])?;
    let whole = args.plan.is_none() && args.job.file()?.1.plan.is_none();
    if whole {
        if let Some(path) = &args.trace {
            return Err(flag_error("--trace", path, "a plan beside it, as in `tp2 ep4 pp2 dp1 mb1`"));
        }
        return explain_job(args, format);
    }
    let read = super::estimate::read_with_plan(&args.job, args.plan.as_deref())?;
    let draft = read.draft.expect("read_with_plan asks for one");
    let assessment = assess(&read.job, read.framework, &draft);
    if let Some(path) = &args.trace {
        trace(path, &read, assessment.resolution.plan.as_ref(), args.output.quiet)?;
    }
    let purpose = if read.job.train().is_some() { Purpose::Train } else { Purpose::Serve };
    let fixes = match (&assessment.resolution.plan, &assessment.estimate) {
        (Some(plan), Some(estimate)) if !estimate.memory.fits() => changes(&read.job, read.framework, plan, 3),
        _ => Vec::new(),
    };
    let better = assessment.resolution.plan.map(|plan| standing(&read, &plan));
    let text = if format == Format::Json {
        let listed: Vec<serde_json::Value> = fixes
            .iter()
            .map(|c| {
                json!({"change": c.what, "plan": c.plan.text(c.plan.convention(read.convention), purpose), "gpus": c.gpus,
                       "memory_bytes": c.estimate.memory.ledger.total(), "utilization": c.estimate.memory.utilization(), "holds": true})
            })
            .collect();
        let result = json::result(&read.job, read.convention, read.framework, read.id.as_ref(), &assessment, true);
        out::pretty(&json!({
            "schema": SCHEMA,
            "result": result,
            "waterfall": waterfall_json(&read, &assessment),
            "shortfall": assessment.estimate.as_ref().and_then(shortfall),
            "changes": listed,
            "meshes_better": better.as_ref().map(|b| b.0),
            "meshes_that_fit": better.as_ref().map(|b| b.1),
        }))
    } else {
        let mut text = super::plan::heading(&read.job);
        let _ = writeln!(text, "{}: {}", read.convention, assessment.resolution.formula);
        for rejection in &assessment.resolution.rejections {
            let _ = writeln!(text, "cannot work [{}]: {rejection}; {}", rejection.rule.id(), rejection.hint());
        }
        if let (Some(plan), Some(estimate)) = (&assessment.resolution.plan, &assessment.estimate) {
            let _ = writeln!(text, "{}", reason(&read.job, read.convention, plan, estimate));
            waterfall(&read, plan, estimate, &mut text);
            if let Some(words) = shortfall(estimate) {
                let _ = writeln!(text, "\nit {words}");
                for change in &fixes {
                    let plan = change.plan.text(change.plan.convention(read.convention), purpose);
                    let m = &change.estimate.memory;
                    let _ =
                        writeln!(text, "  {}: {} of {} per GPU ({plan})", change.what, m.ledger.bytes(), m.capacity);
                }
                if fixes.is_empty() {
                    text.push_str(
                        "  no three changes of knobs, formats and degrees together and no eight times the GPUs make it fit\n",
                    );
                }
            }
        }
        if let Some((ahead, fit, best)) = better {
            if fit == 0 {
                text.push_str("\nno other mesh of these GPUs fits either\n");
            } else {
                let _ = writeln!(text, "\n{ahead} of the {fit} meshes that fit are faster; the best is {best}");
            }
        }
        text
    };
    out::write(args.output.output.as_deref(), &text)?;
    Ok(Verdict::of(assessment.resolution.rejections.is_empty()))
}

/// The step of a plan as a trace. A plan without a mesh has none; what refuses it is said in the answer.
fn trace(path: &str, read: &ReadJob, plan: Option<&Plan>, quiet: bool) -> Result<()> {
    let Some(train) = read.job.train() else {
        return Err(flag_error("--trace", path, "a training job: a service has no step of fixed micro-batches"));
    };
    let Some(plan) = plan else { return Ok(()) };
    let Some(timeline) = timeline(&read.job, train, read.convention, plan) else {
        let allowed = match plan.knobs.schedule {
            Schedule::DualPipe => {
                "an even number of stages, and an even number of micro-batches, at least twice as many"
            }
            Schedule::OneFOneB | Schedule::Gpipe | Schedule::ZbH1 => "fewer micro-batches: a million slices at most",
        };
        let (pp, n) = (plan.mesh.pp(), micro_batches(train, plan));
        let asked = format!("{path}: {} with {n} micro-batches on {pp} stages", plan.knobs.schedule.name());
        return Err(flag_error("--trace", &asked, allowed));
    };
    out::write_as("--trace", Some(path), &crate::export::trace::chrome(&read.job, read.convention, plan, &timeline))?;
    let (end, step) = (Seconds::new(timeline.end()), timeline.step.seconds());
    out::note(quiet, &format!("trace of a step of {end} in {path} (estimated step: {step}); ui.perfetto.dev opens it"));
    Ok(())
}

/// How many meshes beat a plan by throughput, of how many that fit, and the best.
fn standing(read: &ReadJob, plan: &Plan) -> (usize, usize, String) {
    let space = SpaceOptions { framework: read.framework, ..SpaceOptions::default() };
    let options = SearchOptions { objective: Objective::Throughput, top: 100_000, ..SearchOptions::default() };
    let watch = Watch { stop: &AtomicBool::new(false), progress: &|_| {} };
    let outcome = search(&read.job, &space, &options, &watch);
    let estimate = estimate::estimate(&read.job, read.convention, plan);
    let mine = Objective::Throughput.value(&read.job, plan, &estimate);
    let ahead = outcome.rows.iter().filter(|row| row.value < mine && row.plan.mesh != plan.mesh).count();
    let purpose = if read.job.train().is_some() { Purpose::Train } else { Purpose::Serve };
    let best = outcome
        .rows
        .first()
        .map_or_else(|| "none".to_owned(), |row| row.plan.text(row.plan.convention(space.convention()), purpose));
    (ahead, outcome.rows.len(), best)
}

/// The memory of the stage that binds, term by term, as programs read it.
fn waterfall_json(read: &ReadJob, assessment: &Assessment) -> serde_json::Value {
    let (Some(plan), Some(estimate)) = (&assessment.resolution.plan, &assessment.estimate) else {
        return serde_json::Value::Null;
    };
    let m = &estimate.memory;
    let terms = MemoryTerm::ALL.iter().filter(|term| m.ledger.get(**term) > 0.0).map(|term| {
        json!({
            "term": term.key(),
            "bytes": m.ledger.get(*term),
            "basis": term.basis().name(),
            "formula": estimate::formula(&read.job, read.convention, plan, m.worst_stage, *term),
        })
    });
    json!({"scope": format!("per GPU, stage {}", m.worst_stage), "terms": terms.collect::<Vec<_>>()})
}

fn waterfall(read: &ReadJob, plan: &Plan, estimate: &Estimate, text: &mut String) {
    let m = &estimate.memory;
    let _ = writeln!(text, "\nmemory per GPU, stage {}:", m.worst_stage);
    let mut sum = 0.0;
    let bar = |share: f64| "#".repeat((share * 40.0).round().clamp(0.0, 80.0) as usize);
    for term in MemoryTerm::ALL {
        let bytes = m.ledger.get(*term);
        if bytes > 0.0 {
            sum += bytes;
            let share = bytes / m.capacity.get();
            let _ = writeln!(
                text,
                "  {:<24} {:>12} {:>12} {:<9} {}  {}",
                term.key(),
                Bytes::new(bytes).to_string(),
                Bytes::new(sum).to_string(),
                term.basis().name(),
                bar(share),
                term.meaning()
            );
            let formula = estimate::formula(&read.job, read.convention, plan, m.worst_stage, *term);
            if !formula.is_empty() {
                let _ = writeln!(text, "    = {formula}");
            }
        }
    }
    let _ = writeln!(text, "  {:<24} {:>12} of {}", "total", m.ledger.bytes().to_string(), m.capacity);
    let bands = bands(&read.job, read.framework, plan, estimate);
    match &estimate.time {
        Time::Train(step) => {
            let _ = writeln!(text, "\nstep of {}:", banded(step.seconds(), "step_time", &bands));
        }
        Time::Serve(service) => {
            let (ttft, tpot) = (Seconds::new(service.ttft_s), Seconds::new(service.tpot_s));
            let (ttft, tpot) = (banded(ttft, "ttft", &bands), banded(tpot, "tpot", &bands));
            let _ = writeln!(text, "\nTTFT {ttft}, TPOT {tpot}:");
        }
    }
    let parts = estimate.time.parts();
    let total: f64 = parts.iter().map(|part| part.seconds).sum();
    for part in parts.iter().filter(|part| part.seconds > 0.0) {
        let share = part.seconds / total;
        let _ = writeln!(
            text,
            "  {:<24} {:>12} {:>5.1}% {}  {}",
            part.key,
            Seconds::new(part.seconds).to_string(),
            share * 100.0,
            bar(share),
            part.meaning
        );
    }
    if let Some(step) = estimate.step() {
        let _ = writeln!(text, "{}", super::estimate::utilization(&Utilization::of(&read.job, plan, step)));
    }
    super::estimate::band_notes(&bands, text);
}

/// Why a job has the plans it has: the funnel, and the way out when there are none.
fn explain_job(args: &ExplainArgs, format: Format) -> Result<Verdict> {
    let read = args.job.read()?;
    let space = SpaceOptions { framework: read.framework, ..SpaceOptions::default() };
    let watch = Watch { stop: &AtomicBool::new(false), progress: &|_| {} };
    let outcome = search(&read.job, &space, &SearchOptions { top: 3, ..SearchOptions::default() }, &watch);
    let ranking = crate::export::Ranking {
        pareto: false,
        every_load: false,
        job: &read.job,
        convention: space.convention(),
        objective: Objective::Throughput,
        outcome: &outcome,
        folded: None,
    };
    let text = if format == Format::Json {
        out::pretty(&json::ranking(&ranking))
    } else {
        let mut text = super::plan::heading(&read.job);
        if outcome.rows.is_empty() {
            super::plan::nothing_fits(&ranking, &read, &mut text);
        }
        for line in crate::export::funnel_lines(&ranking) {
            let _ = writeln!(text, "{line}");
        }
        for (i, row) in outcome.rows.iter().enumerate() {
            let purpose = ranking.purpose();
            let plan = row.plan.text(row.plan.convention(ranking.convention), purpose);
            let why = reason(&read.job, ranking.convention, &row.plan, &row.estimate);
            let _ = writeln!(text, "{}: {plan}: {why}", i + 1);
        }
        text
    };
    out::write(args.output.output.as_deref(), &text)?;
    Ok(Verdict::of(!outcome.rows.is_empty()))
}
