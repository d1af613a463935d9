//! TensorRT-LLM: a file of options and `trtllm-serve`, one MPI rank per GPU when a replica spans nodes.

use super::args::{Args, quote, share};
use super::{
    Launch, LaunchFile, NodeCommand, NotExpressible, draft_note, drafts, longest_request, place, refuse, requests,
    visible_devices,
};
use crate::framework::Framework;
use crate::job::{Job, KvFormat, Serve};
use crate::mesh::Mesh;
use crate::plan::{Plan, Toggle};
use std::fmt::Write;

const FRAMEWORK: Framework = Framework::Trtllm;

/// Tokens a step may hold; prefill is cut into chunks of this.
const STEP_TOKENS: u32 = 8192;

pub(super) fn launch(job: &Job, serve: &Serve, plan: &Plan) -> Result<Launch, NotExpressible> {
    let m = &plan.mesh;
    let replicas = plan.knobs.replicas.max(1);
    let placement = place(job, plan, FRAMEWORK)?;
    let dp = m.dp_attention() / replicas;
    check(job, plan, dp)?;
    let file = "parallel.yaml";
    let config = options(job, serve, plan, dp, placement.per_node);
    let mut commands = Vec::new();
    for replica in 0..replicas {
        let (first, _) = placement.first(replica);
        let mut start = visible_devices(&placement, replica, replicas)
            .map_or_else(String::new, |gpus| format!("CUDA_VISIBLE_DEVICES={gpus} "));
        if placement.nodes > 1 {
            let _ = write!(
                start,
                "srun -N {} --ntasks {} --ntasks-per-node {} --mpi=pmix ",
                placement.nodes, placement.engine, placement.per_node
            );
            if replicas > 1 {
                let _ = write!(start, "--relative {first} ");
            }
            start.push_str("trtllm-llmapi-launch ");
        }
        let mut a = Args::start(format!("{start}trtllm-serve {}", quote(job.model.name())));
        a.raw(format!("--backend pytorch --config {file}"));
        a.set("--port", 8000 + replica % placement.engines_per_node);
        commands.push(NodeCommand { node: first, replica, text: a.render() });
    }
    let mut notes = vec!["releases before 1.2 call --config --extra_llm_api_options".to_owned()];
    if placement.nodes > 1 {
        notes.push("srun starts every node of a replica from its first one, inside a Slurm allocation".into());
    }
    if replicas > 1 {
        notes.push("put a router before the replicas".into());
    }
    if m.cp() > 1 {
        notes.push("context parallelism needs cp_config for the type of attention you serve".into());
    }
    let files = vec![LaunchFile { name: file.into(), text: config }];
    notes.extend(draft_note(job, serve));
    Ok(Launch { framework: FRAMEWORK, files, commands, environment: Vec::new(), notes })
}

fn check(job: &Job, plan: &Plan, dp: u32) -> Result<(), NotExpressible> {
    let m = &plan.mesh;
    let k = &plan.knobs;
    if m.tp() > 1 && dp > 1 {
        let reason = format!("attention is cut by TP or replicated, not both: TP {} and DP {dp}", m.tp());
        let nearest = Mesh::new(1, m.cp(), m.pp(), m.dp_attention() * m.tp(), m.ep(), m.etp());
        return refuse(FRAMEWORK, reason, nearest);
    }
    let size = m.tp() * dp;
    let cut = m.ep() * m.etp();
    if job.model.moe().is_some() && cut != size {
        let etp = if size.is_multiple_of(m.ep()) { size / m.ep() } else { size };
        let nearest = Mesh::new(m.tp(), m.cp(), m.pp(), m.dp_attention(), size / etp, etp);
        return refuse(FRAMEWORK, format!("MOE_TP*MOE_EP is {cut}, and must be the TP size {size}"), nearest);
    }
    if job.model.moe().is_none() && (m.ep() > 1 || m.etp() != m.tp()) {
        let nearest = Mesh::new(m.tp(), m.cp(), m.pp(), m.dp_attention(), 1, m.tp());
        return refuse(FRAMEWORK, "the model has no experts", nearest);
    }
    if k.ep_overlap == Toggle::On {
        return refuse(FRAMEWORK, "two-batch overlap is vLLM's and SGLang's", Some(*m));
    }
    if k.eplb || k.redundant_experts > 0 || k.dcp > 1 || k.moe_dp > 1 || k.a2a {
        let reason = "balancer, decode CP, MoE DP and a2a are not set by degrees there";
        return refuse(FRAMEWORK, reason, Some(*m));
    }
    Ok(())
}

fn options(job: &Job, serve: &Serve, plan: &Plan, dp: u32, gpus_per_node: u32) -> String {
    let m = &plan.mesh;
    let k = &plan.knobs;
    let replicas = k.replicas.max(1);
    let mut lines = vec![
        format!("tensor_parallel_size: {}", m.tp() * dp),
        format!("pipeline_parallel_size: {}", m.pp()),
        format!("context_parallel_size: {}", m.cp()),
        format!("enable_attention_dp: {}", dp > 1),
        format!("gpus_per_node: {gpus_per_node}"),
    ];
    if job.model.moe().is_some() {
        lines.push(format!("moe_tensor_parallel_size: {}", m.etp()));
        lines.push(format!("moe_expert_parallel_size: {}", m.ep()));
        lines.push("moe_config:\n  backend: CUTLASS".to_owned());
    }
    if k.first_stage_layers > 0 || k.last_stage_layers > 0 {
        lines.push(format!("pp_partition: [{}]", super::vllm::partition(job, plan)));
    }
    // The batch limit is of one attention replica.
    lines.push(format!("max_batch_size: {}", requests(serve, replicas * dp)));
    lines.push(format!("max_num_tokens: {STEP_TOKENS}"));
    lines.push(format!("max_seq_len: {}", longest_request(job, serve)));
    lines.push("enable_chunked_prefill: true".to_owned());
    if drafts(job, serve) > 0 {
        lines.push(format!("speculative_config:\n  decoding_type: MTP\n  num_nextn_predict_layers: {}", serve.mtp));
    }
    let dtype = if serve.kv_cache == KvFormat::Fp8 { "fp8" } else { "auto" };
    lines.push(format!(
        "kv_cache_config:\n  free_gpu_memory_fraction: {}\n  dtype: {dtype}\n  enable_block_reuse: {}",
        share(serve.memory_fraction.unwrap_or(0.9)),
        serve.prefix_hit > 0.0
    ));
    lines.join("\n") + "\n"
}
