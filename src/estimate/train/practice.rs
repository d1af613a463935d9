//! What a job does not say of the software that trains it, as far as step time depends on it.
//!
//! The same plan on the same GPUs differs by up to 1.7 times with its kernels alone. `fused_kernels` says what is meant; without it
//! the usual software of the GPU's generation is assumed. A prior about the world, not a fact of a plan.

use crate::cluster::{Architecture, GemmKind, Gpu};
use crate::job::{Job, Train};
use crate::model::Norm;
use crate::plan::{Plan, Recompute, Toggle};

/// How the attention core of a dense layer is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attention {
    /// One kernel that never writes the scores, this many hundredths slower than the GPU's prefill kernel.
    Flash(u32),
    /// Two products with mask, softmax and dropout between them, over all scores: GPT-2 and GPT-3 code of the A100's years.
    Separate,
}

/// The usual software of a plan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Practice {
    /// Kernels fused as Transformer Engine's are: what the plan says, else 8-bit training and Blackwell need it.
    pub(super) fused: bool,
    /// Code of the A100's years: no sequence parallelism unless said, even stages, data parallel traffic overlapped.
    pub(super) early: bool,
    /// The attention core.
    pub(super) attention: Attention,
    /// Bytes per unit of the residual stream that a norm of separate kernels moves beyond a fused one's 4.
    pub(super) norm: f64,
    /// Bytes of a gradient as it is added up and reduced.
    pub(super) grad: f64,
    /// What sequence parallelism divides by.
    pub(super) sp: f64,
    /// Wide groups of experts are sent one copy of a token per node (`DeepEP`, `HybridEP`), not one per expert.
    pub(super) one_copy: bool,
}

/// `RMSNorm` of one kernel that keeps its input in 16 bits, as nanotron's from flash-attention. Fitted.
const NORM_KERNEL: f64 = 6.0;

/// `RMSNorm` of the A100's years, between one kernel and several. Fitted; `InternEvo`'s and Hagemann et al.'s lie on either side.
const NORM_EARLY: f64 = 30.0;

/// `RMSNorm` written in PyTorch operations on an fp32 copy: about 250 bytes per unit and layer over both passes separate Hagemann et
/// al.'s runs with and without their norm kernel, whatever the layout.
const NORM_OPERATIONS: f64 = 75.0;

/// Training's attention over the prefill kernel of the same GPU: `FlashAttention` 1 and 2 on A100; the same on Hopper, whose prefill
/// kernels were written for it (350 of 620 TFLOP/s); cuDNN under Transformer Engine. Fitted.
const FLASH_EARLY: u32 = 165;
const FLASH: u32 = 300;
const FLASH_FUSED: u32 = 110;

impl Practice {
    pub(super) fn of(job: &Job, train: &Train, plan: &Plan) -> Self {
        let gpu = &job.cluster.gpu;
        let knobs = &plan.knobs;
        let spec = job.model.spec();
        let narrow = train.precision.gemm() != GemmKind::Bf16;
        // Routed experts and latent attention are trained by Megatron Core, as memory takes it too.
        let core = job.model.moe().is_some() || job.model.is_mla();
        let fused = knobs
            .fused_kernels
            .or(narrow || matches!(gpu.architecture, Architecture::Blackwell) || (core && !is_early(gpu)));
        let early = !fused && is_early(gpu);
        let attention = match (fused, early) {
            (true, _) => Attention::Flash(FLASH_FUSED),
            // FSDP came with PyTorch 2 and its attention.
            (false, true) if spec.learned_positions && knobs.zero < 3 => Attention::Separate,
            (false, true) => Attention::Flash(FLASH_EARLY),
            (false, false) => Attention::Flash(FLASH),
        };
        let norm = match spec.norm {
            Norm::Rms if fused => 0.0,
            // Who recomputes everything on an A100 runs code that would not fit otherwise; who need not has kernels that keep little.
            Norm::Rms if early && knobs.recompute == Recompute::Full => NORM_OPERATIONS,
            Norm::Rms if early => NORM_EARLY,
            Norm::Rms => NORM_KERNEL,
            Norm::Layer => 0.0,
        };
        // Routed experts under TP need sequence parallelism.
        let cut = knobs.sequence_parallel && (knobs.sequence_parallel_said || !early || job.model.moe().is_some());
        let sp = if cut { f64::from(plan.mesh.tp()) } else { 1.0 };
        // Memory's early stack says the same: its gradients stay in 16 bits.
        let grad = if early { 2.0 } else { train.grad_dtype.bytes() };
        // Megatron named by its kernels runs what its launch file asks for: the plain all-to-all.
        let one_copy = !early && knobs.fused_kernels != Toggle::On;
        Self { fused, early, attention, norm, grad, sp, one_copy }
    }
}

/// Whether a GPU is of the years before fused training kernels and sequence parallelism were usual.
pub(super) const fn is_early(gpu: &Gpu) -> bool {
    matches!(gpu.architecture, Architecture::Volta | Architecture::Ampere)
}
