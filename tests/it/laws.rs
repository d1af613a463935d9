//! Laws that hold for every job and plan. Belongs here: properties over random input, never a number of one model.

use crate::worlds::{any_plan, cases, framework, job, model, train};
use meshwright::catalog;
use meshwright::cost::{Term, TimeTerm};
use meshwright::estimate::{self, Assessment, Time, assess};
use meshwright::export::{Ranking, json};
use meshwright::framework::Framework;
use meshwright::import::job as job_file;
use meshwright::job::{Arrivals, Job, Load, Workload};
use meshwright::mesh::Convention;
use meshwright::plan::{Draft, Plan, Purpose};
use meshwright::rank::{Objective, trade};
use meshwright::rules;
use meshwright::search::{Outcome, SearchOptions, StopReason, Watch, search};
use meshwright::space::{Bounds, Scope, Space, SpaceOptions};
use meshwright::units::Bytes;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Map, Value};
use std::sync::atomic::AtomicBool;

/// Everything that `interface.md` promises of a result, and that a schema cannot say.
pub(crate) fn check_result(job: &Job, result: &Value) {
    no_nulls("", result);
    let fits = result["verdict"] == "fits";
    let rejections = result["rejections"].as_array().expect("a list of rejections");
    assert_eq!(fits, rejections.is_empty(), "fits when nothing refuses: {result:#}");
    let plan = &result["plan"];
    let (used, idle) = (plan["gpus"].as_u64().expect("GPUs"), plan["idle_gpus"].as_u64());
    if used <= u64::from(job.gpus())
        && let Some(idle) = idle
    {
        assert_eq!(used + idle, u64::from(job.gpus()), "used + idle = GPUs of the cluster: {plan:#}");
    }
    if plan["tp"].is_u64() {
        let product = |keys: &[&str]| keys.iter().map(|k| plan[k].as_u64().expect("a degree")).product::<u64>();
        assert_eq!(product(&["tp", "cp", "pp", "dp_attention"]), used, "the dense grid: {plan:#}");
        assert_eq!(product(&["etp", "ep", "pp", "edp"]), used, "the expert grid: {plan:#}");
    }
    // Stage sizes that do not add up are refused for just that.
    let sizes_refused = rejections.iter().any(|r| r["rule"] == "stage-sizes");
    if let (Some(stages), false) = (plan["stage_layers"].as_array(), sizes_refused) {
        let sum: u64 = stages.iter().map(|s| s.as_u64().expect("layers")).sum();
        assert_eq!(sum, u64::from(job.model.layers()), "every layer is in a stage: {result:#}");
        assert_eq!(Some(stages.len() as u64), plan["pp"].as_u64());
    }
    if let Some(memory) = result.get("memory") {
        let total = number(&memory["total_bytes"]);
        close(sum(&memory["terms_bytes"]), total, "memory terms sum to the total");
        let utilization = number(&memory["utilization"]);
        close(total / number(&memory["capacity_bytes"]), utilization, "utilisation is need over capacity");
        assert!(utilization >= 0.0 && (!fits || utilization <= 1.0), "{memory:#}");
        assert!(number(&memory["allocated_bytes"]) <= total * (1.0 + 1e-9));
        let stages = memory["stages"].as_array().expect("stages");
        assert_eq!(Some(stages.len() as u64), plan["pp"].as_u64());
        let worst = usize::try_from(memory["worst_stage"].as_u64().expect("a stage")).expect("small");
        for (i, stage) in stages.iter().enumerate() {
            let of = number(&stage["total_bytes"]);
            close(sum(&stage["terms_bytes"]), of, "stage terms sum to the stage");
            assert!(of <= total * (1.0 + 1e-9), "no stage needs more than the worst");
            if i == worst {
                close(of, total, "the total is the worst stage's");
            }
        }
    }
    if let Some(train) = result.get("train") {
        let step = number(&train["step_time_s"]);
        close(sum(&train["terms_s"]), step, "time terms sum to the step");
        assert!(step > 0.0 && number(&train["mfu"]) > 0.0 && number(&train["mfu"]) < 1.0, "{train:#}");
        let gpus = used as f64;
        close(number(&train["tokens_per_s"]), number(&train["tokens_per_s_per_gpu"]) * gpus, "tokens per GPU");
    }
    if let Some(serve) = result.get("serve") {
        close(sum(&result["time"]["tpot_terms_s"]), number(&serve["tpot_s"]), "time terms sum to a token's time");
        let terms = result["time"]["tpot_terms_s"].as_object().expect("terms");
        assert!(terms.values().all(|seconds| number(seconds) >= 0.0), "{:#}", result["time"]);
        assert!(number(&serve["tpot_s"]) >= number(&serve["decode_step_s"]) * (1.0 - 1e-9), "{serve:#}");
        for (key, value) in serve.as_object().expect("an object") {
            assert!(number(value) >= 0.0, "{key}: {serve:#}");
        }
    }
    for r in rejections {
        assert!(r["message"].as_str().is_some_and(|m| !m.is_empty() && !m.contains('{')), "{r}");
        assert!(r["need"].is_number() && r["have"].is_number(), "a refusal carries its numbers: {r}");
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("a number, not {value}"))
}

fn sum(terms: &Value) -> f64 {
    terms.as_object().expect("terms").values().map(number).sum()
}

fn close(a: f64, b: f64, what: &str) {
    assert!((a - b).abs() <= 1e-9 * a.abs().max(b.abs()), "{what}: {a} against {b}");
}

/// A number that is not finite is printed as null.
fn no_nulls(path: &str, value: &Value) {
    match value {
        Value::Null => panic!("{path} is null: not finite"),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, v)| no_nulls(&format!("{path}/{i}"), v)),
        Value::Object(map) => map.iter().for_each(|(k, v)| no_nulls(&format!("{path}/{k}"), v)),
        Value::Number(n) => assert!(n.as_f64().is_some_and(f64::is_finite), "{path}"),
        Value::Bool(_) | Value::String(_) => {}
    }
}

/// A search that is not stopped.
pub(crate) fn searched(job: &Job, space: &SpaceOptions, options: &SearchOptions) -> Outcome {
    search(job, space, options, &Watch { stop: &AtomicBool::new(false), progress: &|_| {} })
}

/// Fewer knobs, so that a case is a matter of milliseconds.
fn small_space(job: &Job, pick: usize) -> SpaceOptions {
    let framework = framework(job, pick);
    let scope = if pick.is_multiple_of(2) { Scope::Product } else { Scope::Folded };
    let bounds = Bounds { zero: vec![1], micro_batch: vec![1, 2], ..Bounds::default() };
    SpaceOptions { framework, scope, use_fewer: pick.is_multiple_of(5), bounds }
}

/// The same as programs read it.
pub(crate) fn ranked(job: &Job, space: &SpaceOptions, options: &SearchOptions) -> Value {
    let outcome = searched(job, space, options);
    let (convention, objective) = (space.convention(), options.objective);
    json::ranking(&Ranking {
        job,
        convention,
        objective,
        outcome: &outcome,
        pareto: false,
        every_load: false,
        folded: None,
    })
}

fn purpose(job: &Job) -> Purpose {
    if job.serve().is_some() { Purpose::Serve } else { Purpose::Train }
}

/// One plan of a space.
fn pick_plan(job: &Job, space: &SpaceOptions, pick: u64) -> Option<Plan> {
    let plans = Space::new(job, space);
    (!plans.is_empty()).then(|| plans.get(pick % plans.len()))
}

fn refusals(job: &Job, space: &SpaceOptions, plan: &Plan) -> Vec<rules::Rejection> {
    let mut all = rules::broken(job, space.framework, plan);
    all.extend(estimate::verdict(job, &estimate::estimate(job, space.convention(), plan)));
    all
}

fn job_and_text() -> impl Strategy<Value = (Job, Convention, Option<Framework>, String)> {
    (job(), any::<prop::sample::Index>()).prop_flat_map(|(job, index)| {
        let framework = framework(&job, index.index(8));
        let convention = framework.map_or(Convention::Product, Framework::convention);
        let text = any_plan(convention, job.train().is_some(), job.gpus());
        (Just(job), Just(convention), Just(framework), text)
    })
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn every_result_keeps_the_promises((job, convention, framework, text) in job_and_text()) {
        let draft = Draft::parse(&text, convention).unwrap_or_else(|e| panic!("{text}: {e}"));
        let assessment: Assessment = assess(&job, framework, &draft);
        let result = json::result(&job, convention, framework, None, &assessment, true);
        check_result(&job, &result);
        let again = json::result(&job, convention, framework, None, &assess(&job, framework, &draft), true);
        prop_assert_eq!(result.to_string(), again.to_string());
    }

    #[test]
    fn degrees_multiply_to_the_world_in_both_grids(job in job(), pick in any::<usize>()) {
        let space = small_space(&job, pick);
        for block in Space::new(&job, &space).blocks() {
            let m = &block.mesh;
            let world = if space.use_fewer { m.world() } else { job.gpus() };
            prop_assert_eq!(m.tp() * m.cp() * m.pp() * m.dp_attention(), world);
            prop_assert_eq!(m.etp() * m.ep() * m.pp() * m.edp(), world);
            prop_assert!(world <= job.gpus());
        }
    }

    #[test]
    fn no_plan_is_enumerated_twice(job in job(), pick in any::<usize>()) {
        let plans = Space::new(&job, &small_space(&job, pick));
        prop_assume!(plans.len() < 20_000);
        let mut all: Vec<Plan> = (0..plans.len()).map(|i| plans.get(i)).collect();
        all.sort_unstable();
        let before = all.len();
        all.dedup();
        prop_assert_eq!(all.len(), before);
    }

    #[test]
    fn more_memory_never_refuses(job in job(), pick in any::<usize>(), at in any::<u64>()) {
        let space = small_space(&job, pick);
        let Some(plan) = pick_plan(&job, &space, at) else { return Ok(()) };
        let mut larger = job.clone();
        larger.cluster.gpu.memory = Bytes::new(job.cluster.gpu.memory.get() * 1.5);
        let (before, after) = (refusals(&job, &space, &plan), refusals(&larger, &space, &plan));
        // A service with more room takes more requests at once, so its targets may be missed; its memory may not.
        let hard = |all: &[rules::Rejection]| all.iter().any(|r| !matches!(r.rule, rules::Rule::Ttft | rules::Rule::Tpot | rules::Rule::Rate));
        prop_assert!(hard(&before) || !hard(&after), "{:?}: {:?}", plan, after);
    }

    #[test]
    fn a_faster_link_never_slows(job in job(), pick in any::<usize>(), at in any::<u64>(), which in 0..3) {
        let space = small_space(&job, pick);
        let Some(plan) = pick_plan(&job, &space, at) else { return Ok(()) };
        // Where the load follows the speed, a faster plan takes more of it and may well make each request wait longer.
        let job = meshwright::goal::with_serve(&job, |s| {
            s.load = Load::InFlight;
            if s.arrivals == Arrivals::Poisson {
                s.arrivals = Arrivals::Steady;
            }
        });
        let mut faster = job.clone();
        if which != 1 {
            faster.cluster.scale_up.bandwidth = job.cluster.scale_up.bandwidth * 2.0;
        }
        if which != 0 {
            faster.cluster.network.bandwidth = job.cluster.network.bandwidth * 2.0;
        }
        let of = |job: &Job| estimate::estimate(job, space.convention(), &plan).time;
        let slack = 1.0 + 1e-9;
        match (of(&job), of(&faster)) {
            (Time::Train(a), Time::Train(b)) => prop_assert!(b.seconds().get() <= a.seconds().get() * slack, "{:?}", plan),
            (Time::Serve(a), Time::Serve(b)) => {
                prop_assert!(b.tpot_s <= a.tpot_s * slack, "tpot {} to {}: {plan:?}", a.tpot_s, b.tpot_s);
                prop_assert!(b.ttft_s <= a.ttft_s * slack, "ttft {} to {}: {plan:?}", a.ttft_s, b.ttft_s);
            }
            (Time::Train(_) | Time::Serve(_), _) => prop_assert!(false, "one workload"),
        }
    }

    #[test]
    fn one_gpu_does_not_talk(model in model(), train in train()) {
        let job = Job::new(model, catalog::cluster("1xh200").unwrap(), Workload::Train(train)).unwrap();
        let space = SpaceOptions { bounds: Bounds { zero: vec![1], ..Bounds::default() }, ..SpaceOptions::default() };
        let plans = Space::new(&job, &space);
        for i in 0..plans.len() {
            let plan = plans.get(i);
            let priced = estimate::estimate(&job, Convention::Product, &plan);
            let step = priced.step().unwrap();
            for term in [TimeTerm::TpExposed, TimeTerm::CpExposed, TimeTerm::EpExposed, TimeTerm::PpExposed, TimeTerm::PpBubble, TimeTerm::DpExposed] {
                prop_assert_eq!(step.ledger.get(term).to_bits(), 0.0_f64.to_bits(), "{} of {:?}", term.key(), plan);
            }
            prop_assert_eq!(json::communication(&job, Convention::Product, &plan), Value::Array(Vec::new()));
        }
    }

    #[test]
    fn a_plan_reads_back_from_its_text(job in job(), pick in 0_usize..8, at in any::<u64>()) {
        let framework = framework(&job, pick);
        let mut space = SpaceOptions { framework, ..SpaceOptions::default() };
        if framework.is_none() && job.train().is_some() && at % 2 == 0 {
            space.scope = Scope::Folded;
        }
        let Some(plan) = pick_plan(&job, &space, at) else { return Ok(()) };
        let convention = plan.convention(space.convention());
        let text = plan.text(convention, purpose(&job));
        let draft = Draft::parse(&text, convention).unwrap_or_else(|e| panic!("{text}: {e}"));
        let read = rules::resolve(&job, &draft);
        let back = read.plan.unwrap_or_else(|| panic!("{convention}: {text}: {:?}", read.rejections));
        prop_assert_eq!(back.mesh, plan.mesh, "{}: {}", convention, text);
        prop_assert_eq!(back.text(convention, purpose(&job)), text.clone(), "{}", convention);
        if job.train().is_some() {
            // A named Megatron brings its fused kernels, unsaid.
            let fused_kernels = framework.map_or(back.knobs.fused_kernels, Framework::kernels);
            let knobs = meshwright::plan::Knobs { fused_kernels, ..back.knobs };
            prop_assert_eq!(knobs, plan.knobs, "{}: {}", convention, text);
        }
        prop_assert_eq!(job_file::draft("test", convention, &object(&text)).unwrap(), draft, "as an object: {}", text);
    }
}

/// The object form of a plan's text.
fn object(text: &str) -> Value {
    let mut map = Map::new();
    for word in text.split(' ') {
        let (key, value) = word
            .split_once('=')
            .unwrap_or_else(|| word.split_at(word.find(|c: char| c.is_ascii_digit()).expect("a degree has digits")));
        let key = if key == "mb" { "micro_batch" } else { key };
        map.insert(key.into(), serde_json::from_str(value).unwrap_or_else(|_| value.into()));
    }
    Value::Object(map)
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn a_ranking_keeps_the_promises(job in job(), pick in any::<usize>(), objective in 0_usize..5) {
        let space = small_space(&job, pick);
        let objective = Objective::ALL[objective];
        let outcome = searched(&job, &space, &SearchOptions { objective, top: 7, variants: 1 + pick % 3, exhaustive: false });
        let convention = space.convention();
        let value = json::ranking(&Ranking { job: &job, convention, objective, outcome: &outcome, pareto: false, every_load: false, folded: None });
        for result in value["results"].as_array().unwrap() {
            check_result(&job, result);
        }
        prop_assert!(outcome.rows.windows(2).all(|w| w[0].order(&w[1]).is_lt()), "best first, none twice");
        prop_assert!(outcome.rows.iter().all(|row| row.value.is_finite()));
        prop_assert!(outcome.rows.len() <= 7 && outcome.rows.len() as u64 <= outcome.fit);
        prop_assert_eq!(outcome.rows.is_empty(), outcome.fit == 0);
        // The funnel loses nobody.
        prop_assert_eq!(outcome.stop, StopReason::Exhausted);
        prop_assert_eq!(outcome.covered, outcome.plans);
        let refused = |tallies: &[meshwright::search::Tally]| tallies.iter().map(|t| t.refused).sum::<u64>();
        prop_assert_eq!(outcome.funnel.meshes - refused(&outcome.funnel.mesh_rules) == 0, outcome.funnel.plans == 0);
        prop_assert_eq!(outcome.funnel.plans - refused(&outcome.funnel.plan_rules), outcome.fit);
        for t in outcome.funnel.mesh_rules.iter().chain(&outcome.funnel.plan_rules) {
            let (_, miss) = t.nearest.expect("every rule that refused keeps its nearest miss");
            prop_assert_eq!(miss.rule, t.rule);
        }
    }

    #[test]
    fn the_winner_is_on_the_frontier(job in job(), pick in any::<usize>()) {
        let space = SpaceOptions { use_fewer: false, ..small_space(&job, pick) };
        let outcome = searched(&job, &space, &SearchOptions { top: 1, ..SearchOptions::default() });
        let Some(best) = outcome.rows.first() else {
            prop_assert!(outcome.frontier.is_empty());
            return Ok(());
        };
        let speed = trade(&job, best).0;
        let found = outcome.frontier.iter().any(|row| trade(&job, row).0 >= speed * (1.0 - 1e-12));
        prop_assert!(found, "{:?}", best.plan);
    }

    #[test]
    fn threads_do_not_change_a_byte(job in job(), pick in any::<usize>()) {
        let space = small_space(&job, pick);
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| ranked(&job, &space, &SearchOptions::default())).to_string()
        };
        let one = on(1);
        prop_assert_eq!(&one, &on(2));
        prop_assert_eq!(&one, &on(8));
    }
}

/// Laws about plans say nothing when no plan fits: the generators must give all kinds.
#[test]
fn the_generators_give_plans_that_fit_and_plans_that_do_not() {
    let mut runner = TestRunner::new(cases(1));
    let (mut fits, mut refused, mut full) = (0, 0, 0);
    let (mut fits_as_written, mut trains) = (0, 0);
    for i in 0_u64..256 {
        let (job, convention, framework, text) = job_and_text().new_tree(&mut runner).unwrap().current();
        trains += u32::from(job.train().is_some());
        let draft = Draft::parse(&text, convention).unwrap();
        fits_as_written += u32::from(assess(&job, framework, &draft).resolution.rejections.is_empty());
        let space = SpaceOptions { framework, ..SpaceOptions::default() };
        let Some(plan) = pick_plan(&job, &space, i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 8) else { continue };
        let broken = rules::broken(&job, framework, &plan);
        let priced = estimate::estimate(&job, convention, &plan);
        match (broken.is_empty(), priced.memory.fits()) {
            (true, true) => fits += 1,
            (true, false) => full += 1,
            (false, _) => refused += 1,
        }
    }
    assert!(fits >= 64, "{fits} of 256 fit, {refused} refused, {full} too large");
    assert!(refused >= 16 && full >= 2, "{fits} of 256 fit, {refused} refused, {full} too large");
    assert!(fits_as_written >= 8, "{fits_as_written} of 256 fit as written");
    assert!((64_u32..192).contains(&trains), "{trains} of 256 train");
}
