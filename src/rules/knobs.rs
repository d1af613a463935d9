//! Rules on batch, sequence, interleaving and stage sizes that more than one framework has.

use super::case::{Case, Flow};
use super::{Sink, ask};
use crate::plan::Toggle;
use std::ops::ControlFlow;

/// What a training step needs whatever runs it: whole micro-batches, whole shards of the sequence, and what the interleaved
/// schedule is made of.
pub(super) fn generic(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    interleave(c, out)?;
    chunks(c, out)?;
    batch(c, 1, out)?;
    sequence(c, out)?;
    interleaved_rounds(c, out)?;
    two_batches(c, out)?;
    if c.knobs.vpp > 1 && c.knobs.first_stage_layers == 0 && c.knobs.last_stage_layers == 0 {
        whole_chunks(c, out)?;
    }
    stage_sizes(c, out)
}

/// Half of a serving step hides the exchange of the other half: there must be one.
pub(super) fn two_batches(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    if c.job.serve().is_some() && c.knobs.ep_overlap == Toggle::On {
        ask!(out, c.ep > 1 && c.launch_dp() > 1, TwoBatch, c.launch_dp(), c.ep);
    }
    ControlFlow::Continue(())
}

/// Interleaving needs a pipeline.
pub(super) fn interleave(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    ask!(out, c.knobs.vpp <= 1 || c.pp > 1, Interleave, c.pp, c.knobs.vpp);
    ControlFlow::Continue(())
}

/// Chunks of a pipeline hold a layer each.
pub(super) fn chunks(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    let chunks = c.pp.saturating_mul(u64::from(c.knobs.vpp.max(1)));
    ask!(out, c.knobs.vpp <= 1 || chunks <= c.layers(), Stages, c.layers(), chunks);
    ControlFlow::Continue(())
}

/// The same layers in every chunk.
pub(super) fn whole_chunks(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    let chunks = c.pp.saturating_mul(u64::from(c.knobs.vpp.max(1)));
    ask!(out, c.layers().is_multiple_of(chunks), Layers, c.layers(), chunks);
    ControlFlow::Continue(())
}

/// The global batch is a whole number of micro-batches on every data-parallel rank (`rounds`: of that many each).
pub(super) fn batch(c: &Case<'_>, rounds: u64, out: &mut impl Sink) -> Flow {
    if let (Some(train), true) = (c.job.train(), c.dp > 0) {
        let batch = u64::from(train.global_batch);
        let step = u64::from(c.knobs.micro_batch.max(1)).saturating_mul(c.dp).saturating_mul(rounds);
        ask!(out, batch.is_multiple_of(step) && batch > 0, Batch, batch, step);
    }
    ControlFlow::Continue(())
}

/// Micro-batches of a data-parallel rank, when the batch splits.
pub(super) fn micro_batches(c: &Case<'_>) -> Option<u64> {
    let batch = u64::from(c.job.train()?.global_batch);
    let step = u64::from(c.knobs.micro_batch.max(1)).saturating_mul(c.dp);
    (step > 0 && batch.is_multiple_of(step)).then(|| batch / step)
}

/// Context parallelism deals each rank an early and a late piece; sequence parallelism cuts what is left.
pub(super) fn sequence(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    if let Some(train) = c.job.train() {
        let seq = u64::from(train.seq_len);
        ask!(out, c.cp == 1 || seq.is_multiple_of(2 * c.cp), SequenceCp, seq, 2 * c.cp);
        let sp = c.knobs.sequence_parallel && c.tp > 1;
        ask!(out, !sp || (seq / c.cp).is_multiple_of(c.tp), SequenceTp, seq / c.cp, c.tp);
    }
    ControlFlow::Continue(())
}

/// Interleaving works on groups of PP micro-batches.
pub(super) fn interleaved_rounds(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    if c.knobs.vpp > 1
        && c.pp > 1
        && let Some(micro_batches) = micro_batches(c)
    {
        ask!(out, micro_batches >= c.pp, FewMicroBatches, micro_batches, c.pp);
        ask!(out, micro_batches.is_multiple_of(c.pp), MicroBatches, micro_batches, c.pp);
    }
    ControlFlow::Continue(())
}

/// Explicit first and last stages leave a whole number of layers to each of the others, and whole chunks everywhere.
///
/// Stricter than Megatron in one thing: its arithmetic takes ends that hold more layers than the model when what is left over,
/// then negative, divides as well, and it would build a deeper model than was asked for.
pub(super) fn stage_sizes(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    let (first, last) = (u64::from(c.knobs.first_stage_layers), u64::from(c.knobs.last_stage_layers));
    let set = u64::from(first > 0) + u64::from(last > 0);
    if set == 0 {
        return ControlFlow::Continue(());
    }
    let (layers, ends, chunks) = (c.layers(), first + last, u64::from(c.knobs.vpp.max(1)));
    let rest = layers.saturating_sub(ends);
    let middle = c.pp.saturating_sub(set);
    let stands = c.pp >= set.max(2) && ends <= layers && (rest > 0) == (middle > 0);
    ask!(out, stands, StageSizes, layers, ends);
    ask!(out, rest.is_multiple_of(middle.max(1)), StageSizes, layers, ends + rest / middle.max(1) * middle);
    for size in [first, last, rest / middle.max(1)] {
        ask!(out, size.is_multiple_of(chunks), StageChunks, size, chunks);
    }
    ControlFlow::Continue(())
}
