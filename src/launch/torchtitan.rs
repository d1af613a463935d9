//! torchtitan: its trainer with the degrees as flags. The released version counts batches in sequences, the main branch in
//! tokens, so both are written.

use super::args::Args;
use super::{
    Launch, LaunchFile, NodeCommand, NotExpressible, micro_batches, place, refuse, torchrun, training_knobs_only,
};
use crate::framework::Framework;
use crate::job::{Job, Precision, Train};
use crate::mesh::Mesh;
use crate::plan::{Plan, Recompute, Schedule, Toggle};

const FRAMEWORK: Framework = Framework::Torchtitan;

pub(super) fn launch(job: &Job, train: &Train, plan: &Plan) -> Result<Launch, NotExpressible> {
    check(job, plan)?;
    let placement = place(job, plan, FRAMEWORK)?;
    let common = parallel(job, plan)?;
    let per_step = pipeline_micro_batches(train, plan);
    let script = "-m torchtitan.train --module $MODULE --config $CONFIG";
    let command = |node: &str, tail: &Args| {
        let mut all = Args::start(torchrun(&placement, node, script));
        all.extend(&common);
        all.extend(tail);
        all.raw(checkpointing(plan.knobs.recompute));
        all.render()
    };
    let released = released(train, plan, per_step);
    let commands = (0..placement.nodes)
        .map(|node| NodeCommand { node, replica: 0, text: command(&node.to_string(), &released) })
        .collect();
    let main = main_branch(train, plan, per_step);
    let files = vec![LaunchFile {
        name: "run_main.sh".into(),
        text: format!(
            "#!/bin/bash\n# For torchtitan's main branch, which counts batches in tokens. NODE_RANK is the number of the node.\n\
             {}\n",
            command("$NODE_RANK", &main)
        ),
    }];
    let mut notes = vec![
        format!(
            "MODULE and CONFIG name torchtitan's configuration of {}; sizes of the model live there",
            job.model.name()
        ),
        "the commands are for 0.3.0; run_main.sh is for the main branch".to_owned(),
    ];
    if placement.nodes > 1 {
        notes.push("MASTER_ADDR is the address of node 0".into());
    }
    if plan.knobs.zero < 2 && plan.mesh.dp_attention() / plan.knobs.dp_replicate.max(1) > 1 {
        let zero = plan.knobs.zero;
        notes.push(format!("torchtitan's FSDP shards gradients and parameters too, whereas the plan says zero={zero}"));
    }
    match train.precision {
        Precision::Bf16 => {}
        Precision::Fp16 | Precision::Fp8 | Precision::Mxfp8 | Precision::Nvfp4 => {
            notes.push(format!(
                "{} GEMMs are part of the configuration (quantisation converters)",
                train.precision.name()
            ));
        }
    }
    Ok(Launch { framework: FRAMEWORK, files, commands, environment: Vec::new(), notes })
}

fn check(job: &Job, plan: &Plan) -> Result<(), NotExpressible> {
    let m = &plan.mesh;
    let k = &plan.knobs;
    training_knobs_only(FRAMEWORK, k)?;
    if job.model.moe().is_some() && m.etp() > 1 {
        let ep = m.ep().saturating_mul(m.etp());
        let nearest = Mesh::new(m.tp(), m.cp(), m.pp(), m.dp_attention(), ep, 1);
        return refuse(FRAMEWORK, format!("experts have no tensor parallelism there, and ETP is {}", m.etp()), nearest);
    }
    let replicate = k.dp_replicate.max(1);
    if !m.dp_attention().is_multiple_of(replicate) {
        let reason = format!("DP = {} is not a multiple of dp_replicate {replicate}", m.dp_attention());
        return refuse(FRAMEWORK, reason, None);
    }
    let lent = m.dp_attention() / replicate * m.cp() * m.tp();
    if !lent.is_multiple_of(m.ep()) {
        let reason = format!("EP = {} does not divide dp_shard*cp*tp = {lent}", m.ep());
        return refuse(FRAMEWORK, reason, None);
    }
    if k.schedule == Schedule::ZbH1 || k.schedule == Schedule::DualPipe {
        let reason = format!("it has no {} schedule (ZBVZeroBubble and DualPipeV differ)", k.schedule.name());
        return refuse(FRAMEWORK, reason, Some(*m));
    }
    if k.schedule == Schedule::Gpipe && k.vpp > 1 {
        return refuse(FRAMEWORK, "GPipe has one stage a rank", Some(*m));
    }
    if k.optimizer_offload != 0 && k.optimizer_offload != 100 {
        return refuse(FRAMEWORK, "its offload is all or nothing", Some(*m));
    }
    if !matches!(k.recompute, Recompute::None | Recompute::SELECTIVE | Recompute::Full) {
        return refuse(FRAMEWORK, "recomputation is none, selective or full there", Some(*m));
    }
    Ok(())
}

fn parallel(job: &Job, plan: &Plan) -> Result<Args, NotExpressible> {
    let m = &plan.mesh;
    let k = &plan.knobs;
    let replicate = k.dp_replicate.max(1);
    let mut a = Args::default();
    a.set("--parallelism.data_parallel_replicate_degree", replicate);
    a.set("--parallelism.data_parallel_shard_degree", m.dp_attention() / replicate);
    a.set("--parallelism.context_parallel_degree", m.cp());
    a.set("--parallelism.tensor_parallel_degree", m.tp());
    a.set("--parallelism.pipeline_parallel_degree", m.pp());
    a.set("--parallelism.expert_parallel_degree", m.ep());
    if m.pp() > 1 {
        let schedule = match (k.schedule, k.vpp > 1) {
            (Schedule::Gpipe, _) => "GPipe",
            (_, true) => "Interleaved1F1B",
            (_, false) => "1F1B",
        };
        a.set("--parallelism.pipeline_parallel_schedule", schedule);
        stages(job, plan, &mut a)?;
    }
    a.flag_if(m.tp() > 1 && !k.sequence_parallel, "--parallelism.no-enable-sequence-parallel");
    match k.zero {
        2 => a.set("--parallelism.fsdp_reshard_after_forward", "never"),
        3 => a.set("--parallelism.fsdp_reshard_after_forward", "always"),
        _ => {}
    }
    a.flag_if(k.tp_overlap == Toggle::On, "--parallelism.enable_async_tensor_parallel --compile.enable");
    a.flag_if(k.optimizer_offload == 100, "--training.enable_cpu_offload");
    Ok(a)
}

/// Stages other than the schedule's own: more than two chunks a rank, or explicit ends.
fn stages(job: &Job, plan: &Plan, a: &mut Args) -> Result<(), NotExpressible> {
    let k = &plan.knobs;
    let layers = job.model.layers();
    let chunks = plan.mesh.pp().saturating_mul(k.vpp.max(1));
    let ends = k.first_stage_layers > 0 || k.last_stage_layers > 0;
    if ends {
        let set = u32::from(k.first_stage_layers > 0) + u32::from(k.last_stage_layers > 0);
        let rest = layers.saturating_sub(k.first_stage_layers + k.last_stage_layers);
        let middle = chunks.saturating_sub(set);
        let each = rest.checked_div(middle).unwrap_or(k.first_stage_layers.max(k.last_stage_layers));
        let less = |end: u32| if end == 0 { Some(0) } else { each.checked_sub(end) };
        let (Some(first), Some(last)) = (less(k.first_stage_layers), less(k.last_stage_layers)) else {
            return refuse(FRAMEWORK, "its first and last stages hold no more layers than the others", None);
        };
        a.set("--parallelism.pipeline_parallel_first_stage_less_layers", first);
        a.set("--parallelism.pipeline_parallel_last_stage_less_layers", last);
        a.set("--parallelism.pipeline_parallel_layers_per_stage", each);
    } else if k.vpp > 2 {
        // Two chunks a rank are what interleaving takes by itself; one layer less at both ends is the default.
        let each = (layers + 2).div_ceil(chunks).max(1);
        if (layers + 2).div_ceil(each) != chunks {
            let reason = format!("{layers} layers do not make {chunks} stages of equal size there");
            return refuse(FRAMEWORK, reason, Some(plan.mesh));
        }
        a.set("--parallelism.pipeline_parallel_layers_per_stage", each);
    }
    Ok(())
}

fn pipeline_micro_batches(train: &Train, plan: &Plan) -> u32 {
    match (plan.mesh.pp() > 1, plan.knobs.pp_microbatches) {
        (false, _) => 1,
        (true, 0) => micro_batches(train, plan),
        (true, set) => set,
    }
}

fn released(train: &Train, plan: &Plan, per_step: u32) -> Args {
    let k = &plan.knobs;
    let mut a = Args::default();
    a.set("--training.local_batch_size", k.micro_batch.saturating_mul(per_step));
    a.set("--training.global_batch_size", train.global_batch);
    a.set("--training.seq_len", train.seq_len);
    a.set_if(plan.mesh.pp() > 1, "--parallelism.pipeline_parallel_microbatch_size", k.micro_batch);
    a
}

/// A subcommand of its own, which its parser wants after every flag.
fn checkpointing(recompute: Recompute) -> &'static str {
    match recompute {
        Recompute::None => "activation_checkpoint:none",
        Recompute::Modules(_) => "activation_checkpoint:selective",
        // The last two were refused before.
        Recompute::Full | Recompute::Uniform(_) | Recompute::Block(_) => "activation_checkpoint:full",
    }
}

fn main_branch(train: &Train, plan: &Plan, per_step: u32) -> Args {
    let tokens = |sequences: u32| u64::from(sequences) * u64::from(train.seq_len);
    let mut a = Args::default();
    a.set_if(plan.mesh.pp() > 1, "--parallelism.num_pp_microbatches", per_step);
    a.set("--training.max_context_length", train.seq_len);
    a.set("--training.num_tokens_per_microbatch_per_dp_rank", tokens(plan.knobs.micro_batch));
    a.set("--training.num_tokens_per_train_step", tokens(train.global_batch));
    a.flag("--training.disable_cuda_graphs");
    a
}
