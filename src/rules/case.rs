//! What a check looks at: a job, knobs, and degrees that may or may not make grids.

use crate::job::Job;
use crate::plan::{Knobs, Plan};
use std::ops::ControlFlow;

/// Whether to go on looking for refusals.
pub(super) type Flow = ControlFlow<()>;

/// Degrees as numbers that need not multiply to anything: a draft whose grids do not exist still has heads to divide.
#[derive(Debug, Clone, Copy)]
pub(super) struct Degrees {
    pub(super) tp: u32,
    pub(super) cp: u32,
    pub(super) pp: u32,
    /// Data parallel degree of attention; 0 when it could not be told, and then nothing is asked of the batch.
    pub(super) dp: u32,
    pub(super) ep: u32,
    pub(super) etp: u32,
}

/// A plan seen by a check. Widened to `u64` once, so that no product overflows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case<'a> {
    pub(super) job: &'a Job,
    pub(super) knobs: &'a Knobs,
    pub(super) tp: u64,
    pub(super) cp: u64,
    pub(super) pp: u64,
    pub(super) dp: u64,
    pub(super) ep: u64,
    pub(super) etp: u64,
    /// Whether the degrees make both grids; rules on how a grid is said have nothing to look at otherwise.
    pub(super) grids: bool,
}

impl<'a> Case<'a> {
    /// Of degrees that make no grids.
    pub(super) fn new(job: &'a Job, knobs: &'a Knobs, d: Degrees) -> Self {
        let Degrees { tp, cp, pp, dp, ep, etp } = d;
        let [tp, cp, pp, ep, etp] = [tp, cp, pp, ep, etp].map(|degree| u64::from(degree.max(1)));
        Self { job, knobs, tp, cp, pp, dp: u64::from(dp), ep, etp, grids: false }
    }

    /// Of a plan.
    pub(super) fn of(job: &'a Job, plan: &'a Plan) -> Self {
        let m = &plan.mesh;
        let d = Degrees { tp: m.tp(), cp: m.cp(), pp: m.pp(), dp: m.dp_attention(), ep: m.ep(), etp: m.etp() };
        Self { grids: true, ..Self::new(job, &plan.knobs, d) }
    }

    /// Attention ranks side by side in one launch of an engine: whole copies are launched apart.
    pub(super) fn launch_dp(&self) -> u64 {
        (self.dp / u64::from(self.knobs.replicas.max(1))).max(1)
    }

    /// GPUs of one pipeline stage of one launch, which is what SGLang and TensorRT-LLM call the TP size.
    pub(super) fn stage(&self) -> u64 {
        self.tp.saturating_mul(self.cp).saturating_mul(self.launch_dp())
    }

    /// Nodes that one launch of so many GPUs stands on.
    pub(super) fn nodes(&self, gpus: u64) -> u64 {
        gpus.div_ceil(u64::from(self.job.cluster.gpus_per_node.max(1))).max(1)
    }

    /// Number of layers.
    pub(super) fn layers(&self) -> u64 {
        u64::from(self.job.model.layers())
    }
}
