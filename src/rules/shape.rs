//! Rules that follow from the model's shape. Each is a function of its own: a framework's module calls those it has.

use super::case::{Case, Flow};
use super::{Sink, ask};
use crate::cluster::Dtype;
use crate::job::Workload;
use crate::model::{Mixer, WeightFormat};
use std::ops::ControlFlow;

/// What a plan needs whatever runs it, with KV heads replicated beyond their number as most frameworks do.
pub(super) fn generic(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    no_experts(c, out)?;
    experts(c, out)?;
    expert_ffn(c, out)?;
    shared_ffn(c, c.tp, out)?;
    heads(c, out)?;
    kv_heads(c, out)?;
    linear_heads(c, c.tp, out)?;
    ffn(c, c.tp, out)?;
    stages(c, out)?;
    format(c, out)?;
    quant_blocks(c, c.tp, out)
}

/// EP spreads experts, so a dense model has none to spread.
pub(super) fn no_experts(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    ask!(out, c.ep == 1 || c.job.model.moe().is_some(), NoExperts, 1_u64, c.ep);
    ControlFlow::Continue(())
}

/// Every EP rank holds the same number of experts.
pub(super) fn experts(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    if let Some(moe) = c.job.model.moe() {
        ask!(out, u64::from(moe.experts).is_multiple_of(c.ep), Experts, moe.experts, c.ep);
    }
    ControlFlow::Continue(())
}

/// Experts are cut by expert TP.
pub(super) fn expert_ffn(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    if let Some(moe) = c.job.model.moe() {
        ask!(out, u64::from(moe.ffn).is_multiple_of(c.etp), ExpertFfn, moe.ffn, c.etp);
    }
    ControlFlow::Continue(())
}

/// Shared experts are cut like a dense MLP.
pub(super) fn shared_ffn(c: &Case<'_>, tp: u64, out: &mut impl Sink) -> Flow {
    if let Some(moe) = c.job.model.moe() {
        ask!(out, u64::from(moe.shared_ffn).is_multiple_of(tp), SharedFfn, moe.shared_ffn, tp);
    }
    ControlFlow::Continue(())
}

/// Query heads of softmax and latent attention are dealt out whole.
pub(super) fn heads(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    for block in c.job.model.blocks() {
        let heads = match &block.mixer {
            Mixer::Gqa(a) => a.heads,
            Mixer::Mla(a) => a.heads,
            Mixer::DeltaNet(_) | Mixer::Mamba2(_) | Mixer::None {} => continue,
        };
        ask!(out, u64::from(heads).is_multiple_of(c.tp), Heads, heads, c.tp);
    }
    ControlFlow::Continue(())
}

/// KV heads are dealt out whole, or each is copied to as many ranks as TP has for it.
pub(super) fn kv_heads(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    for block in c.job.model.blocks() {
        if let Some(a) = block.mixer.gqa() {
            let kv = u64::from(a.kv_heads);
            ask!(out, kv.is_multiple_of(c.tp) || c.tp.is_multiple_of(kv), KvHeads, kv, c.tp);
        }
    }
    ControlFlow::Continue(())
}

/// Heads of linear attention and state-space layers.
pub(super) fn linear_heads(c: &Case<'_>, ranks: u64, out: &mut impl Sink) -> Flow {
    for block in c.job.model.blocks() {
        match &block.mixer {
            Mixer::DeltaNet(a) => {
                ask!(out, u64::from(a.value_heads).is_multiple_of(ranks), LinearHeads, a.value_heads, ranks);
                ask!(out, u64::from(a.key_heads).is_multiple_of(ranks), LinearHeads, a.key_heads, ranks);
            }
            Mixer::Mamba2(a) => ask!(out, u64::from(a.heads).is_multiple_of(ranks), LinearHeads, a.heads, ranks),
            Mixer::Gqa(_) | Mixer::Mla(_) | Mixer::None {} => {}
        }
    }
    ControlFlow::Continue(())
}

/// Dense MLPs are cut by TP. A model whose every block has experts builds none, whatever width its file states.
pub(super) fn ffn(c: &Case<'_>, tp: u64, out: &mut impl Sink) -> Flow {
    for block in c.job.model.blocks() {
        if let Some(dense) = &block.mlp.dense {
            ask!(out, u64::from(dense.ffn).is_multiple_of(tp), Ffn, dense.ffn, tp);
        }
    }
    ControlFlow::Continue(())
}

/// A stage has at least a layer.
pub(super) fn stages(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    ask!(out, c.pp <= c.layers(), Stages, c.layers(), c.pp);
    ControlFlow::Continue(())
}

/// What the hardware computes in. Weight-only 4 bits run anywhere by way of 16-bit GEMMs.
pub(super) fn format(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    let gpu = &c.job.cluster.gpu;
    let (has, bits) = match &c.job.workload {
        Workload::Train(train) => (gpu.peak(train.precision.needs()).is_some(), 1_u64),
        Workload::Serve(serve) => {
            let fp8 = matches!(serve.quant.format, WeightFormat::Fp8 | WeightFormat::Fp8Block);
            (!fp8 || gpu.peak(Dtype::Fp8).is_some(), 8)
        }
    };
    ask!(out, has, Format, 0_u64, bits);
    ControlFlow::Continue(())
}

/// Shards of quantised matrices are whole blocks: a scale has one owner. Uncut matrices may end in part of a block.
///
/// `shared_tp` is how far shared experts are cut; EP takes routed experts out of the way, and leaves shared ones in it.
/// Source: vLLM `quantization/utils/fp8_utils.py` (`validate_fp8_block_shape`), SGLang `moe_ep_setup.py`.
pub(super) fn quant_blocks(c: &Case<'_>, shared_tp: u64, out: &mut impl Sink) -> Flow {
    let Some(serve) = c.job.serve() else { return ControlFlow::Continue(()) };
    let quant = serve.quant;
    // Only blockwise fp8 has blocks along the attention's outputs too.
    let attention = if quant.attention() == WeightFormat::Fp8Block { quant.attention().block() } else { None };
    let dense = quant.dense().block();
    let expert = quant.experts().block();
    for block in c.job.model.blocks() {
        if let (Some(width), true) = (attention, c.tp > 1) {
            let (query, value) = match &block.mixer {
                Mixer::Gqa(a) => {
                    let kv = (u64::from(a.kv_heads) / c.tp).max(1) * u64::from(a.head_dim);
                    (u64::from(a.heads) / c.tp * u64::from(a.head_dim), kv)
                }
                Mixer::Mla(a) => {
                    let heads = u64::from(a.heads) / c.tp;
                    (heads * u64::from(a.nope + a.rope), heads * u64::from(a.v))
                }
                Mixer::DeltaNet(_) | Mixer::Mamba2(_) | Mixer::None {} => (0, 0),
            };
            ask!(out, query.is_multiple_of(width), QuantBlock, query, width);
            ask!(out, value.is_multiple_of(width), QuantBlock, value, width);
        }
        if let (Some(width), Some(mlp), true) = (dense, &block.mlp.dense, c.tp > 1) {
            let shard = u64::from(mlp.ffn) / c.tp;
            ask!(out, shard.is_multiple_of(width), QuantBlock, shard, width);
        }
        let Some(moe) = &block.mlp.moe else { continue };
        if let (Some(width), true) = (dense, shared_tp > 1) {
            let shard = u64::from(moe.shared_ffn) / shared_tp;
            ask!(out, shard.is_multiple_of(width), QuantBlock, shard, width);
        }
        if let (Some(width), true) = (expert, c.etp > 1) {
            let shard = u64::from(moe.ffn) / c.etp;
            ask!(out, shard.is_multiple_of(width), ExpertQuantBlock, shard, width);
        }
    }
    ControlFlow::Continue(())
}
