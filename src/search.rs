//! Every plan of a space, in parallel: who fits, who was refused by which rule, and the best of them.
//!
//! The answer is a function of the job and the options alone: partial results are joined in an order-free way (sums, minima
//! under a total order), so any number of threads gives the same bytes.

use crate::estimate::{self, Time};
use crate::job::Job;
use crate::mesh::Convention;
use crate::plan::Plan;
use crate::rank::{Objective, Row, frontier, trade};
use crate::rules::{self, Rejection, Rule};
use crate::space::{MeshBlock, Space, SpaceOptions};
use rayon::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering};

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SearchOptions {
    /// What to optimise.
    pub objective: Objective,
    /// How many rows to keep.
    pub top: usize,
    /// How many variants of one mesh may be among them.
    pub variants: usize,
}

impl Default for SearchOptions {
    fn default() -> Self {
        Self { objective: Objective::Throughput, top: 10, variants: 1 }
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
    Stopped,
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
    /// Plans whose memory was priced.
    pub priced: u64,
    /// Plans that fit.
    pub fit: u64,
    /// Why it ended.
    pub stop: StopReason,
}

#[derive(Clone)]
struct Partial {
    rows: Vec<Row>,
    frontier: Vec<Row>,
    mesh: Vec<(u64, Option<(Plan, Rejection)>)>,
    plan: Vec<(u64, Option<(Plan, Rejection)>)>,
    meshes: u64,
    plans: u64,
    covered: u64,
    priced: u64,
    fit: u64,
}

impl Partial {
    fn new() -> Self {
        let empty = vec![(0, None); Rule::ALL.len()];
        Self {
            rows: Vec::new(),
            frontier: Vec::new(),
            mesh: empty.clone(),
            plan: empty,
            meshes: 0,
            plans: 0,
            covered: 0,
            priced: 0,
            fit: 0,
        }
    }

    fn join(mut self, other: Self, job: &Job, top: usize) -> Self {
        for (mine, theirs) in [(&mut self.mesh, other.mesh), (&mut self.plan, other.plan)] {
            for (a, b) in mine.iter_mut().zip(theirs) {
                a.0 += b.0;
                if let Some(miss) = b.1 {
                    keep_nearest(&mut a.1, miss);
                }
            }
        }
        self.rows.extend(other.rows);
        cut(&mut self.rows, top);
        self.frontier.extend(other.frontier);
        self.frontier = frontier(job, &self.frontier);
        self.meshes += other.meshes;
        self.plans += other.plans;
        self.covered += other.covered;
        self.priced += other.priced;
        self.fit += other.fit;
        self
    }
}

fn cut(rows: &mut Vec<Row>, top: usize) {
    rows.sort_by(Row::order);
    rows.truncate(top);
}

fn keep_nearest(best: &mut Option<(Plan, Rejection)>, miss: (Plan, Rejection)) {
    let key = |m: &(Plan, Rejection)| m.1.miss();
    let nearer = match best {
        None => true,
        Some(now) => key(&miss).total_cmp(&key(now)).then_with(|| miss.0.cmp(&now.0)).is_lt(),
    };
    if nearer {
        *best = Some(miss);
    }
}

/// Searches a space.
///
/// ```
/// use meshwright::{catalog, job::*, search::*, space::*};
/// use std::sync::atomic::AtomicBool;
/// let train = Train { seq_len: 4096, global_batch: 512, precision: Precision::Bf16, grad_dtype: GradDtype::Fp32, moe_balance: 1.0 };
/// let job = Job::new(catalog::model("qwen3-30b-a3b")?, catalog::cluster("16xH100")?, Workload::Train(train)).expect("a sound job");
/// let space = SpaceOptions::default();
/// let watch = Watch { stop: &AtomicBool::new(false), progress: &|_| {} };
/// let outcome = search(&job, &space, &SearchOptions::default(), &watch);
/// assert_eq!((outcome.factorisations, outcome.rows.len()), (35, 10));
/// # Ok::<(), meshwright::error::Error>(())
/// ```
#[must_use]
pub fn search(job: &Job, space: &SpaceOptions, options: &SearchOptions, watch: &Watch<'_>) -> Outcome {
    let convention = space.convention();
    let plans = Space::new(job, space);
    let walk = Walk { job, space, options, convention, watch };
    let partial = plans
        .blocks
        .par_iter()
        .fold(Partial::new, |mut partial, block| {
            if !watch.stop.load(Ordering::Relaxed) {
                walk.block(block, &mut partial);
            }
            partial
        })
        .reduce(Partial::new, |a, b| a.join(b, job, options.top));
    let mut partial = partial.join(Partial::new(), job, options.top);
    cut(&mut partial.rows, options.top);
    let stop = if partial.covered == plans.len() { StopReason::Exhausted } else { StopReason::Stopped };
    Outcome {
        funnel: Funnel {
            meshes: partial.meshes,
            mesh_rules: tallies(&partial.mesh, partial.meshes),
            plans: partial.plans,
            plan_rules: tallies(&partial.plan, partial.plans),
        },
        rows: partial.rows,
        frontier: partial.frontier,
        factorisations: plans.factorisations,
        plans: plans.len(),
        covered: partial.covered,
        priced: partial.priced,
        fit: partial.fit,
        stop,
    }
}

fn tallies(counts: &[(u64, Option<(Plan, Rejection)>)], all: u64) -> Vec<Tally> {
    let mut left = all;
    Rule::ALL
        .iter()
        .zip(counts)
        .filter(|(_, (refused, _))| *refused > 0)
        .map(|(rule, (refused, nearest))| {
            left -= refused;
            Tally { rule: *rule, refused: *refused, left, nearest: *nearest }
        })
        .collect()
}

struct Walk<'a> {
    job: &'a Job,
    space: &'a SpaceOptions,
    options: &'a SearchOptions,
    convention: Convention,
    watch: &'a Watch<'a>,
}

impl Walk<'_> {
    fn block(&self, block: &MeshBlock, partial: &mut Partial) {
        partial.meshes += 1;
        let sample = block.sample();
        let mut refused: Option<Rejection> = None;
        rules::check_mesh(self.job, self.space.framework, &sample, &mut refused);
        if let Some(rejection) = refused {
            let tally = &mut partial.mesh[rejection.rule as usize];
            tally.0 += 1;
            keep_nearest(&mut tally.1, (sample, rejection));
            partial.covered += block.len();
            (self.watch.progress)(block.len());
            return;
        }
        partial.plans += block.len();
        let mut best: Vec<Row> = Vec::new();
        for i in 0..block.len() {
            self.plan(&block.get(i), &mut best, partial);
        }
        partial.covered += block.len();
        (self.watch.progress)(block.len());
        partial.rows.extend(best);
        cut(&mut partial.rows, self.options.top);
    }

    fn plan(&self, plan: &Plan, best: &mut Vec<Row>, partial: &mut Partial) {
        let mut refused: Option<Rejection> = None;
        rules::check_plan(self.job, self.space.framework, plan, &mut refused);
        if refused.is_none() {
            partial.priced += 1;
            let memory = estimate::memory(self.job, self.convention, plan);
            if !memory.fits() {
                refused = Some(estimate::memory_rejection(&memory));
            }
        }
        if refused.is_none() {
            let estimate = estimate::estimate(self.job, self.convention, plan);
            refused = estimate::verdict(self.job, &estimate).first().copied();
            if refused.is_none() {
                partial.fit += 1;
                let value = self.options.objective.value(self.job, plan, &estimate);
                let row = Row { plan: *plan, estimate, value };
                self.offer(row, best, partial);
            }
        }
        if let Some(rejection) = refused {
            let tally = &mut partial.plan[rejection.rule as usize];
            tally.0 += 1;
            keep_nearest(&mut tally.1, (*plan, rejection));
        }
    }

    fn offer(&self, row: Row, best: &mut Vec<Row>, partial: &mut Partial) {
        best.push(row);
        cut(best, self.options.variants);
        // Most rows are beaten; only those that no kept row beats are worth a new frontier.
        let (a, b) = trade(self.job, &row);
        let beaten = partial.frontier.iter().any(|other| {
            let (x, y) = trade(self.job, other);
            x >= a && y >= b && other.plan <= row.plan || x > a && y > b
        });
        if !beaten {
            partial.frontier.push(row);
            partial.frontier = frontier(self.job, &partial.frontier);
        }
        debug_assert!(matches!(row.estimate.time, Time::Train(_) | Time::Serve(_)));
    }
}
