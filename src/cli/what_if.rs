//! `what-if`: the best plan at each of several GPU counts, GPU types or link speeds.

use super::args::{JobArgs, OutputArgs, SpaceArgs, objective, values};
use super::plan::Watched;
use super::{Verdict, flag_error, out};
use crate::catalog;
use crate::cluster::Cluster;
use crate::error::{Locate, Result};
use crate::export::{Format, SCHEMA, band_lines, bands, grouped, text};
use crate::import::job::ReadJob;
use crate::job::{Job, MOST_GPUS};
use crate::mesh::Convention;
use crate::plan::Purpose;
use crate::rank::{Row, dollars_per_million};
use crate::search::{Outcome, SearchOptions};
use crate::units::{BytesPerSec, Seconds};
use clap::Args;
use serde_json::{Value, json};
use std::fmt::Write as _;

#[derive(Debug, Args)]
pub(super) struct WhatIfArgs {
    #[command(flatten)]
    job: JobArgs,
    /// GPU counts: `8,16,32` or `8..=64`.
    #[arg(long)]
    gpus: Option<String>,
    /// GPU types or clusters, separated by commas; a bare GPU keeps the cluster's nodes.
    #[arg(long, value_name = "NAMES")]
    gpu_types: Option<String>,
    /// Network rates per NIC, separated by commas, as in `100 Gb/s,400 Gb/s`.
    #[arg(long, value_name = "RATES")]
    network: Option<String>,
    #[command(flatten)]
    space: SpaceArgs,
    /// throughput, latency, headroom, cost or balanced (default: throughput).
    #[arg(long)]
    objective: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

struct Case {
    label: String,
    read: ReadJob,
    /// The convention of its plans.
    convention: Convention,
    outcome: Outcome,
}

pub(super) fn run(args: &WhatIfArgs) -> Result<Verdict> {
    let format = args.output.format(&[Format::Table, Format::Json, Format::Jsonl, Format::Csv, Format::Markdown])?;
    args.output.set_threads()?;
    let read = args.job.read()?;
    let options = SearchOptions { objective: objective(args.objective.as_deref())?, top: 1, variants: 1 };
    let watched = Watched::new(false);
    let mut cases = Vec::new();
    for (label, cluster) in clusters(args, &read)? {
        let job = Job::new(read.job.model.clone(), cluster, read.job.workload).at("what-if")?;
        let mut case = ReadJob { job, ..read.clone() };
        case.draft = None;
        let mut space = args.space.options(&case)?;
        let mut outcome = watched.search(&case, &space, &options);
        if outcome.rows.is_empty() && !space.use_fewer {
            // Odd counts: the best plan that leaves some GPUs idle, which the table names.
            space.use_fewer = true;
            let fewer = watched.search(&case, &space, &options);
            if !fewer.rows.is_empty() {
                outcome = fewer;
            }
        }
        cases.push(Case { label, read: case, convention: space.convention(), outcome });
        if watched.stopped() {
            out::note(args.output.quiet, "stopped early: the rest of the cases is left out");
            break;
        }
    }
    let text = render(format, &cases);
    out::write(args.output.output.as_deref(), &text)?;
    Ok(Verdict::of(cases.iter().any(|c| !c.outcome.rows.is_empty())))
}

/// The clusters to try: every combination of counts, types and rates.
fn clusters(args: &WhatIfArgs, read: &ReadJob) -> Result<Vec<(String, Cluster)>> {
    let base = &read.job.cluster;
    let mut out: Vec<(String, Cluster)> = Vec::new();
    match &args.gpu_types {
        None => out.push((String::new(), base.clone())),
        Some(names) => {
            for name in names.split(',').map(str::trim) {
                let cluster = match catalog::gpu(name) {
                    Ok(gpu) => catalog::cluster(&format!("{}x{}", base.gpus(), gpu.name))?,
                    Err(_) => catalog::cluster(name)?,
                };
                out.push((cluster.gpu.name.clone(), cluster));
            }
        }
    }
    if let Some(rates) = &args.network {
        let mut wider = Vec::new();
        for (label, cluster) in &out {
            for rate in rates.split(',').map(str::trim) {
                let mut other = cluster.clone();
                other.network.bandwidth = BytesPerSec::parse(rate).at("--network")?;
                wider.push((format!("{label} {rate}").trim().to_owned(), other));
            }
        }
        out = wider;
    }
    if let Some(counts) = &args.gpus {
        let mut wider = Vec::new();
        for count in values("--gpus", counts)? {
            if count > MOST_GPUS {
                return Err(flag_error("--gpus", &count.to_string(), &format!("1 to {MOST_GPUS}")));
            }
            for (label, cluster) in &out {
                wider.push((label.clone(), cluster.resized(count)));
            }
        }
        out = wider;
    }
    Ok(out)
}

const HEAD: [&str; 10] = [
    "GPUs",
    "variant",
    "used",
    "idle",
    "best plan",
    "memory/GPU",
    "step or TPOT",
    "tokens/s, total",
    "vs linear",
    "$/Mtok",
];

fn render(format: Format, cases: &[Case]) -> String {
    match format {
        Format::Json => {
            let results: Vec<Value> = cases.iter().map(|c| json_case(c, cases)).collect();
            out::pretty(&json!({"schema": SCHEMA, "results": results}))
        }
        Format::Jsonl => cases.iter().map(|c| format!("{}\n", json_case(c, cases))).collect(),
        Format::Csv => {
            let mut text = String::new();
            let keys = [
                "gpus",
                "variant",
                "used",
                "idle",
                "plan",
                "memory",
                "time",
                "tokens_per_s",
                "vs_linear",
                "usd_per_mtok",
            ];
            text::push_record(&mut text, &keys.map(str::to_owned));
            for case in cases {
                text::push_record(&mut text, &cells(case, cases));
            }
            text
        }
        Format::Markdown => {
            let rows: Vec<Vec<String>> = cases.iter().map(|c| cells(c, cases)).collect();
            text::markdown_table(&HEAD, &rows)
        }
        Format::Table | Format::Html => {
            let rows: Vec<Vec<String>> = cases.iter().map(|c| cells(c, cases)).collect();
            let mut text = cases.first().map(|c| super::plan::heading(&c.read.job)).unwrap_or_default();
            text.push_str(&out::table(&HEAD, &rows, &[1, 4]));
            for line in band_notes(cases) {
                let _ = writeln!(text, "times {line}");
            }
            chart(cases, &mut text);
            text
        }
    }
}

/// What the bands of the cases' times mean, each once.
fn band_notes(cases: &[Case]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for (case, row) in cases.iter().filter_map(|c| c.outcome.rows.first().map(|row| (c, row))) {
        let bands = bands(&case.read.job, case.read.framework, &row.plan, &row.estimate);
        let shown: Vec<_> = bands.into_iter().filter(|(key, ..)| *key != "ttft").collect();
        for line in band_lines(&shown) {
            if !out.contains(&line) {
                out.push(line);
            }
        }
    }
    out
}

/// Tokens per second and GPU against the first case that fits.
fn against_linear(case: &Case, row: &Row, cases: &[Case]) -> Option<f64> {
    let rate = |c: &Case, r: &Row| r.estimate.tokens_per_s(&c.read.job) / f64::from(r.plan.mesh.world());
    let (first, base) = cases.iter().find_map(|c| c.outcome.rows.first().map(|r| (c, r)))?;
    Some(rate(case, row) / rate(first, base))
}

fn nearest_miss(case: &Case) -> String {
    let funnel = &case.outcome.funnel;
    let all = || funnel.plan_rules.iter().chain(&funnel.mesh_rules);
    let memory = all().find(|t| t.rule == crate::rules::Rule::Memory);
    let miss = memory.or_else(|| all().max_by_key(|t| t.refused)).and_then(|t| t.nearest);
    miss.map_or_else(|| "nothing fits".to_owned(), |(_, miss)| format!("nothing fits: {miss}"))
}

fn plan_text(case: &Case, row: &Row) -> String {
    let purpose = if case.read.job.train().is_some() { Purpose::Train } else { Purpose::Serve };
    row.plan.text(row.plan.convention(case.convention), purpose)
}

fn cells(case: &Case, cases: &[Case]) -> Vec<String> {
    let gpus = case.read.job.gpus();
    let mut out = vec![gpus.to_string(), case.label.clone()];
    match case.outcome.rows.first() {
        None => {
            out.extend(["0".to_owned(), gpus.to_string(), nearest_miss(case)]);
            out.extend(vec![String::new(); 5]);
        }
        Some(row) => {
            let used = row.plan.mesh.world();
            let m = &row.estimate.memory;
            let time = match &row.estimate.time {
                crate::estimate::Time::Train(step) => step.seconds(),
                crate::estimate::Time::Serve(s) => Seconds::new(s.tpot_s),
            };
            out.push(used.to_string());
            out.push((gpus - used).to_string());
            out.push(plan_text(case, row));
            out.push(format!("{} ({:.0}%)", m.ledger.bytes(), m.utilization() * 100.0));
            out.push(time.to_string());
            out.push(grouped(row.estimate.tokens_per_s(&case.read.job)));
            out.push(against_linear(case, row, cases).map_or_else(String::new, |e| format!("{:.0}%", e * 100.0)));
            let cost = dollars_per_million(&case.read.job, &row.plan, &row.estimate);
            out.push(cost.map_or_else(String::new, |c| format!("{c:.3}")));
        }
    }
    out
}

fn json_case(case: &Case, cases: &[Case]) -> Value {
    let gpus = case.read.job.gpus();
    match case.outcome.rows.first() {
        None => json!({
            "schema": SCHEMA, "gpus": gpus, "variant": case.label, "gpu": case.read.job.cluster.gpu.name,
            "verdict": "rejected", "used": 0, "idle": gpus, "nearest_miss": nearest_miss(case),
        }),
        Some(row) => json!({
            "schema": SCHEMA,
            "gpus": gpus,
            "variant": case.label,
            "gpu": case.read.job.cluster.gpu.name,
            "verdict": "fits",
            "used": row.plan.mesh.world(),
            "idle": gpus - row.plan.mesh.world(),
            "plan": plan_text(case, row),
            "formula": row.plan.convention(case.convention).formula(&row.plan.mesh),
            "memory_bytes": row.estimate.memory.ledger.total(),
            "utilization": row.estimate.memory.utilization(),
            "tokens_per_s": row.estimate.tokens_per_s(&case.read.job),
            "against_linear": against_linear(case, row, cases),
            "usd_per_million_tokens": dollars_per_million(&case.read.job, &row.plan, &row.estimate),
        }),
    }
}

/// Bars of tokens per second.
fn chart(cases: &[Case], text: &mut String) {
    let rate = |c: &Case| c.outcome.rows.first().map_or(0.0, |r| r.estimate.tokens_per_s(&c.read.job));
    let most = cases.iter().map(rate).fold(0.0, f64::max);
    if cases.len() < 2 || cases.len() > 64 || most <= 0.0 {
        return;
    }
    text.push_str("\ntokens/s, total\n");
    for case in cases {
        let bar = "#".repeat((rate(case) / most * 60.0).round() as usize);
        let label = format!("{} {}", case.read.job.gpus(), case.label);
        let _ = writeln!(text, "{:>24} {bar} {}", label.trim(), grouped(rate(case)));
    }
}
