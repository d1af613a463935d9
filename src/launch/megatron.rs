//! Megatron-LM: `torchrun pretrain_gpt.py` with every size and degree of the plan, and a Slurm script around it.

use super::args::{Args, share};
use super::ranks::Placement;
use super::{Launch, LaunchFile, NodeCommand, NotExpressible, place, refuse, torchrun, training_knobs_only};
use crate::framework::Framework;
use crate::job::{GradDtype, Job, Precision, Train};
use crate::mesh::Mesh;
use crate::model::{Gqa, Mixer, Mla, Moe, Norm, QkNorm};
use crate::plan::{Knobs, Module, Plan, Recompute, Schedule, Toggle};

const FRAMEWORK: Framework = Framework::Megatron;

pub(super) fn launch(job: &Job, train: &Train, plan: &Plan) -> Result<Launch, NotExpressible> {
    let knobs = &plan.knobs;
    let hybrid = is_hybrid(job);
    check(FRAMEWORK, plan)?;
    if hybrid && knobs.vpp > 1 {
        return refuse(FRAMEWORK, "hybrid models take their chunks from the layer pattern, not from a flag", None);
    }
    let placement = place(job, plan, FRAMEWORK)?;
    let script = if hybrid { "pretrain_hybrid.py" } else { "pretrain_gpt.py" };
    let environment = environment(plan);
    let prefix: String = environment.iter().map(|(name, value)| format!("{name}={value} ")).collect();
    let mut rest = parallel(plan);
    rest.extend(&batch(train, plan));
    rest.extend(&number_formats(train));
    rest.extend(&shape(job));
    rest.raw("--tokenizer-type NullTokenizer --mock-data --train-iters 100 --lr 1e-4 --eval-iters 0 --log-interval 1");
    let command = |node: &str| {
        let mut all = Args::start(format!("{prefix}{}", torchrun(&placement, node, script)));
        all.extend(&rest);
        all.render()
    };
    let commands =
        (0..placement.nodes).map(|node| NodeCommand { node, replica: 0, text: command(&node.to_string()) }).collect();
    let files = vec![
        LaunchFile {
            name: "run.sh".into(),
            text: format!(
                "#!/bin/bash\n# Starts the ranks of one node; NODE_RANK is its number.\n{}\n",
                command("$NODE_RANK")
            ),
        },
        LaunchFile { name: "launch.slurm".into(), text: slurm(&placement) },
    ];
    let mut notes = vec![
        "mock data, NullTokenizer, learning rate and iterations are stand-ins: put your data arguments there"
            .to_owned(),
    ];
    if placement.nodes > 1 {
        notes.push("MASTER_ADDR is the address of node 0; launch.slurm sets it by itself".into());
    }
    notes.extend(shape_notes(job));
    Ok(Launch { framework: FRAMEWORK, files, commands, environment, notes })
}

/// What neither Megatron-LM nor Bridge can say.
pub(super) fn check(framework: Framework, plan: &Plan) -> Result<(), NotExpressible> {
    let knobs = &plan.knobs;
    training_knobs_only(framework, knobs)?;
    match knobs.schedule {
        Schedule::OneFOneB => {}
        Schedule::Gpipe | Schedule::ZbH1 | Schedule::DualPipe => {
            let reason = format!("its pipeline runs 1f1b, interleaved with vpp > 1, not {}", knobs.schedule.name());
            return refuse(framework, reason, Some(plan.mesh));
        }
    }
    if knobs.dp_replicate > 1 {
        return refuse(framework, "hybrid sharding (dp_replicate) is torchtitan's", Some(plan.mesh));
    }
    if knobs.zero >= 2 && (plan.mesh.pp() > 1 || knobs.optimizer_offload > 0) {
        let nearest = Mesh::new(
            plan.mesh.tp(),
            plan.mesh.cp(),
            1,
            plan.mesh.dp_attention() * plan.mesh.pp(),
            plan.mesh.ep(),
            plan.mesh.etp(),
        );
        let reason = format!("ZeRO-{} is Megatron FSDP, which goes without a pipeline and without offload", knobs.zero);
        return refuse(framework, reason, nearest);
    }
    Ok(())
}

/// Blocks that only Megatron's hybrid model has: state spaces, and mixers and MLPs as layers of their own.
fn is_hybrid(job: &Job) -> bool {
    job.model.blocks().iter().any(|b| matches!(b.mixer, Mixer::Mamba2(_) | Mixer::None {}))
}

/// TP and CP collectives must be queued before GEMMs on GPUs before Blackwell; FSDP and EP overlap need more queues.
pub(super) fn environment(plan: &Plan) -> Vec<(String, String)> {
    let connections = if plan.knobs.zero >= 2 {
        return Vec::new();
    } else if plan.knobs.ep_overlap == Toggle::On {
        "32"
    } else if plan.mesh.tp() > 1 || plan.mesh.cp() > 1 {
        "1"
    } else {
        return Vec::new();
    };
    vec![("CUDA_DEVICE_MAX_CONNECTIONS".into(), connections.into())]
}

fn parallel(plan: &Plan) -> Args {
    let m = &plan.mesh;
    let k = &plan.knobs;
    let mut a = Args::default();
    a.set("--tensor-model-parallel-size", m.tp());
    a.set("--pipeline-model-parallel-size", m.pp());
    a.set("--context-parallel-size", m.cp());
    a.set("--expert-model-parallel-size", m.ep());
    // Left out, Megatron-LM takes TP and Megatron Bridge 1.
    a.set("--expert-tensor-parallel-size", m.etp());
    a.flag_if(m.tp() > 1 && k.sequence_parallel, "--sequence-parallel");
    a.set_if(k.vpp > 1, "--num-virtual-stages-per-pipeline-rank", k.vpp);
    a.set_if(k.first_stage_layers > 0, "--decoder-first-pipeline-num-layers", k.first_stage_layers);
    a.set_if(k.last_stage_layers > 0, "--decoder-last-pipeline-num-layers", k.last_stage_layers);
    sharding(k, &mut a);
    match k.recompute {
        Recompute::None => {}
        Recompute::Full => {
            a.raw("--recompute-granularity full --recompute-method uniform --recompute-num-layers 1");
        }
        Recompute::Uniform(n) => {
            a.raw(format!("--recompute-granularity full --recompute-method uniform --recompute-num-layers {n}"));
        }
        Recompute::Block(n) => {
            a.raw(format!("--recompute-granularity full --recompute-method block --recompute-num-layers {n}"));
        }
        Recompute::Modules(_) => {
            let names: Vec<&str> = Module::ALL.iter().filter(|m| k.recompute.has(**m)).map(|m| m.name()).collect();
            a.raw(format!("--recompute-granularity selective --recompute-modules {}", names.join(" ")));
        }
    }
    if k.optimizer_offload > 0 {
        let part = share(f64::from(k.optimizer_offload) / 100.0);
        a.raw(format!("--optimizer-cpu-offload --optimizer-offload-fraction {part} --use-precision-aware-optimizer"));
    }
    a.flag_if(k.tp_overlap == Toggle::On, "--tp-comm-overlap");
    if k.dp_overlap == Toggle::On {
        a.flag("--overlap-grad-reduce");
        a.flag_if(k.zero >= 1, "--overlap-param-gather");
    }
    a.flag_if(k.ep_overlap == Toggle::On, "--overlap-moe-expert-parallel-comm");
    // Only the interleaved schedule can overlap its sends, and does unless told.
    a.flag_if(k.pp_overlap == Toggle::Off && k.vpp > 1, "--no-overlap-p2p-communication");
    a
}

fn sharding(k: &Knobs, a: &mut Args) {
    match k.zero {
        0 => {}
        1 => a.flag("--use-distributed-optimizer"),
        stage => {
            let strategy = if stage == 2 { "optim_grads" } else { "optim_grads_params" };
            a.raw("--use-distributed-optimizer --use-megatron-fsdp --ckpt-format fsdp_dtensor");
            a.set("--data-parallel-sharding-strategy", strategy);
        }
    }
}

fn batch(train: &Train, plan: &Plan) -> Args {
    let mut a = Args::default();
    a.set("--micro-batch-size", plan.knobs.micro_batch);
    a.set("--global-batch-size", train.global_batch);
    a.set("--seq-length", train.seq_len);
    a
}

fn number_formats(train: &Train) -> Args {
    let mut a = Args::default();
    match train.precision {
        Precision::Bf16 => a.flag("--bf16"),
        Precision::Fp16 => a.flag("--fp16"),
        Precision::Fp8 => a.raw("--bf16 --fp8-format hybrid --fp8-recipe delayed"),
        Precision::Mxfp8 => a.raw("--bf16 --fp8-format e4m3 --fp8-recipe mxfp8"),
        Precision::Nvfp4 => a.raw("--bf16 --fp4-format e2m1 --fp4-recipe nvfp4"),
    }
    a.flag_if(train.grad_dtype == GradDtype::Bf16, "--grad-reduce-in-bf16");
    a
}

/// The model's sizes.
fn shape(job: &Job) -> Args {
    let spec = job.model.spec();
    let moe = job.model.moe();
    let mut a = Args::default();
    a.set("--num-layers", job.model.layers());
    a.set("--hidden-size", spec.hidden);
    a.set("--ffn-hidden-size", job.model.dense_ffn().or(moe.map(|m| m.ffn)).unwrap_or(spec.hidden));
    let gqa = job.model.blocks().iter().find_map(|b| b.mixer.gqa());
    let mla = job.model.blocks().iter().find_map(|b| if let Mixer::Mla(m) = &b.mixer { Some(m) } else { None });
    match (gqa, mla) {
        (Some(attention), _) => softmax(attention, &mut a),
        (None, Some(attention)) => latent(attention, &mut a),
        (None, None) => a.set("--num-attention-heads", job.model.heads().max(1)),
    }
    if let Some(moe) = moe {
        experts(job, moe, &mut a);
    }
    linear_layers(job, &mut a);
    a.set("--max-position-embeddings", spec.max_positions);
    a.set("--vocab-size", spec.vocab);
    a.flag_if(spec.norm == Norm::Rms, "--normalization RMSNorm");
    let dense = job.model.blocks().iter().find_map(|b| b.mlp.dense);
    a.flag_if(dense.map_or_else(|| moe.is_some_and(|m| m.gated), |d| d.gated), "--swiglu");
    a.flag_if(!dense.map_or_else(|| moe.is_some_and(|m| m.bias), |d| d.bias), "--disable-bias-linear");
    a.flag_if(!spec.tied_embeddings, "--untie-embeddings-and-output-weights");
    let positions = match (spec.learned_positions, is_hybrid(job)) {
        (true, _) => "learned_absolute",
        (false, true) => "none",
        (false, false) => "rope",
    };
    a.set("--position-embedding-type", positions);
    let mtp = job.train().map_or(0, |train| train.mtp_layers);
    a.set_if(mtp > 0, "--mtp-num-layers", mtp);
    a
}

fn softmax(attention: &Gqa, a: &mut Args) {
    a.set("--num-attention-heads", attention.heads);
    a.set("--kv-channels", attention.head_dim);
    if attention.kv_heads < attention.heads {
        // Without the switch Megatron ignores the number.
        a.raw(format!("--group-query-attention --num-query-groups {}", attention.kv_heads));
    }
    a.flag_if(attention.qkv_bias, "--add-qkv-bias");
    a.flag_if(attention.qk_norm != QkNorm::None, "--qk-layernorm");
    a.flag_if(attention.output_gate, "--attention-output-gate");
}

fn latent(attention: &Mla, a: &mut Args) {
    a.set("--num-attention-heads", attention.heads);
    a.flag("--multi-latent-attention");
    a.set_if(attention.q_lora > 0, "--q-lora-rank", attention.q_lora);
    a.set("--kv-lora-rank", attention.kv_lora);
    a.set("--qk-head-dim", attention.nope);
    a.set("--qk-pos-emb-head-dim", attention.rope);
    a.set("--v-head-dim", attention.v);
    a.flag("--qk-layernorm");
}

fn experts(job: &Job, moe: &Moe, a: &mut Args) {
    a.set("--num-experts", moe.experts);
    a.set("--moe-router-topk", moe.top_k);
    a.set("--moe-ffn-hidden-size", moe.ffn);
    a.set_if(moe.shared_ffn > 0, "--moe-shared-expert-intermediate-size", moe.shared_ffn);
    a.flag_if(moe.shared_gate, "--moe-shared-expert-gate");
    if moe.groups > 1 {
        a.set("--moe-router-num-groups", moe.groups);
        a.set("--moe-router-group-topk", moe.top_groups);
    }
    // A hybrid model's pattern already says which layers have experts.
    let sparse: Vec<bool> = (0..job.model.layers()).map(|l| job.model.block_of(l).mlp.moe.is_some()).collect();
    if !is_hybrid(job) && sparse.contains(&false) {
        a.set("--moe-layer-freq", pattern(&sparse));
    }
    a.raw("--moe-token-dispatcher-type alltoall --moe-grouped-gemm");
}

/// Linear-attention and state-space layers.
fn linear_layers(job: &Job, a: &mut Args) {
    for block in job.model.blocks() {
        match &block.mixer {
            Mixer::DeltaNet(d) => {
                let layers = 0..job.model.layers();
                let linear: Vec<bool> =
                    layers.map(|l| matches!(job.model.block_of(l).mixer, Mixer::DeltaNet(_))).collect();
                a.raw("--experimental-attention-variant gated_delta_net");
                a.set("--linear-attention-freq", pattern(&linear));
                a.set("--linear-num-key-heads", d.key_heads);
                a.set("--linear-num-value-heads", d.value_heads);
                a.set("--linear-key-head-dim", d.key_dim);
                a.set("--linear-value-head-dim", d.value_dim);
                a.set("--linear-conv-kernel-dim", d.conv);
                return;
            }
            Mixer::Mamba2(s) => {
                a.set("--hybrid-layer-pattern", hybrid_pattern(job));
                a.raw("--spec megatron.core.models.hybrid.hybrid_layer_specs hybrid_stack_spec");
                a.set("--mamba-num-heads", s.heads);
                a.set("--mamba-head-dim", s.head_dim);
                a.set("--mamba-num-groups", s.groups);
                a.set("--mamba-state-dim", s.state);
                return;
            }
            Mixer::Gqa(_) | Mixer::Mla(_) | Mixer::None {} => {}
        }
    }
}

/// A list of zeros and ones the way Megatron evaluates it: `([0]*3+[1]*58)`.
fn pattern(layers: &[bool]) -> String {
    let mut runs: Vec<(bool, u32)> = Vec::new();
    for &layer in layers {
        match runs.last_mut() {
            Some((kind, count)) if *kind == layer => *count += 1,
            _ => runs.push((layer, 1)),
        }
    }
    let parts: Vec<String> = runs.iter().map(|(kind, count)| format!("[{}]*{count}", u8::from(*kind))).collect();
    format!("({})", parts.join("+"))
}

/// One letter a layer: M state space, * attention, - MLP, E experts; a block of both parts is two layers there.
fn hybrid_pattern(job: &Job) -> String {
    let mut out = String::new();
    for layer in 0..job.model.layers() {
        let block = job.model.block_of(layer);
        match block.mixer {
            Mixer::Mamba2(_) | Mixer::DeltaNet(_) => out.push('M'),
            Mixer::Gqa(_) | Mixer::Mla(_) => out.push('*'),
            Mixer::None {} => {}
        }
        if block.mlp.moe.is_some() {
            out.push('E');
        } else if block.mlp.dense.is_some() {
            out.push('-');
        }
    }
    out
}

/// Parts of a model that these flags do not carry.
pub(super) fn shape_notes(job: &Job) -> Vec<String> {
    let mut notes = Vec::new();
    let attentions: Vec<&Gqa> = job.model.blocks().iter().filter_map(|b| b.mixer.gqa()).collect();
    if attentions.iter().any(|a| a.window.is_some()) {
        notes.push("sliding-window layers are started as full attention: add the window your version supports".into());
    }
    if attentions.iter().any(|a| a.qk_norm == QkNorm::Full) {
        notes.push("the model norms queries and keys over all heads, --qk-layernorm norms each head".into());
    }
    if attentions
        .windows(2)
        .any(|w| (w[0].heads, w[0].kv_heads, w[0].head_dim) != (w[1].heads, w[1].kv_heads, w[1].head_dim))
    {
        notes.push("attention layers differ in shape, and the flags carry the first kind only".into());
    }
    notes
}

fn slurm(placement: &Placement) -> String {
    format!(
        "#!/bin/bash\n#SBATCH --nodes={}\n#SBATCH --ntasks-per-node=1\n#SBATCH --gpus-per-node={}\n#SBATCH --exclusive\n\n\
         # One task a node; torchrun starts the ranks, in the order of the nodes.\n\
         export MASTER_ADDR=$(scontrol show hostnames \"$SLURM_JOB_NODELIST\" | head -n 1)\n\
         srun bash -c 'NODE_RANK=$SLURM_NODEID exec bash run.sh'\n",
        placement.nodes, placement.per_node
    )
}
