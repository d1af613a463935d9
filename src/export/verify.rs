//! The verdict on written plans, for people and for programs.

use super::{SCHEMA, lint, text::markdown_table};
use crate::framework::Framework;
use crate::import::verify::{Checked, VerifyOutcome};
use crate::mesh::Convention;
use crate::verify::{Finding, Fix, Reading, Verdict};
use serde_json::{Map, Value, json};

/// Output formats of a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum VerifyFormat {
    /// For a terminal.
    #[default]
    Table,
    /// One JSON value: an object for a file, an array for several.
    Json,
    /// One JSON object a file and line.
    Jsonl,
    /// SARIF 2.1.0, for code review.
    Sarif,
    /// JUnit XML, for CI.
    Junit,
    /// To paste.
    Markdown,
}

impl VerifyFormat {
    /// Every format.
    pub const ALL: [Self; 6] = [Self::Table, Self::Json, Self::Jsonl, Self::Sarif, Self::Junit, Self::Markdown];

    /// The name in flags.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Json => "json",
            Self::Jsonl => "jsonl",
            Self::Sarif => "sarif",
            Self::Junit => "junit",
            Self::Markdown => "markdown",
        }
    }
}

/// Everything that was checked, in a format; ends with a line break.
#[must_use]
pub fn render(outcome: &VerifyOutcome, format: VerifyFormat) -> String {
    match format {
        VerifyFormat::Table => text(outcome),
        VerifyFormat::Json => {
            let value = match outcome.files.as_slice() {
                [one] if !outcome.many => file(one),
                files => files.iter().map(file).collect(),
            };
            format!("{value:#}\n")
        }
        VerifyFormat::Jsonl => outcome.files.iter().map(|f| format!("{}\n", file(f))).collect(),
        VerifyFormat::Sarif => format!("{:#}\n", lint::sarif(outcome)),
        VerifyFormat::Junit => lint::junit(outcome),
        VerifyFormat::Markdown => markdown(outcome),
    }
}

/// The verdict on one file as JSON.
#[must_use]
pub fn file(checked: &Checked) -> Value {
    match &checked.result {
        Ok(verdict) => json(&checked.file, verdict),
        Err(error) => json!({
            "schema": SCHEMA, "file": checked.file, "holds": false, "error": error.to_string(),
            "violations": [{"rule": "unreadable", "message": error.to_string(), "claimed": null, "actual": null, "line": null}],
        }),
    }
}

/// A verdict as JSON.
#[must_use]
pub fn json(name: &str, verdict: &Verdict) -> Value {
    let g = &verdict.gpus;
    let share = g.available.filter(|w| *w > 0).map(|w| g.needed as f64 / w as f64);
    let readings = verdict.readings.iter().map(|r| (r.convention.name().to_owned(), reading(r)));
    json!({
        "schema": SCHEMA,
        "file": name,
        "holds": verdict.holds(),
        "plan": verdict.plan,
        "convention": verdict.convention.name(),
        "convention_named": verdict.named,
        "gpus": {
            "available": g.available, "needed": g.needed, "formula": g.formula,
            "share": share, "short": g.short, "idle": g.idle,
        },
        "violations": verdict.violations().map(finding).collect::<Vec<_>>(),
        "notes": verdict.notes().map(finding).collect::<Vec<_>>(),
        "by_framework": readings.collect::<Map<_, _>>(),
        "fixes": verdict.fixes.iter().map(fix).collect::<Vec<_>>(),
    })
}

/// A number without a fraction that it does not have.
fn number(value: Option<f64>) -> Value {
    match value {
        Some(v) if v.fract() == 0.0 && v.abs() < 9e15 => Value::from(v as i64),
        Some(v) => serde_json::Number::from_f64(v).map_or(Value::Null, Value::Number),
        None => Value::Null,
    }
}

fn finding(f: &Finding) -> Value {
    let mut out = Map::new();
    out.insert("rule".into(), f.rule.into());
    out.insert("severity".into(), f.severity.name().into());
    out.insert("message".into(), f.message.clone().into());
    out.insert("claimed".into(), number(f.claimed));
    out.insert("actual".into(), number(f.actual));
    if !f.unit.is_empty() {
        out.insert("unit".into(), f.unit.into());
    }
    out.insert("line".into(), if f.line > 0 { f.line.into() } else { Value::Null });
    if let Some(fix) = &f.fix {
        out.insert("fix".into(), fix.clone().into());
    }
    if let Some(source) = f.asked_by.filter(|source| source.framework.is_some()) {
        out.insert("asked_by".into(), asked_by(&source).into());
    }
    Value::Object(out)
}

fn asked_by(source: &crate::rules::Source) -> String {
    match source.framework {
        Some(framework) => format!("{framework} {}: {}", source.version, source.place),
        None => source.place.to_owned(),
    }
}

fn reading(r: &Reading) -> Value {
    json!({
        "holds": r.holds(), "needed": r.needed, "formula": r.formula, "why": r.why(),
        "identity": r.convention.identity(), "dp": r.dp, "idle": r.idle,
    })
}

fn fix(f: &Fix) -> Value {
    json!({
        "change": f.change, "plan": f.plan, "convention": f.convention.name(), "gpus": f.gpus, "holds": true,
        "changed": f.changed, "note": f.note,
    })
}

/// The title of a convention: its framework's, or its own name.
fn title(convention: Convention) -> &'static str {
    Framework::of(convention).map_or("product", Framework::title)
}

/// Text of one line: control characters would let a document write on the terminal.
pub(super) fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn text(outcome: &VerifyOutcome) -> String {
    match outcome.files.as_slice() {
        [one] if !outcome.many => match &one.result {
            Ok(verdict) => full(&one.file, verdict),
            Err(error) => format!("{error}\n"),
        },
        files => {
            let mut out = String::new();
            for checked in files {
                out.push_str(&summary(checked));
                out.push('\n');
            }
            let failing = files.iter().filter(|f| !f.holds()).count();
            out.push_str(&format!("{} checked, {failing} fail", files.len()));
            if !outcome.skipped.is_empty() {
                out.push_str(&format!("; {} skipped:\n", outcome.skipped.len()));
                for (name, why) in &outcome.skipped {
                    out.push_str(&format!("  {}: {}\n", line(name), line(why)));
                }
            } else {
                out.push('\n');
            }
            out
        }
    }
}

/// One line: path, verdict, first reason.
fn summary(checked: &Checked) -> String {
    let name = line(&checked.file);
    match &checked.result {
        Err(error) => format!("{name}: FAILS: {error}"),
        Ok(verdict) => match verdict.violations().next() {
            None => format!("{name}: holds ({}): {}", title(verdict.convention), line(&verdict.gpus.formula)),
            Some(first) => {
                let count = verdict.violations().count();
                let more = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
                format!("{name}: FAILS: {}: {}{more}", first.rule, line(&first.message))
            }
        },
    }
}

/// The heading of a verdict: whether it holds, how it was read, its GPUs.
fn heading(name: &str, v: &Verdict) -> Vec<String> {
    let word = if v.holds() { "holds" } else { "FAILS" };
    let by = if v.named { "" } else { ", as none is named" };
    let mut out = vec![format!("{}: {word} ({} convention{by})", line(name), v.convention)];
    out.push(format!("read as {}", v.plan));
    let g = &v.gpus;
    let rest = match g.available {
        None => "nobody says how many there are".to_owned(),
        Some(w) if g.short > 0 => {
            format!("{:.0}% of the {w} available, {} short", g.needed as f64 * 100.0 / w as f64, g.short)
        }
        Some(w) if g.idle > 0 => format!("{w} available, {} idle", g.idle),
        Some(w) => format!("{w} available, all used"),
    };
    out.push(format!("needs {} GPUs: {}; {rest}", g.needed, g.formula));
    out
}

fn place(f: &Finding) -> String {
    if f.line > 0 { format!("line {}", f.line) } else { String::new() }
}

/// What was found, as cells: line, rule, message with its fix.
fn finding_rows<'a>(findings: impl Iterator<Item = &'a Finding>) -> Vec<Vec<String>> {
    findings
        .map(|f| {
            let fix = f.fix.as_ref().map(|fix| format!("; write: {fix}")).unwrap_or_default();
            let fix = if f.message.contains(fix.trim_start_matches("; write: ")) { String::new() } else { fix };
            let asked = f.asked_by.filter(|s| s.framework.is_some()).map(|s| format!(" [{}]", asked_by(&s)));
            vec![
                place(f),
                f.rule.to_owned(),
                format!("{}{}{}", line(&f.message), line(&fix), asked.unwrap_or_default()),
            ]
        })
        .collect()
}

fn reading_rows(v: &Verdict) -> Vec<Vec<String>> {
    v.readings
        .iter()
        .map(|r| {
            let verdict = if r.holds() { "holds" } else { "no" };
            vec![title(r.convention).to_owned(), verdict.to_owned(), r.needed.to_string(), line(&r.why())]
        })
        .collect()
}

fn fix_rows(v: &Verdict) -> Vec<Vec<String>> {
    let cell = |f: &Fix| {
        let own = if f.convention == v.convention { String::new() } else { format!("{}: ", title(f.convention)) };
        vec![format!("{own}{}", f.change), f.plan.clone(), f.gpus.to_string(), f.note.clone()]
    };
    v.fixes.iter().map(cell).collect()
}

/// Cells in columns; the last one runs on.
fn columns(rows: &[Vec<String>], out: &mut String) {
    let count = rows.first().map_or(0, Vec::len);
    let width = |at: usize| rows.iter().filter_map(|r| r.get(at)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count.saturating_sub(1)).map(width).collect();
    for row in rows {
        let mut text = String::from(" ");
        for (at, cell) in row.iter().enumerate() {
            match widths.get(at) {
                Some(0) => {}
                Some(width) => text.push_str(&format!(" {cell:<width$} ")),
                None => text.push_str(&format!(" {cell}")),
            }
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
}

fn full(name: &str, v: &Verdict) -> String {
    let mut out = heading(name, v).join("\n");
    out.push('\n');
    let mut part = |title: &str, rows: Vec<Vec<String>>| {
        if !rows.is_empty() {
            out.push_str(&format!("\n{title}\n"));
            columns(&rows, &mut out);
        }
    };
    part("violations", finding_rows(v.violations()));
    part("notes", finding_rows(v.notes()));
    part("how each reads these numbers: GPUs needed, and why", reading_rows(v));
    part("fixes, each checked again", fix_rows(v));
    out
}

fn markdown(outcome: &VerifyOutcome) -> String {
    let mut out = String::new();
    if outcome.many {
        let rows: Vec<Vec<String>> = outcome
            .files
            .iter()
            .map(|f| {
                let text = summary(f);
                let rest = text.get(line(&f.file).len() + 2..).unwrap_or_default().to_owned();
                vec![line(&f.file), rest]
            })
            .collect();
        return markdown_table(&["plan", "verdict"], &rows);
    }
    for checked in &outcome.files {
        let Ok(v) = &checked.result else { continue };
        let head = heading(&checked.file, v);
        out.push_str(&format!("## {}\n\n", head.join("\n\n").trim()));
        let mut part = |title: &str, head: &[&str], rows: Vec<Vec<String>>| {
            if !rows.is_empty() {
                out.push_str(&format!("### {title}\n\n{}\n", markdown_table(head, &rows)));
            }
        };
        part("Violations", &["line", "rule", "what"], finding_rows(v.violations()));
        part("Notes", &["line", "rule", "what"], finding_rows(v.notes()));
        part("How each reads these numbers", &["convention", "holds", "GPUs", "why"], reading_rows(v));
        part("Fixes, each checked again", &["change", "plan", "GPUs", "then"], fix_rows(v));
    }
    out
}
