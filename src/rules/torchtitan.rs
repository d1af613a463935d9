//! What torchtitan's own code asks (main of November 2026).
//!
//! Tensors are cut as `DTensor`s, which may be uneven: the widths of MLPs and experts are not asked about.

use super::case::{Case, Flow};
use super::{Sink, ask, knobs, shape};
use crate::plan::Schedule;
use std::ops::ControlFlow;

/// Degrees. Source: `torchtitan/models/common/decoder.py`.
pub(super) fn check_mesh(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    shape::no_experts(c, out)?;
    shape::experts(c, out)?;
    shape::heads(c, out)?;
    for block in c.job.model.blocks() {
        if let Some(a) = block.mixer.gqa() {
            // No replication: a KV head has one owner.
            ask!(out, u64::from(a.kv_heads).is_multiple_of(c.tp), KvHeadsWhole, a.kv_heads, c.tp);
        }
    }
    shape::linear_heads(c, c.tp, out)?;
    shape::stages(c, out)?;
    shape::format(c, out)?;
    // Experts have no tensor parallelism of their own.
    let uncut = !c.grids || c.job.model.moe().is_none() || c.etp == 1;
    ask!(out, uncut, NotExpressible, c.etp, c.ep);
    ask!(out, c.pp == 1 || !c.job.model.spec().tied_embeddings, TiedEmbeddings, 1_u64, c.pp);
    ControlFlow::Continue(())
}

/// Knobs. Source: `torchtitan/trainer.py`, `distributed/pipeline_parallel.py`, `torch/distributed/pipelining/schedules.py`.
pub(super) fn check_knobs(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    knobs::interleave(c, out)?;
    knobs::chunks(c, out)?;
    let k = c.knobs;
    // A step without a pipeline is one micro-batch a rank unless gradients are accumulated.
    let given = if c.pp > 1 { u64::from(k.pp_microbatches) } else { 0 };
    knobs::batch(c, given.max(1), out)?;
    let Some(train) = c.job.train() else { return ControlFlow::Continue(()) };
    let micro_batches = if given > 0 { Some(given) } else { knobs::micro_batches(c) };
    if let (Some(micro_batches), true) = (micro_batches, c.pp > 1) {
        if k.vpp > 1 {
            // Interleaved: the micro-batches go round in groups of PP, and the groups must be equal.
            let rounds = (micro_batches / c.pp).max(1);
            ask!(out, micro_batches.is_multiple_of(rounds), MicroBatches, micro_batches, c.pp);
        } else if k.schedule == Schedule::OneFOneB {
            ask!(out, micro_batches >= c.pp, FewMicroBatches, micro_batches, c.pp);
        }
    }
    // Both cuts are asked of the tokens at once, not one after the other.
    let tokens = u64::from(train.seq_len) * u64::from(k.micro_batch.max(1));
    let sp = if k.sequence_parallel { c.tp } else { 1 };
    let cp = if c.cp > 1 { 2 * c.cp } else { 1 };
    ask!(out, tokens.is_multiple_of(sp * cp), Tokens, tokens, sp * cp);
    let positions = c.job.model.spec().max_positions;
    ask!(out, train.seq_len <= positions, Positions, positions, train.seq_len);
    ControlFlow::Continue(())
}
