//! Time of kernels: a roofline with fitted shares of the peak and of the memory bandwidth.

use crate::cluster::{AttentionFit, GemmKind, Gpu, KernelFit};
use crate::model::WeightFormat;

/// What pricing a kernel takes, looked up once per job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Engine {
    fit: KernelFit,
    /// FLOP/s that large GEMMs reach.
    flops: f64,
    /// Bytes/s that large reads reach.
    bytes: f64,
}

impl Engine {
    /// GEMMs of one kind on a GPU.
    #[must_use]
    pub fn new(gpu: &Gpu, kind: GemmKind) -> Self {
        let fit = gpu.efficiency.gemm(kind);
        Self { fit, flops: gpu.gemm_peak(kind).get() * fit.compute, bytes: gpu.hbm.get() * fit.memory }
    }

    /// Seconds of `count` GEMMs that share `rows` rows over `n x k` weights of `weight_bytes` each, with 16-bit inputs and
    /// outputs: [`KernelFit`].
    ///
    /// Source: fits to the kernel tables of ai-dynamo/aiconfigurator; constants and residuals are in each GPU's file.
    #[must_use]
    pub fn gemm(&self, rows: f64, n: f64, k: f64, count: f64, weight_bytes: f64) -> f64 {
        let compute = 2.0 * rows * n * k / self.flops;
        let weights = count * n * k * weight_bytes / self.bytes;
        let activations = 2.0 * rows * (n + k) / self.bytes;
        self.fit.t0.get() + self.fit.per_k.get() * k + compute.hypot(weights) + activations
    }

    /// One GEMM in a captured graph, where `share` of the fixed time is left.
    #[must_use]
    pub fn gemm_in_graph(&self, rows: f64, n: f64, k: f64, weight_bytes: f64, share: f64) -> f64 {
        self.gemm_busy(rows, n, k, 1.0, weight_bytes) + share * self.fit.t0.get()
    }

    /// The same without the fixed time, for GEMMs whose launch is hidden behind their predecessors.
    #[must_use]
    pub fn gemm_busy(&self, rows: f64, n: f64, k: f64, count: f64, weight_bytes: f64) -> f64 {
        self.gemm(rows, n, k, count, weight_bytes) - self.fit.t0.get()
    }
}

/// Two times that mostly hide each other: close to the longer one.
#[must_use]
pub fn overlapped(a: f64, b: f64) -> f64 {
    let (a2, b2) = (a * a, b * b);
    (a2 * a2 + b2 * b2).sqrt().sqrt()
}

/// Seconds of an attention core of `flop` over sequences of `seq` tokens.
#[must_use]
pub fn attention(gpu: &Gpu, flop: f64, seq: f64) -> f64 {
    attention_by(&gpu.efficiency.prefill_attention, gpu, flop, seq)
}

/// The same by another kernel than the GPU's usual one.
#[must_use]
pub fn attention_by(fit: &AttentionFit, gpu: &Gpu, flop: f64, seq: f64) -> f64 {
    if flop <= 0.0 {
        return 0.0;
    }
    let AttentionFit { t0, compute, half_length } = fit;
    t0.get() + flop * (1.0 + half_length / seq) / (compute * gpu.peak16().get())
}

/// Bytes per score that mask, softmax and dropout of separate attention kernels move, forward: written by one product, read and
/// written by the fused softmax and by dropout, read by the next product, most of it from cache. Fitted to vTrain's grid.
const SEPARATE_SCORE: f64 = 7.0;

/// Share of the peak that the two batched products of separate attention reach, over the whole square of scores.
const SEPARATE_PRODUCTS: f64 = 0.5;

/// Seconds of an attention core computed by separate kernels, forward: `flop` of a causal one, and `scores` query-key pairs, all of
/// which are computed and stored.
///
/// Source: Korthikanti et al. 2022 for what is kept; Megatron-LM's fused softmax.
#[must_use]
pub fn separate_attention(gpu: &Gpu, flop: f64, scores: f64) -> f64 {
    2.0 * flop / (SEPARATE_PRODUCTS * gpu.peak16().get()) + elementwise(gpu, SEPARATE_SCORE * scores)
}

/// Share of the memory bandwidth that elementwise kernels reach. Measured .6 to .7 on B200 for training's norms and
/// activations, .8 for an engine's fused ones.
pub const ELEMENTWISE: f64 = 0.67;

/// Seconds of elementwise kernels that move `bytes`.
#[must_use]
pub fn elementwise(gpu: &Gpu, bytes: f64) -> f64 {
    bytes / (ELEMENTWISE * gpu.hbm.get())
}

/// The kind of GEMM an engine runs for a weight format on a GPU; weight-only formats compute in 16 bits.
#[must_use]
pub const fn serve_kind(format: WeightFormat, gpu: &Gpu) -> GemmKind {
    match format {
        WeightFormat::Fp8 | WeightFormat::Int8 => GemmKind::Fp8,
        WeightFormat::Fp8Block => GemmKind::Fp8Block,
        WeightFormat::Nvfp4 => {
            if gpu.peak(crate::cluster::Dtype::Nvfp4).is_some() {
                GemmKind::Nvfp4
            } else {
                GemmKind::Bf16
            }
        }
        WeightFormat::Fp32 | WeightFormat::Bf16 | WeightFormat::Fp16 | WeightFormat::Int4 | WeightFormat::Mxfp4 => {
            GemmKind::Bf16
        }
    }
}
