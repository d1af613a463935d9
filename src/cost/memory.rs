//! Bytes one GPU must hold.

use super::ops;
use crate::cluster::{Architecture, Gpu};
use crate::job::{GradDtype, Precision};
use crate::mesh::Mesh;
use crate::model::{Block, BlockParams, Model, Quant};
use crate::plan::{Module, Recompute};

/// Parameters of one rank, dense and routed apart, because different groups shard their optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RankParams {
    /// Attention, dense MLPs, norms, routers, embeddings.
    pub dense: f64,
    /// Routed experts.
    pub routed: f64,
}

impl RankParams {
    /// Adds another.
    pub fn add(&mut self, other: Self, times: f64) {
        self.dense += other.dense * times;
        self.routed += other.routed * times;
    }
}

/// Parameters of one block on one rank.
///
/// Attention and dense MLPs are cut by TP; KV projections down to one head a rank; MLA's down-projections, norms and routers
/// are on every rank; routed experts are cut by EP and expert TP.
#[must_use]
pub fn block_params(params: &BlockParams, kv_heads: Option<u32>, mesh: &Mesh) -> RankParams {
    let t = f64::from(mesh.tp());
    let kv_share = kv_heads.map_or(1.0 / t, |g| ops::local_kv_heads(g, mesh.tp()) / f64::from(g));
    let dense = (params.attention + params.dense + params.shared) as f64 / t
        + params.kv as f64 * kv_share
        + (params.attention_replicated + params.router + params.norms) as f64;
    let routed = params.routed as f64 / (f64::from(mesh.ep()) * f64::from(mesh.etp()));
    RankParams { dense, routed }
}

/// The vocabulary as it is padded: to a multiple of `128 t`. Source: Megatron-LM `vocab_utils.py`.
#[must_use]
pub fn padded_vocab(vocab: u32, tp: u32) -> f64 {
    let step = 128 * u64::from(tp);
    (u64::from(vocab).div_ceil(step) * step) as f64
}

/// Bytes per parameter of weights, gradients and optimizer states, for one shard group of `shards` ranks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StateBytes {
    /// Weights.
    pub weights: f64,
    /// Gradients.
    pub gradients: f64,
    /// Master weights and moments.
    pub optimizer: f64,
}

/// Mixed-precision Adam: 2 bytes of weight, 4 (or 2) of gradient, 12 of master weight and moments; ZeRO-1 shards the 12, ZeRO-2
/// the gradients too, ZeRO-3 keeps only an fp32 shard. fp16 adds an fp16 gradient; fp8 GEMMs add a cached 8-bit weight.
///
/// Source: Rajbhandari et al. 2020 (ZeRO), Megatron-LM's distributed optimizer docs.
///
/// ```
/// # use meshwright::cost::memory::state_bytes;
/// # use meshwright::job::{GradDtype, Precision};
/// let b = state_bytes(Precision::Bf16, GradDtype::Fp32, 1, 8.0, 0.0);
/// assert_eq!(b.weights + b.gradients + b.optimizer, 6.0 + 12.0 / 8.0);
/// ```
#[must_use]
pub fn state_bytes(precision: Precision, grad: GradDtype, zero: u8, shards: f64, offload: f64) -> StateBytes {
    let cached = match precision {
        Precision::Bf16 | Precision::Fp16 => 0.0,
        Precision::Fp8 | Precision::Mxfp8 => 1.0,
        Precision::Nvfp4 => 0.5625,
    };
    let extra_grad = if precision == Precision::Fp16 { 2.0 } else { 0.0 };
    let g = grad.bytes() + extra_grad;
    let kept = 1.0 - offload;
    match zero {
        0 => StateBytes { weights: 2.0 + cached, gradients: g, optimizer: 12.0 * kept },
        1 => StateBytes { weights: 2.0 + cached, gradients: g, optimizer: 12.0 / shards * kept },
        2 => StateBytes { weights: 2.0 + cached, gradients: g / shards, optimizer: 12.0 / shards * kept },
        _ => StateBytes { weights: 4.0 / shards, gradients: g / shards, optimizer: 8.0 / shards * kept },
    }
}

/// Activation bytes per token of one layer that stay until its backward pass, after recomputation has dropped some, and those
/// that recomputing brings back for one layer at a time.
#[must_use]
pub fn activation(kept: &ops::Kept, checkpoint: f64, recompute: Recompute) -> (f64, f64) {
    let total = kept.total();
    match recompute {
        Recompute::None => (total, 0.0),
        Recompute::Full | Recompute::Block(_) => (checkpoint.min(total), total),
        Recompute::Uniform(_) => {
            let layers = recompute.layers_at_once();
            (checkpoint.min(total) / layers, total * layers)
        }
        Recompute::Modules(_) => {
            let mut dropped = 0.0;
            let mut drop = |module, bytes: f64| {
                if recompute.has(module) {
                    dropped += bytes;
                }
            };
            drop(Module::CoreAttn, kept.core);
            drop(Module::Layernorm, kept.norm_out);
            if kept.latent {
                drop(Module::MlaUpProj, kept.qkv);
            }
            drop(Module::Mlp, kept.dense + kept.dense_act);
            drop(Module::Moe, kept.routed + kept.routed_act + kept.router);
            drop(Module::SharedExperts, kept.shared);
            if !recompute.has(Module::Mlp) {
                drop(Module::MlpAct, kept.dense_act);
            }
            if !recompute.has(Module::Moe) {
                drop(Module::MlpAct, kept.routed_act);
            }
            // One module at a time is brought back; the layer's working set already covers it.
            (total - dropped, 0.0)
        }
    }
}

/// Parameters of a multi-token predictor beside its layer on one of `cut` ranks: the projection of two streams to one, three norms.
///
/// Source: Megatron-Core `multi_token_prediction.py` cuts the projection by columns; vLLM's `deepseek_mtp.py` keeps it whole.
#[must_use]
pub fn predictor_params(model: &Model, cut: u32) -> f64 {
    let h = f64::from(model.spec().hidden);
    2.0 * h * h / f64::from(cut) + 3.0 * h * model.spec().norm.vectors() as f64
}

/// Weight bytes of one block on one rank when serving, its number formats applied part by part.
#[must_use]
pub fn serve_block_bytes(
    params: &BlockParams,
    kv_heads: Option<u32>,
    mesh: &Mesh,
    quant: Quant,
    extra_experts: f64,
) -> f64 {
    let t = f64::from(mesh.tp());
    let kv_share = kv_heads.map_or(1.0 / t, |g| ops::local_kv_heads(g, mesh.tp()) / f64::from(g));
    let attention = params.attention as f64 / t + params.kv as f64 * kv_share + params.attention_replicated as f64;
    let dense = (params.dense + params.shared) as f64 / t;
    let routed = params.routed as f64 * extra_experts / (f64::from(mesh.ep()) * f64::from(mesh.etp()));
    attention * quant.attention().bytes()
        + dense * quant.dense().bytes()
        + routed * quant.experts().bytes()
        + (params.norms + params.router) as f64 * 2.0
}

/// KV-cache bytes that one more token of context takes on a rank in one layer, and the constant state of a request.
///
/// Softmax layers hold their local KV heads, latent attention its whole latent on every TP rank (cut only by decode context
/// parallelism); linear layers hold a state per request.
#[must_use]
pub fn kv_per_token(block: &Block, mesh: &Mesh, dcp: u32, bytes: f64) -> f64 {
    use crate::model::Mixer;
    let dcp = f64::from(dcp.max(1));
    let cp = f64::from(mesh.cp());
    match block.mixer {
        Mixer::Gqa(a) => 2.0 * ops::local_kv_heads(a.kv_heads, mesh.tp()) * f64::from(a.head_dim) * bytes / dcp / cp,
        Mixer::Mla(a) => {
            // The indexer keeps an fp8 key with one fp32 scale per token.
            let index = a.indexer.map_or(0.0, |i| f64::from(i.dim) + 4.0);
            ((f64::from(a.kv_lora) + f64::from(a.rope)) * bytes + index) / dcp / cp
        }
        Mixer::DeltaNet(_) | Mixer::Mamba2(_) | Mixer::None {} => 0.0,
    }
}

/// Bytes of a request's recurrent state in one layer on one rank: fp32 state and a 16-bit convolution window.
#[must_use]
pub fn state_per_request(block: &Block, mesh: &Mesh) -> f64 {
    use crate::model::Mixer;
    let t = f64::from(mesh.tp());
    match block.mixer {
        Mixer::DeltaNet(a) => {
            let state = f64::from(a.value_heads) * f64::from(a.key_dim) * f64::from(a.value_dim) * 4.0;
            let width =
                2.0 * f64::from(a.key_heads) * f64::from(a.key_dim) + f64::from(a.value_heads) * f64::from(a.value_dim);
            (state + width * f64::from(a.conv) * 2.0) / t
        }
        Mixer::Mamba2(a) => {
            let inner = f64::from(a.heads) * f64::from(a.head_dim);
            let width = inner + 2.0 * f64::from(a.groups) * f64::from(a.state);
            (inner * f64::from(a.state) * 4.0 + width * f64::from(a.conv) * 2.0) / t
        }
        Mixer::Gqa(_) | Mixer::Mla(_) | Mixer::None {} => 0.0,
    }
}

/// Tokens of a context that a layer keeps.
#[must_use]
pub fn window_tokens(block: &Block, context: f64) -> f64 {
    block.mixer.gqa().and_then(|a| a.window).map_or(context, |w| context.min(f64::from(w)))
}

/// Bytes of fused gradient accumulation: one 16-bit buffer per distinct weight shape of the stage, kept after the first step.
///
/// Source: Transformer Engine's `get_dummy_wgrad`; measured on 8 x B200 (see `docs/VALIDATION.md`).
#[must_use]
pub fn grad_work(model: &Model, kinds: &[usize], mesh: &Mesh, head: Option<f64>) -> f64 {
    // At most a dozen shapes a block and a handful of kinds: a small array is searched faster than a set.
    let mut seen: [(u64, u64); 64] = [(0, 0); 64];
    let mut len = 0;
    let mut bytes = 0.0;
    let mut add = |n: u64, k: u64| {
        if !seen[..len].contains(&(n, k)) && len < seen.len() {
            seen[len] = (n, k);
            len += 1;
            bytes += 2.0 * n as f64 * k as f64;
        }
    };
    for kind in kinds {
        ops::shapes(model, &model.blocks()[*kind], mesh, &mut add);
    }
    if let Some(width) = head {
        add(width as u64, u64::from(model.spec().hidden));
    }
    bytes
}

/// Low-latency dispatch and combine buffers of DeepEP, per rank: `2 (max(M m_d, E M m_c) + max(E M m_d, E M m_c))` for `M`
/// tokens a rank and `E` experts in all, whatever the EP degree.
///
/// Source: deepseek-ai/DeepEP `csrc/config.hpp`.
///
/// ```
/// # use meshwright::cost::memory::deepep_low_latency;
/// let gib = deepep_low_latency(7168.0, 256.0, 128.0) / f64::from(1 << 30);
/// assert!((gib - 1.78).abs() < 0.02, "{gib}");
/// ```
#[must_use]
pub fn deepep_low_latency(hidden: f64, experts: f64, tokens: f64) -> f64 {
    let dispatch = 16.0 + (2.0 * hidden).max(hidden + 4.0 * hidden / 128.0);
    let combine = 4.0 * hidden / 128.0 + 2.0 * hidden;
    let both = (tokens * dispatch).max(experts * tokens * combine);
    2.0 * (both + (experts * tokens * dispatch).max(experts * tokens * combine))
}

/// What the allocator reserves beyond what it can use, as a share of the dynamic part.
///
/// Measured reserved over allocated memory of 8 x B200 runs lies between 1.03 and 1.09; the static part never fragments.
pub const FRAGMENTATION: f64 = 0.06;

/// Buffers that Transformer Engine's overlapped TP communication keeps, in activations of the micro-batch: one for each of the
/// ten GEMMs that `initialize_ub` lists.
pub const OVERLAP_BUFFERS: f64 = 10.0;

/// Scratch memory of the matrix libraries of one training process: 32 MiB a handle on Hopper and later, 8 MiB before; the thread of
/// the forward pass and autograd's have one of cuBLAS and one of cuBLASLt (or Transformer Engine) each.
///
/// Source: PyTorch `CUDABlas`/`CublasHandlePool` defaults, Transformer Engine `get_cublas_workspace_size_bytes`.
#[must_use]
pub const fn workspaces(gpu: &Gpu) -> f64 {
    match gpu.architecture {
        Architecture::Volta | Architecture::Ampere | Architecture::Ada => 4.0 * 8.0 * 1_048_576.0,
        Architecture::Hopper
        | Architecture::Blackwell
        | Architecture::Cdna3
        | Architecture::Cdna4
        | Architecture::Gaudi3 => 4.0 * 32.0 * 1_048_576.0,
    }
}

/// Driver and CUDA context of one process.
pub const CONTEXT: f64 = 0.6e9;

/// Bytes of one NCCL communicator's channels, for the first (widest) and for each further group.
pub const FIRST_COMMUNICATOR: f64 = 0.4e9;
/// Bytes of each further communicator.
pub const NEXT_COMMUNICATOR: f64 = 0.1e9;

/// Communicators' memory for groups of the given sizes.
#[must_use]
pub fn communicators(sizes: &[u32]) -> f64 {
    let live = sizes.iter().filter(|s| **s > 1).count();
    match live {
        0 => 0.0,
        n => FIRST_COMMUNICATOR + NEXT_COMMUNICATOR * (n - 1) as f64,
    }
}
