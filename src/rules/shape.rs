//! Rules that follow from the model's shape, whatever the framework.

use super::{Rejection, Rule, Sink, ask};
use crate::framework::Framework;
use crate::job::{Job, Workload};
use crate::mesh::Mesh;
use crate::model::{Mixer, WeightFormat};
use crate::plan::Plan;

/// Degrees against shapes.
pub(super) fn check(job: &Job, framework: Option<Framework>, mesh: &Mesh, out: &mut impl Sink) {
    let model = &job.model;
    let tp = u64::from(mesh.tp());
    match model.moe() {
        None => ask!(out, mesh.ep() == 1, NoExperts, 1_u64, mesh.ep()),
        Some(moe) => {
            // vLLM without a balancer lets the first ranks hold one expert more.
            let uneven = framework == Some(Framework::Vllm);
            ask!(out, uneven || moe.experts.is_multiple_of(mesh.ep()), Experts, moe.experts, mesh.ep());
            let etp = mesh.etp();
            ask!(out, moe.ffn.is_multiple_of(etp), ExpertFfn, moe.ffn, etp);
            if moe.shared_ffn > 0 {
                ask!(out, u64::from(moe.shared_ffn).is_multiple_of(tp), SharedFfn, moe.shared_ffn, tp);
            }
        }
    }
    for block in model.blocks() {
        match &block.mixer {
            Mixer::Gqa(a) => {
                // DeepSpeed's AutoTP shards unevenly and only warns.
                if framework != Some(Framework::Deepspeed) {
                    ask!(out, u64::from(a.heads).is_multiple_of(tp), Heads, a.heads, tp);
                    let kv = u64::from(a.kv_heads);
                    let fits = kv.is_multiple_of(tp) || tp.is_multiple_of(kv);
                    // TensorRT-LLM rounds the KV heads of a rank up.
                    let rounds = framework == Some(Framework::Trtllm);
                    ask!(out, rounds || fits, KvHeads, kv, tp);
                }
            }
            Mixer::Mla(a) => ask!(out, u64::from(a.heads).is_multiple_of(tp), Heads, a.heads, tp),
            Mixer::DeltaNet(a) => {
                ask!(out, u64::from(a.value_heads).is_multiple_of(tp), LinearHeads, a.value_heads, tp);
                ask!(out, u64::from(a.key_heads).is_multiple_of(tp), LinearHeads, a.key_heads, tp);
            }
            Mixer::Mamba2(a) => ask!(out, u64::from(a.heads).is_multiple_of(tp), LinearHeads, a.heads, tp),
            Mixer::None {} => {}
        }
        if let Some(dense) = &block.mlp.dense {
            ask!(out, u64::from(dense.ffn).is_multiple_of(tp), Ffn, dense.ffn, tp);
        }
    }
    check_format(job, mesh, out);
    // No framework splits fewer layers than stages.
    ask!(out, mesh.pp() <= model.layers(), Stages, model.layers(), mesh.pp());
}

/// Quantisation blocks and what the hardware computes in.
fn check_format(job: &Job, mesh: &Mesh, out: &mut impl Sink) {
    let gpu = &job.cluster.gpu;
    match &job.workload {
        Workload::Train(train) => {
            ask!(out, gpu.peak(train.precision.needs()).is_some(), Format, 0_u64, 1_u64);
        }
        Workload::Serve(serve) => {
            let tp = u64::from(mesh.tp());
            let etp = u64::from(mesh.etp());
            let quant = serve.quant;
            let dense_block = quant.dense().block().filter(|_| mesh.tp() > 1);
            let expert_block = quant.experts().block().filter(|_| mesh.etp() > 1);
            for block in job.model.blocks() {
                if let (Some(width), Some(dense)) = (dense_block, &block.mlp.dense) {
                    let shard = u64::from(dense.ffn) / tp;
                    ask!(out, shard.is_multiple_of(width), QuantBlock, shard, width);
                }
                if let (Some(width), Some(moe)) = (dense_block, &block.mlp.moe) {
                    let shard = u64::from(moe.shared_ffn) / tp;
                    ask!(out, shard.is_multiple_of(width), QuantBlock, shard, width);
                }
                if let (Some(width), Some(moe)) = (expert_block, &block.mlp.moe) {
                    let shard = u64::from(moe.ffn) / etp;
                    ask!(out, shard.is_multiple_of(width), ExpertQuantBlock, shard, width);
                }
            }
            // 8-bit floats need tensor cores for them; weight-only 4-bit runs anywhere by way of 16-bit GEMMs.
            let needs_fp8 = matches!(quant.format, WeightFormat::Fp8 | WeightFormat::Fp8Block);
            let has_fp8 = gpu.peak(crate::cluster::Dtype::Fp8).is_some();
            ask!(out, !needs_fp8 || has_fp8, Format, 0_u64, 8_u64);
        }
    }
}

/// Knobs against the batch, the layers and the sequence, as every framework has it.
pub(super) fn check_knobs(job: &Job, framework: Option<Framework>, plan: &Plan, out: &mut impl Sink) {
    let mesh = &plan.mesh;
    let knobs = &plan.knobs;
    let layers = job.model.layers();
    ask!(out, knobs.vpp == 1 || mesh.pp() > 1, Interleave, mesh.pp(), knobs.vpp);
    ask!(out, mesh.pp().saturating_mul(knobs.vpp) <= layers, Stages, layers, mesh.pp().saturating_mul(knobs.vpp));
    if let Workload::Train(train) = &job.workload {
        let step = u64::from(knobs.micro_batch) * u64::from(mesh.dp_attention());
        let micro_batches = u64::from(train.global_batch) / step.max(1);
        let splits = u64::from(train.global_batch).is_multiple_of(step) && micro_batches > 0;
        ask!(out, splits, Batch, train.global_batch, step);
        // torchtitan's own schedules, sequences and stages have rules of their own.
        if framework == Some(Framework::Torchtitan) {
            return;
        }
        let seq = u64::from(train.seq_len);
        let cp = u64::from(mesh.cp());
        ask!(out, cp == 1 || seq.is_multiple_of(2 * cp), SequenceCp, seq, 2 * cp);
        let sp = knobs.sequence_parallel && mesh.tp() > 1;
        ask!(out, !sp || (seq / cp).is_multiple_of(u64::from(mesh.tp())), SequenceTp, seq / cp, mesh.tp());
        let moe = job.model.moe().is_some();
        ask!(out, !moe || mesh.tp() == 1 || knobs.sequence_parallel, MoeSequenceParallel, 1_u64, mesh.tp());
        if knobs.vpp > 1 && mesh.pp() > 1 {
            let pp = u64::from(mesh.pp());
            ask!(out, micro_batches >= pp, FewMicroBatches, micro_batches, pp);
            ask!(out, micro_batches.is_multiple_of(pp), MicroBatches, micro_batches, pp);
            let chunks = mesh.pp() * knobs.vpp;
            ask!(out, layers.is_multiple_of(chunks), Layers, layers, chunks);
        }
        let _ = Rejection::new(Rule::Zero, 0_u64, 0_u64);
    }
    check_stages(job, plan, out);
}

/// Explicit first and last stages must leave a whole number of layers to each of the others.
fn check_stages(job: &Job, plan: &Plan, out: &mut impl Sink) {
    let (first, last) = (plan.knobs.first_stage_layers, plan.knobs.last_stage_layers);
    let set = u32::from(first > 0) + u32::from(last > 0);
    if set == 0 {
        return;
    }
    let layers = job.model.layers();
    let pp = plan.mesh.pp();
    let ends = first.saturating_add(last);
    ask!(out, pp >= set.max(2) && ends <= layers, StageSizes, layers, ends);
    let middle = pp.saturating_sub(set);
    let rest = layers.saturating_sub(ends);
    if middle == 0 {
        ask!(out, rest == 0, StageSizes, layers, ends);
    } else {
        ask!(out, rest.is_multiple_of(middle) && rest > 0, StageSizes, layers, ends + rest / middle * middle);
    }
}
