//! `validate`: predicted against published measurements: error tables, order of layouts, every row.

use super::args::OutputArgs;
use super::{Verdict, out};
use crate::error::{Error, Result};
use crate::estimate::assess;
use crate::estimate::band::{Figure, kinds};
use crate::export::{Format, SCHEMA, text};
use crate::import::job::JobFile;
use crate::units::{Bytes, Seconds};
use crate::validate::{Dimension, Order, Point, Summary, nodes, orders, residuals, table};
use clap::Args;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

#[derive(Debug, Args)]
pub(super) struct ValidateArgs {
    /// Every row, not only tables.
    #[arg(long)]
    rows: bool,
    /// Only the table that error bands are read from, as JSON: by kind of run, how many and how far off most of them were.
    #[arg(long, conflicts_with = "rows")]
    residuals: bool,
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
    /// How the rows were chosen and what to know about them.
    #[serde(alias = "source")]
    notes: Vec<String>,
    /// Publications, by the first word of a row's source.
    #[serde(default)]
    sources: Map<String, Value>,
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
    /// Runs that differ in their layout only.
    #[serde(default)]
    group: String,
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

/// What there is to say: points, and the notes of their files.
struct Validation {
    points: Vec<Point>,
    notes: Vec<String>,
}

pub(super) fn run(args: &ValidateArgs) -> Result<Verdict> {
    let format = args.output.format(&[Format::Table, Format::Json, Format::Markdown, Format::Csv])?;
    let mut all = Validation { points: Vec::new(), notes: Vec::new() };
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
        all.notes.extend(measured.notes.iter().cloned());
        for row in &measured.rows {
            price(path, row, &measured, &mut all.points)?;
        }
    }
    if all.points.is_empty() {
        return Err(Error::missing("--data", "rows", "at least one row with a measured figure"));
    }
    let text = if args.residuals { residual_table(&all.points) } else { render(format, args.rows, &all) };
    out::write(args.output.output.as_deref(), &text)?;
    Ok(Verdict::Holds)
}

fn price(path: &str, row: &MeasuredRow, measured: &Measured, points: &mut Vec<Point>) -> Result<()> {
    let origin = format!("{path}: {}", row.id);
    let mut job = row.job.clone();
    if let Some(name) = job.get("model").and_then(Value::as_str)
        && let Some(model) = measured.models.get(name)
    {
        job["model"] = model.clone();
    }
    let read = JobFile::parse(&origin, &job.to_string())?.read(&origin)?;
    let draft = read.draft.ok_or_else(|| Error::missing(&origin, "job.plan", "the plan that was measured"))?;
    let assessment = assess(&read.job, read.framework, &draft);
    let (Some(plan), Some(estimate)) = (&assessment.resolution.plan, &assessment.estimate) else {
        return Err(Error::invalid(&origin, "job.plan", "no mesh", "a plan whose grids exist"));
    };
    let job = &read.job;
    // The publisher is the first part of an id; serving points go by their engine.
    let (of, precision) = match (job.train(), job.serve()) {
        (Some(train), _) => {
            (row.id.split_once('/').map_or("own", |(first, _)| first), train.precision.name().to_owned())
        }
        (None, Some(serve)) => (read.convention.name(), serve.quant.format.name().to_owned()),
        (None, None) => (read.convention.name(), String::new()),
    };
    let model = if job.model.moe().is_some() { "mixture of experts" } else { "dense" };
    let labels =
        [of.to_owned(), job.cluster.gpu.name.clone(), precision, nodes(job.cluster.nodes).to_owned(), model.to_owned()];
    let (key, at) = row.source.split_once(' ').unwrap_or((row.source.as_str(), ""));
    let source = match measured.sources.get(key).and_then(Value::as_str) {
        Some(publication) if at.is_empty() => publication.to_owned(),
        Some(publication) if at.starts_with('#') => format!("{publication}{at}"),
        Some(publication) => format!("{publication}, {at}"),
        None => row.source.clone(),
    };
    let mut add = |figure, measured: Option<f64>, predicted: f64| -> Result<()> {
        let Some(measured) = measured else { return Ok(()) };
        if !(measured.is_finite() && measured > 0.0) {
            let key = figure_key(figure);
            return Err(Error::invalid(&origin, key, measured, "a number above 0, in seconds or bytes"));
        }
        points.push(Point {
            id: row.id.clone(),
            source: source.clone(),
            group: row.group.clone(),
            figure,
            measured,
            predicted,
            labels: labels.clone(),
            kinds: kinds(job, read.framework, plan, figure),
        });
        Ok(())
    };
    if let Some(step) = estimate.step() {
        add(Figure::StepTime, row.step_time_s, step.seconds().get())?;
        add(Figure::PeakMemory, row.peak_bytes, estimate.memory.ledger.allocated().get())?;
    }
    if let Some(service) = estimate.service() {
        add(Figure::Tpot, row.tpot_s, service.tpot_s)?;
        add(Figure::Ttft, row.ttft_s, service.ttft_s)?;
    }
    Ok(())
}

const fn figure_key(figure: Figure) -> &'static str {
    match figure {
        Figure::StepTime => "step_time_s",
        Figure::PeakMemory => "peak_bytes",
        Figure::Tpot => "tpot_s",
        Figure::Ttft => "ttft_s",
    }
}

/// `configs/validation/residuals.json`: a line a kind, `[runs, off]`.
fn residual_table(points: &[Point]) -> String {
    let lines: Vec<String> =
        residuals(points).iter().map(|(kind, r)| format!("  {}: [{}, {}]", json!(kind), r.rows, r.off)).collect();
    format!("{{\n{}\n}}\n", lines.join(",\n"))
}

const HEAD: [&str; 8] = ["rows of", "figure", "rows", "mean error", "median", "p90", "worst", "bias (median)"];
const ORDER_HEAD: [&str; 7] =
    ["rows of", "figure", "groups", "pairs", "in the right order", "first choice loses", "at worst"];
const ROW_HEAD: [&str; 6] = ["row", "figure", "measured", "predicted", "error", "source"];

fn percent(value: f64) -> String {
    format!("{:.1}%", value * 100.0)
}

fn signed(value: f64) -> String {
    format!("{:+.1}%", value * 100.0)
}

fn cells((label, figure, s): &(String, Figure, Summary)) -> Vec<String> {
    let errors = [s.mean, s.median, s.p90, s.worst].map(percent);
    let mut out = vec![label.clone(), figure.name().to_owned(), s.rows.to_string()];
    out.extend(errors);
    out.push(signed(s.bias));
    out
}

fn order_cells(o: &Order) -> Vec<String> {
    let right = o.right as f64 / o.pairs.max(1) as f64;
    vec![
        o.source.clone(),
        o.figure.name().to_owned(),
        o.groups.to_string(),
        o.pairs.to_string(),
        percent(right),
        percent(o.loss),
        percent(o.worst),
    ]
}

fn row_cells(p: &Point) -> Vec<String> {
    let show = |v: f64| match p.figure {
        Figure::PeakMemory => Bytes::new(v).to_string(),
        Figure::StepTime | Figure::Tpot | Figure::Ttft => Seconds::new(v).to_string(),
    };
    let figure = p.figure.name().to_owned();
    vec![p.id.clone(), figure, show(p.measured), show(p.predicted), signed(p.error()), p.source.clone()]
}

/// A table: title, heading, lines.
type Titled = (String, Vec<&'static str>, Vec<Vec<String>>);

/// Tables with their titles: errors by each dimension, then the order of layouts.
fn tables(points: &[Point]) -> Vec<Titled> {
    let mut out: Vec<Titled> = Dimension::ALL
        .iter()
        .map(|by| {
            let title = match by {
                Dimension::Source => "Errors by source and engine".to_owned(),
                Dimension::Gpu | Dimension::Precision | Dimension::Nodes | Dimension::Model => {
                    format!("Errors by {}", by.name())
                }
            };
            (title, HEAD.to_vec(), table(points, *by).iter().map(cells).collect())
        })
        .collect();
    let orders: Vec<Vec<String>> = orders(points).iter().map(order_cells).collect();
    if !orders.is_empty() {
        let title = "Order of layouts of the same model, GPUs and load (pairs over 5% apart)".to_owned();
        out.push((title, ORDER_HEAD.to_vec(), orders));
    }
    out
}

fn render(format: Format, rows: bool, all: &Validation) -> String {
    let points = &all.points;
    match format {
        Format::Json => json_of(all),
        Format::Csv => {
            let mut text = String::new();
            let head = [
                "id",
                "figure",
                "measured",
                "predicted",
                "error",
                "gpu",
                "precision",
                "nodes",
                "model",
                "group",
                "source",
            ];
            text::push_record(&mut text, &head.map(str::to_owned));
            for p in points {
                let numbers = [p.measured, p.predicted, p.error()].map(|v| v.to_string());
                let mut record = vec![p.id.clone(), p.figure.name().to_owned()];
                record.extend(numbers);
                record.extend(p.labels[1..].iter().cloned());
                record.extend([p.group.clone(), p.source.clone()]);
                text::push_record(&mut text, &record);
            }
            text
        }
        Format::Markdown => {
            let mut text = String::from(
                "# Predicted against measured\n\nWritten by `meshwright validate --rows --format markdown`; do not edit. Errors are shares of the \
                 measured figure.\n\n",
            );
            for note in &all.notes {
                let _ = writeln!(text, "- {note}");
            }
            for (title, head, lines) in tables(points) {
                let _ = write!(text, "\n## {title}\n\n{}", text::markdown_table(&head, &lines));
            }
            if rows {
                let lines: Vec<Vec<String>> = points.iter().map(row_cells).collect();
                let _ = write!(text, "\n## Every row\n\n{}", text::markdown_table(&ROW_HEAD, &lines));
            }
            text
        }
        Format::Table | Format::Jsonl | Format::Html => {
            let mut parts: Vec<String> = tables(points)
                .iter()
                .map(|(title, head, lines)| format!("{title}\n{}", out::table(head, lines, &[0, 1])))
                .collect();
            if rows {
                let lines: Vec<Vec<String>> = points.iter().map(row_cells).collect();
                parts.push(format!("Every row\n{}", out::table(&ROW_HEAD, &lines, &[0, 1, 5])));
            }
            parts.join("\n")
        }
    }
}

fn json_of(all: &Validation) -> String {
    let listed: Vec<Value> = all
        .points
        .iter()
        .map(|p| {
            let unit = if p.figure == Figure::PeakMemory { "bytes" } else { "s" };
            json!({"id": p.id, "source": p.source, "figure": p.figure.name(), "unit": unit, "measured": p.measured,
                   "predicted": p.predicted, "error": p.error(), "gpu": p.labels[1], "precision": p.labels[2],
                   "nodes": p.labels[3], "model": p.labels[4], "group": p.group})
        })
        .collect();
    let summaries: Vec<Value> = Dimension::ALL
        .iter()
        .flat_map(|by| table(&all.points, *by).into_iter().map(move |line| (by, line)))
        .map(|(by, (label, figure, s))| {
            json!({"by": by.name().to_lowercase(), "rows_of": label, "figure": figure.name(), "rows": s.rows,
                   "mean_error": s.mean, "median_error": s.median, "p90_error": s.p90, "worst_error": s.worst,
                   "bias": s.bias})
        })
        .collect();
    let orders: Vec<Value> = orders(&all.points)
        .iter()
        .map(|o| {
            json!({"rows_of": o.source, "figure": o.figure.name(), "groups": o.groups, "pairs": o.pairs,
                   "pairs_in_order": o.right, "first_choice_loses": o.loss, "first_choice_loses_at_worst": o.worst})
        })
        .collect();
    out::pretty(&json!({"schema": SCHEMA, "source": all.notes, "summary": summaries, "order": orders, "rows": listed}))
}
