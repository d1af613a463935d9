//! Megatron Bridge: its recipe runner with the plan as flags and overrides.

use super::args::{Args, share};
use super::{Launch, LaunchFile, NodeCommand, NotExpressible, megatron, place, torchrun};
use crate::framework::Framework;
use crate::job::{GradDtype, Job, Precision, Train};
use crate::model::Mixer;
use crate::plan::{Module, Plan, Recompute, Toggle};

const FRAMEWORK: Framework = Framework::Bridge;

pub(super) fn launch(job: &Job, train: &Train, plan: &Plan) -> Result<Launch, NotExpressible> {
    megatron::check(FRAMEWORK, plan)?;
    let placement = place(job, plan, FRAMEWORK)?;
    let environment = megatron::environment(plan);
    let prefix: String = environment.iter().map(|(name, value)| format!("{name}={value} ")).collect();
    let mut rest = parallel(train, plan);
    rest.extend(&knobs(plan));
    rest.extend(&formats(train));
    rest.extend(&shape(job));
    let command = |node: &str| {
        let script = "scripts/training/run_recipe.py --recipe $RECIPE --mode pretrain --dataset mock";
        let mut all = Args::start(format!("{prefix}{}", torchrun(&placement, node, script)));
        all.extend(&rest);
        all.render()
    };
    let commands =
        (0..placement.nodes).map(|node| NodeCommand { node, replica: 0, text: command(&node.to_string()) }).collect();
    let mut slurm = Args::start(format!(
        "scripts/training/train.sh --nodes {} --gpus-per-node {}",
        placement.nodes, placement.per_node
    ));
    slurm.raw("--account $ACCOUNT --partition $PARTITION --container-image $IMAGE");
    slurm.raw("--recipe $RECIPE --mode pretrain --dataset mock");
    slurm.extend(&rest);
    let files = vec![LaunchFile { name: "train.sh".into(), text: format!("#!/bin/bash\n{}\n", slurm.render()) }];
    let mut notes = vec![
        "RECIPE is the recipe of the model's family; the overrides set every size of the plan on it".to_owned(),
        "train.sh submits the same run to Slurm: set ACCOUNT, PARTITION and IMAGE".to_owned(),
    ];
    notes.extend(megatron::shape_notes(job));
    Ok(Launch { framework: FRAMEWORK, files, commands, environment, notes })
}

fn parallel(train: &Train, plan: &Plan) -> Args {
    let m = &plan.mesh;
    let k = &plan.knobs;
    let mut a = Args::default();
    a.set("-tp", m.tp());
    a.set("-pp", m.pp());
    a.set("-cp", m.cp());
    a.set_if(k.vpp > 1, "-vp", k.vpp);
    a.set("-ep", m.ep());
    // Left out, Bridge takes 1 and Megatron-LM takes TP.
    a.set("-etp", m.etp());
    a.set("-gb", train.global_batch);
    a.set("-mb", k.micro_batch);
    a.set("-sl", train.seq_len);
    a.key("model.sequence_parallel", m.tp() > 1 && k.sequence_parallel);
    a.key("model.seq_length", train.seq_len);
    a.key_if(train.mtp_layers > 0, "model.mtp_num_layers", train.mtp_layers);
    a
}

fn knobs(plan: &Plan) -> Args {
    let k = &plan.knobs;
    let mut a = Args::default();
    a.key_if(k.first_stage_layers > 0, "model.num_layers_in_first_pipeline_stage", k.first_stage_layers);
    a.key_if(k.last_stage_layers > 0, "model.num_layers_in_last_pipeline_stage", k.last_stage_layers);
    a.key("ddp.use_distributed_optimizer", k.zero >= 1);
    if k.zero >= 2 {
        a.key("ddp.use_megatron_fsdp", true);
        let strategy = if k.zero == 2 { "optim_grads" } else { "optim_grads_params" };
        a.key("ddp.data_parallel_sharding_strategy", strategy);
    }
    match k.recompute {
        Recompute::None => a.key("model.recompute_granularity", "null"),
        Recompute::Full | Recompute::Uniform(_) | Recompute::Block(_) => {
            let (method, layers) = match k.recompute {
                Recompute::Block(n) => ("block", n),
                Recompute::Uniform(n) => ("uniform", n),
                Recompute::None | Recompute::Modules(_) | Recompute::Full => ("uniform", 1),
            };
            a.key("model.recompute_granularity", "full");
            a.key("model.recompute_method", method);
            a.key("model.recompute_num_layers", layers);
        }
        Recompute::Modules(_) => {
            let names: Vec<&str> = Module::ALL.iter().filter(|m| k.recompute.has(**m)).map(|m| m.name()).collect();
            a.key("model.recompute_granularity", "selective");
            a.key("model.recompute_modules", format!("[{}]", names.join(",")));
        }
    }
    if k.optimizer_offload > 0 {
        a.key("optimizer.optimizer_cpu_offload", true);
        a.key("optimizer.optimizer_offload_fraction", share(f64::from(k.optimizer_offload) / 100.0));
        a.key("optimizer.use_precision_aware_optimizer", true);
    }
    // Recipes switch overlaps on by themselves, so both ways are written out.
    let toggles = [
        (k.tp_overlap, "model.tp_comm_overlap"),
        (k.dp_overlap, "ddp.overlap_grad_reduce"),
        (k.dp_overlap, "ddp.overlap_param_gather"),
        (k.ep_overlap, "model.overlap_moe_expert_parallel_comm"),
        (k.pp_overlap, "model.overlap_p2p_comm"),
    ];
    for (toggle, key) in toggles {
        a.key_if(toggle != Toggle::Default, key, toggle == Toggle::On);
    }
    a
}

fn formats(train: &Train) -> Args {
    let mut a = Args::default();
    let recipe = match train.precision {
        Precision::Bf16 => "bf16_mixed",
        Precision::Fp16 => "fp16_mixed",
        Precision::Fp8 => "bf16_with_fp8_delayed_scaling_mixed",
        Precision::Mxfp8 => "bf16_with_mxfp8_mixed",
        Precision::Nvfp4 => "bf16_with_nvfp4_mixed",
    };
    a.key("mixed_precision", recipe);
    a.key_if(train.grad_dtype == GradDtype::Bf16, "ddp.grad_reduce_in_fp32", false);
    a
}

/// The model's sizes, under the names of Megatron-Core's configuration.
fn shape(job: &Job) -> Args {
    let spec = job.model.spec();
    let mut a = Args::default();
    a.key("model.num_layers", job.model.layers());
    a.key("model.hidden_size", spec.hidden);
    if let Some(ffn) = job.model.dense_ffn() {
        a.key("model.ffn_hidden_size", ffn);
    }
    a.key_if(job.model.heads() > 0, "model.num_attention_heads", job.model.heads());
    if let Some(kv) = job.model.kv_heads() {
        a.key("model.num_query_groups", kv);
    }
    if let Some(Mixer::Mla(m)) = job.model.blocks().iter().map(|b| &b.mixer).find(|m| matches!(m, Mixer::Mla(_))) {
        a.key_if(m.q_lora > 0, "model.q_lora_rank", m.q_lora);
        a.key("model.kv_lora_rank", m.kv_lora);
        a.key("model.qk_head_dim", m.nope);
        a.key("model.qk_pos_emb_head_dim", m.rope);
        a.key("model.v_head_dim", m.v);
    }
    if let Some(moe) = job.model.moe() {
        a.key("model.num_moe_experts", moe.experts);
        a.key("model.moe_router_topk", moe.top_k);
        a.key("model.moe_ffn_hidden_size", moe.ffn);
        a.key_if(moe.shared_ffn > 0, "model.moe_shared_expert_intermediate_size", moe.shared_ffn);
        a.key("model.moe_token_dispatcher_type", "alltoall");
    }
    a.key("model.vocab_size", spec.vocab);
    a
}
