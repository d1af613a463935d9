//! SGLang: `sglang.launch_server`, whose TP size is the whole pipeline stage.

use super::args::{Args, quote, share};
use super::{
    Launch, NodeCommand, NotExpressible, address_note, draft_note, drafts, longest_request, master, place, refuse,
    requests, visible_devices, vllm,
};
use crate::framework::Framework;
use crate::job::{Job, KvFormat, Serve};
use crate::mesh::Mesh;
use crate::plan::{Plan, Toggle};

const FRAMEWORK: Framework = Framework::Sglang;

/// Tokens of a prefill chunk of one attention replica; SGLang divides the flag by the attention DP.
const CHUNK: u32 = 8192;

pub(super) fn launch(job: &Job, serve: &Serve, plan: &Plan) -> Result<Launch, NotExpressible> {
    let m = &plan.mesh;
    let k = &plan.knobs;
    let replicas = k.replicas.max(1);
    let placement = place(job, plan, FRAMEWORK)?;
    let dp = m.dp_attention() / replicas;
    let size = m.tp() * m.cp() * dp;
    let moe_dp = m.edp() / replicas;
    check(job, plan, size)?;
    let mut shared = Args::default();
    shared.raw(format!("--tp-size {size} --pp-size {}", m.pp()));
    shared.set("--attn-dp-size", dp);
    shared.set_if(m.cp() > 1, "--attn-cp-size", m.cp());
    if job.model.moe().is_some() {
        shared.set("--ep-size", m.ep());
        shared.set_if(moe_dp > 1, "--moe-dp-size", moe_dp);
        let overlapped = k.ep_overlap == Toggle::On;
        shared.set_if(k.a2a || overlapped, "--moe-a2a-backend", "deepep");
        shared.flag_if(overlapped, "--enable-two-batch-overlap");
    }
    shared.set_if(k.dcp > 1, "--dcp-size", k.dcp);
    shared.flag_if(k.eplb, "--enable-eplb");
    shared.set_if(k.redundant_experts > 0, "--ep-num-redundant-experts", k.redundant_experts);
    shared.set("--context-length", longest_request(job, serve));
    // One limit for the whole server; it divides it over the attention replicas.
    shared.set("--max-running-requests", requests(serve, replicas));
    if let Some(fraction) = serve.memory_fraction {
        shared.set("--mem-fraction-static", share(fraction));
    }
    shared.set("--kv-cache-dtype", if serve.kv_cache == KvFormat::Fp8 { "fp8_e4m3" } else { "auto" });
    shared.set("--chunked-prefill-size", CHUNK.saturating_mul(dp));
    shared.flag_if(serve.prefix_hit <= 0.0, "--disable-radix-cache");

    let drafts = drafts(job, serve);
    if drafts > 0 {
        shared.set("--speculative-algorithm", "EAGLE");
        shared.set("--speculative-num-steps", drafts);
        shared.set("--speculative-eagle-topk", 1);
        shared.set("--speculative-num-draft-tokens", drafts + 1);
    }

    let mut environment = Vec::new();
    if k.first_stage_layers > 0 || k.last_stage_layers > 0 {
        environment.push(("SGLANG_PP_LAYER_PARTITION".to_owned(), vllm::partition(job, plan)));
    }
    let set: String = environment.iter().map(|(name, value)| format!("{name}={value} ")).collect();
    let mut commands = Vec::new();
    for replica in 0..replicas {
        let (first, _) = placement.first(replica);
        let devices = visible_devices(&placement, replica, replicas);
        for node in 0..placement.nodes {
            let prefix = devices.as_ref().map_or_else(String::new, |gpus| format!("CUDA_VISIBLE_DEVICES={gpus} "));
            let mut a = Args::start(format!(
                "{set}{prefix}python -m sglang.launch_server --model-path {}",
                quote(job.model.name())
            ));
            a.extend(&shared);
            if placement.nodes > 1 {
                let master = master(&placement, replica, replicas);
                a.raw(format!("--nnodes {} --node-rank {node} --dist-init-addr {master}:5000", placement.nodes));
            }
            // Neighbouring ports are taken by the server's own processes.
            a.set("--port", 30000 + 100 * (replica % placement.engines_per_node));
            commands.push(NodeCommand { node: first + node, replica, text: a.render() });
        }
    }
    let notes = address_note(&placement, replicas).into_iter().chain(draft_note(job, serve)).collect();
    Ok(Launch { framework: FRAMEWORK, files: Vec::new(), commands, environment, notes })
}

fn check(job: &Job, plan: &Plan, size: u32) -> Result<(), NotExpressible> {
    let m = &plan.mesh;
    let k = &plan.knobs;
    let all = |ep: u32| Mesh::new(m.tp(), m.cp(), m.pp(), m.dp_attention(), ep, 1);
    if job.model.moe().is_none() {
        if m.ep() > 1 || m.etp() != m.tp() || k.a2a {
            let nearest = Mesh::new(m.tp(), m.cp(), m.pp(), m.dp_attention(), 1, m.tp());
            return refuse(FRAMEWORK, "the model has no experts", nearest);
        }
        return Ok(());
    }
    let moe_dp = m.edp() / k.replicas.max(1);
    if k.moe_dp > 1 && k.moe_dp != moe_dp {
        let reason = format!("MoE DP is {}, and TP size {size} over EP*ETP leaves {moe_dp}", k.moe_dp);
        return refuse(FRAMEWORK, reason, None);
    }
    if moe_dp > 1 && m.pp() > 1 {
        let reason = format!("MoE data parallelism of {moe_dp} does not go with a pipeline");
        return refuse(FRAMEWORK, reason, all(size));
    }
    if (k.a2a || k.ep_overlap == Toggle::On) && m.ep() != size {
        let reason =
            format!("an all-to-all backend spreads experts over the whole TP size {size}, and EP is {}", m.ep());
        return refuse(FRAMEWORK, reason, all(size));
    }
    if k.eplb && m.ep() == 1 {
        return refuse(FRAMEWORK, "the expert load balancer needs expert parallelism", all(size));
    }
    Ok(())
}
