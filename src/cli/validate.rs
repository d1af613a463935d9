//! `validate`: predicted against published measurements, with the error of every row.

use super::args::OutputArgs;
use super::{Verdict, out};
use crate::error::{Error, Result};
use crate::estimate::assess;
use crate::export::{Format, SCHEMA, text};
use crate::import::job::JobFile;
use clap::Args;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

#[derive(Debug, Args)]
pub(super) struct ValidateArgs {
    /// Every row, not only the error of each source.
    #[arg(long)]
    rows: bool,
    /// A file of measured rows instead of the built-in ones.
    #[arg(long, value_name = "FILE")]
    data: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// A file of measured rows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Measured {
    /// Where the rows come from and how they were chosen.
    source: Vec<String>,
    /// Models that are not built in, by the name rows use.
    #[serde(default)]
    models: Map<String, Value>,
    rows: Vec<MeasuredRow>,
}

/// One measured run.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MeasuredRow {
    id: String,
    source: String,
    #[serde(default)]
    step_time_s: Option<f64>,
    #[serde(default)]
    peak_bytes: Option<f64>,
    #[serde(default)]
    tpot_s: Option<f64>,
    #[serde(default)]
    ttft_s: Option<f64>,
    job: Value,
}

const BUILT_IN: [(&str, &str); 2] = [
    ("configs/validation/training.json", include_str!("../../configs/validation/training.json")),
    ("configs/validation/serving.json", include_str!("../../configs/validation/serving.json")),
];

/// A predicted figure beside a measured one.
struct Point {
    id: String,
    source: String,
    group: String,
    what: &'static str,
    measured: f64,
    predicted: f64,
}

impl Point {
    fn error(&self) -> f64 {
        self.predicted / self.measured - 1.0
    }
}

pub(super) fn run(args: &ValidateArgs) -> Result<Verdict> {
    let format = args.output.format(&[Format::Table, Format::Json, Format::Markdown, Format::Csv])?;
    let mut points = Vec::new();
    let mut sources = Vec::new();
    let own;
    let files: Vec<(&str, &str)> = match &args.data {
        Some(path) => {
            own = out::read(path)?;
            vec![(path.as_str(), own.as_str())]
        }
        None => BUILT_IN.to_vec(),
    };
    for (path, body) in files {
        let measured: Measured = crate::catalog::read::typed(path, body)?;
        sources.extend(measured.source.iter().cloned());
        for row in &measured.rows {
            price(path, row, &measured.models, &mut points)?;
        }
    }
    if points.is_empty() {
        return Err(Error::missing("--data", "rows", "at least one row with a measured figure"));
    }
    let text = render(format, args.rows, &points, &sources);
    out::write(args.output.output.as_deref(), &text)?;
    Ok(Verdict::Holds)
}

fn price(path: &str, row: &MeasuredRow, models: &Map<String, Value>, points: &mut Vec<Point>) -> Result<()> {
    let origin = format!("{path}: {}", row.id);
    let mut job = row.job.clone();
    if let Some(name) = job.get("model").and_then(Value::as_str)
        && let Some(model) = models.get(name)
    {
        job["model"] = model.clone();
    }
    let read = JobFile::parse(&origin, &job.to_string())?.read(&origin)?;
    let draft = read.draft.ok_or_else(|| Error::missing(&origin, "job.plan", "the plan that was measured"))?;
    let Some(estimate) = assess(&read.job, read.framework, &draft).estimate else {
        return Err(Error::invalid(&origin, "job.plan", "no mesh", "a plan whose grids exist"));
    };
    let group = row
        .id
        .split('/')
        .next()
        .filter(|_| row.id.contains('/'))
        .map_or_else(|| format!("serving, {}", read.convention.name()), |name| format!("training, {name}"));
    let mut add = |what, measured: Option<f64>, predicted: f64| {
        if let Some(measured) = measured {
            points.push(Point {
                id: row.id.clone(),
                source: row.source.clone(),
                group: group.clone(),
                what,
                measured,
                predicted,
            });
        }
    };
    if let Some(step) = estimate.step() {
        add("step time", row.step_time_s, step.seconds().get());
        add("peak memory", row.peak_bytes, estimate.memory.ledger.allocated().get());
    }
    if let Some(service) = estimate.service() {
        add("TPOT", row.tpot_s, service.tpot_s);
        add("TTFT", row.ttft_s, service.ttft_s);
    }
    Ok(())
}

/// Mean and median of the absolute error, and the median signed error.
struct Summary {
    rows: usize,
    mean: f64,
    median: f64,
    worst: f64,
    bias: f64,
}

fn summary(errors: &[f64]) -> Summary {
    let mut absolute: Vec<f64> = errors.iter().map(|e| e.abs()).collect();
    absolute.sort_by(f64::total_cmp);
    let mut signed = errors.to_vec();
    signed.sort_by(f64::total_cmp);
    let middle = errors.len() / 2;
    Summary {
        rows: errors.len(),
        mean: absolute.iter().sum::<f64>() / errors.len() as f64,
        median: absolute[middle],
        worst: absolute[errors.len() - 1],
        bias: signed[middle],
    }
}

fn groups(points: &[Point]) -> Vec<(String, &'static str, Summary)> {
    let mut keys: Vec<(&str, &'static str)> = Vec::new();
    for p in points {
        if !keys.contains(&(p.group.as_str(), p.what)) {
            keys.push((&p.group, p.what));
        }
    }
    keys.iter()
        .map(|(group, what)| {
            let errors: Vec<f64> =
                points.iter().filter(|p| p.group == *group && p.what == *what).map(Point::error).collect();
            ((*group).to_owned(), *what, summary(&errors))
        })
        .collect()
}

const GROUP_HEAD: [&str; 7] = ["rows of", "figure", "rows", "mean error", "median error", "worst", "bias (median)"];
const ROW_HEAD: [&str; 5] = ["row", "figure", "measured", "predicted", "error"];

fn render(format: Format, rows: bool, points: &[Point], sources: &[String]) -> String {
    let percent = |v: f64| format!("{:.1}%", v * 100.0);
    let signed = |v: f64| format!("{:+.1}%", v * 100.0);
    let group_rows: Vec<Vec<String>> = groups(points)
        .iter()
        .map(|(group, what, s)| {
            vec![
                group.clone(),
                (*what).to_owned(),
                s.rows.to_string(),
                percent(s.mean),
                percent(s.median),
                percent(s.worst),
                signed(s.bias),
            ]
        })
        .collect();
    let point_rows: Vec<Vec<String>> = points
        .iter()
        .map(|p| {
            let show = |v: f64| {
                if p.what == "peak memory" {
                    crate::units::Bytes::new(v).to_string()
                } else {
                    crate::units::Seconds::new(v).to_string()
                }
            };
            vec![p.id.clone(), p.what.to_owned(), show(p.measured), show(p.predicted), signed(p.error())]
        })
        .collect();
    match format {
        Format::Json => {
            let listed: Vec<Value> = points
                .iter()
                .map(|p| {
                    let unit = if p.what == "peak memory" { "bytes" } else { "s" };
                    json!({"id": p.id, "source": p.source, "figure": p.what, "unit": unit, "measured": p.measured,
                           "predicted": p.predicted, "error": p.error()})
                })
                .collect();
            let summaries: Vec<Value> = groups(points)
                .iter()
                .map(|(group, what, s)| {
                    json!({"rows_of": group, "figure": what, "rows": s.rows, "mean_error": s.mean,
                           "median_error": s.median, "worst_error": s.worst, "bias": s.bias})
                })
                .collect();
            out::pretty(&json!({"schema": SCHEMA, "source": sources, "summary": summaries, "rows": listed}))
        }
        Format::Csv => {
            let mut text = String::new();
            text::push_record(&mut text, &["id", "figure", "measured", "predicted", "error"].map(str::to_owned));
            for p in points {
                let numbers = [p.measured, p.predicted, p.error()].map(|v| v.to_string());
                let mut record = vec![p.id.clone(), p.what.to_owned()];
                record.extend(numbers);
                text::push_record(&mut text, &record);
            }
            text
        }
        Format::Markdown => {
            let mut text = String::from(
                "# Predicted against measured\n\nWritten by `meshwright validate --rows --format markdown`; do not edit.\n\n",
            );
            for source in sources {
                let _ = writeln!(text, "- {source}");
            }
            let _ = write!(text, "\n{}", text::markdown_table(&GROUP_HEAD, &group_rows));
            if rows {
                let _ = write!(text, "\n## Every row\n\n{}", text::markdown_table(&ROW_HEAD, &point_rows));
            }
            text
        }
        Format::Table | Format::Jsonl | Format::Html => {
            let mut text = out::table(&GROUP_HEAD, &group_rows, &[0, 1]);
            if rows {
                text.push('\n');
                text.push_str(&out::table(&ROW_HEAD, &point_rows, &[0, 1]));
            }
            text
        }
    }
}
