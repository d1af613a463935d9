//! What Megatron-Core's own code asks (0.19.2 and 0.20.0-dev).
//!
//! Megatron Bridge 0.6.2 starts the same code. Its own validation lets some plans through that Megatron-LM's arguments refuse
//! (experts, layers and FFN that do not divide, MoE without sequence parallelism); the model or the first step then refuses
//! them, so both names have the same rules here and differ only in what an unset expert TP means.

use super::case::{Case, Flow};
use super::{Sink, ask, knobs, shape};
use crate::plan::{Recompute, Toggle};
use std::ops::ControlFlow;

/// Degrees. Source: `megatron/core/transformer/transformer_config.py`, `megatron/training/arguments.py`.
pub(super) fn check_mesh(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    shape::no_experts(c, out)?;
    shape::experts(c, out)?;
    shape::heads(c, out)?;
    shape::kv_heads(c, out)?;
    // Context parallelism deals out the heads of linear attention further.
    shape::linear_heads(c, c.tp.saturating_mul(c.cp), out)?;
    shape::ffn(c, c.tp, out)?;
    shape::expert_ffn(c, out)?;
    shape::shared_ffn(c, c.tp, out)?;
    shape::stages(c, out)?;
    shape::format(c, out)?;
    let hidden = c.job.model.spec().hidden;
    for block in c.job.model.blocks() {
        if let Some(a) = block.mixer.gqa() {
            // An explicit head size lifts the rule; one that is the rounded quotient was not given.
            let given = a.head_dim != hidden / a.heads;
            ask!(out, given || hidden.is_multiple_of(a.heads), HiddenHeads, hidden, a.heads);
        }
    }
    if let Some(moe) = c.job.model.moe() {
        ask!(out, !moe.bias || c.etp == 1, ExpertBias, 1_u64, c.etp);
    }
    ControlFlow::Continue(())
}

/// Knobs. Source: `megatron/training/arguments.py`, `megatron/core/pipeline_parallel/schedules.py`, `moe_layer.py`.
pub(super) fn check_knobs(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    knobs::interleave(c, out)?;
    // Two stages would exchange several messages at once between the same two ranks.
    let overlapped = c.knobs.pp_overlap != Toggle::Off;
    ask!(out, c.knobs.vpp <= 1 || overlapped || c.pp > 2, Interleave, c.pp, c.knobs.vpp);
    knobs::chunks(c, out)?;
    knobs::batch(c, 1, out)?;
    knobs::sequence(c, out)?;
    knobs::interleaved_rounds(c, out)?;
    knobs::stage_sizes(c, out)?;
    let k = c.knobs;
    if k.first_stage_layers == 0 && k.last_stage_layers == 0 {
        knobs::whole_chunks(c, out)?;
    }
    if let Some(train) = c.job.train() {
        let positions = c.job.model.spec().max_positions;
        ask!(out, train.seq_len <= positions, Positions, positions, train.seq_len);
    }
    let moe = c.job.model.moe().is_some();
    ask!(out, !moe || c.tp == 1 || k.sequence_parallel, MoeSequenceParallel, 1_u64, c.tp);
    // ZeRO-3 is FSDP2 here, which has neither a pipeline nor EP.
    ask!(out, k.zero < 3 || (c.pp == 1 && c.ep == 1), Zero, c.pp, k.zero);
    ask!(out, k.tp_overlap != Toggle::On || (k.sequence_parallel && c.tp > 1), TpOverlap, 1_u64, c.tp);
    if k.ep_overlap == Toggle::On {
        let spread = c.ep > 1 && (c.pp == 1 || k.vpp > 1);
        let whole = matches!(k.recompute, Recompute::Full | Recompute::Uniform(_) | Recompute::Block(_));
        let plain = !whole && c.job.model.spec().mtp <= 1;
        ask!(out, spread && plain, EpOverlap, c.pp, c.ep);
    }
    ControlFlow::Continue(())
}
