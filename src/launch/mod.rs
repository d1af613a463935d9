//! The commands and files that start a plan on a framework.
//!
//! Only flags that the frameworks' own parsers know are written, every degree is written out even where it equals a default
//! (the defaults differ between frameworks), and `import::command` reads all of it back.

mod args;
mod bridge;
mod deepspeed;
mod megatron;
pub mod ranks;
mod sglang;
#[cfg(test)]
pub(crate) mod tests;
mod torchtitan;
mod trtllm;
mod vllm;

use crate::framework::Framework;
use crate::job::{Job, Serve, Train, Workload};
use crate::mesh::Mesh;
use crate::plan::{Knobs, Plan};
use ranks::Placement;
use std::fmt::{self, Write as _};

/// A file that goes with the commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchFile {
    /// Its name.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// What to run on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCommand {
    /// The node, counted from 0.
    pub node: u32,
    /// The serving replica it belongs to (0 in training).
    pub replica: u32,
    /// The command line.
    pub text: String,
}

/// Everything that starts a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The framework.
    pub framework: Framework,
    /// Files to write first.
    pub files: Vec<LaunchFile>,
    /// Commands, by replica and node.
    pub commands: Vec<NodeCommand>,
    /// Environment of every node.
    pub environment: Vec<(String, String)>,
    /// What to fill in or to know.
    pub notes: Vec<String>,
}

impl Launch {
    /// Everything as one text, as it is printed: notes, environment, commands, files.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        for note in &self.notes {
            let _ = writeln!(text, "# {note}");
        }
        for (key, value) in &self.environment {
            let _ = writeln!(text, "export {key}={value}");
        }
        for command in &self.commands {
            let _ = writeln!(text, "\n# replica {}, node {}\n{}", command.replica, command.node, command.text);
        }
        for file in &self.files {
            let _ = writeln!(text, "\n# ---- {} ----\n{}", file.name, file.text.trim_end());
        }
        text
    }

    /// Everything as files, as it is written into a folder: a script for every node, and what they read.
    #[must_use]
    pub fn written(&self) -> Vec<LaunchFile> {
        let mut all = self.files.clone();
        for command in &self.commands {
            let mut text = String::from("#!/usr/bin/env bash\nset -euo pipefail\n");
            for (key, value) in &self.environment {
                let _ = writeln!(text, "export {key}={value}");
            }
            text.push_str(&command.text);
            text.push('\n');
            all.push(LaunchFile { name: format!("replica{}-node{}.sh", command.replica, command.node), text });
        }
        all
    }
}

/// Why a framework cannot start a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotExpressible {
    /// The framework.
    pub framework: Framework,
    /// Why, with the numbers.
    pub reason: String,
    /// The nearest mesh it can say, if there is one.
    pub nearest: Option<Mesh>,
}

impl fmt::Display for NotExpressible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} cannot say this plan: {}", self.framework, self.reason)?;
        if let Some(mesh) = &self.nearest {
            write!(f, " (nearest: {})", self.framework.convention().formula(mesh))?;
        }
        Ok(())
    }
}

impl std::error::Error for NotExpressible {}

/// The commands that start a plan.
///
/// Whether the plan fits and obeys the rules is `rules`' business; here only what a framework can say counts.
///
/// # Errors
/// When the framework has no way to say the mesh or a knob, with the nearest mesh it can say.
pub fn launch(job: &Job, plan: &Plan, framework: Framework) -> Result<Launch, NotExpressible> {
    let gpus = job.gpus();
    if plan.mesh.world() > gpus {
        let reason = format!("it needs {} GPUs, and the cluster has {gpus}", plan.mesh.world());
        return Err(NotExpressible { framework, reason, nearest: None });
    }
    match (&job.workload, framework) {
        (Workload::Train(train), Framework::Megatron) => megatron::launch(job, train, plan),
        (Workload::Train(train), Framework::Bridge) => bridge::launch(job, train, plan),
        (Workload::Train(train), Framework::Torchtitan) => torchtitan::launch(job, train, plan),
        (Workload::Train(train), Framework::Deepspeed) => deepspeed::launch(job, train, plan),
        (Workload::Serve(serve), Framework::Vllm) => vllm::launch(job, serve, plan),
        (Workload::Serve(serve), Framework::Sglang) => sglang::launch(job, serve, plan),
        (Workload::Serve(serve), Framework::Trtllm) => trtllm::launch(job, serve, plan),
        (Workload::Train(_), _) => refuse(framework, "it serves, and the job is training", None),
        (Workload::Serve(_), _) => refuse(framework, "it trains, and the job is serving", None),
    }
}

/// A refusal.
fn refuse<T>(framework: Framework, reason: impl Into<String>, nearest: Option<Mesh>) -> Result<T, NotExpressible> {
    Err(NotExpressible { framework, reason: reason.into(), nearest })
}

/// The engines' places, when the cluster has room for them.
fn place(job: &Job, plan: &Plan, framework: Framework) -> Result<Placement, NotExpressible> {
    let replicas = plan.knobs.replicas.max(1);
    if !plan.mesh.dp_attention().is_multiple_of(replicas) || !plan.mesh.edp().is_multiple_of(replicas) {
        let reason = format!("{replicas} replicas do not divide its data parallel ranks");
        return refuse(framework, reason, None);
    }
    let placement = Placement::new(plan.mesh.world() / replicas, job.cluster.gpus_per_node);
    let nodes = placement.nodes_for(replicas);
    if nodes > job.cluster.nodes {
        let reason = format!(
            "{replicas} x {} ranks spread over {nodes} nodes of {} GPUs, and the cluster has {}",
            placement.engine, job.cluster.gpus_per_node, job.cluster.nodes
        );
        return refuse(framework, reason, None);
    }
    Ok(placement)
}

/// Knobs that only serving frameworks have, refused by the others.
fn training_knobs_only(framework: Framework, knobs: &Knobs) -> Result<(), NotExpressible> {
    let serving = [
        (knobs.dcp > 1, "decode context parallelism"),
        (knobs.eplb, "an expert load balancer"),
        (knobs.redundant_experts > 0, "redundant experts"),
        (knobs.moe_dp > 1, "MoE data parallelism"),
        (knobs.a2a, "a serving all-to-all backend"),
        (knobs.replicas > 1, "serving replicas"),
    ];
    match serving.into_iter().find(|(set, _)| *set) {
        Some((_, what)) => refuse(framework, format!("{what} belongs to serving"), None),
        None => Ok(()),
    }
}

/// Tokens a request may have: input and output, rounded up to whole KV blocks, inside the model's positions.
fn longest_request(job: &Job, serve: &Serve) -> u32 {
    const STEP: u32 = 64;
    let span = serve.isl.saturating_add(serve.osl);
    span.div_ceil(STEP).saturating_mul(STEP).min(job.model.spec().max_positions).max(span)
}

/// Speculative tokens that the model's own predictor drafts; none where the model has no predictor.
fn drafts(job: &Job, serve: &Serve) -> u32 {
    if job.model.spec().mtp > 0 { serve.mtp } else { 0 }
}

/// What is missing from a launch whose plan counts on speculative tokens.
fn draft_note(job: &Job, serve: &Serve) -> Option<String> {
    let missing = serve.mtp > 0 && drafts(job, serve) == 0;
    missing.then(|| {
        "the plan counts on speculative tokens, and the model names no predictor: add a draft head of yours".to_owned()
    })
}

/// Requests in flight on each of so many parts of the plan.
fn requests(serve: &Serve, parts: u32) -> u32 {
    serve.concurrency.div_ceil(parts.max(1)).max(1)
}

/// Micro-batches of a data parallel rank, at least one.
fn micro_batches(train: &Train, plan: &Plan) -> u32 {
    let step = plan.knobs.micro_batch.saturating_mul(plan.mesh.dp_attention()).max(1);
    (train.global_batch / step).max(1)
}

/// `CUDA_VISIBLE_DEVICES` for an engine that does not have its node to itself.
fn visible_devices(placement: &Placement, replica: u32, replicas: u32) -> Option<String> {
    if placement.engines_per_node < 2 || replicas < 2 {
        return None;
    }
    let (_, from) = placement.first(replica);
    let gpus: Vec<String> = (from..from + placement.engine).map(|gpu| gpu.to_string()).collect();
    Some(gpus.join(","))
}

/// The variable that holds the address of an engine's first node.
fn master(placement: &Placement, replica: u32, replicas: u32) -> String {
    if replicas > 1 { format!("$NODE{}_ADDR", placement.first(replica).0) } else { "$MASTER_ADDR".to_owned() }
}

/// What to know about the addresses in the commands.
fn address_note(placement: &Placement, replicas: u32) -> Option<String> {
    let text = if replicas > 1 {
        "NODEn_ADDR is the address of node n, the first of its replica; put a router before the replicas"
    } else {
        "MASTER_ADDR is the address of node 0"
    };
    (placement.nodes > 1).then(|| text.to_owned())
}

/// The line that starts one process per GPU with torchrun.
fn torchrun(placement: &Placement, node: &str, script: &str) -> String {
    let single = placement.nodes == 1;
    let master = if single { "localhost" } else { "$MASTER_ADDR" };
    format!(
        "torchrun --nnodes {} --nproc_per_node {} --node_rank {node} --master_addr {master} --master_port 6000 {script}",
        placement.nodes, placement.per_node
    )
}
