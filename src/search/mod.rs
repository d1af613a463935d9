//! Every plan of a space, in parallel: who fits, who was refused by which rule, and the best of them.
//!
//! The answer is a function of the job and the options alone: partial results are joined in an order-free way (sums, minima
//! under a total order), so any number of threads gives the same bytes. Plans are left unpriced only where a bound proves that
//! pricing them could not change a byte of the answer; [`SearchOptions::exhaustive`] prices every one, for comparison.

mod cuts;
mod keep;
mod known;
mod layers;
mod walk;

use crate::job::Job;
use crate::plan::Plan;
use crate::rank::{Objective, Row};
use crate::rules::{Rejection, Rule};
use crate::space::{Space, SpaceOptions};
use cuts::Cuts;
use keep::{Kept, Tallied};
use known::Known;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use walk::Walk;

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchOptions {
    /// What to optimise.
    pub objective: Objective,
    /// How many rows to keep.
    pub top: usize,
    /// How many variants of one mesh may be among them.
    pub variants: usize,
    /// Whether to price every plan in full, memory and time, instead of leaving out what bounds prove hopeless.
    pub exhaustive: bool,
}

impl Default for SearchOptions {
    fn default() -> Self {
        Self { objective: Objective::Throughput, top: 10, variants: 1, exhaustive: false }
    }
}

/// What the search tells while it runs, and who may stop it.
pub struct Watch<'a> {
    /// Set to stop early.
    pub stop: &'a AtomicBool,
    /// Called with the number of plans covered since the last call, from any thread.
    pub progress: &'a (dyn Fn(u64) + Sync),
}

impl std::fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("stop", self.stop).finish_non_exhaustive()
    }
}

/// How many a rule refused, and the one that missed by least.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tally {
    /// The rule.
    pub rule: Rule,
    /// How many it refused.
    pub refused: u64,
    /// How many were left after it.
    pub left: u64,
    /// The nearest miss.
    pub nearest: Option<(Plan, Rejection)>,
}

/// Refusals in the order the rules are applied: of meshes first, then of plans.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Funnel {
    /// Meshes before any rule.
    pub meshes: u64,
    /// Rules on degrees.
    pub mesh_rules: Vec<Tally>,
    /// Plans of the meshes that were left.
    pub plans: u64,
    /// Rules on knobs, memory and targets.
    pub plan_rules: Vec<Tally>,
}

/// Why a search ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Every plan was covered.
    Exhausted,
    /// Somebody stopped it.
    Interrupted,
    /// Its time was up.
    TimeLimit,
}

impl StopReason {
    /// The name in outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Interrupted => "interrupted",
            Self::TimeLimit => "time-limit",
        }
    }
}

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The best, best first.
    pub rows: Vec<Row>,
    /// The Pareto frontier of everything that fits.
    pub frontier: Vec<Row>,
    /// Who was refused.
    pub funnel: Funnel,
    /// Divisor products of the budget over TP, EP, PP, DP.
    pub factorisations: u64,
    /// Plans of the whole space, knobs included.
    pub plans: u64,
    /// Plans that were looked at or proven illegal with their mesh.
    pub covered: u64,
    /// Legal plans: those whose memory was priced or bounded.
    pub priced: u64,
    /// Plans that fit.
    pub fit: u64,
    /// Why it ended.
    pub stop: StopReason,
}

impl Outcome {
    /// Share of the plans that were covered.
    #[must_use]
    pub fn share(&self) -> f64 {
        if self.plans == 0 { 1.0 } else { self.covered as f64 / self.plans as f64 }
    }
}

/// Searches a space.
///
/// ```
/// use meshwright::{catalog, job::*, search::*, space::*};
/// use std::sync::atomic::AtomicBool;
/// let train = Train { seq_len: 4096, global_batch: 512, precision: Precision::Bf16, grad_dtype: GradDtype::Fp32, moe_balance: 1.0, mtp_layers: 0 };
/// let job = Job::new(catalog::model("qwen3-30b-a3b")?, catalog::cluster("16xH100")?, Workload::Train(train)).expect("a sound job");
/// let space = SpaceOptions::default();
/// let watch = Watch { stop: &AtomicBool::new(false), progress: &|_| {} };
/// let outcome = search(&job, &space, &SearchOptions::default(), &watch);
/// assert_eq!((outcome.factorisations, outcome.rows.len()), (35, 10));
/// # Ok::<(), meshwright::error::Error>(())
/// ```
#[must_use]
pub fn search(job: &Job, space: &SpaceOptions, options: &SearchOptions, watch: &Watch<'_>) -> Outcome {
    search_space(job, space, &Space::new(job, space), options, watch)
}

/// Blocks that a thread takes at once: few enough to share the end of a search evenly, enough that blocks that share their layers
/// mostly stay together.
fn chunk(blocks: usize) -> usize {
    (blocks / 128).clamp(8, 64)
}

/// Searches a space that was enumerated before, with the same options.
#[must_use]
pub fn search_space(
    job: &Job,
    space: &SpaceOptions,
    plans: &Space,
    options: &SearchOptions,
    watch: &Watch<'_>,
) -> Outcome {
    let cuts = Cuts::new(job, space.convention(), plans);
    let known = Known::new();
    let next = AtomicUsize::new(0);
    let order = plans.alike_first();
    let chunk = chunk(order.len());
    // One walk a thread, however many blocks: memory does not grow with the space.
    let walked = rayon::broadcast(|_| {
        let mut walk = Walk::new(job, space, options, &cuts, &known);
        loop {
            let from = next.fetch_add(chunk, Ordering::Relaxed);
            if from >= order.len() || watch.stop.load(Ordering::Relaxed) {
                return walk.kept;
            }
            let before = walk.kept.covered;
            for &at in &order[from..(from + chunk).min(order.len())] {
                walk.block(&plans.block(at as usize));
            }
            (watch.progress)(walk.kept.covered - before);
        }
    });
    let kept = walked.into_iter().reduce(|a, b| a.join(b, job, options.top)).unwrap_or_else(Kept::new);
    let kept = kept.join(Kept::new(), job, options.top);
    let stop = if kept.covered == plans.len() { StopReason::Exhausted } else { StopReason::Interrupted };
    Outcome {
        funnel: Funnel {
            meshes: kept.meshes,
            mesh_rules: tallies(&kept.mesh, kept.meshes),
            plans: kept.plans,
            plan_rules: tallies(&kept.plan, kept.plans),
        },
        rows: kept.rows,
        frontier: kept.frontier,
        factorisations: plans.factorisations,
        plans: plans.len(),
        covered: kept.covered,
        priced: kept.priced,
        fit: kept.fit,
        stop,
    }
}

fn tallies(counts: &[Tallied], all: u64) -> Vec<Tally> {
    let mut left = all;
    Rule::ALL
        .iter()
        .zip(counts)
        .filter(|(_, tallied)| tallied.refused > 0)
        .map(|(rule, tallied)| {
            left -= tallied.refused;
            Tally { rule: *rule, refused: tallied.refused, left, nearest: tallied.nearest }
        })
        .collect()
}
