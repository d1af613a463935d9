//! The question turned round: not what a plan reaches under a load, but which load it can take, how few GPUs a load needs, and
//! what is best at every load.

pub mod pools;

use crate::estimate;
use crate::job::{Job, Load, Serve, Workload};
use crate::mesh::{Convention, Mesh};
use crate::plan::{Knobs, Plan};
use crate::rank::{Row, frontier};
use crate::rules::{Rejection, Rule};
use crate::search::{Outcome, SearchOptions, Tally, Watch, search};
use crate::space::SpaceOptions;
use std::sync::atomic::Ordering;

/// A job with another serving load; training jobs stay as they are.
#[must_use]
pub fn with_serve(job: &Job, change: impl FnOnce(&mut Serve)) -> Job {
    let mut other = job.clone();
    if let Workload::Serve(serve) = &mut other.workload {
        change(serve);
    }
    other
}

/// GPUs of one replica worth trying: what divides a node, then whole nodes by doublings and by divisors of all nodes.
#[must_use]
pub fn sizes(job: &Job) -> Vec<u32> {
    let (node, nodes) = (job.cluster.gpus_per_node, job.cluster.nodes);
    let within = (1..=node).filter(|g| node.is_multiple_of(*g));
    let across = (2..=nodes).filter(|n| n.is_power_of_two() || nodes.is_multiple_of(*n)).map(|n| n * node);
    within.chain(across).collect()
}

/// Replicas for a load.
#[derive(Debug, Clone, PartialEq)]
pub struct Fleets {
    /// The fleets that the GPUs allow, fewest GPUs first; its counts are sums over all sizes of a replica.
    pub outcome: Outcome,
    /// The smallest fleet when none fits the GPUs there are.
    pub beyond: Option<Row>,
    /// Sizes of a replica that were tried.
    pub sizes: Vec<u32>,
}

/// The fewest GPUs that answer the job's rate within its targets: for every size of a replica the plans that take most load,
/// each as often as the rate needs. Rows are priced as a whole, at the rate; their value is the GPUs, then the share in use.
///
/// Nothing is found when the job has no rate.
#[must_use]
pub fn fleets(job: &Job, space: &SpaceOptions, options: &SearchOptions, watch: &Watch<'_>) -> Option<Fleets> {
    let Load::Rate(rate) = job.serve()?.load else { return None };
    let sizes = sizes(job);
    let mut one = space.clone();
    (one.use_fewer, one.bounds.replicas) = (false, vec![1]);
    let mut rows: Vec<Row> = Vec::new();
    let mut beyond: Vec<Row> = Vec::new();
    let mut total: Option<Outcome> = None;
    for gpus in &sizes {
        let mut replica = with_serve(job, |s| s.load = Load::Most);
        replica.cluster = job.cluster.resized(*gpus);
        let found = search(&replica, &one, options, watch);
        for row in &found.rows {
            if let Some((fleet, fits)) = fleet(job, space.convention(), row, rate) {
                if fits { rows.push(fleet) } else { beyond.push(fleet) }
            }
        }
        total = Some(match total {
            None => found,
            Some(sum) => added(sum, found),
        });
        if watch.stop.load(Ordering::Relaxed) {
            break;
        }
    }
    let mut outcome = total?;
    for list in [&mut rows, &mut beyond] {
        list.sort_by(Row::order);
    }
    rows.truncate(options.top);
    outcome.frontier = frontier(job, &rows);
    outcome.rows = rows;
    Some(Fleets { outcome, beyond: beyond.first().copied(), sizes })
}

/// The counts of two searches as one.
fn added(mut sum: Outcome, more: Outcome) -> Outcome {
    sum.factorisations += more.factorisations;
    sum.plans += more.plans;
    sum.covered += more.covered;
    sum.priced += more.priced;
    sum.fit += more.fit;
    if more.stop != crate::search::StopReason::Exhausted {
        sum.stop = more.stop;
    }
    sum.funnel.meshes += more.funnel.meshes;
    sum.funnel.plans += more.funnel.plans;
    sum.funnel.mesh_rules = tallies(sum.funnel.meshes, &sum.funnel.mesh_rules, &more.funnel.mesh_rules);
    sum.funnel.plan_rules = tallies(sum.funnel.plans, &sum.funnel.plan_rules, &more.funnel.plan_rules);
    sum
}

/// Refusals of two searches of `all` meshes or plans as one, in the order of the rules.
fn tallies(all: u64, a: &[Tally], b: &[Tally]) -> Vec<Tally> {
    let mut left = all;
    let mut out = Vec::new();
    for rule in Rule::ALL {
        let mut refused = 0;
        let mut nearest: Option<(Plan, Rejection)> = None;
        for tally in a.iter().chain(b).filter(|t| t.rule == rule) {
            refused += tally.refused;
            let nearer = |miss: &(Plan, Rejection)| nearest.is_none_or(|best| miss.1.miss() < best.1.miss());
            nearest = tally.nearest.filter(nearer).or(nearest);
        }
        if refused > 0 {
            left -= refused;
            out.push(Tally { rule, refused, left, nearest });
        }
    }
    out
}

/// A replica as often as the rate needs it, priced as a whole, and whether the GPUs there are suffice.
fn fleet(job: &Job, convention: Convention, replica: &Row, rate: f64) -> Option<(Row, bool)> {
    let one = replica.estimate.load.requests_per_s;
    if one <= 0.0 {
        return None;
    }
    let gpus = replica.plan.mesh.world();
    let least = (rate / one - 1e-9).ceil().max(1.0);
    // Requests in flight are whole numbers: one replica more may be needed than the rates say.
    for copies in [least, least + 1.0] {
        if copies * f64::from(gpus) > f64::from(crate::job::MOST_GPUS) {
            return None;
        }
        let plan = copied(&replica.plan, copies as u32)?;
        let world = plan.mesh.world();
        let fits = world <= job.gpus();
        let larger = Job { cluster: job.cluster.resized(world), ..job.clone() };
        let estimate = estimate::estimate(if fits { job } else { &larger }, convention, &plan);
        if estimate::verdict(job, &estimate).is_empty() {
            let busy = rate / (one * copies);
            return Some((Row { plan, estimate, value: f64::from(world) * (1.0 + 1e-3 * busy) }, fits));
        }
    }
    None
}

/// A plan of one replica, so many times.
#[must_use]
pub fn copied(plan: &Plan, copies: u32) -> Option<Plan> {
    let m = &plan.mesh;
    let mesh = Mesh::new(m.tp(), m.cp(), m.pp(), m.dp_attention().checked_mul(copies)?, m.ep(), m.etp())?;
    Some(Plan { mesh, knobs: Knobs { replicas: plan.knobs.replicas.max(1).checked_mul(copies)?, ..plan.knobs } })
}

/// The most requests in flight a sweep goes to.
const MOST_SWEPT: u32 = 1 << 14;

/// The Pareto frontier over plans and loads: the plans of every load, from one request in flight by doublings to where the KV
/// caches are full, of which no other answers faster per GPU and per user at once.
#[must_use]
pub fn sweep(job: &Job, space: &SpaceOptions, options: &SearchOptions, watch: &Watch<'_>) -> Outcome {
    let mut all: Option<Outcome> = None;
    let mut concurrency = 1;
    while concurrency <= MOST_SWEPT {
        let at = with_serve(job, |s| (s.load, s.concurrency) = (Load::InFlight, concurrency));
        let found = search(&at, space, options, watch);
        let in_flight = |row: &Row| row.estimate.service().map_or(0.0, |s| s.concurrency);
        let full = !found.frontier.iter().any(|row| in_flight(row) + 0.5 >= f64::from(concurrency));
        match &mut all {
            None => all = Some(found),
            Some(sum) => {
                let mut rows = std::mem::take(&mut sum.frontier);
                // A full cache answers no more than it did at the load that filled it.
                rows.extend(found.frontier.iter().filter(|row| in_flight(row) + 0.5 >= f64::from(concurrency)));
                sum.frontier = frontier(job, &rows);
            }
        }
        if full || watch.stop.load(Ordering::Relaxed) {
            break;
        }
        concurrency *= 2;
    }
    let mut outcome = all.unwrap_or_else(|| search(job, space, options, watch));
    outcome.rows = outcome.frontier.clone();
    outcome
}

#[cfg(test)]
#[path = "goal_tests.rs"]
mod tests;
