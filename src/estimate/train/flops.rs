//! Utilization by the conventions in use. Papers and logs quote all four, up to a factor of two apart on long sequences.

use super::Step;
use crate::cost::ops::{self, Part};
use crate::job::Job;
use crate::mesh::Mesh;
use crate::model::{Block, Mixer, Model};
use crate::plan::{Module, Plan, Recompute};

/// FLOP of the model and of the hardware over the 16-bit dense peak; a backward pass counts as two forward ones.
///
/// Sources: Chowdhery et al. 2022, appendix B (MFU, HFU; whole attention matrix); Megatron-LM `training.py` (causal half).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Utilization {
    /// Model FLOP, the causal half of attention: Megatron-LM's since 2024.
    pub mfu_causal: f64,
    /// Model FLOP, the whole attention matrix: `PaLM`, nanotron, torchtitan, llm-foundry.
    pub mfu_full: f64,
    /// With what is recomputed, causal.
    pub hfu_causal: f64,
    /// With what is recomputed, the whole matrix: Megatron-LM's older "hardware" FLOP.
    pub hfu_full: f64,
}

impl Utilization {
    /// Of one step of a plan.
    #[must_use]
    pub fn of(job: &Job, plan: &Plan, step: &Step) -> Self {
        let tokens = job.train().map_or(0.0, |t| f64::from(t.global_batch) * f64::from(t.seq_len));
        let seq = job.train().map_or(0.0, |t| f64::from(t.seq_len));
        let rate = tokens / step.seconds().get() / f64::from(plan.mesh.world()) / job.cluster.gpu.peak16().get();
        let whole = plan.recomputed_share(job.model.layers());
        let at = |full, recompute| passes(&job.model, seq, full, recompute, whole) * rate;
        let again = plan.knobs.recompute;
        Self {
            mfu_causal: at(false, Recompute::None),
            mfu_full: at(true, Recompute::None),
            hfu_causal: at(false, again),
            hfu_full: at(true, again),
        }
    }
}

/// FLOP of three forward passes and of what is recomputed, per token; `whole` is the share of the layers recomputed whole.
fn passes(model: &Model, seq: f64, full: bool, recompute: Recompute, whole: f64) -> f64 {
    let Some(one) = Mesh::new(1, 1, 1, 1, 1, 1) else { return 0.0 };
    let head = 2.0 * f64::from(model.spec().hidden) * f64::from(model.spec().vocab);
    let layers = model.blocks().iter().enumerate().map(|(kind, block)| {
        let core = core(block, &one, seq, full);
        let (mut attention, mut dense, mut experts, mut router) = (0.0, 0.0, 0.0, 0.0);
        ops::gemms(model, block, &one, &mut |g| {
            let flop = 2.0 * g.rows * g.n * g.k;
            match g.part {
                Part::Attention => attention += flop,
                Part::Dense => dense += flop,
                Part::Experts => experts += flop,
                Part::Router => router += flop,
            }
        });
        let forward = core + attention + dense + experts + router;
        let of = |module, flop: f64| if recompute.has(module) { flop } else { 0.0 };
        let again = match recompute {
            Recompute::None => 0.0,
            Recompute::Full | Recompute::Uniform(_) | Recompute::Block(_) => whole * forward,
            Recompute::Modules(_) => {
                let up = if block.mixer.gqa().is_none() { attention * 0.5 } else { 0.0 };
                let shared = of(Module::Mlp, dense).max(of(Module::SharedExperts, dense));
                of(Module::CoreAttn, core) + of(Module::MlaUpProj, up) + of(Module::Moe, experts) + shared
            }
        };
        (3.0 * forward + again) * f64::from(model.count(kind, 0, model.layers()))
    });
    3.0 * head + layers.sum::<f64>()
}

/// FLOP of an attention core per token; `full` counts every key for every query, causal or windowed or not.
fn core(block: &Block, one: &Mesh, seq: f64, full: bool) -> f64 {
    match block.mixer {
        Mixer::Gqa(a) if full => 4.0 * seq * f64::from(a.heads) * f64::from(a.head_dim),
        Mixer::Mla(a) if full => {
            2.0 * seq * f64::from(a.heads) * (f64::from(a.nope) + f64::from(a.rope) + f64::from(a.v))
        }
        Mixer::Gqa(_) | Mixer::Mla(_) | Mixer::DeltaNet(_) | Mixer::Mamba2(_) | Mixer::None {} => {
            ops::core_flop(block, one, seq)
        }
    }
}
