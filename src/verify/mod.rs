//! Does a written plan hold? Its claims against the facts, how every convention reads its numbers, and fixes that were
//! checked again before they are offered.
//!
//! Nobody agrees on how many GPUs a plan takes, so a verdict names its convention, and gives all the others beside it.

mod claims;
mod fixes;
mod reading;
mod shape;
#[cfg(test)]
mod tests;

pub use claims::{check_claims, draft_of};
pub use fixes::Fix;
pub use reading::{Reading, Spare, read};

use crate::framework::Framework;
use crate::job::Job;
use crate::mesh::Convention;
use crate::plan::Draft;
use crate::rules::Source;

/// Whether a finding is against the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The plan, or what it says of itself, does not hold.
    Violation,
    /// Worth knowing.
    Note,
}

impl Severity {
    /// The name in outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Violation => "violation",
            Self::Note => "note",
        }
    }
}

/// One thing found about a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// Which rule or claim.
    pub rule: &'static str,
    /// Whether it is against the plan.
    pub severity: Severity,
    /// In words, with both numbers.
    pub message: String,
    /// What the plan says.
    pub claimed: Option<f64>,
    /// What holds.
    pub actual: Option<f64>,
    /// Unit of both numbers; empty for counts.
    pub unit: &'static str,
    /// Line of the document, from 1; 0 when it is not about one line.
    pub line: u32,
    /// What to write instead.
    pub fix: Option<String>,
    /// The framework's own check.
    pub asked_by: Option<Source>,
}

impl Finding {
    /// Against the plan.
    #[must_use]
    pub fn violation(rule: &'static str, message: impl Into<String>) -> Self {
        let (claimed, actual, fix, asked_by) = (None, None, None, None);
        let severity = Severity::Violation;
        Self { rule, severity, message: message.into(), claimed, actual, unit: "", line: 0, fix, asked_by }
    }

    /// Worth knowing.
    #[must_use]
    pub fn note(rule: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Note, ..Self::violation(rule, message) }
    }

    fn with(self, claimed: u64, actual: u64) -> Self {
        Self { claimed: Some(claimed as f64), actual: Some(actual as f64), ..self }
    }

    fn amounts(self, claimed: f64, actual: f64, unit: &'static str) -> Self {
        Self { claimed: Some(claimed), actual: Some(actual), unit, ..self }
    }

    fn at(self, line: u32) -> Self {
        Self { line, ..self }
    }

    fn fixed_by(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }
}

/// Jobs against which shapes and memory are checked; without one only arithmetic is.
#[derive(Debug, Clone, Copy)]
pub struct Jobs<'a> {
    /// For frameworks that train, and for the product convention.
    pub train: Option<&'a Job>,
    /// For frameworks that serve.
    pub serve: Option<&'a Job>,
    /// Whether the batch was said; nothing is asked of one that was assumed.
    pub batch: bool,
    /// Whether the sequence length was said.
    pub sequence: bool,
    /// Whether the GPU is known; a stand-in is neither priced nor asked for number formats and nodes.
    pub hardware: bool,
    /// Whether it is known how the GPUs lie on nodes.
    pub nodes: bool,
    /// Whether it is known to be training or serving, without which memory cannot be told.
    pub memory: bool,
    /// Whether the workload and the knobs are the plan's own, so that its memory can be told rather than bounded.
    pub exact: bool,
}

/// What a plan is held against.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The convention in force.
    pub convention: Convention,
    /// Whether anybody named it.
    pub named: bool,
    /// GPUs there are.
    pub available: Option<u64>,
    /// Routed experts of the model.
    pub experts: Option<u64>,
    /// Bytes of one GPU, when the GPU is known.
    pub gpu_bytes: Option<f64>,
    /// Whether GPUs left over are against the plan.
    pub spare: Spare,
    /// Model, cluster and workload, as far as known.
    pub jobs: Option<Jobs<'a>>,
}

/// The GPUs of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpus {
    /// There are so many; `None` when nobody says.
    pub available: Option<u64>,
    /// The plan needs so many, in the convention in force.
    pub needed: u64,
    /// The products with their numbers.
    pub formula: String,
    /// Left over.
    pub idle: u64,
    /// Missing.
    pub short: u64,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The convention in force.
    pub convention: Convention,
    /// Whether anybody named it.
    pub named: bool,
    /// The plan as it was understood.
    pub plan: String,
    /// Its GPUs.
    pub gpus: Gpus,
    /// Everything found, violations first, then by line.
    pub findings: Vec<Finding>,
    /// How every convention reads the numbers.
    pub readings: Vec<Reading>,
    /// What would make it hold, fewest changes first; each was checked again.
    pub fixes: Vec<Fix>,
}

impl Verdict {
    /// Whether nothing is against the plan in the convention in force.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.violations().next().is_none()
    }

    /// What is against it.
    pub fn violations(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|f| f.severity == Severity::Violation)
    }

    /// What is worth knowing.
    pub fn notes(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|f| f.severity == Severity::Note)
    }
}

/// The verdict on a plan that somebody would start, such as a launch command's: its own names, no claims beside them.
///
/// `world` is how many ranks are started; without it the job's GPUs are meant, and without a job only what holds on any
/// number of GPUs is told.
#[must_use]
pub fn check_draft(framework: Option<Framework>, draft: &Draft, world: Option<u64>, job: Option<&Job>) -> Verdict {
    let convention = draft.convention;
    let serves = framework.or(Framework::of(convention)).is_some_and(Framework::serves);
    let jobs = job.map(|job| {
        let job = Some(job);
        let (train, serve) = if job.is_some_and(|j| j.serve().is_some()) { (None, job) } else { (job, None) };
        Jobs { train, serve, batch: true, sequence: true, hardware: true, nodes: true, memory: true, exact: true }
    });
    let facts = Facts {
        convention,
        named: true,
        available: world.or(job.map(|j| u64::from(j.gpus()))),
        experts: experts_of(job),
        gpu_bytes: None,
        spare: if serves { Spare::Fine } else { Spare::Violation },
        jobs,
    };
    // No framework derives a product's DP: one that is left out is 1, as in `rules`.
    let implied = if convention == Convention::Product { draft.dp.or(Some(1)) } else { draft.dp };
    verdict(&Draft { dp: implied, ..*draft }, &facts, Vec::new())
}

/// The verdict on what a launch script starts, with what its reader found beside the numbers.
#[must_use]
pub fn check_started(draft: &Draft, facts: &Facts<'_>, findings: Vec<Finding>) -> Verdict {
    verdict(draft, facts, findings)
}

fn experts_of(job: Option<&Job>) -> Option<u64> {
    job.and_then(|j| j.model.moe()).map(|moe| u64::from(moe.experts))
}

/// Joins what was found about the claims with what the numbers themselves say.
fn verdict(draft: &Draft, facts: &Facts<'_>, mut findings: Vec<Finding>) -> Verdict {
    let mut readings: Vec<Reading> = Convention::ALL.iter().map(|c| judged(*c, draft, facts)).collect();
    let mut own = judged(facts.convention, draft, facts);
    own.broken.extend(shape::memory(facts, facts.convention, draft));
    findings.extend(own.broken.iter().cloned());
    if own.holds() && own.idle > 0 {
        findings.push(Finding::note("idle", own.remark.clone()).with(own.needed + own.idle, own.needed));
    }
    findings.extend(shape::remarks(facts, facts.convention, draft));
    if let Some(slot) = readings.iter_mut().find(|r| r.convention == facts.convention) {
        *slot = own.clone();
    }
    // The GPUs first: they are what everything else turns on.
    let first = |f: &Finding| !matches!(f.rule, "world" | "idle");
    findings.sort_by_key(|f| (f.severity, first(f), f.line == 0, f.line));
    let fixes = fixes::fixes(draft, facts, &own, &readings);
    let available = facts.available;
    let gpus = Gpus {
        available,
        needed: own.needed,
        formula: own.formula.clone(),
        idle: available.map_or(0, |w| w.saturating_sub(own.needed)),
        short: available.map_or(0, |w| own.needed.saturating_sub(w)),
    };
    let plan = fixes::plan_text(facts.convention, draft);
    Verdict { convention: facts.convention, named: facts.named, plan, gpus, findings, readings, fixes }
}

/// A convention's reading, with what the experts and the model's shape say on top.
fn judged(convention: Convention, draft: &Draft, facts: &Facts<'_>) -> Reading {
    let mut reading = read(convention, draft, facts.available, facts.spare);
    reading.broken.extend(shape::experts(facts, convention, draft));
    reading.broken.extend(shape::shapes(facts, convention, draft));
    reading
}

/// `51.56%`, `200%`, `51562500000%`.
fn percent(fraction: f64) -> String {
    let value = fraction * 100.0;
    if (value - value.round()).abs() < 1e-9 || value >= 1e6 { format!("{value:.0}%") } else { format!("{value:.2}%") }
}

/// Bytes as documents write them: `41.25 GB`.
fn gigabytes(bytes: f64) -> String {
    let value = bytes / 1e9;
    let text = format!("{value:.2}");
    format!("{} GB", text.trim_end_matches('0').trim_end_matches('.'))
}
