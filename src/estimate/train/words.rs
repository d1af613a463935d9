//! The memory of a training stage in words: each term's formula with the numbers that went in.

use super::memory::{Priced, rank_params};
use super::tokens;
use crate::cost::memory as mem;
use crate::cost::{MemoryTerm, pipeline};
use crate::estimate::Alike;
use crate::job::{Job, Train};
use crate::mesh::Convention;
use crate::plan::{Plan, Recompute};
use crate::units::Bytes;

/// How a term of a stage comes about, with its inputs; empty for terms that training has not.
#[must_use]
pub fn formula(job: &Job, train: &Train, convention: Convention, plan: &Plan, stage: u32, term: MemoryTerm) -> String {
    let run = Priced::new(job, train, convention, plan);
    let at = Alike::one(&job.model, stage, run.span(stage));
    let (mesh, knobs) = (&plan.mesh, &plan.knobs);
    let params = rank_params(&job.model, mesh, &at);
    let grad = run.stack.gradients.unwrap_or(train.grad_dtype);
    let offload = f64::from(knobs.optimizer_offload) / 100.0;
    let per = mem::state_bytes(train.precision, grad, knobs.zero, 1.0, offload);
    let (dense_shards, expert_shards) = (run.shards(), f64::from(mesh.edp()));
    // What ZeRO shards, it divides by the ranks of the group.
    let states = |bytes: f64, sharded: bool| {
        let part = |count: f64, what: &str, shards: f64| {
            let over = if sharded && shards > 1.0 { format!(" / {shards} ranks") } else { String::new() };
            format!("{} {what} parameters x {bytes} B{over}", millions(count))
        };
        let dense = part(params.dense, "dense", dense_shards);
        if params.routed > 0.0 { format!("{dense} + {}", part(params.routed, "expert", expert_shards)) } else { dense }
    };
    let t = tokens(train, plan);
    match term {
        MemoryTerm::Weights => {
            let copies = pipeline::weight_copies(knobs.schedule);
            let twice = if copies > 1.0 { "2 copies x " } else { "" };
            format!("{twice}{}", states(per.weights, knobs.zero >= 3))
        }
        MemoryTerm::Gradients => states(per.gradients, knobs.zero >= 2),
        MemoryTerm::Optimizer => {
            let kept = if offload > 0.0 { format!(", {:.0}% in host memory", offload * 100.0) } else { String::new() };
            format!("{}{kept}", states(per.optimizer, knobs.zero >= 1))
        }
        MemoryTerm::Activations => {
            let layers: f64 = (0..job.model.blocks().len()).map(|kind| at.count(kind)).sum();
            let again = knobs.recompute.whole_layers(layers, knobs.vpp);
            let block = matches!(knobs.recompute, Recompute::Block(_));
            let mean = |bytes: fn(&super::memory::KindBytes) -> f64| {
                let all = run.kinds.iter().enumerate().take(job.model.blocks().len());
                all.map(|(kind, one)| at.count(kind) * bytes(one)).sum::<f64>() / layers.max(1.0)
            };
            let rest = if block {
                format!(" in {again} of its layers, {} in the others", Bytes::new(mean(|kind| kind.whole)))
            } else {
                String::new()
            };
            format!(
                "{t} tokens x {}{rest} a layer (recompute={}) x {layers} layers x {:.2} micro-batches in flight",
                Bytes::new(mean(|kind| kind.stays)),
                knobs.recompute,
                run.in_flight(stage),
            )
        }
        MemoryTerm::Logits => {
            let twice = if mesh.cp() > 1 { " twice" } else { "" };
            format!(
                "{t} tokens x ({} columns x {} B{twice} + stream of the last norm and the head)",
                run.vocab(),
                run.stack.loss
            )
        }
        MemoryTerm::Transients => {
            let widest = run.kinds.iter().enumerate().take(job.model.blocks().len());
            let widest =
                widest.filter(|(kind, _)| at.count(*kind) > 0.0).map(|(_, one)| one.working).fold(0.0, f64::max);
            format!("{t} tokens x {} of the widest layer", Bytes::new(widest))
        }
        MemoryTerm::GradWork => {
            let bucket = run.stack.bucket;
            if bucket > 0.0 {
                format!("{} parameters x {bucket} B of reduction buckets", millions(params.dense + params.routed))
            } else {
                "distinct weight shapes of the stage x 2 B".to_owned()
            }
        }
        MemoryTerm::Gathered => "largest layer x 2 B x 2 (running and prefetched)".to_owned(),
        MemoryTerm::Workspaces => "4 library handles, 32 MiB each from Hopper on, 8 MiB before".to_owned(),
        MemoryTerm::Communication => "0.4 GB for the first group, 0.1 GB for each further one".to_owned(),
        MemoryTerm::Context => "one process, 0.6 GB".to_owned(),
        MemoryTerm::Fragmentation => {
            let states = run.stack.fragmented_states;
            let more = if states > 0.0 { format!(" + {states} x states") } else { String::new() };
            format!("{} x (activations, logits, transients, gathered){more}", mem::FRAGMENTATION)
        }
        MemoryTerm::KvCache | MemoryTerm::ServeActivations | MemoryTerm::ExpertBuffers | MemoryTerm::Graphs => {
            String::new()
        }
    }
}

/// A count in millions, as people write parameters.
fn millions(count: f64) -> String {
    format!("{:.2}M", count / 1e6)
}
