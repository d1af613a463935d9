//! The memory of a serving stage in words: each term's formula with the numbers that went in.

use super::memory::{EXPERT_TOKENS, budget_words, prefill_tokens, request_bytes};
use super::{EngineProfile, Load};
use crate::cost::MemoryTerm;
use crate::estimate::StageSpan;
use crate::job::{Job, Serve};
use crate::mesh::Convention;
use crate::plan::Plan;
use crate::units::Bytes;

/// How a term of a stage comes about, with its inputs; empty for terms that serving has not.
#[must_use]
pub fn formula(job: &Job, serve: &Serve, convention: Convention, plan: &Plan, stage: u32, term: MemoryTerm) -> String {
    let mesh = &plan.mesh;
    let span = StageSpan::of(convention, &job.model, plan, stage);
    let profile = EngineProfile::of(convention);
    let load = Load::new(serve, plan);
    match term {
        MemoryTerm::Weights => {
            let quant = serve.quant;
            format!(
                "{} layers: attention at {} B / tp {}, dense at {} B / tp {}, experts at {} B / (ep {} x etp {}), norms and router at 2 B; \
                 embedding and head at 2 B / tp on their stages",
                span.layers(),
                quant.attention().bytes(),
                mesh.tp(),
                quant.dense().bytes(),
                mesh.tp(),
                quant.experts().bytes(),
                mesh.ep(),
                mesh.etp(),
            )
        }
        MemoryTerm::KvCache => {
            let one = request_bytes(job, serve, plan, &span, load.longest);
            format!(
                "{} requests of {} tokens on this rank x {} a request, no more than {}",
                load.requests,
                load.longest,
                Bytes::new(one),
                budget_words(job, serve, convention, plan)
            )
        }
        MemoryTerm::ServeActivations => {
            let tokens = prefill_tokens(job, convention);
            format!(
                "a prefill step of {tokens} tokens x (8 hidden + widest of attention and MLP) + 12 B a logit of the sampler"
            )
        }
        MemoryTerm::ExpertBuffers => {
            format!("DeepEP low latency, {EXPERT_TOKENS} tokens a rank for every expert, whatever EP")
        }
        MemoryTerm::Communication => "communicators and all-reduce buffers of the engine".to_owned(),
        MemoryTerm::Graphs => format!("{} of captured graphs", Bytes::new(profile.graph_bytes)),
        MemoryTerm::Context => "one process, 0.6 GB".to_owned(),
        MemoryTerm::Gradients
        | MemoryTerm::Optimizer
        | MemoryTerm::Activations
        | MemoryTerm::Logits
        | MemoryTerm::Transients
        | MemoryTerm::GradWork
        | MemoryTerm::Gathered
        | MemoryTerm::Workspaces
        | MemoryTerm::Fragmentation => String::new(),
    }
}
