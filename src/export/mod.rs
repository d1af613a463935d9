//! Results for people and programs: one list of columns feeds the table, CSV, Markdown and HTML; JSON has its own form.

pub mod chart;
pub mod html;
pub mod json;
pub mod lint;
pub mod sweep;
pub mod text;
pub mod trace;
pub mod verify;

use crate::estimate::Estimate;
use crate::estimate::band::{self, Band};
use crate::estimate::serve::Latency;
use crate::explain;
use crate::framework::Framework;
use crate::goal;
use crate::job::{Arrivals, Job, Load, Percentile};
use crate::mesh::Convention;
use crate::plan::{Plan, Purpose};
use crate::rank::{self, Objective, Row};
use crate::search::{Outcome, StopReason};
use crate::units::{Bytes, Seconds};

/// The error bands of an estimate's times, from the built-in residuals: what it is called, seconds, band.
#[must_use]
pub fn bands(
    job: &Job,
    framework: Option<Framework>,
    plan: &Plan,
    estimate: &Estimate,
) -> Vec<(&'static str, f64, Band)> {
    band::bands(crate::catalog::residuals(), job, framework, plan, estimate)
}

/// A time with its band, as in `4.10 s +-12%`; `key` is a JSON key of [`bands`].
#[must_use]
pub fn banded(seconds: Seconds, key: &str, bands: &[(&'static str, f64, Band)]) -> String {
    let band = bands.iter().find(|(name, _, _)| *name == key);
    band.map_or_else(|| seconds.to_string(), |(_, _, band)| format!("{seconds} {band}"))
}

/// What the bands of an estimate mean, a line each.
#[must_use]
pub fn band_lines(bands: &[(&'static str, f64, Band)]) -> Vec<String> {
    bands.iter().map(|(_, _, band)| band.meaning()).collect()
}

/// The schema number of every JSON result.
pub const SCHEMA: u32 = 1;

/// Output formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Format {
    /// For a terminal.
    #[default]
    Table,
    /// One JSON value.
    Json,
    /// One JSON value a line.
    Jsonl,
    /// Comma-separated.
    Csv,
    /// A table to paste.
    Markdown,
    /// One self-contained page.
    Html,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 6] = [Self::Table, Self::Json, Self::Jsonl, Self::Csv, Self::Markdown, Self::Html];

    /// The name in flags.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Json => "json",
            Self::Jsonl => "jsonl",
            Self::Csv => "csv",
            Self::Markdown => "markdown",
            Self::Html => "html",
        }
    }
}

/// A ranking with what is needed to word it.
#[derive(Debug, Clone, Copy)]
pub struct Ranking<'a> {
    /// The job.
    pub job: &'a Job,
    /// The convention of the plans.
    pub convention: Convention,
    /// What was optimised.
    pub objective: Objective,
    /// What was found.
    pub outcome: &'a Outcome,
    /// Whether the rows are the frontier and not a ranking.
    pub pareto: bool,
    /// Whether every row has a load of its own: the job gave none.
    pub every_load: bool,
    /// A folded plan that beats the best product, if one was looked for and found.
    pub folded: Option<&'a Row>,
}

impl Ranking<'_> {
    /// Training or serving.
    #[must_use]
    pub const fn purpose(&self) -> Purpose {
        if self.job.train().is_some() { Purpose::Train } else { Purpose::Serve }
    }

    /// The job a row was priced for: its own load, when the rows are of several.
    #[must_use]
    pub fn job_of(&self, row: &Row) -> Job {
        let load = row.estimate.load.concurrency;
        goal::with_serve(self.job, |serve| {
            if self.every_load && serve.load == Load::InFlight {
                serve.concurrency = load;
            }
        })
    }
}

/// One column of a ranking.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Heading for people, unit and scope included; empty when the column is for programs alone.
    pub title: &'static str,
    /// Key for CSV, unit in the name.
    pub key: &'static str,
    /// The cell for people.
    pub show: fn(&Ranking<'_>, usize, &Row) -> String,
    /// The cell for programs: base units.
    pub value: fn(&Ranking<'_>, usize, &Row) -> String,
}

fn plan_text(r: &Ranking<'_>, row: &Row) -> String {
    let convention = row.plan.convention(r.convention);
    row.plan.text(convention, r.purpose())
}

fn number(value: f64) -> String {
    format!("{value}")
}

/// `12345.6` as `12,346`.
#[must_use]
pub fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(c);
    }
    if value < 0.0 { format!("-{out}") } else { out }
}

const RANK: Column = Column {
    title: "#",
    key: "rank",
    show: |r, i, row| {
        let tie = i > 0 && r.outcome.rows.first().is_some_and(|best| row.ties_with(best));
        format!("{}{}", i + 1, if tie { "=" } else { "" })
    },
    value: |_, i, _| (i + 1).to_string(),
};

const PLAN: Column =
    Column { title: "plan", key: "plan", show: |r, _, row| plan_text(r, row), value: |r, _, row| plan_text(r, row) };

const GPUS: Column = Column {
    title: "GPUs",
    key: "gpus",
    show: |_, _, row| row.plan.mesh.world().to_string(),
    value: |_, _, row| row.plan.mesh.world().to_string(),
};

const DPS: Column = Column {
    title: "DP attn/expert",
    key: "dp_attention",
    show: |r, _, row| {
        let m = &row.plan.mesh;
        if r.job.model.moe().is_some() {
            format!("{}/{}", m.dp_attention(), m.edp())
        } else {
            m.dp_attention().to_string()
        }
    },
    value: |_, _, row| row.plan.mesh.dp_attention().to_string(),
};

const MEMORY: Column = Column {
    title: "memory/GPU",
    key: "memory_bytes_per_gpu",
    show: |_, _, row| {
        let m = &row.estimate.memory;
        format!("{} ({:.0}%)", m.ledger.bytes(), m.utilization() * 100.0)
    },
    value: |_, _, row| number(row.estimate.memory.ledger.total()),
};

const WHY: Column = Column {
    title: "why",
    key: "why",
    show: |r, _, row| explain::reason(r.job, r.convention, &row.plan, &row.estimate),
    value: |r, _, row| explain::reason(r.job, r.convention, &row.plan, &row.estimate),
};

const COST: Column = Column {
    title: "$/Mtok (price is a guess)",
    key: "usd_per_million_tokens",
    show: |r, _, row| {
        rank::dollars_per_million(r.job, &row.plan, &row.estimate).map_or_else(String::new, |c| format!("{c:.3}"))
    },
    value: |r, _, row| rank::dollars_per_million(r.job, &row.plan, &row.estimate).map_or_else(String::new, number),
};

macro_rules! train_column {
    ($title:literal, $key:literal, |$r:ident, $row:ident, $step:ident| $show:expr, $value:expr) => {
        Column {
            title: $title,
            key: $key,
            show: |$r, _, $row| $row.estimate.step().map_or_else(String::new, |$step| $show),
            value: |$r, _, $row| $row.estimate.step().map_or_else(String::new, |$step| number($value)),
        }
    };
}

macro_rules! serve_column {
    ($title:literal, $key:literal, |$row:ident, $s:ident| $show:expr, $value:expr) => {
        Column {
            title: $title,
            key: $key,
            show: |_, _, $row| $row.estimate.service().map_or_else(String::new, |$s| $show),
            value: |_, _, $row| $row.estimate.service().map_or_else(String::new, |$s| number($value)),
        }
    };
}

/// The columns of a training ranking.
pub const TRAIN_COLUMNS: [Column; 10] = [
    RANK,
    PLAN,
    GPUS,
    DPS,
    MEMORY,
    train_column!("step", "step_time_s", |_r, row, step| step.seconds().to_string(), step.seconds().get()),
    train_column!(
        "tokens/s/GPU",
        "tokens_per_s_per_gpu",
        |r, row, step| grouped(step.tokens_per_s(r.job) / f64::from(row.plan.mesh.world())),
        step.tokens_per_s(r.job) / f64::from(row.plan.mesh.world())
    ),
    train_column!(
        "TFLOP/s/GPU (MFU)",
        "model_flops_per_gpu",
        |r, row, step| {
            let flops = step.model_flops_per_gpu(r.job, row.plan.mesh.world());
            format!("{:.0} ({:.0}%)", flops / 1e12, flops / r.job.cluster.gpu.peak16().get() * 100.0)
        },
        step.model_flops_per_gpu(r.job, row.plan.mesh.world())
    ),
    COST,
    WHY,
];

/// A column of CSV alone: people get its figure in another.
const fn for_programs(key: &'static str, value: fn(&Ranking<'_>, usize, &Row) -> String) -> Column {
    Column { title: "", key, show: |_, _, _| String::new(), value }
}

/// The columns of a serving ranking.
pub const SERVE_COLUMNS: [Column; 20] = [
    RANK,
    PLAN,
    GPUS,
    Column {
        title: "replicas x GPUs",
        key: "replicas",
        show: |_, _, row| {
            let replicas = row.plan.knobs.replicas;
            format!("{replicas} x {}", row.plan.mesh.world() / replicas)
        },
        value: |_, _, row| row.plan.knobs.replicas.to_string(),
    },
    DPS,
    MEMORY,
    Column {
        title: "in flight",
        key: "concurrency",
        show: |_, _, row| row.estimate.service().map_or_else(String::new, |s| grouped(s.concurrency)),
        value: |_, _, row| row.estimate.service().map_or_else(String::new, |s| number(s.concurrency)),
    },
    Column {
        title: "requests/s",
        key: "requests_per_s",
        show: |_, _, row| format!("{:.2}", row.estimate.load.requests_per_s),
        value: |_, _, row| number(row.estimate.load.requests_per_s),
    },
    Column {
        title: "TTFT",
        key: "ttft_s",
        show: |r, _, row| latency(r, &row.estimate.load.ttft),
        value: |_, _, row| number(row.estimate.load.ttft.mean),
    },
    Column {
        title: "TPOT",
        key: "tpot_s",
        show: |r, _, row| latency(r, &row.estimate.load.tpot),
        value: |_, _, row| number(row.estimate.load.tpot.mean),
    },
    serve_column!(
        "out tokens/s/GPU",
        "output_tokens_per_s_per_gpu",
        |row, s| grouped(s.output_tokens_per_s / f64::from(row.plan.mesh.world())),
        s.output_tokens_per_s / f64::from(row.plan.mesh.world())
    ),
    serve_column!(
        "tokens/s/user",
        "tokens_per_s_per_user",
        |row, s| format!("{:.1}", s.tokens_per_s_per_user),
        s.tokens_per_s_per_user
    ),
    serve_column!(
        "KV tokens, total",
        "kv_capacity_tokens",
        |row, s| grouped(s.kv_capacity_tokens),
        s.kv_capacity_tokens.floor()
    ),
    Column {
        title: "$/Mtok in, out (price is a guess)",
        key: "usd_per_million_tokens",
        show: |r, _, row| {
            let split = rank::dollars_in_and_out(r.job, &row.plan, &row.estimate);
            split.map_or_else(String::new, |(input, output)| format!("{input:.3}, {output:.3}"))
        },
        value: COST.value,
    },
    WHY,
    for_programs("usd_per_million_input_tokens", |r, _, row| {
        rank::dollars_in_and_out(r.job, &row.plan, &row.estimate).map_or_else(String::new, |split| number(split.0))
    }),
    for_programs("usd_per_million_output_tokens", |r, _, row| {
        rank::dollars_in_and_out(r.job, &row.plan, &row.estimate).map_or_else(String::new, |split| number(split.1))
    }),
    for_programs("ttft_p95_s", |_, _, row| number(row.estimate.load.ttft.p95)),
    for_programs("tpot_p95_s", |_, _, row| number(row.estimate.load.tpot.p95)),
    for_programs("pareto", |r, _, row| r.outcome.frontier.contains(row).to_string()),
];

/// A latency for people: the mean, and where arrivals are random or a percentile is the target, that percentile (95 unless
/// another is asked for).
fn latency(r: &Ranking<'_>, latency: &Latency) -> String {
    let mean = Seconds::new(latency.mean);
    let Some(serve) = r.job.serve() else { return mean.to_string() };
    let which = match (serve.percentile, serve.arrivals) {
        (Percentile::Mean, Arrivals::Steady | Arrivals::Burst10x) => return mean.to_string(),
        (Percentile::Mean, Arrivals::Poisson) => Percentile::P95,
        (asked @ (Percentile::P50 | Percentile::P90 | Percentile::P95 | Percentile::P99), _) => asked,
    };
    format!("{mean}, {} {}", which.name(), Seconds::new(latency.at(which)))
}

/// The columns of a ranking.
#[must_use]
pub fn columns(job: &Job) -> &'static [Column] {
    if job.train().is_some() { &TRAIN_COLUMNS } else { &SERVE_COLUMNS }
}

/// Where the time of a row goes, for bars and reports: name and seconds.
#[must_use]
pub fn time_terms(row: &Row) -> Vec<(&'static str, f64)> {
    row.estimate.time.parts().iter().map(|part| (part.key, part.seconds)).collect()
}

/// What memory holds, for bars and reports: name and bytes, empty terms left out.
#[must_use]
pub fn memory_terms(row: &Row) -> Vec<(&'static str, Bytes)> {
    use crate::cost::{MemoryTerm, Term};
    let ledger = &row.estimate.memory.ledger;
    let terms = MemoryTerm::ALL.iter().map(|t| (t.key(), Bytes::new(ledger.get(*t))));
    terms.filter(|(_, bytes)| bytes.get() > 0.0).collect()
}

/// What a frontier trades: keys of the two, and both in words.
#[must_use]
pub fn traded(job: &Job) -> (&'static str, &'static str, &'static str) {
    if job.train().is_some() {
        ("tokens_per_s_per_gpu", "memory_headroom", "tokens/s/GPU against share of memory left")
    } else {
        ("tokens_per_s_per_gpu", "tokens_per_s_per_user", "tokens/s/GPU against tokens/s/user")
    }
}

/// The Pareto frontier, drawn: the second thing traded across, tokens per second and GPU up.
#[must_use]
pub fn frontier_chart(r: &Ranking<'_>) -> chart::Chart {
    let points = r.outcome.frontier.iter().map(|row| {
        let (speed, other) = rank::trade(r.job, row);
        let label = match row.estimate.service() {
            Some(service) if r.every_load => {
                format!("{}, {} in flight", plan_text(r, row), grouped(service.concurrency))
            }
            Some(_) | None => plan_text(r, row),
        };
        chart::Point { x: other, y: speed, label }
    });
    let series = chart::Series { name: String::new(), mark: None, joined: true, points: points.collect() };
    let (x, y) = if r.job.train().is_some() {
        ("share of the GPU's memory left", "tokens/s/GPU")
    } else {
        ("tokens/s/user", "output tokens/s/GPU")
    };
    chart::Chart { x: x.to_owned(), y: y.to_owned(), series: vec![series] }
}

/// `1 plan`, `1,204 plans`.
fn counted(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count as f64), if count == 1 { "" } else { "s" })
}

/// The lines under a ranking: how many plans, after which rule, what was nearest.
#[must_use]
pub fn funnel_lines(r: &Ranking<'_>) -> Vec<String> {
    let funnel = &r.outcome.funnel;
    let mut out = vec![format!(
        "{} of {} over TP, EP, PP, DP; {}, {} with knobs",
        counted(r.outcome.factorisations, "factorisation"),
        counted(u64::from(r.job.gpus()), "GPU"),
        if funnel.meshes == 1 { "1 mesh".to_owned() } else { format!("{} meshes", grouped(funnel.meshes as f64)) },
        counted(r.outcome.plans, "plan")
    )];
    let stopped = match r.outcome.stop {
        StopReason::Exhausted => None,
        StopReason::Interrupted => Some("stopped early"),
        StopReason::TimeLimit => Some("time limit reached"),
    };
    if let Some(why) = stopped {
        let share = r.outcome.share() * 100.0;
        out.push(format!("{why}: {share:.1}% of the plans were covered, and only they are counted and ranked"));
    }
    let mut before = funnel.meshes;
    let describe = |tally: &crate::search::Tally, before: u64, of: &str| {
        let nearest = tally.nearest.map_or_else(String::new, |(plan, miss)| {
            let convention = plan.convention(r.convention);
            let hint = if matches!(miss.rule, crate::rules::Rule::Memory | crate::rules::Rule::KvCapacity) {
                String::new()
            } else {
                format!("; {}", miss.hint())
            };
            format!("   nearest: {}: {miss}{hint}", plan.text(convention, r.purpose()))
        });
        format!(
            "  {:<22} {:>9} -> {:>9} {of}{nearest}",
            tally.rule.id(),
            grouped(before as f64),
            grouped(tally.left as f64)
        )
    };
    for tally in &funnel.mesh_rules {
        out.push(describe(tally, before, "meshes"));
        before = tally.left;
    }
    before = funnel.plans;
    for tally in &funnel.plan_rules {
        out.push(describe(tally, before, "plans"));
        before = tally.left;
    }
    out
}
