//! Pipeline schedules: the closed forms against the simulation. Belongs here: properties over random stage times.

use crate::tool::{Scratch, run as tool};
use meshwright::cost::pipeline::{StageTime, Stages, bubble, in_flight, makespan};
use meshwright::cost::schedule::{Pass, Pipeline, Run};
use meshwright::plan::Schedule;

/// A small generator of numbers: the same stages on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> f64 {
        // Source of the constants: Knuth's MMIX.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.roll()
    }

    fn whole(&mut self, low: u32, high: u32) -> u32 {
        low + (self.roll() * f64::from(high - low + 1)) as u32
    }

    /// Stages of random times; alike, or apart by up to a factor of three.
    fn stages(&mut self, pp: u32, alike: bool) -> Vec<StageTime> {
        let base = StageTime {
            forward: self.between(0.5, 2.0),
            backward: self.between(0.5, 2.0),
            weight: self.between(0.2, 1.5),
        };
        let one =
            |by: f64| StageTime { forward: by * base.forward, backward: by * base.backward, weight: by * base.weight };
        (0..pp).map(|_| one(if alike { 1.0 } else { self.between(0.5, 1.5) })).collect()
    }
}

fn run(schedule: Schedule, vpp: u32, micro_batches: u32, stages: &[StageTime]) -> Run {
    Pipeline { schedule, vpp, micro_batches, stages, hop: 0.0 }.simulate().expect("the schedule exists")
}

/// Worst departures of the closed form below and above the simulation, over many random pipelines.
fn departures(schedule: Schedule, alike: bool, per_stage: (u32, u32), vpp: (u32, u32)) -> (f64, f64) {
    let mut dice = Dice(7);
    let (mut low, mut high) = (0.0_f64, 0.0_f64);
    for _ in 0..400 {
        let mut pp = dice.whole(1, 10);
        let mut n = dice.whole(per_stage.0 * pp, per_stage.1 * pp).max(1);
        if schedule == Schedule::DualPipe {
            (pp, n) = (2 * pp, 2 * n);
        }
        let v = if pp > 1 { dice.whole(vpp.0, vpp.1) } else { 1 };
        let stages = dice.stages(pp, alike);
        let off = makespan(schedule, v, n, &stages) / run(schedule, v, n, &stages).end - 1.0;
        low = low.min(off);
        high = high.max(off);
    }
    (low, high)
}

/// Rounding, over sums of some thousands of terms.
const EXACT: f64 = 1e-9;

fn holds(what: &str, (low, high): (f64, f64), below: f64, above: f64) {
    assert!(-below <= low && high <= above, "{what}: {:+.2}% to {:+.2}%", low * 100.0, high * 100.0);
}

#[test]
fn closed_forms_are_exact_for_stages_alike() {
    for per_stage in [(1, 2), (2, 12)] {
        for schedule in [Schedule::Gpipe, Schedule::OneFOneB, Schedule::ZbH1] {
            holds(schedule.name(), departures(schedule, true, per_stage, (1, 1)), EXACT, EXACT);
        }
        holds("interleaved", departures(Schedule::OneFOneB, true, per_stage, (2, 5)), EXACT, EXACT);
    }
    for schedule in [Schedule::Gpipe, Schedule::OneFOneB] {
        holds(schedule.name(), departures(schedule, true, (0, 1), (1, 1)), EXACT, EXACT);
    }
}

#[test]
fn closed_forms_bound_unequal_stages_from_below() {
    holds("gpipe", departures(Schedule::Gpipe, false, (0, 6), (1, 1)), EXACT, EXACT);
    for (per_stage, plain, interleaved, zero) in [((1, 8), 0.04, 0.10, 0.08), ((8, 16), 0.01, 0.02, 0.02)] {
        holds("1f1b", departures(Schedule::OneFOneB, false, per_stage, (1, 1)), plain, EXACT);
        holds("interleaved", departures(Schedule::OneFOneB, false, per_stage, (2, 5)), interleaved, EXACT);
        holds("zb-h1", departures(Schedule::ZbH1, false, per_stage, (1, 1)), zero, EXACT);
    }
}

#[test]
fn dual_pipe_is_as_its_report_says() {
    let mut dice = Dice(11);
    for _ in 0..200 {
        let pp = 2 * dice.whole(1, 6);
        let n = 2 * dice.whole(pp, 5 * pp);
        let mut stages = dice.stages(pp, true);
        for stage in &mut stages {
            stage.backward = stage.backward.min(stage.forward);
        }
        let off = makespan(Schedule::DualPipe, 1, n, &stages) / run(Schedule::DualPipe, 1, n, &stages).end - 1.0;
        assert!(off.abs() < EXACT, "{pp} {n} {stages:?}: {off}");
    }
    holds("alike", departures(Schedule::DualPipe, true, (2, 8), (1, 1)), EXACT, 0.03);
    holds("unequal", departures(Schedule::DualPipe, false, (2, 8), (1, 1)), 0.09, 0.06);
}

#[test]
fn bubbles_of_sums_are_exact_where_they_say_so() {
    let mut dice = Dice(3);
    for _ in 0..300 {
        let pp = dice.whole(2, 8);
        let n = dice.whole(pp, 6 * pp);
        let mut stages = dice.stages(pp, true);
        let weight_share = stages[0].weight / stages[0].sum();
        let at = |stages: &[StageTime]| {
            let sums = stages.iter().map(|t| t.sum());
            Stages { sum: sums.clone().sum(), slowest: sums.fold(0.0, f64::max), weight_share }
        };
        let check = |schedule, vpp, stages: &[StageTime]| {
            let sums = at(stages);
            let step = f64::from(n) * sums.slowest + bubble(schedule, pp, vpp, n, sums);
            let off = step / run(schedule, vpp, n, stages).end - 1.0;
            assert!(off.abs() < EXACT, "{schedule:?} pp{pp} vpp{vpp} n{n}: {off}");
        };
        check(Schedule::Gpipe, 1, &stages);
        check(Schedule::OneFOneB, 1, &stages);
        check(Schedule::OneFOneB, dice.whole(2, 4), &stages);
        if stages[0].weight <= stages[0].forward.min(stages[0].backward) {
            check(Schedule::ZbH1, 1, &stages);
        }
        // The last stage has the head.
        let last = stages.last_mut().expect("a stage");
        *last = StageTime { forward: 1.5 * last.forward, backward: 1.5 * last.backward, weight: 1.5 * last.weight };
        check(Schedule::Gpipe, 1, &stages);
        check(Schedule::OneFOneB, 1, &stages);
    }
}

#[test]
fn peaks_in_flight_are_the_closed_forms() {
    let mut dice = Dice(5);
    for _ in 0..300 {
        let pp = dice.whole(1, 9);
        let n = dice.whole(1, 4 * pp);
        let stages = dice.stages(pp, false);
        let vpp = if pp > 1 { dice.whole(1, 4) } else { 1 };
        let even = 2 * pp;
        for (schedule, vpp, pp, n) in [
            (Schedule::Gpipe, 1, pp, n),
            (Schedule::OneFOneB, vpp, pp, n),
            (Schedule::ZbH1, 1, pp, n),
            (Schedule::DualPipe, 1, even, 2 * even + 2 * n),
        ] {
            let stages = if schedule == Schedule::DualPipe { dice.stages(pp, false) } else { stages.clone() };
            let peaks = run(schedule, vpp, n, &stages).in_flight;
            for (stage, peak) in (0_u32..).zip(&peaks) {
                let said = in_flight(schedule, pp, vpp, n, stage);
                assert!((said - peak).abs() < EXACT, "{schedule:?} pp{pp} vpp{vpp} n{n} stage {stage}: {said} {peak}");
            }
        }
    }
}

#[test]
fn every_pass_runs_once_and_in_order() {
    for (schedule, vpp) in [
        (Schedule::Gpipe, 1),
        (Schedule::OneFOneB, 1),
        (Schedule::OneFOneB, 3),
        (Schedule::ZbH1, 1),
        (Schedule::DualPipe, 1),
    ] {
        for hop in [0.0, 0.3] {
            let stages = Dice(1).stages(4, false);
            let n = 10;
            let pipeline = Pipeline { schedule, vpp, micro_batches: n, stages: &stages, hop };
            let ran = pipeline.simulate().expect("it exists");
            let ops: Vec<_> = ran.slices.iter().flat_map(|s| [Some(s.slot.op), s.slot.with]).flatten().collect();
            let count = |pass: fn(Pass) -> bool| ops.iter().filter(|op| pass(op.pass)).count();
            let all = 4 * n as usize * vpp as usize;
            assert_eq!(count(|p| p == Pass::Forward), all, "{schedule:?}");
            assert_eq!(count(|p| matches!(p, Pass::Backward | Pass::Input)), all, "{schedule:?}");
            assert_eq!(count(|p| matches!(p, Pass::Backward | Pass::Weight)), all, "{schedule:?}");
            let apart = ran.slices.windows(2).all(|w| w[0].rank != w[1].rank || w[0].end <= w[1].start);
            assert!(apart, "a rank runs one slice at a time");
            assert!(hop <= 0.0 || ran.end > run(schedule, vpp, n, &stages).end, "hops cost time");
        }
    }
}

#[test]
fn what_has_no_order_is_not_simulated() {
    let stages = Dice(1).stages(4, true);
    let at =
        |schedule, micro_batches, stages| Pipeline { schedule, vpp: 1, micro_batches, stages, hop: 0.0 }.simulate();
    assert!(at(Schedule::DualPipe, 6, &stages[..]).is_none(), "fewer micro-batches than twice the ranks");
    assert!(at(Schedule::DualPipe, 9, &stages[..]).is_none(), "an odd number of them");
    assert!(at(Schedule::DualPipe, 8, &stages[..3]).is_none(), "an odd number of ranks");
    assert!(at(Schedule::OneFOneB, 0, &stages[..]).is_none());
    assert!(at(Schedule::OneFOneB, u32::MAX, &stages[..]).is_none(), "too many slices to look at");
}

/// The trace of a plan of Llama-3-70B on 64 H100, and what `explain` said on stderr.
fn trace(plan: &str, more: &[&str]) -> (serde_json::Value, String) {
    let scratch = Scratch::new();
    let file = scratch.path("step.json");
    let job = ["explain", "--model", "llama-3-70b", "--cluster", "64xH100", "--trace", &file, plan];
    let said = tool(&[&job[..], more].concat());
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{e}: {}", said.stderr));
    (serde_json::from_str(&text).expect("the trace is JSON"), said.stderr)
}

#[test]
fn a_trace_ends_with_the_estimated_step() {
    for (plan, framework) in [
        ("tp8 pp1 dp8 mb1", "megatron"),
        ("tp4 pp4 dp4 mb1", "megatron"),
        ("tp4 pp4 dp4 mb2 recompute=full", "torchtitan"),
        ("tp4 pp4 dp4 mb1 vpp4", "megatron"),
        ("tp4 pp4 dp4 mb1 zero=3", "deepspeed"),
    ] {
        let (trace, _) = trace(plan, &["--framework", framework]);
        let number = |v: &serde_json::Value| v.as_f64().expect("a number");
        let about = &trace["otherData"];
        let (end, step) = (number(&about["trace_s"]), number(&about["estimated_step_s"]));
        assert!((end / step - 1.0).abs() < 0.01, "{plan}: {end} {step}");
        let events = trace["traceEvents"].as_array().expect("events");
        let slices: Vec<_> = events.iter().filter(|e| e["ph"] == "X").collect();
        let last = slices.iter().map(|e| number(&e["ts"]) + number(&e["dur"])).fold(0.0, f64::max);
        assert!((last / 1e6 / end - 1.0).abs() < 1e-6, "the last slice ends the trace: {last} {end}");
        // No lane does two things at once.
        let mut lanes: Vec<(u64, u64, f64, f64)> = slices
            .iter()
            .map(|e| {
                let at = |key: &str| e[key].as_u64().expect("a lane");
                (at("pid"), at("tid"), number(&e["ts"]), number(&e["dur"]))
            })
            .collect();
        lanes.sort_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2)));
        for pair in lanes.windows(2) {
            let (a, b) = (pair[0], pair[1]);
            assert!((a.0, a.1) != (b.0, b.1) || a.2 + a.3 <= b.2 + 1e-3, "{plan}: {a:?} {b:?}");
        }
        assert!(slices.iter().any(|e| e["name"] == "F0") && slices.iter().any(|e| e["name"] == "optimizer"));
    }
    let (zero, said) = trace("tp4 pp4 dp4 mb1 schedule=zb-h1", &[]);
    assert!(zero["traceEvents"].as_array().is_some_and(|all| all.iter().any(|e| e["cat"] == "weight gradients")));
    assert!(said.contains("ui.perfetto.dev"), "{said}");
}

#[test]
fn what_cannot_be_traced_says_so() {
    let scratch = Scratch::new();
    let file = scratch.path("step.json");
    let job = ["explain", "--model", "llama-3-70b", "--cluster", "64xH100", "--trace", &file];
    for (more, word) in [
        (&["--serve", "tp8"][..], "training job"),
        (&[][..], "a plan beside it"),
        (&["tp4 pp4 dp4 mb64 schedule=dualpipe"][..], "at least twice as many"),
        (&["tp1 pp64 dp1 mb1", "--global-batch", "1000000"][..], "slices at most"),
    ] {
        let said = tool(&[&job[..], more].concat());
        let line = said.refusal();
        assert!(line.starts_with("error: --trace") && line.contains(word), "{line}");
        assert!(scratch.names().is_empty(), "nothing is written");
    }
}

#[test]
fn every_overlap_is_a_switch_that_time_obeys() {
    let step = |plan: &str| {
        let said = tool(&[
            "estimate",
            "--model",
            "qwen3-30b-a3b",
            "--cluster",
            "32xH100",
            "--format",
            "json",
            "--convention",
            "megatron",
            plan,
        ]);
        said.json()["train"]["step_time_s"].as_f64().expect("a time")
    };
    let plan = "tp2 pp2 dp8 ep8 etp1 mb1 vpp2";
    for knob in ["tp_overlap", "dp_overlap", "ep_overlap", "pp_overlap"] {
        let (on, off) = (step(&format!("{plan} {knob}=true")), step(&format!("{plan} {knob}=false")));
        assert!(on < off, "{knob}: {on} {off}");
    }
    assert!((step(plan) - step(&format!("{plan} pp_overlap=true"))).abs() < 1e-12, "interleaving overlaps by itself");
    let plain = "tp2 pp2 dp8 ep8 etp1 mb1";
    assert!((step(plain) - step(&format!("{plain} pp_overlap=false"))).abs() < 1e-12, "a plain pipeline does not");
}
