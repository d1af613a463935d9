//! What DeepSpeed's own code asks (0.19.8).
//!
//! AutoTP cuts unevenly and only warns about heads, so no width is asked about; layers are split by weight, unevenly.

use super::case::{Case, Flow};
use super::{Sink, ask, knobs, shape};
use std::ops::ControlFlow;

/// Degrees. Source: `deepspeed/moe/layer.py`, `utils/groups.py`, `module_inject/auto_ep_folding.py`.
pub(super) fn check_mesh(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    shape::no_experts(c, out)?;
    shape::experts(c, out)?;
    shape::stages(c, out)?;
    shape::format(c, out)?;
    // Sequences are split by Ulysses, which is another axis than ring attention's.
    ask!(out, c.cp == 1, ContextParallel, 1_u64, c.cp);
    if c.job.model.moe().is_some() && c.grids {
        // Classic: experts cut by TP, EP inside DP. AutoEP: experts whole, EP over the stage, and no pipeline beside TP.
        let classic = c.etp == c.tp && c.dp.is_multiple_of(c.ep);
        let folded = c.etp == 1 && c.ep > 1 && c.pp == 1;
        ask!(out, classic || folded, NotExpressible, c.etp, c.ep);
    }
    ControlFlow::Continue(())
}

/// Knobs. Source: `deepspeed/runtime/config.py`, `runtime/pipe/engine.py`.
pub(super) fn check_knobs(c: &Case<'_>, out: &mut impl Sink) -> Flow {
    ask!(out, c.knobs.vpp <= 1, NoInterleaving, 1_u64, c.knobs.vpp);
    knobs::batch(c, 1, out)?;
    knobs::stage_sizes(c, out)?;
    // The pipeline engine accumulates gradients that ZeRO-2 would already have cut.
    ask!(out, c.pp == 1 || c.knobs.zero < 2, Zero, c.pp, c.knobs.zero);
    ControlFlow::Continue(())
}
