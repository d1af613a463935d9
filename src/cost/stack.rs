//! What a training framework's kernels keep: the code a run is made of, as memory sees it.
//!
//! Measured runs fall into three groups that differ by gigabytes at the same plan. `fused_kernels` and `loss_fusion` say which
//! one is meant; without them the usual one is assumed.

use crate::cluster::Architecture;
use crate::job::{GradDtype, Job, Precision};
use crate::mesh::Convention;
use crate::plan::Knobs;

/// How a stack's kernels treat memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stack {
    /// Megatron Core with Transformer Engine, or kernels that keep as little.
    pub fused: bool,
    /// The residual stream is whole on every TP rank, whatever sequence parallelism could cut.
    whole_residual: bool,
    /// Share of the runs whose outputs of norms are gathered once and kept whole, not gathered again for the weight gradient: a
    /// switch that plans do not mention.
    whole_norms: f64,
    /// Further bytes per norm and hidden unit that no kernel fusion avoids keeping.
    pub extra: f64,
    /// Bytes per unit of a gated activation's outputs: 2 when one kernel computes `silu(gate) * up`, 2 more for each tensor kept
    /// on the way.
    pub gated_out: f64,
    /// Bytes per element of queries, keys and values: 2 as projected and, where rotary embedding makes new tensors, 2 more for
    /// each copy it leaves.
    pub queries: f64,
    /// The same of keys and values.
    pub keys: f64,
    /// Working set of a layer's backward pass per hidden unit, beside its widest part.
    pub working: f64,
    /// Bytes of logits and loss per token and vocabulary entry of the rank.
    pub loss: f64,
    /// Bytes per parameter of reduction buckets beside the accumulated gradients.
    pub bucket: f64,
    /// The format of accumulated gradients, where the stack has no choice.
    pub gradients: Option<GradDtype>,
    /// Pipeline stages are filled by their share of the FLOP, the head's counted, when the plan does not say how to cut.
    pub by_cost: bool,
    /// What the allocator reserves beyond what it hands out, as a share of weights and optimizer states.
    pub fragmented_states: f64,
}

/// Transformer Engine and Megatron Core: Korthikanti et al.'s count with norms and activation fused into their neighbours.
/// Measured on 8 x B200 within 0.8 %.
const FUSED: Stack = Stack {
    fused: true,
    whole_residual: false,
    whole_norms: 0.0,
    extra: 0.0,
    gated_out: 2.0,
    queries: 2.0,
    keys: 2.0,
    working: 4.0,
    loss: LOSS_FUSED,
    bucket: 0.0,
    gradients: None,
    by_cost: false,
    fragmented_states: 0.0,
};

/// PyTorch operations with fp32 accumulation beside DDP's 16-bit buckets, as nanotron's code has them: two extra bytes per
/// parameter, `silu(gate)` kept, queries before and after their rotation, keys and values gathered in one tensor and rotated in
/// another, a cross entropy of 16-bit logits, an fp32 copy, its exponential and 16-bit gradients, and stages cut by FLOP.
/// Source: huggingface/nanotron `models/llama.py`, `models/base.py`; held against 1,300 runs on H100.
const NATIVE: Stack = Stack {
    fused: false,
    whole_residual: false,
    whole_norms: WHOLE_UNPIPELINED,
    extra: 0.0,
    gated_out: 4.0,
    queries: 4.0,
    keys: 4.0,
    working: 8.0,
    loss: LOSS_SEPARATE,
    bucket: 2.0,
    gradients: None,
    by_cost: true,
    fragmented_states: 0.0,
};

/// Code of the A100's years: 16-bit gradients reduced in place, nothing of the stream cut by TP, norms and activations of single
/// operations. Fitted to 618 verdicts of Hagemann et al. 2023 (arXiv 2311.05610).
const EARLY: Stack = Stack {
    fused: false,
    whole_residual: true,
    whole_norms: 1.0,
    extra: 1.0,
    gated_out: 6.0,
    queries: 2.0,
    keys: 2.0,
    working: 8.0,
    loss: LOSS_NATIVE,
    bucket: 0.0,
    gradients: Some(GradDtype::Bf16),
    by_cost: false,
    fragmented_states: 0.06,
};

/// Seven in ten of nanotron's runs without a pipeline kept them whole, one in six of those with one.
const WHOLE_UNPIPELINED: f64 = 0.7;

/// Fused cross entropy: the 16-bit logits, overwritten by their gradient.
const LOSS_FUSED: f64 = 2.0;
/// Megatron's own unfused cross entropy: 16-bit logits and an fp32 copy. Within 2 % on its CI runs.
const LOSS_UNFUSED: f64 = 6.0;
/// Cross entropy that subtracts the maximum into a new tensor and takes the exponential in place, as nanotron's: 16-bit logits, an
/// fp32 copy, the shifted one.
const LOSS_SEPARATE: f64 = 10.0;
/// Cross entropy in PyTorch operations: 16-bit logits, an fp32 copy, its exponential, 16-bit gradients.
const LOSS_NATIVE: f64 = 12.0;

impl Stack {
    /// The stack of a plan: what its knobs say, or what is usual.
    #[must_use]
    pub fn of(job: &Job, precision: Precision, convention: Convention, knobs: &Knobs) -> Self {
        let old = matches!(job.cluster.gpu.architecture, Architecture::Volta | Architecture::Ampere);
        let mut stack = match (knobs.fused_kernels.or(usually_fused(job, precision, convention)), old) {
            (true, _) => FUSED,
            (false, false) => NATIVE,
            (false, true) => EARLY,
        };
        stack.loss = match (stack.fused, knobs.loss_fusion.or(stack.fused)) {
            (_, true) => LOSS_FUSED,
            (true, false) => LOSS_UNFUSED,
            (false, false) => stack.loss,
        };
        if knobs.zero >= 3 {
            stack.bucket = 0.0;
        }
        stack
    }

    /// What divides the residual stream, of the degree of sequence parallelism.
    #[must_use]
    pub const fn residual_cut(&self, r: f64) -> f64 {
        if self.whole_residual { 1.0 } else { r }
    }

    /// Share of the outputs of norms that a rank keeps.
    #[must_use]
    pub const fn norm_share(&self, r: f64) -> f64 {
        self.whole_norms + (1.0 - self.whole_norms) / r
    }

    /// Whether fused gradient accumulation keeps its buffers: Megatron's code path, not FSDP's.
    #[must_use]
    pub const fn dummies(&self, knobs: &Knobs) -> bool {
        self.fused && knobs.zero < 3
    }

    /// The stack as a pipeline of `pp` stages runs it.
    #[must_use]
    pub fn piped(mut self, pp: u32) -> Self {
        if pp > 1 && !self.fused {
            // Measured: most pipelined runs gather again, most unpipelined ones keep.
            self.whole_norms = if self.whole_residual { 1.0 } else { 0.0 };
        }
        self
    }
}

/// What runs of a kind usually use. 8-bit GEMMs, routed experts and latent attention come with Megatron Core and Transformer
/// Engine, Blackwell's software too; a dense 16-bit model on older GPUs is as often trained by a framework's own operations.
/// An assumption about the world, not a fact of a plan: a plan that knows says `fused_kernels`.
fn usually_fused(job: &Job, precision: Precision, convention: Convention) -> bool {
    let eight_bit = !matches!(precision, Precision::Bf16 | Precision::Fp16);
    match convention {
        Convention::Bridge => true,
        Convention::Torchtitan | Convention::Deepspeed => eight_bit,
        Convention::Megatron | Convention::Product | Convention::Vllm | Convention::Sglang | Convention::Trtllm => {
            eight_bit
                || job.model.moe().is_some()
                || job.model.is_mla()
                || job.cluster.gpu.architecture == Architecture::Blackwell
        }
    }
}
