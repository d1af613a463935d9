//! vLLM: `vllm serve`, the same on every node of a replica but for the node's number.

use super::args::{Args, quote, share};
use super::ranks::Placement;
use super::{
    Launch, NodeCommand, NotExpressible, address_note, draft_note, drafts, longest_request, master, place, refuse,
    requests, visible_devices,
};
use crate::framework::Framework;
use crate::job::{Job, KvFormat, Serve};
use crate::mesh::Mesh;
use crate::plan::{Plan, Toggle};

const FRAMEWORK: Framework = Framework::Vllm;

pub(super) fn launch(job: &Job, serve: &Serve, plan: &Plan) -> Result<Launch, NotExpressible> {
    let m = &plan.mesh;
    let k = &plan.knobs;
    let replicas = k.replicas.max(1);
    let placement = place(job, plan, FRAMEWORK)?;
    let dp = m.dp_attention() / replicas;
    check(job, plan, dp)?;
    check_nodes(m, dp, &placement)?;
    let mut shared = Args::default();
    shared.raw(format!("-tp {} -pp {} -dp {dp}", m.tp(), m.pp()));
    shared.set_if(m.cp() > 1, "--prefill-context-parallel-size", m.cp());
    shared.flag_if(m.ep() > 1, "--enable-expert-parallel");
    shared.set_if(k.dcp > 1, "--decode-context-parallel-size", k.dcp);
    if k.ep_overlap == Toggle::On {
        // Two-batch overlap works with DeepEP's kernels only.
        shared.flag("--enable-dbo");
        shared.set("--all2all-backend", "deepep_low_latency");
    }
    if k.eplb {
        shared.flag("--enable-eplb");
        shared.set("--eplb-config", format!("{{\"num_redundant_experts\":{}}}", k.redundant_experts));
    }
    shared.set("--max-model-len", longest_request(job, serve));
    // Each data parallel rank has a scheduler of its own.
    shared.set("--max-num-seqs", requests(serve, replicas * dp));
    shared.set("--gpu-memory-utilization", share(serve.memory_fraction.unwrap_or(0.9)));
    shared.set("--kv-cache-dtype", if serve.kv_cache == KvFormat::Fp8 { "fp8" } else { "auto" });
    if drafts(job, serve) > 0 {
        let config = format!("{{\"method\":\"mtp\",\"num_speculative_tokens\":{}}}", serve.mtp);
        shared.set("--speculative-config", config);
    }
    shared.flag("--enable-chunked-prefill");
    shared.flag(if serve.prefix_hit > 0.0 { "--enable-prefix-caching" } else { "--no-enable-prefix-caching" });

    let mut environment = Vec::new();
    if m.cp() > 1 {
        environment.push(("VLLM_USE_V2_MODEL_RUNNER".to_owned(), "1".to_owned()));
    }
    if k.first_stage_layers > 0 || k.last_stage_layers > 0 {
        environment.push(("VLLM_PP_LAYER_PARTITION".to_owned(), partition(job, plan)));
    }
    let set: String = environment.iter().map(|(name, value)| format!("{name}={value} ")).collect();
    let mut commands = Vec::new();
    for replica in 0..replicas {
        let (first, _) = placement.first(replica);
        let devices = visible_devices(&placement, replica, replicas);
        for node in 0..placement.nodes {
            let prefix = devices.as_ref().map_or_else(String::new, |gpus| format!("CUDA_VISIBLE_DEVICES={gpus} "));
            let mut a = Args::start(format!("{set}{prefix}vllm serve {}", quote(job.model.name())));
            a.extend(&shared);
            if placement.nodes > 1 {
                let master = master(&placement, replica, replicas);
                a.raw(format!("--nnodes {} --node-rank {node} --master-addr {master}", placement.nodes));
                a.flag_if(node > 0, "--headless");
            }
            let port = 8000 + replica % placement.engines_per_node;
            a.set_if(node == 0, "--port", port);
            commands.push(NodeCommand { node: first + node, replica, text: a.render() });
        }
    }
    let mut notes: Vec<String> = address_note(&placement, replicas).into_iter().chain(draft_note(job, serve)).collect();
    let (own, asked) = (job.model.quant(), serve.quant);
    if own.format != asked.format {
        let (own, asked) = (own.format, asked.format);
        notes.push(format!("the checkpoint is {own} and the plan assumes {asked}: name a checkpoint in {asked}"));
    }
    Ok(Launch { framework: FRAMEWORK, files: Vec::new(), commands, environment, notes })
}

/// Layers of every stage, as the engines' environment variables take them.
pub(super) fn partition(job: &Job, plan: &Plan) -> String {
    let k = &plan.knobs;
    let convention = FRAMEWORK.convention();
    let layers = job.model.layers();
    let stages =
        crate::framework::stage_layers(convention, layers, plan.mesh.pp(), k.first_stage_layers, k.last_stage_layers);
    let stages: Vec<String> = stages.iter().map(u32::to_string).collect();
    stages.join(",")
}

fn check(job: &Job, plan: &Plan, dp: u32) -> Result<(), NotExpressible> {
    let m = &plan.mesh;
    let k = &plan.knobs;
    let stage = m.tp() * m.cp() * dp;
    if k.moe_dp > 1 || k.a2a {
        return refuse(FRAMEWORK, "MoE data parallelism and a2a are SGLang's knobs", Some(*m));
    }
    if job.model.moe().is_none() {
        if m.ep() > 1 {
            return refuse(
                FRAMEWORK,
                "the model has no experts",
                Mesh::new(m.tp(), m.cp(), m.pp(), m.dp_attention(), 1, m.tp()),
            );
        }
        return Ok(());
    }
    let on = m.ep() == stage && m.etp() == 1;
    let off = m.ep() == 1 && m.etp() == stage;
    if !on && !off {
        let nearest = Mesh::new(m.tp(), m.cp(), m.pp(), m.dp_attention(), stage, 1);
        let reason = format!(
            "EP is a switch there: 1 with ETP = {stage}, or TP*DP = {stage} with ETP 1; it is {} with ETP {}",
            m.ep(),
            m.etp()
        );
        return refuse(FRAMEWORK, reason, nearest);
    }
    if k.eplb && !on {
        return refuse(FRAMEWORK, "the expert load balancer needs expert parallelism", None);
    }
    if !k.eplb && k.redundant_experts > 0 {
        return refuse(FRAMEWORK, "redundant experts need the expert load balancer", Some(*m));
    }
    Ok(())
}

/// vLLM gives a node whole data parallel ranks, or a data parallel rank whole nodes.
fn check_nodes(m: &Mesh, dp: u32, placement: &Placement) -> Result<(), NotExpressible> {
    if placement.nodes == 1 {
        return Ok(());
    }
    let rank = m.tp() * m.cp() * m.pp();
    let whole = if rank <= placement.per_node {
        placement.per_node.is_multiple_of(rank)
    } else {
        rank.is_multiple_of(placement.per_node)
    };
    if whole {
        return Ok(());
    }
    let reason = format!(
        "a data parallel rank of TP*PP = {rank} GPUs neither fits whole into the {} GPUs of a node nor takes whole nodes (DP {dp})",
        placement.per_node
    );
    refuse(FRAMEWORK, reason, None)
}
