//! What TensorRT-LLM's own code asks (1.2 and 1.3rc), as read; it was not run.

use super::case::{Case, Flow};
use super::{Sink, ask, shape};
use std::ops::ControlFlow;

/// Degrees. Source: `tensorrt_llm/mapping.py`, `llmapi/llm_args.py`, the attention and fused MoE modules.
pub(super) fn check_mesh(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    shape::no_experts(c, out)?;
    shape::experts(c, out)?;
    shape::heads(c, out)?;
    // KV heads of a rank are rounded up: nothing to ask.
    shape::linear_heads(c, c.tp, out)?;
    shape::ffn(c, c.tp, out)?;
    shape::expert_ffn(c, out)?;
    shape::shared_ffn(c, c.tp, out)?;
    shape::stages(c, out)?;
    shape::format(c, out)?;
    shape::quant_blocks(c, c.tp, out)?;
    let ranks = c.tp.saturating_mul(c.launch_dp());
    // Attention is cut by TP or replicated on every rank; there is nothing between.
    let attention = c.tp == 1 || c.launch_dp() == 1;
    ask!(out, attention || !c.grids, NotExpressible, ranks, c.ep);
    if c.job.model.moe().is_some() && c.grids {
        let experts = c.ep.saturating_mul(c.etp);
        let helix = experts == ranks.saturating_mul(c.cp);
        ask!(out, helix || experts == ranks, ExpertSplit, ranks, experts);
        // Only Helix spreads experts over the ranks of a sequence.
        ask!(out, c.cp == 1 || c.ep == 1 || helix, ContextParallel, 1_u64, c.cp);
    }
    ControlFlow::Continue(())
}
