//! A training step as a Chrome trace, which Perfetto and `chrome://tracing` open.
//!
//! Source of the form: the "Trace Event Format" document of the Chromium project; times are microseconds.

use super::SCHEMA;
use crate::cost::TimeTerm;
use crate::cost::schedule::{Op, Pass, Slice};
use crate::estimate::train::Timeline;
use crate::framework::stage_layers;
use crate::job::Job;
use crate::mesh::Convention;
use crate::plan::{Plan, Purpose, Schedule};
use serde_json::{Value, json};

const MICRO: f64 = 1e6;

/// Lanes of a stage.
const COMPUTE: u32 = 0;
const P2P: u32 = 1;
const DATA_PARALLEL: u32 = 2;

/// The trace: a process for each pipeline stage, in it a lane of passes, one of sends and receives and one of data parallel traffic.
#[must_use]
pub fn chrome(job: &Job, convention: Convention, plan: &Plan, timeline: &Timeline) -> String {
    let mut events = Events::default();
    let (first, last) = (plan.knobs.first_stage_layers, plan.knobs.last_stage_layers);
    let layers = stage_layers(convention, job.model.layers(), plan.mesh.pp(), first, last);
    for (stage, layers) in (0_u32..).zip(&layers) {
        let held = match plan.knobs.schedule {
            Schedule::DualPipe => {
                format!("stages {stage} and {} (dualpipe)", plan.mesh.pp().saturating_sub(stage + 1))
            }
            Schedule::OneFOneB | Schedule::Gpipe | Schedule::ZbH1 => format!("stage {stage}: {layers} layers"),
        };
        events.push(named("process_name", stage, COMPUTE, &held));
        events.push(
            json!({"name": "process_sort_index", "ph": "M", "pid": stage, "tid": 0, "args": {"sort_index": stage}}),
        );
        for (lane, name) in [(COMPUTE, "compute"), (P2P, "send and receive"), (DATA_PARALLEL, "data parallel")] {
            events.push(named("thread_name", stage, lane, name));
        }
    }
    for slice in &timeline.run.slices {
        passes(slice, timeline.p2p, &mut events);
    }
    for stage in 0..plan.mesh.pp() {
        let mut from = timeline.run.end;
        for (term, seconds) in timeline.after {
            if seconds > 0.0 {
                let (lane, name) = after(term, plan.knobs.zero);
                events.push(complete((stage, lane), name, term_category(term), (from, seconds), json!({})));
                from += seconds;
            }
        }
    }
    let said = plan.convention(convention);
    let about = json!({
        "schema": SCHEMA,
        "model": job.model.name(),
        "cluster": job.cluster.name,
        "plan": plan.text(said, Purpose::Train),
        "convention": said.name(),
        "scope": "one rank of every pipeline stage, one optimizer step, estimated",
        "trace_s": timeline.end(),
        "estimated_step_s": timeline.step.seconds().get(),
    });
    format!("{{\"displayTimeUnit\": \"ms\", \"otherData\": {about}, \"traceEvents\": [\n{}\n]}}\n", events.0)
}

/// Events as text, one a line: a long step has hundreds of thousands.
#[derive(Default)]
struct Events(String);

impl Events {
    fn push(&mut self, event: Value) {
        if !self.0.is_empty() {
            self.0.push_str(",\n");
        }
        self.0.push_str(&event.to_string());
    }
}

fn named(what: &str, stage: u32, lane: u32, name: &str) -> Value {
    json!({"name": what, "ph": "M", "pid": stage, "tid": lane, "args": {"name": name}})
}

/// A slice of a lane of a stage, in seconds from and of.
fn complete(at: (u32, u32), name: &str, category: &str, seconds: (f64, f64), args: Value) -> Value {
    json!({"name": name, "cat": category, "ph": "X", "pid": at.0, "tid": at.1,
           "ts": seconds.0 * MICRO, "dur": seconds.1 * MICRO, "args": args})
}

/// A slot's compute, and what it sends and receives at its end.
fn passes(slice: &Slice, p2p: f64, events: &mut Events) {
    let ops = [Some(slice.slot.op), slice.slot.with];
    let name = ops.iter().flatten().map(|op| label(*op)).collect::<Vec<_>>().join(" & ");
    let moves = ops.iter().flatten().filter(|op| op.pass != Pass::Weight).count();
    let sending = (p2p * moves as f64).min(slice.end - slice.start);
    let op = slice.slot.op;
    let category = match op.pass {
        _ if slice.slot.with.is_some() => "forward and backward",
        Pass::Forward => "forward",
        Pass::Backward | Pass::Input => "backward",
        Pass::Weight => "weight gradients",
    };
    let args =
        json!({"micro_batch": op.micro_batch, "chunk": op.chunk, "with_weight_gradients": op.pass == Pass::Backward});
    let computing = (slice.start, slice.end - slice.start - sending);
    events.push(complete((slice.rank, COMPUTE), &name, category, computing, args));
    if sending > 0.0 {
        events.push(complete(
            (slice.rank, P2P),
            &format!("p2p {name}"),
            "p2p",
            (slice.end - sending, sending),
            json!({}),
        ));
    }
}

/// `F3`, or `F3.1` in the second chunk.
fn label(op: Op) -> String {
    if op.chunk == 0 {
        format!("{}{}", op.pass.letter(), op.micro_batch)
    } else {
        format!("{}{}.{}", op.pass.letter(), op.micro_batch, op.chunk)
    }
}

const fn after(term: TimeTerm, zero: u8) -> (u32, &'static str) {
    match (term, zero) {
        (TimeTerm::DpExposed, 0) => (DATA_PARALLEL, "gradient all-reduce, not hidden"),
        (TimeTerm::DpExposed, 1 | 2) => (DATA_PARALLEL, "gradient reduce-scatter and parameter all-gather, not hidden"),
        (TimeTerm::DpExposed, _) => {
            (DATA_PARALLEL, "parameter all-gathers and gradient reduce-scatters of all layers, not hidden")
        }
        (_, _) => (COMPUTE, "optimizer"),
    }
}

const fn term_category(term: TimeTerm) -> &'static str {
    if matches!(term, TimeTerm::DpExposed) { "data parallel" } else { "optimizer" }
}
