//! What vLLM's own code asks (0.33.0).

use super::case::{Case, Flow};
use super::{Sink, ask, shape};
use std::ops::ControlFlow;

/// Degrees. Source: `vllm/config/{parallel,model,vllm}.py`, `vllm/engine/arg_utils.py`, the layers' own constructors.
pub(super) fn check_mesh(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    shape::no_experts(c, out)?;
    shape::heads(c, out)?;
    shape::kv_heads(c, out)?;
    shape::linear_heads(c, c.tp, out)?;
    shape::ffn(c, c.tp, out)?;
    shape::expert_ffn(c, out)?;
    shape::shared_ffn(c, c.tp, out)?;
    shape::stages(c, out)?;
    shape::format(c, out)?;
    shape::quant_blocks(c, c.tp, out)?;
    expert_switch(c, out)?;
    decode_context(c, out)?;
    balancer(c, out)?;
    nodes(c, out)
}

/// EP is a switch: all ranks of a stage, or none and the experts cut as far.
fn expert_switch(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    if c.job.model.moe().is_some() && c.grids {
        let stage = c.stage();
        ask!(out, c.ep.saturating_mul(c.etp) == stage && (c.ep == 1 || c.etp == 1), NotExpressible, stage, c.ep);
    }
    ControlFlow::Continue(())
}

/// Decode context parallelism reuses TP's ranks, as many as hold the same KV head.
/// Source: `vllm/config/parallel.py` and `vllm/config/model.py` (the check of `decode_context_parallel_size`).
fn decode_context(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    let dcp = u64::from(c.knobs.dcp.max(1));
    if c.cp == 1 {
        ask!(out, c.tp.is_multiple_of(dcp), DecodeContext, c.tp, dcp);
    } else {
        let whole = dcp == 1 || dcp == c.cp || dcp == c.tp.saturating_mul(c.cp);
        ask!(out, whole, DecodeContext, c.cp, dcp);
    }
    if dcp == 1 {
        return ControlFlow::Continue(());
    }
    for block in c.job.model.blocks() {
        if let Some(a) = block.mixer.gqa() {
            let kv = u64::from(a.kv_heads);
            ask!(out, dcp <= (c.tp / kv).max(1), DecodeContextKv, (c.tp / kv).max(1), dcp);
            let queries = u64::from(a.heads) / kv;
            ask!(out, queries.is_multiple_of(dcp), DecodeContext, queries, dcp);
        }
    }
    ControlFlow::Continue(())
}

/// The load balancer moves experts between ranks that hold equally many; without it the first ranks hold one more.
/// Source: `vllm/config/parallel.py`, `fused_moe/layer.py`.
fn balancer(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    let redundant = u64::from(c.knobs.redundant_experts);
    ask!(out, c.knobs.eplb || redundant == 0, RedundantExperts, 0_u64, redundant);
    if c.knobs.eplb {
        ask!(out, c.ep > 1, BalancerEp, c.ep, 2_u64);
        if let Some(moe) = c.job.model.moe() {
            let held = u64::from(moe.experts) + redundant;
            ask!(out, held.is_multiple_of(c.ep), Balancer, held, c.ep);
        }
    }
    ControlFlow::Continue(())
}

/// Every node gets the same number of ranks, and a rank of data parallelism takes part of a node or whole nodes.
/// Source: `vllm/engine/arg_utils.py` (multi-node launch), `vllm/config/parallel.py` (data parallel node groups).
fn nodes(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    let rank = c.tp.saturating_mul(c.cp).saturating_mul(c.pp);
    let dp = c.launch_dp();
    let engine = rank.saturating_mul(dp);
    let nodes = c.nodes(engine);
    if nodes > 1 {
        ask!(out, engine.is_multiple_of(nodes), Nodes, engine, nodes);
        let local = (engine / nodes / rank).max(1);
        let groups = (dp / local).max(1);
        ask!(out, nodes.is_multiple_of(groups), DataNodes, nodes, groups);
    }
    ControlFlow::Continue(())
}
