//! One self-contained page: the ranking, bars of memory and time, the frontier; inline SVG, no script, works offline.

use super::text::cells;
use super::{Ranking, funnel_lines, memory_terms, time_terms};
use crate::rank;
use std::fmt::Write as _;

const STYLE: &str = "body{font:15px system-ui,sans-serif;margin:2rem auto;max-width:80rem;color:#1b1f24}\
table{border-collapse:collapse;width:100%}th,td{padding:.35rem .6rem;border-bottom:1px solid #d8dee4;text-align:right;\
white-space:nowrap}th:nth-child(2),td:nth-child(2),th:last-child,td:last-child{text-align:left;white-space:normal}\
pre{background:#f6f8fa;padding:1rem;overflow:auto}svg text{font:12px system-ui,sans-serif}\
.key span{display:inline-block;margin-right:1rem}.key i{display:inline-block;width:.8em;height:.8em;margin-right:.3em}";

/// Colours of series, told apart by names too.
pub(super) const COLORS: [&str; 15] = [
    "#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#ff9da6", "#9d755d", "#bab0ac", "#2f4b7c",
    "#a05195", "#ffa600", "#665191", "#d45087", "#003f5c",
];

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The start of a page; the title is escaped already.
pub(super) fn head(title: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n"
    )
}

/// A table.
pub(super) fn table(out: &mut String, head: &[&str], rows: &[Vec<String>]) {
    out.push_str("<table><thead><tr>");
    for cell in head {
        let _ = write!(out, "<th>{}</th>", escape(cell));
    }
    out.push_str("</tr></thead><tbody>\n");
    for row in rows {
        out.push_str("<tr>");
        for cell in row {
            let _ = write!(out, "<td>{}</td>", escape(cell));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table>\n");
}

/// The page.
#[must_use]
pub fn page(r: &Ranking<'_>) -> String {
    let title = escape(&format!("{} on {}", r.job.model.name(), r.job.cluster));
    let mut out = head(&title);
    let _ = writeln!(
        out,
        "<p>Convention <b>{}</b>: {}. Objective: {}. Plans marked = are as good as the best within {:.0}%.</p>",
        r.convention,
        escape(r.convention.identity()),
        r.objective.meaning(),
        rank::TIE * 100.0
    );
    let (columns, rows) = cells(r);
    table(&mut out, &columns, &rows);
    let names: Vec<String> = rows.iter().map(|row| row[1].clone()).collect();
    let memory: Vec<Vec<(&str, f64)>> = r
        .outcome
        .rows
        .iter()
        .map(|row| memory_terms(row).into_iter().map(|(name, bytes)| (name, bytes.as_gib())).collect())
        .collect();
    bars(&mut out, "Memory per GPU, worst stage (GiB)", &names, &memory);
    let time: Vec<Vec<(&str, f64)>> = r.outcome.rows.iter().map(time_terms).collect();
    bars(&mut out, if r.job.train().is_some() { "Step time (s)" } else { "Time per output token (s)" }, &names, &time);
    frontier(&mut out, r);
    out.push_str("<h2>What was searched and refused</h2><pre>");
    for line in funnel_lines(r) {
        let _ = writeln!(out, "{}", escape(&line));
    }
    out.push_str("</pre></body></html>\n");
    out
}

/// A page of one table, sentences and a drawing.
#[must_use]
pub fn plain(title: &str, head: &[&str], rows: &[Vec<String>], lines: &[String], svg: &str) -> String {
    let title = escape(title);
    let mut out = self::head(&title);
    table(&mut out, head, rows);
    let _ = writeln!(out, "{svg}");
    for line in lines {
        let _ = writeln!(out, "<p>{}</p>", escape(line));
    }
    out.push_str("</body></html>\n");
    out
}

fn bars(out: &mut String, title: &str, names: &[String], rows: &[Vec<(&str, f64)>]) {
    let most = rows.iter().map(|row| row.iter().map(|(_, v)| v).sum::<f64>()).fold(0.0, f64::max);
    if most <= 0.0 {
        return;
    }
    let mut keys: Vec<&str> = Vec::new();
    for (name, _) in rows.iter().flatten() {
        if !keys.contains(name) {
            keys.push(name);
        }
    }
    let color = |name: &str| COLORS[keys.iter().position(|k| *k == name).unwrap_or(0) % COLORS.len()];
    let _ = write!(out, "<h2>{}</h2><p class=\"key\">", escape(title));
    for key in &keys {
        let _ = write!(out, "<span><i style=\"background:{}\"></i>{}</span>", color(key), escape(key));
    }
    let height = rows.len() * 24;
    let _ = write!(out, "</p><svg width=\"1100\" height=\"{height}\" role=\"img\">");
    for (i, (row, name)) in rows.iter().zip(names).enumerate() {
        let y = i * 24;
        let _ = write!(out, "<text x=\"0\" y=\"{}\">{}</text>", y + 15, escape(name));
        let mut x = 380.0;
        for (term, value) in row {
            let width = value / most * 640.0;
            let _ = write!(
                out,
                "<rect x=\"{x:.1}\" y=\"{}\" width=\"{width:.1}\" height=\"18\" fill=\"{}\"><title>{}: {value:.4}</title></rect>",
                y + 2,
                color(term),
                escape(term)
            );
            x += width;
        }
        let total: f64 = row.iter().map(|(_, v)| v).sum();
        let _ = write!(out, "<text x=\"{:.1}\" y=\"{}\">{total:.3}</text>", x + 6.0, y + 15);
    }
    out.push_str("</svg>\n");
}

fn frontier(out: &mut String, r: &Ranking<'_>) {
    let drawn = super::frontier_chart(r).svg();
    if !drawn.is_empty() {
        let _ = write!(out, "<h2>Pareto frontier: {}</h2>{drawn}", escape(super::traded(r.job).2));
    }
}
