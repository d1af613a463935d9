//! A sweep: the best plan of each of several cases, as a table, a chart and their machine-readable forms.

use super::html::{self, COLORS, escape};
use super::{SCHEMA, grouped, text};
use crate::units::{Bytes, Seconds};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// The best plan of a case, in figures.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// GPUs it takes.
    pub used: u32,
    /// The plan's text.
    pub plan: String,
    /// Its identities with their numbers.
    pub formula: String,
    /// Memory of its fullest GPU.
    pub memory: Bytes,
    /// The share of what a GPU may hold.
    pub utilization: f64,
    /// A training step, or the time per output token.
    pub time: Seconds,
    /// Of all GPUs together.
    pub tokens_per_s: f64,
    /// Dollars per million tokens, when the GPU has a price.
    pub usd_per_million: Option<f64>,
}

/// One case of a sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// GPUs there are.
    pub gpus: u32,
    /// What else is varied, in words.
    pub variant: String,
    /// The GPU's name.
    pub gpu: String,
    /// The best plan, or the nearest miss in words.
    pub found: Result<Found, String>,
}

/// What a sweep found.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    /// The job's heading, for people.
    pub heading: String,
    /// The cases, in order.
    pub cases: Vec<Case>,
    /// What the bands of the cases' times mean, each once.
    pub notes: Vec<String>,
    /// The largest of things that still fit: what, and the answer in words.
    pub largest: Vec<(String, String)>,
    /// Why it ended before its last case, when it did.
    pub stopped: Option<String>,
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

const KEYS: [&str; 10] =
    ["gpus", "variant", "used", "idle", "plan", "memory", "time", "tokens_per_s", "vs_linear", "usd_per_mtok"];

/// Cases that a chart on a terminal shows at most; of more, evenly chosen ones.
const SHOWN: usize = 32;

impl Sweep {
    /// Tokens per second and GPU in use against the smallest case of the same variant that fits, or the first of all when each
    /// variant has one case only.
    fn against_linear(&self, case: &Case, found: &Found) -> Option<f64> {
        let rate = |f: &Found| f.tokens_per_s / f64::from(f.used);
        let fits = |same: bool| {
            let of = self.cases.iter().filter(move |c| !same || c.variant == case.variant);
            of.filter_map(|c| c.found.as_ref().ok().map(|f| (c.gpus, f))).min_by_key(|(gpus, _)| *gpus)
        };
        let counts = self.cases.iter().filter(|c| c.variant == case.variant).count() > 1;
        fits(counts).map(|(_, base)| rate(found) / rate(base))
    }

    /// The fewest GPUs on which anything fits, by variant, when counts were varied.
    #[must_use]
    pub fn smallest(&self) -> Vec<(&str, u32)> {
        let mut out: Vec<(&str, u32)> = Vec::new();
        let varied = self.cases.iter().any(|c| self.cases.first().is_some_and(|first| c.gpus != first.gpus));
        for case in self.cases.iter().filter(|_| varied) {
            let Ok(found) = &case.found else { continue };
            match out.iter_mut().find(|(variant, _)| *variant == case.variant) {
                Some((_, least)) => *least = (*least).min(found.used),
                None => out.push((&case.variant, found.used)),
            }
        }
        out
    }

    fn cells(&self, case: &Case) -> Vec<String> {
        let mut out = vec![case.gpus.to_string(), case.variant.clone()];
        match &case.found {
            Err(miss) => {
                out.extend(["0".to_owned(), case.gpus.to_string(), miss.clone()]);
                out.extend(vec![String::new(); 5]);
            }
            Ok(f) => {
                out.push(f.used.to_string());
                out.push((case.gpus - f.used).to_string());
                out.push(f.plan.clone());
                out.push(format!("{} ({:.0}%)", f.memory, f.utilization * 100.0));
                out.push(f.time.to_string());
                out.push(grouped(f.tokens_per_s));
                out.push(self.against_linear(case, f).map_or_else(String::new, |e| format!("{:.0}%", e * 100.0)));
                out.push(f.usd_per_million.map_or_else(String::new, |c| format!("{c:.3}")));
            }
        }
        out
    }

    /// Heading and rows of the table for people.
    #[must_use]
    pub fn table(&self) -> (&'static [&'static str], Vec<Vec<String>>) {
        (&HEAD, self.cases.iter().map(|c| self.cells(c)).collect())
    }

    /// What holds for the whole sweep, a line each.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut out: Vec<String> = self
            .smallest()
            .into_iter()
            .map(|(variant, gpus)| {
                let of = if variant.is_empty() { String::new() } else { format!(" of {variant}") };
                format!("smallest cluster{of} that does: {gpus} GPUs")
            })
            .collect();
        out.extend(self.notes.iter().map(|note| format!("times {note}")));
        out.extend(self.largest.iter().map(|(what, answer)| format!("largest {what} that fits: {answer}")));
        out.extend(self.stopped.clone());
        out
    }

    /// A Markdown table.
    #[must_use]
    pub fn markdown(&self) -> String {
        let (head, rows) = self.table();
        text::markdown_table(head, &rows)
    }

    /// CSV, keys as heading.
    #[must_use]
    pub fn csv(&self) -> String {
        let mut out = String::new();
        text::push_record(&mut out, &KEYS.map(str::to_owned));
        for case in &self.cases {
            text::push_record(&mut out, &self.cells(case));
        }
        out
    }

    /// One case as JSON.
    #[must_use]
    pub fn json_case(&self, case: &Case) -> Value {
        match &case.found {
            Err(miss) => json!({
                "schema": SCHEMA, "gpus": case.gpus, "variant": case.variant, "gpu": case.gpu,
                "verdict": "rejected", "used": 0, "idle": case.gpus, "nearest_miss": miss,
            }),
            Ok(f) => json!({
                "schema": SCHEMA,
                "gpus": case.gpus,
                "variant": case.variant,
                "gpu": case.gpu,
                "verdict": "fits",
                "used": f.used,
                "idle": case.gpus - f.used,
                "plan": f.plan,
                "formula": f.formula,
                "memory_bytes": f.memory.get(),
                "utilization": f.utilization,
                "time_s": f.time.get(),
                "tokens_per_s": f.tokens_per_s,
                "against_linear": self.against_linear(case, f),
                "usd_per_million_tokens": f.usd_per_million,
            }),
        }
    }

    /// The whole sweep as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let results: Vec<Value> = self.cases.iter().map(|c| self.json_case(c)).collect();
        let smallest: Vec<Value> =
            self.smallest().into_iter().map(|(variant, gpus)| json!({"variant": variant, "gpus": gpus})).collect();
        let largest: Vec<Value> =
            self.largest.iter().map(|(what, answer)| json!({"what": what, "fits": answer})).collect();
        json!({
            "schema": SCHEMA,
            "results": results,
            "smallest": smallest,
            "largest": largest,
            "exhausted": self.stopped.is_none(),
        })
    }

    /// Bars of tokens per second, for a terminal.
    #[must_use]
    pub fn chart(&self) -> String {
        let rate = |c: &Case| c.found.as_ref().map_or(0.0, |f| f.tokens_per_s);
        let most = self.cases.iter().map(rate).fold(0.0, f64::max);
        if self.cases.len() < 2 || most <= 0.0 {
            return String::new();
        }
        let every = self.cases.len().div_ceil(SHOWN);
        let of = if every > 1 { format!(", every {every}th case") } else { String::new() };
        let mut out = format!("\ntokens/s, total{of}\n");
        let last = self.cases.len() - 1;
        for (_, case) in self.cases.iter().enumerate().filter(|(i, _)| i % every == 0 || *i == last) {
            let bar = "#".repeat((rate(case) / most * 60.0).round() as usize);
            let label = format!("{} {}", case.gpus, case.variant);
            let _ = writeln!(out, "{:>24} {bar} {}", label.trim(), grouped(rate(case)));
        }
        out
    }

    /// One self-contained page: the chart as SVG, then the table.
    #[must_use]
    pub fn page(&self) -> String {
        let title = escape(self.heading.lines().next().unwrap_or("what if"));
        let mut out = html::head(&title);
        for line in self.heading.lines().skip(1).chain(self.lines().iter().map(String::as_str)) {
            let _ = writeln!(out, "<p>{}</p>", escape(line));
        }
        self.svg(&mut out);
        let (head, rows) = self.table();
        html::table(&mut out, head, &rows);
        out.push_str("</body></html>\n");
        out
    }

    /// Tokens per second over GPUs, a line a variant; dashed, what the smallest case of the first would scale to.
    fn svg(&self, out: &mut String) {
        let points = |variant: &str| -> Vec<(f64, f64, &Found)> {
            let of = self.cases.iter().filter(|c| c.variant == variant);
            of.filter_map(|c| c.found.as_ref().ok().map(|f| (f64::from(c.gpus), f.tokens_per_s, f))).collect()
        };
        let mut variants: Vec<&str> = Vec::new();
        for case in &self.cases {
            if !variants.contains(&case.variant.as_str()) {
                variants.push(&case.variant);
            }
        }
        let all: Vec<(f64, f64, &Found)> = variants.iter().flat_map(|v| points(v)).collect();
        let right = all.iter().map(|p| p.0).fold(0.0, f64::max);
        let top = all.iter().map(|p| p.1).fold(0.0, f64::max);
        if right <= 0.0 || top <= 0.0 {
            return;
        }
        let x = |gpus: f64| 60.0 + gpus / right * 860.0;
        let y = |rate: f64| 340.0 - rate / top * 320.0;
        out.push_str("<h2>tokens/s of all GPUs (up) over GPUs (across)</h2><p class=\"key\">");
        for (i, variant) in variants.iter().enumerate().filter(|(_, v)| !v.is_empty()) {
            let color = COLORS[i % COLORS.len()];
            let _ = write!(out, "<span><i style=\"background:{color}\"></i>{}</span>", escape(variant));
        }
        out.push_str(
            "</p><svg width=\"960\" height=\"370\" role=\"img\"><path d=\"M60 10V340H930\" fill=\"none\" stroke=\"#57606a\"/>",
        );
        if let Some((_, rate, base)) = all.first() {
            let each = rate / f64::from(base.used);
            let end = (top / each).min(right);
            let (to, high) = (x(end), y(each * end));
            let _ = write!(
                out,
                "<path d=\"M60 340L{to:.1} {high:.1}\" fill=\"none\" stroke=\"#8c959f\" stroke-dasharray=\"5 4\"><title>linear</title></path>"
            );
        }
        for (i, variant) in variants.iter().enumerate() {
            let color = COLORS[i % COLORS.len()];
            let line: Vec<String> =
                points(variant).iter().map(|(gpus, rate, _)| format!("{:.1},{:.1}", x(*gpus), y(*rate))).collect();
            let _ = write!(out, "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\"/>", line.join(" "));
            for (gpus, rate, f) in points(variant) {
                let _ = write!(
                    out,
                    "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{color}\"><title>{gpus:.0} GPUs: {}: {}</title></circle>",
                    x(gpus),
                    y(rate),
                    escape(&f.plan),
                    grouped(rate)
                );
            }
        }
        let _ = writeln!(
            out,
            "<text x=\"60\" y=\"358\">0</text><text x=\"880\" y=\"358\">{right:.0}</text><text x=\"0\" y=\"18\">{}</text></svg>",
            grouped(top)
        );
    }
}
