//! `estimate`: one plan in full, or many, one JSON line each.

use super::args::{JobArgs, OutputArgs};
use super::{Verdict, flag_error, out};
use crate::cost::{MemoryTerm, Term};
use crate::error::{Error, Locate, Result};
use crate::estimate::band::Band;
use crate::estimate::traffic::traffic;
use crate::estimate::train::Utilization;
use crate::estimate::{Time, assess, stages};
use crate::export::{Format, band_lines, banded, bands, json};
use crate::import::job::{JobFile, ReadJob};
use crate::plan::{Draft, Purpose};
use crate::units::{Bytes, Seconds};
use clap::Args;
use rayon::prelude::*;
use std::fmt::Write as _;

#[derive(Debug, Args)]
pub(super) struct EstimateArgs {
    #[command(flatten)]
    job: JobArgs,
    /// The plan, as in `tp2 ep4 pp2 dp1 mb1 recompute=full`.
    plan: Option<String>,
    /// Price many jobs, one JSON object a line; `-` is stdin.
    #[arg(long, value_name = "FILE", conflicts_with = "plan")]
    batch: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &EstimateArgs) -> Result<Verdict> {
    args.output.set_threads()?;
    if let Some(path) = &args.batch {
        let known = [Format::Jsonl, Format::Json];
        let _only_lines = args.output.format.as_ref().map(|_| args.output.format(&known)).transpose()?;
        return batch(path, args);
    }
    let format = args.output.format(&[Format::Table, Format::Json, Format::Jsonl])?;
    let read = read_with_plan(&args.job, args.plan.as_deref())?;
    super::plan::note_assumptions(args.output.quiet, &read);
    let draft = read.draft.expect("read_with_plan asks for one");
    let assessment = assess(&read.job, read.framework, &draft);
    let value = || json::result(&read.job, read.convention, read.framework, read.id.as_ref(), &assessment, true);
    let text = match format {
        Format::Json => out::pretty(&value()),
        Format::Jsonl => format!("{}\n", value()),
        Format::Table | Format::Csv | Format::Markdown | Format::Html => table(&read, &assessment),
    };
    out::write(args.output.output.as_deref(), &text)?;
    Ok(Verdict::of(assessment.resolution.rejections.is_empty()))
}

/// A job with its plan: the argument wins over the job file's.
pub(super) fn read_with_plan(job: &JobArgs, plan: Option<&str>) -> Result<ReadJob> {
    let mut read = job.read()?;
    if let Some(text) = plan {
        read.draft = Some(Draft::parse(text, read.convention).at("plan")?);
    }
    if read.draft.is_none() {
        return Err(Error::missing("flags", "plan", "a plan, as in `tp2 ep4 pp2 dp1 mb1`"));
    }
    Ok(read)
}

/// Lines priced together, to bound the memory of a long batch.
const CHUNK: usize = 4096;

fn batch(path: &str, args: &EstimateArgs) -> Result<Verdict> {
    // A line that is no text spoils itself alone.
    let text = String::from_utf8_lossy(&out::bytes(path)?).trim_start_matches('\u{feff}').to_owned();
    let lines: Vec<(usize, &str)> = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        return Err(flag_error("--batch", path, "at least one line with a job"));
    }
    let origin = if path == "-" { "stdin" } else { path };
    let mut all = String::new();
    let mut failed = false;
    for chunk in lines.chunks(CHUNK) {
        let answers: Vec<(String, bool)> =
            chunk.par_iter().map(|(at, line)| answer(&format!("{origin}:{}", at + 1), line)).collect();
        for (answer, bad) in answers {
            failed |= bad;
            all.push_str(&answer);
            all.push('\n');
        }
    }
    out::write(args.output.output.as_deref(), &all)?;
    Ok(Verdict::of(!failed))
}

/// One line's answer, and whether it was an error.
fn answer(origin: &str, line: &str) -> (String, bool) {
    // Read twice, so that a line that is no job is answered under its own id.
    let id = serde_json::from_str::<serde_json::Value>(line).ok().and_then(|v| v.get("id").cloned());
    let utf8 = if line.contains(char::REPLACEMENT_CHARACTER) {
        Err(Error::parse(origin, "", "the line is not UTF-8 text"))
    } else {
        Ok(())
    };
    let result = utf8.and_then(|()| JobFile::parse(origin, line)).and_then(|file| file.read(origin)).and_then(|read| {
        let draft =
            read.draft.ok_or_else(|| Error::missing(origin, "plan", "text as in `tp2 ep4 pp2 dp1`, or an object"))?;
        let assessment = assess(&read.job, read.framework, &draft);
        Ok(json::result(&read.job, read.convention, read.framework, read.id.as_ref(), &assessment, false))
    });
    match result {
        Ok(value) => (value.to_string(), false),
        Err(error) => (json::error(id.as_ref(), &error.to_string()).to_string(), true),
    }
}

fn table(read: &ReadJob, assessment: &crate::estimate::Assessment) -> String {
    let job = &read.job;
    let mut text = super::plan::heading(job);
    let resolution = &assessment.resolution;
    let _ = writeln!(text, "convention {}: {}", read.convention, read.convention.identity());
    let _ = writeln!(text, "{}\n", resolution.formula);
    for rejection in &resolution.rejections {
        let _ = writeln!(text, "rejected [{}]: {rejection} ({})", rejection.rule.id(), rejection.hint());
    }
    let (Some(plan), Some(estimate)) = (&resolution.plan, &assessment.estimate) else { return text };
    let purpose = if job.train().is_some() { Purpose::Train } else { Purpose::Serve };
    let _ = writeln!(text, "plan: {}", plan.text(plan.convention(read.convention), purpose));
    for warning in crate::explain::remarks(job, read.framework, plan, read.draft.as_ref(), estimate) {
        let _ = writeln!(text, "note: {warning}");
    }
    let m = &estimate.memory;
    let _ = writeln!(
        text,
        "\nmemory per GPU: {} of {} ({:.1}%), binding on stage {} of {}",
        m.ledger.bytes(),
        m.capacity,
        m.utilization() * 100.0,
        m.worst_stage,
        plan.mesh.pp()
    );
    let all = stages(job, read.convention, plan);
    let shown: Vec<usize> = if all.len() <= 8 { (0..all.len()).collect() } else { picked(all.len(), m.worst_stage) };
    let mut head = vec!["term".to_owned()];
    head.extend(shown.iter().map(|i| format!("stage {i}")));
    head.push("basis".to_owned());
    let mut rows: Vec<Vec<String>> = Vec::new();
    for term in MemoryTerm::ALL {
        if all.iter().all(|s| s.get(*term) <= 0.0) {
            continue;
        }
        let mut row = vec![term.key().to_owned()];
        row.extend(shown.iter().map(|i| Bytes::new(all[*i].get(*term)).to_string()));
        row.push(term.basis().name().to_owned());
        rows.push(row);
    }
    let mut total = vec!["total".to_owned()];
    total.extend(shown.iter().map(|i| all[*i].bytes().to_string()));
    total.push(String::new());
    rows.push(total);
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    text.push_str(&out::table(&head, &rows, &[0, head.len() - 1]));
    time_table(read, plan, estimate, &mut text);
    let rows: Vec<Vec<String>> = traffic(job, read.convention, plan)
        .iter()
        .map(|t| {
            vec![
                t.group.name().to_owned(),
                t.collective.name().to_owned(),
                format!("{} (stride {}, {} a node)", t.placed.size, t.ranks.stride(), t.members_per_node),
                t.placed.tier.name().to_owned(),
                Bytes::new(t.bytes).to_string(),
                crate::export::grouped(t.calls),
                Seconds::new(t.seconds).to_string(),
            ]
        })
        .collect();
    if !rows.is_empty() {
        let step = if job.train().is_some() { "optimiser step" } else { "decode step" };
        let _ = writeln!(text, "\ncommunication of one rank, per {step}");
        let head = ["group", "collective", "ranks", "link", "bytes a call", "calls", "time a call"];
        text.push_str(&out::table(&head, &rows, &[0, 1, 2, 3]));
    }
    text
}

/// First, second, worst, last but one and last of many stages.
fn picked(stages: usize, worst: u32) -> Vec<usize> {
    let mut shown = vec![0, 1, worst as usize, stages - 2, stages - 1];
    shown.sort_unstable();
    shown.dedup();
    shown
}

/// The conventions by name, in percent of the 16-bit dense peak.
pub(super) fn utilization(used: &Utilization) -> String {
    let percent = [used.mfu_causal, used.mfu_full, used.hfu_causal, used.hfu_full].map(|u| u * 100.0);
    format!(
        "MFU {:.1}% (causal attention), {:.1}% (full attention); HFU, with recomputation, {:.1}% (causal), {:.1}% (full)",
        percent[0], percent[1], percent[2], percent[3]
    )
}

pub(super) fn band_notes(bands: &[(&'static str, f64, Band)], text: &mut String) {
    for line in band_lines(bands) {
        let _ = writeln!(text, "{line}");
    }
}

fn time_table(read: &ReadJob, plan: &crate::plan::Plan, estimate: &crate::estimate::Estimate, text: &mut String) {
    let job = &read.job;
    let gpus = f64::from(plan.mesh.world());
    let bands = bands(job, read.framework, plan, estimate);
    match &estimate.time {
        Time::Train(step) => {
            let total = step.seconds();
            let flops = step.model_flops_per_gpu(job, plan.mesh.world());
            let _ = writeln!(
                text,
                "\nstep: {}, paced by stage {}; {} tokens/s/GPU, {:.0} TFLOP/s/GPU",
                banded(total, "step_time", &bands),
                step.slowest_stage,
                crate::export::grouped(step.tokens_per_s(job) / gpus),
                flops / 1e12,
            );
            let _ = writeln!(text, "{}", utilization(&Utilization::of(job, plan, step)));
            band_notes(&bands, text);
            text.push_str(&parts_table(&estimate.time));
        }
        Time::Serve(s) => {
            let _ = writeln!(
                text,
                "\nTTFT {} (steady {}, burst {}), TPOT {} (decode step {}); {:.1} tokens/s/user, {} output tokens/s/GPU",
                banded(Seconds::new(s.ttft_s), "ttft", &bands),
                Seconds::new(s.ttft_steady_s),
                Seconds::new(s.ttft_burst_s),
                banded(Seconds::new(s.tpot_s), "tpot", &bands),
                Seconds::new(s.decode_step_s),
                s.tokens_per_s_per_user,
                crate::export::grouped(s.output_tokens_per_s / gpus)
            );
            band_notes(&bands, text);
            text.push_str(&parts_table(&estimate.time));
            load_table(job, plan, estimate, text);
            let _ = writeln!(
                text,
                "KV cache: {} tokens a replica, {} in all; {} requests of this length at once",
                crate::export::grouped(s.kv_tokens_per_replica.floor()),
                crate::export::grouped(s.kv_capacity_tokens.floor()),
                crate::export::grouped(s.max_concurrency)
            );
        }
    }
}

/// What a time is made of.
fn parts_table(time: &Time) -> String {
    let parts = time.parts();
    let total: f64 = parts.iter().map(|part| part.seconds).sum();
    let rows: Vec<Vec<String>> = parts
        .iter()
        .filter(|part| part.seconds > 0.0)
        .map(|part| {
            let share = format!("{:.1}%", part.seconds / total * 100.0);
            vec![part.key.to_owned(), Seconds::new(part.seconds).to_string(), share, part.meaning.to_owned()]
        })
        .collect();
    let head = match time {
        Time::Train(_) => ["term", "time", "share", "what"],
        Time::Serve(_) => ["term of TPOT", "time", "share", "what"],
    };
    out::table(&head, &rows, &[0, 3])
}

/// The price of a GPU-hour.
fn price(job: &crate::job::Job) -> String {
    job.cluster.gpu.price.map_or_else(String::new, |p| format!("${:.2} a GPU-hour", p.get()))
}

/// What the load does: requests, percentiles, cost, and whether the KV cache is too full.
fn load_table(
    job: &crate::job::Job,
    plan: &crate::plan::Plan,
    estimate: &crate::estimate::Estimate,
    text: &mut String,
) {
    let load = &estimate.load;
    let _ = writeln!(
        text,
        "{:.2} requests/s, {} in flight; prefill takes {:.0}% of the busy time",
        load.requests_per_s,
        crate::export::grouped(estimate.service().map_or(0.0, |s| s.concurrency)),
        load.prefill_share * 100.0
    );
    let row = |name: &str, l: &crate::estimate::serve::Latency| {
        let cells = [l.mean, l.p50, l.p90, l.p95, l.p99].map(|s| Seconds::new(s).to_string());
        [vec![name.to_owned()], cells.to_vec()].concat()
    };
    let rows = [row("TTFT", &load.ttft), row("TPOT", &load.tpot)];
    text.push_str(&out::table(&["", "mean", "p50", "p90", "p95", "p99"], &rows, &[0]));
    if let Some((input, output)) = crate::rank::dollars_in_and_out(job, plan, estimate) {
        let _ = writeln!(text, "$/Mtok {input:.3} in, {output:.3} out, at {} (a guess unless given)", price(job));
    }
    if let Some(serve) = job.serve() {
        for line in super::plan::load_lines(serve) {
            let _ = writeln!(text, "{line}");
        }
    }
    if load.kv_pressure > 1.0 {
        let _ = writeln!(
            text,
            "the requests in flight need {:.0}% of the KV cache if all end together: some will be preempted or wait",
            load.kv_pressure * 100.0
        );
    }
}
