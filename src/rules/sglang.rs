//! What SGLang's own code asks (0.5.23).
//!
//! Two things it never asks at start and trips over later: that EP divides the TP size, and that MLPs and experts divide.
//! They are in [`check_build`], not here: a verdict of the launch does not hinge on them.

use super::case::{Case, Flow};
use super::{Sink, ask, shape};
use std::ops::ControlFlow;

/// Degrees. Source: `sglang/srt/arg_groups/{parallel_hook,validation_hook}.py`, the models' own constructors.
pub(super) fn check_mesh(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    shape::no_experts(c, out)?;
    shape::heads(c, out)?;
    shape::kv_heads(c, out)?;
    shape::linear_heads(c, c.tp, out)?;
    shape::expert_ffn(c, out)?;
    shape::stages(c, out)?;
    shape::format(c, out)?;
    shape::quant_blocks(c, shared_tp(c), out)?;
    let stage = c.stage();
    let moe_dp = u64::from(c.knobs.moe_dp.max(1));
    if c.job.model.moe().is_some() && c.grids {
        let said = c.ep.saturating_mul(c.etp).saturating_mul(moe_dp);
        ask!(out, said == stage, NotExpressible, stage, c.ep);
    }
    if moe_dp > 1 {
        ask!(out, c.ep == 1 || c.ep.saturating_mul(moe_dp) == stage, MoeDp, stage, c.ep.saturating_mul(moe_dp));
        ask!(out, c.pp == 1, MoeDpPipeline, moe_dp, c.pp);
        ask!(out, c.cp == moe_dp, ContextParallel, moe_dp, c.cp);
    }
    if c.knobs.eplb {
        ask!(out, c.ep > 1, BalancerEp, c.ep, 2_u64);
    }
    let ranks = stage.saturating_mul(c.pp);
    let nodes = c.nodes(ranks);
    ask!(out, ranks.is_multiple_of(nodes), Nodes, ranks, nodes);
    ControlFlow::Continue(())
}

/// Shared experts are cut by the whole TP size, but by nothing when an all-to-all backend moves the tokens.
fn shared_tp(c: &Case<'_>) -> u64 {
    if c.knobs.a2a { 1 } else { c.stage() }
}

/// What the launch lets through and the model's constructors then refuse.
/// Source: `sglang/srt/layers/linear.py`, `fused_moe_triton/layer.py`, `eplb/expert_location.py`.
pub(super) fn check_build(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    shape::shared_ffn(c, shared_tp(c), out)?;
    if let Some(moe) = c.job.model.moe() {
        // The few dense layers of such a model follow the attention (`moe_dense_tp_size`).
        shape::ffn(c, c.tp, out)?;
        let held = u64::from(moe.experts) + u64::from(c.knobs.redundant_experts);
        if c.knobs.eplb {
            ask!(out, held.is_multiple_of(c.ep), Balancer, held, c.ep);
        } else {
            shape::experts(c, out)?;
        }
        ask!(out, c.etp <= u64::from(moe.experts), ExpertTpExperts, moe.experts, c.etp);
    } else {
        shape::ffn(c, c.stage(), out)?;
    }
    ControlFlow::Continue(())
}
