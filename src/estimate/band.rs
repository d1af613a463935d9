//! How far off a time may be: what the measured runs of its kind were off by.
//!
//! The table is a file that `validate --residuals` writes from the facts kept in `configs/validation`; nothing here is chosen by hand
//! but the share of runs and what borrowed curves cost.

use super::Estimate;
use crate::cluster::Basis;
use crate::framework::Framework;
use crate::job::{Job, Precision};
use crate::plan::Plan;
use std::collections::BTreeMap;
use std::fmt;

/// Share of the measured runs of a kind that lie within its band.
pub const SHARE: f64 = 0.8;

/// Fewest runs that make a kind of their own; below that the next wider kind speaks.
pub const FEWEST: usize = 12;

/// How much wider a band is for a GPU that borrows its curves. Source: the measured GPUs of `configs/validation` priced with a sibling's
/// curves instead of their own had 0.9 to 1.66 times the error; the worst was GB300 with GB200's.
pub const BORROWED: f64 = 1.66;

/// A figure that runs are measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Figure {
    /// One optimizer step.
    StepTime,
    /// The allocator's peak.
    PeakMemory,
    /// Time per output token.
    Tpot,
    /// Time to the first token.
    Ttft,
}

impl Figure {
    /// Every figure.
    pub const ALL: [Self; 4] = [Self::StepTime, Self::PeakMemory, Self::Tpot, Self::Ttft];

    /// The name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::StepTime => "step time",
            Self::PeakMemory => "peak memory",
            Self::Tpot => "TPOT",
            Self::Ttft => "TTFT",
        }
    }
}

/// What runs of one kind were off by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Residual {
    /// Measured runs.
    pub rows: u32,
    /// The share [`SHARE`] of them was no farther off, in parts of the predicted figure.
    pub off: f64,
}

/// Residuals by kind.
pub type Residuals = BTreeMap<String, Residual>;

/// How far off a time may be.
#[derive(Debug, Clone, PartialEq)]
pub struct Band {
    /// To both sides, in parts of the time.
    pub off: f64,
    /// Measured runs behind it.
    pub rows: u32,
    /// Their kind.
    pub kind: String,
    /// Where the GPU's curves come from when they are not its own.
    pub borrowed: Option<String>,
}

impl Band {
    /// The band's ends around a time.
    #[must_use]
    pub fn around(&self, time: f64) -> (f64, f64) {
        ((time * (1.0 - self.off)).max(0.0), time * (1.0 + self.off))
    }

    /// What the band means, in a sentence.
    #[must_use]
    pub fn meaning(&self) -> String {
        let share = SHARE * 100.0;
        match &self.borrowed {
            None => format!("{self}: {share:.0}% of {} measured runs were within ({})", self.rows, self.kind),
            Some(lender) => format!(
                "{self}: {BORROWED} times what holds {share:.0}% of {} measured runs ({}), for curves {lender}",
                self.rows, self.kind
            ),
        }
    }
}

impl fmt::Display for Band {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+-{:.0}%", self.off * 100.0)
    }
}

/// The kinds that a figure of a plan belongs to, narrowest first.
#[must_use]
pub fn kinds(job: &Job, framework: Option<Framework>, plan: &Plan, figure: Figure) -> Vec<String> {
    let name = figure.name();
    let mut out = Vec::new();
    if let Some(train) = job.train() {
        let model = if job.model.moe().is_some() { "experts" } else { "dense" };
        let nodes = if plan.mesh.world() > job.cluster.gpus_per_node { "several nodes" } else { "one node" };
        let bits = match train.precision {
            Precision::Bf16 | Precision::Fp16 => "16 bits",
            Precision::Fp8 | Precision::Mxfp8 | Precision::Nvfp4 => "8 bits or fewer",
        };
        out.push(format!("{name}, {model}, {nodes}, {bits}"));
        out.push(format!("{name}, {model}, {nodes}"));
        out.push(format!("{name}, {nodes}"));
    } else if let Some(engine) = framework {
        out.push(format!("{name}, {}", engine.name()));
    }
    out.push(name.to_owned());
    out
}

/// The band of one figure of a plan; `None` when no run like it was ever measured.
#[must_use]
pub fn band(
    residuals: &Residuals,
    job: &Job,
    framework: Option<Framework>,
    plan: &Plan,
    figure: Figure,
) -> Option<Band> {
    let (kind, residual) =
        kinds(job, framework, plan, figure).into_iter().find_map(|kind| residuals.get(&kind).map(|r| (kind, *r)))?;
    let curves = &job.cluster.gpu.efficiency;
    let (wider, borrowed) = match curves.basis {
        Basis::Exact | Basis::Measured | Basis::Modelled => (1.0, None),
        Basis::Assumed => {
            let lender = curves.source.first().map_or("assumed", |text| text.split(':').next().unwrap_or(text));
            (BORROWED, Some(lender.to_owned()))
        }
    };
    Some(Band { off: residual.off * wider, rows: residual.rows, kind, borrowed })
}

/// The bands of every time of an estimate, with what people call it, the figure and the seconds.
#[must_use]
pub fn bands(
    residuals: &Residuals,
    job: &Job,
    framework: Option<Framework>,
    plan: &Plan,
    estimate: &Estimate,
) -> Vec<(&'static str, f64, Band)> {
    let times = match &estimate.time {
        super::Time::Train(step) => vec![("step_time", Figure::StepTime, step.seconds().get())],
        super::Time::Serve(s) => vec![("ttft", Figure::Ttft, s.ttft_s), ("tpot", Figure::Tpot, s.tpot_s)],
    };
    let of = |figure| band(residuals, job, framework, plan, figure);
    times.into_iter().filter_map(|(key, figure, time)| of(figure).map(|band| (key, time, band))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_band_says_what_it_rests_on() {
        let mut band = Band { off: 0.25, rows: 40, kind: "step time, dense".to_owned(), borrowed: None };
        assert_eq!(band.meaning(), "+-25%: 80% of 40 measured runs were within (step time, dense)");
        assert_eq!(band.around(4.0), (3.0, 5.0));
        band.borrowed = Some("assumed from h100-sxm".to_owned());
        assert!(band.meaning().contains("1.66 times") && band.meaning().ends_with("for curves assumed from h100-sxm"));
        assert_eq!(Band { off: 1.5, ..band }.around(2.0), (0.0, 5.0), "no time is negative");
    }
}
