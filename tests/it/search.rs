//! What bounds and shared tables leave out changes nothing. Belongs here: the search against itself without bounds, and
//! against a plain walk that prices every plan by itself.

use crate::laws::{ranked, searched};
use crate::worlds::{cases, framework, job};
use meshwright::catalog;
use meshwright::estimate;
use meshwright::job::{Job, Train, Workload};
use meshwright::plan::{Plan, Recompute, Schedule};
use meshwright::rank::{Objective, Row, frontier};
use meshwright::rules::{self, Rejection, Rule};
use meshwright::search::{Outcome, SearchOptions, StopReason, Tally, Watch, search};
use meshwright::space::{Bounds, Scope, Space, SpaceOptions};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Spaces of every kind, all knobs in them.
fn space(job: &Job, pick: usize) -> SpaceOptions {
    let schedule = if pick.is_multiple_of(3) { Schedule::ALL.to_vec() } else { Vec::new() };
    let optimizer_offload = if pick.is_multiple_of(4) { vec![0, 50, 100] } else { Vec::new() };
    let recompute = if pick.is_multiple_of(5) {
        vec![Recompute::None, Recompute::SELECTIVE, Recompute::Full, Recompute::Uniform(2), Recompute::Block(3)]
    } else {
        Vec::new()
    };
    SpaceOptions {
        framework: framework(job, pick / 2),
        scope: if pick.is_multiple_of(2) { Scope::Folded } else { Scope::Product },
        use_fewer: pick.is_multiple_of(7),
        bounds: Bounds { schedule, optimizer_offload, recompute, ..Bounds::default() },
    }
}

fn bytes(job: &Job, space: &SpaceOptions, options: &SearchOptions) -> String {
    ranked(job, space, options).to_string()
}

fn same_with_and_without_bounds(job: &Job, space: &SpaceOptions, variants: usize, objectives: &[Objective]) {
    for &objective in objectives {
        let options = SearchOptions { objective, top: 50, variants, exhaustive: false };
        let exhaustive = SearchOptions { exhaustive: true, ..options };
        assert_eq!(bytes(job, space, &options), bytes(job, space, &exhaustive), "by {}", objective.name());
    }
}

/// Every plan by itself, in its order, one thread, nothing shared and nothing left out.
fn plain_walk(job: &Job, space: &SpaceOptions, options: &SearchOptions) -> (Vec<Row>, Vec<Row>, Vec<Tally>, u64) {
    let plans = Space::new(job, space);
    let mut refused: BTreeMap<Rule, (u64, Plan, Rejection)> = BTreeMap::new();
    let (mut fitting, mut best, mut walked) = (Vec::new(), Vec::new(), 0_u64);
    for block in plans.blocks() {
        let mut broken = Vec::new();
        rules::check_mesh(job, space.framework, &block.sample(), &mut broken);
        if !broken.is_empty() {
            continue;
        }
        let mut rows: Vec<Row> = Vec::new();
        for i in 0..block.len() {
            walked += 1;
            let plan = block.get(i);
            let mut broken: Vec<Rejection> = Vec::new();
            rules::check_plan(job, space.framework, &plan, &mut broken);
            let estimate = estimate::estimate(job, space.convention(), &plan);
            broken.extend(estimate::verdict(job, &estimate));
            let Some(first) = broken.first() else {
                let value = options.objective.value(job, &plan, &estimate);
                rows.push(Row { plan, estimate, value });
                continue;
            };
            let tally = refused.entry(first.rule).or_insert((0, plan, *first));
            tally.0 += 1;
            if first.miss().total_cmp(&tally.2.miss()).then_with(|| plan.cmp(&tally.1)).is_lt() {
                (tally.1, tally.2) = (plan, *first);
            }
        }
        rows.sort_by(Row::order);
        best.extend(rows.iter().take(options.variants).copied());
        fitting.extend(rows);
    }
    best.sort_by(Row::order);
    best.truncate(options.top);
    let mut left = walked;
    let tallies = refused.into_iter().map(|(rule, (refused, plan, miss))| {
        left -= refused;
        Tally { rule, refused, left, nearest: Some((plan, miss)) }
    });
    (best, frontier(job, &fitting), tallies.collect(), fitting.len() as u64)
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn bounds_change_no_byte(job in job(), pick in any::<usize>(), variants in 1_usize..4) {
        same_with_and_without_bounds(&job, &space(&job, pick), variants, &Objective::ALL);
    }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn a_plain_walk_finds_the_same(job in job(), pick in any::<usize>(), variants in 1_usize..4, objective in 0_usize..5) {
        let mut space = space(&job, pick);
        space.use_fewer = false;
        if Space::new(&job, &space).len() > 60_000 {
            (space.bounds.schedule, space.bounds.optimizer_offload) = (Vec::new(), Vec::new());
        }
        let options = SearchOptions { objective: Objective::ALL[objective], top: 20, variants, exhaustive: false };
        let (rows, frontier, tallies, fit) = plain_walk(&job, &space, &options);
        let outcome = searched(&job, &space, &options);
        prop_assert_eq!(outcome.fit, fit);
        prop_assert_eq!(outcome.rows, rows);
        prop_assert_eq!(outcome.frontier, frontier);
        prop_assert_eq!(outcome.funnel.plan_rules, tallies);
    }
}

fn training(model: &str, cluster: &str) -> Job {
    let train = Train { global_batch: 1024, ..Train::default() };
    Job::new(catalog::model(model).unwrap(), catalog::cluster(cluster).unwrap(), Workload::Train(train)).unwrap()
}

/// Random models are small: these have long pipelines, interleaving and little room.
#[test]
fn bounds_change_no_byte_of_large_models() {
    for (model, cluster, framework) in [
        ("deepseek-v3", "256xh100", None),
        ("qwen3-235b-a22b", "128xh200", Some(meshwright::framework::Framework::Megatron)),
        ("llama-3.1-405b", "512xh100", None),
        ("llama-3-70b", "64xa100", Some(meshwright::framework::Framework::Torchtitan)),
    ] {
        let job = training(model, cluster);
        let space = SpaceOptions { scope: Scope::Folded, framework, ..SpaceOptions::default() };
        same_with_and_without_bounds(&job, &space, 2, &[Objective::Throughput, Objective::Balanced]);
    }
}

/// A stopped search says what share it covered, and what it found holds for that share.
#[test]
fn a_stopped_search_tells_its_share() {
    let job = training("deepseek-v3", "1024xh100");
    let space = SpaceOptions { scope: Scope::Folded, ..SpaceOptions::default() };
    let (stop, seen) = (AtomicBool::new(false), AtomicU64::new(0));
    let progress = |plans: u64| {
        if seen.fetch_add(plans, Ordering::Relaxed) + plans > 200_000 {
            stop.store(true, Ordering::Relaxed);
        }
    };
    let watch = Watch { stop: &stop, progress: &progress };
    let outcome: Outcome = search(&job, &space, &SearchOptions::default(), &watch);
    assert_eq!(outcome.stop, StopReason::Interrupted);
    assert_eq!(outcome.covered, seen.load(Ordering::Relaxed));
    assert!(outcome.share() > 0.1 && outcome.share() < 1.0, "{}", outcome.share());
    let refused: u64 = outcome.funnel.plan_rules.iter().map(|t| t.refused).sum();
    assert_eq!(outcome.funnel.plans - refused, outcome.fit);
}
