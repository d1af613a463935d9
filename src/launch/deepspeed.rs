//! DeepSpeed: the JSON, and the launcher's line.
//!
//! It has two systems. AutoTP and AutoEP read the JSON and go without a pipeline; Megatron-DeepSpeed takes the degrees as
//! arguments of its training script, which builds the pipeline and the MoE layers in code.

use super::args::{Args, share};
use super::{Launch, LaunchFile, NodeCommand, NotExpressible, micro_batches, place, refuse, training_knobs_only};
use crate::framework::Framework;
use crate::job::{GradDtype, Job, Precision, Train};
use crate::mesh::Mesh;
use crate::plan::{Plan, Recompute, Schedule};
use serde_json::{Map, Value, json};

const FRAMEWORK: Framework = Framework::Deepspeed;

pub(super) fn launch(job: &Job, train: &Train, plan: &Plan) -> Result<Launch, NotExpressible> {
    check(plan)?;
    let m = &plan.mesh;
    let placement = place(job, plan, FRAMEWORK)?;
    let in_json = is_auto(&plan.mesh);
    let script = if in_json { "train.py" } else { "pretrain_gpt.py" };
    let mut a = Args::start(format!(
        "deepspeed --hostfile hostfile --num_nodes {} --num_gpus {} {script}",
        placement.nodes, placement.per_node
    ));
    a.raw("--deepspeed --deepspeed_config ds_config.json");
    if in_json {
        a.flag_if(plan.knobs.recompute == Recompute::Full, "--gradient_checkpointing");
    } else {
        script_arguments(job, train, plan, &mut a);
    }
    let config = serde_json::to_string_pretty(&config(train, plan, in_json)).unwrap_or_default();
    let hosts: String = (0..placement.nodes).map(|n| format!("node{n} slots={}\n", placement.per_node)).collect();
    let files = vec![
        LaunchFile { name: "ds_config.json".into(), text: format!("{config}\n") },
        LaunchFile { name: "hostfile".into(), text: hosts },
    ];
    let mut notes = vec![
        "the deepspeed launcher starts every node of the hostfile from node 0: put the nodes' names there".to_owned(),
    ];
    if in_json {
        notes.push("train.py is your script; it passes the JSON to deepspeed.initialize".into());
        if m.ep() > 1 {
            notes.push("AutoEP knows the experts of a model by its preset: set expert_parallel.preset_model".into());
        }
    } else {
        notes
            .push("pretrain_gpt.py is Megatron-DeepSpeed's, or a script of yours that reads the same arguments".into());
        if m.ep() > 1 && m.pp() > 1 {
            notes.push(
                "Megatron-DeepSpeed itself has no pipeline for experts: the script builds a PipelineModule".into(),
            );
        }
    }
    let commands = vec![NodeCommand { node: 0, replica: 0, text: a.render() }];
    Ok(Launch { framework: FRAMEWORK, files, commands, environment: Vec::new(), notes })
}

/// Whether the JSON alone says the mesh.
fn is_auto(m: &Mesh) -> bool {
    m.pp() == 1 && (m.ep() == 1 || m.etp() == 1)
}

fn check(plan: &Plan) -> Result<(), NotExpressible> {
    let m = &plan.mesh;
    let k = &plan.knobs;
    training_knobs_only(FRAMEWORK, k)?;
    if m.cp() > 1 {
        let nearest = Mesh::new(m.tp(), 1, m.pp(), m.dp_attention() * m.cp(), m.ep(), m.etp());
        return refuse(FRAMEWORK, format!("context parallelism of {} is not one of its axes", m.cp()), nearest);
    }
    let folded = m.pp() == 1 && m.etp() == 1;
    let classic = m.etp() == m.tp() && m.dp_attention().is_multiple_of(m.ep());
    if m.ep() > 1 && !folded && !classic || m.ep() == 1 && m.etp() != m.tp() {
        let nearest = Mesh::new(m.tp(), 1, m.pp(), m.dp_attention(), m.ep(), m.tp());
        let reason = format!(
            "experts are cut by TP = {} inside DP = {}, or not at all without a pipeline; ETP is {} and EP {}",
            m.tp(),
            m.dp_attention(),
            m.etp(),
            m.ep()
        );
        return refuse(FRAMEWORK, reason, nearest.filter(|n| n.dp_attention().is_multiple_of(n.ep())));
    }
    let reason = if k.vpp > 1 {
        "its pipeline is not interleaved".to_owned()
    } else if k.schedule != Schedule::OneFOneB {
        format!("its pipeline runs 1f1b, not {}", k.schedule.name())
    } else if k.first_stage_layers > 0 || k.last_stage_layers > 0 {
        "its stages are cut by a method in code (partition_method), not by numbers".to_owned()
    } else if k.dp_replicate > 1 {
        "hybrid sharding (dp_replicate) is torchtitan's".to_owned()
    } else if k.zero >= 2 && m.pp() > 1 {
        format!("ZeRO-{} does not go with a pipeline", k.zero)
    } else if k.optimizer_offload > 0 && k.zero == 0 {
        "offload needs ZeRO".to_owned()
    } else if !matches!(k.recompute, Recompute::None | Recompute::Full) {
        "recomputation is none or full there".to_owned()
    } else {
        return Ok(());
    };
    refuse(FRAMEWORK, reason, Some(*m))
}

fn config(train: &Train, plan: &Plan, in_json: bool) -> Value {
    let m = &plan.mesh;
    let k = &plan.knobs;
    let mut out = Map::new();
    out.insert("train_batch_size".into(), json!(train.global_batch));
    out.insert("train_micro_batch_size_per_gpu".into(), json!(k.micro_batch));
    out.insert("gradient_accumulation_steps".into(), json!(micro_batches(train, plan)));
    let format = if train.precision == Precision::Fp16 { "fp16" } else { "bf16" };
    out.insert(format.into(), json!({"enabled": true}));
    if train.grad_dtype == GradDtype::Fp32 {
        out.insert("data_types".into(), json!({"grad_accum_dtype": "fp32"}));
    }
    let mut zero = Map::new();
    zero.insert("stage".into(), json!(k.zero));
    if k.optimizer_offload > 0 {
        let ratio: f64 = share(f64::from(k.optimizer_offload) / 100.0).parse().unwrap_or(1.0);
        zero.insert("offload_optimizer".into(), json!({"device": "cpu", "pin_memory": true, "ratio": ratio}));
    }
    out.insert("zero_optimization".into(), Value::Object(zero));
    if in_json {
        if m.tp() > 1 {
            out.insert("tensor_parallel".into(), json!({"autotp_size": m.tp()}));
            // Without the mesh DeepSpeed counts TP ranks as data parallel in the batch.
            out.insert("data_parallel_size".into(), json!(m.dp_attention()));
            out.insert("sequence_parallel_size".into(), json!(1));
        }
        if m.ep() > 1 {
            let experts = json!({"enabled": true, "autoep_size": m.ep(), "expert_tensor_parallel_size": 1});
            out.insert("expert_parallel".into(), experts);
        }
    }
    Value::Object(out)
}

fn script_arguments(job: &Job, train: &Train, plan: &Plan, a: &mut Args) {
    let m = &plan.mesh;
    let k = &plan.knobs;
    let spec = job.model.spec();
    a.set("--tensor-model-parallel-size", m.tp());
    a.set("--pipeline-model-parallel-size", m.pp());
    a.flag_if(m.pp() == 1, "--no-pipeline-parallel");
    a.set("--moe-expert-parallel-size", m.ep());
    a.set("--zero-stage", k.zero);
    a.set("--micro-batch-size", k.micro_batch);
    a.set("--global-batch-size", train.global_batch);
    a.set("--seq-length", train.seq_len);
    a.flag_if(k.recompute == Recompute::Full, "--checkpoint-activations");
    a.flag(if train.precision == Precision::Fp16 { "--fp16" } else { "--bf16" });
    a.set("--num-layers", job.model.layers());
    a.set("--hidden-size", spec.hidden);
    let width = job.model.moe().map(|moe| moe.ffn).or(job.model.dense_ffn());
    a.set("--ffn-hidden-size", width.unwrap_or(spec.hidden));
    a.set("--num-attention-heads", job.model.heads().max(1));
    if let Some(kv) = job.model.kv_heads() {
        a.set("--num-key-value-heads", kv);
    }
    if let Some(moe) = job.model.moe() {
        a.set("--num-experts", moe.experts);
        a.set("--topk", moe.top_k);
        a.flag("--create-moe-param-group");
    }
    a.set("--max-position-embeddings", spec.max_positions);
}
