//! One block of a model on one rank: its GEMMs, its attention, what it keeps for the backward pass.
//!
//! Letters follow the papers: h hidden, a query heads, g KV heads, D head dim, f FFN width, E experts, k top-k, t TP, x
//! expert TP, e EP. Everything is per token of the rank's micro-batch before sequence parallelism cuts it.

use super::stack::Stack;
use crate::mesh::Mesh;
use crate::model::{Block, Mixer, Mlp, Model, matrices};

/// Where a GEMM's weights live, which decides their number format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Attention projections.
    Attention,
    /// Dense MLP and shared experts.
    Dense,
    /// Routed experts.
    Experts,
    /// Router; always 16 bits.
    Router,
}

/// A weight matrix of `n` x `k` on this rank, applied to `rows` rows per token (a fraction for routed experts) in `count` equal
/// pieces (experts).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gemm {
    /// Whose it is.
    pub part: Part,
    /// Output width.
    pub n: f64,
    /// Input width.
    pub k: f64,
    /// Rows over all pieces, per token of the micro-batch.
    pub rows: f64,
    /// Pieces.
    pub count: f64,
}

/// KV heads a rank holds: cut by TP down to one, replicated beyond.
#[must_use]
pub fn local_kv_heads(kv_heads: u32, tp: u32) -> f64 {
    f64::from(kv_heads.max(tp)) / f64::from(tp)
}

/// Routed tokens that arrive at a rank per token of its micro-batch: `k x / t` of balanced routing. EP does not divide it: a rank
/// receives on average as many tokens as it sends.
#[must_use]
pub fn routed_rows(top_k: u32, mesh: &Mesh) -> f64 {
    f64::from(top_k) * f64::from(mesh.etp()) / f64::from(mesh.tp())
}

/// The rank's GEMMs of one block.
pub fn gemms(model: &Model, block: &Block, mesh: &Mesh, visit: &mut impl FnMut(Gemm)) {
    let h = f64::from(model.spec().hidden);
    let t = f64::from(mesh.tp());
    let mut one = |part, n: f64, k: f64| visit(Gemm { part, n, k, rows: 1.0, count: 1.0 });
    match block.mixer {
        Mixer::Gqa(a) => {
            let d = f64::from(a.head_dim);
            let q = f64::from(a.heads) / t * d;
            let kv = local_kv_heads(a.kv_heads, mesh.tp()) * d;
            let gate = if a.output_gate { q } else { 0.0 };
            let kvs = if a.k_eq_v { 1.0 } else { 2.0 };
            one(Part::Attention, q + gate + kvs * kv, h);
            one(Part::Attention, h, q);
        }
        Mixer::Mla(a) => {
            let heads = f64::from(a.heads) / t;
            let (nope, rope, v) = (f64::from(a.nope), f64::from(a.rope), f64::from(a.v));
            if a.q_lora > 0 {
                one(Part::Attention, f64::from(a.q_lora), h);
                one(Part::Attention, heads * (nope + rope), f64::from(a.q_lora));
            } else {
                one(Part::Attention, heads * (nope + rope), h);
            }
            one(Part::Attention, f64::from(a.kv_lora) + rope, h);
            one(Part::Attention, heads * (nope + v), f64::from(a.kv_lora));
            one(Part::Attention, h, heads * v);
            if let Some(i) = a.indexer {
                let q_in = if a.q_lora > 0 { f64::from(a.q_lora) } else { h };
                one(Part::Attention, f64::from(i.heads) * f64::from(i.dim), q_in);
                one(Part::Attention, f64::from(i.dim) + f64::from(i.heads), h);
            }
        }
        Mixer::DeltaNet(a) => {
            let key = f64::from(a.key_heads) * f64::from(a.key_dim) / t;
            let value = f64::from(a.value_heads) * f64::from(a.value_dim) / t;
            one(Part::Attention, 2.0 * key + 2.0 * value + 2.0 * f64::from(a.value_heads) / t, h);
            one(Part::Attention, h, value);
        }
        Mixer::Mamba2(a) => {
            let inner = f64::from(a.heads) * f64::from(a.head_dim) / t;
            let bc = 2.0 * f64::from(a.groups) * f64::from(a.state) / t;
            one(Part::Attention, 2.0 * inner + bc + f64::from(a.heads) / t, h);
            one(Part::Attention, h, inner);
        }
        Mixer::None {} => {}
    }
    mlp_gemms(&block.mlp, h, mesh, visit);
}

fn mlp_gemms(mlp: &Mlp, h: f64, mesh: &Mesh, visit: &mut impl FnMut(Gemm)) {
    let t = f64::from(mesh.tp());
    let up = |gated: bool| (matrices(gated) - 1) as f64;
    let mut pair = |part, inner: f64, gated: bool, rows: f64, count: f64| {
        visit(Gemm { part, n: up(gated) * inner, k: h, rows, count });
        visit(Gemm { part, n: h, k: inner, rows, count });
    };
    if let Some(dense) = mlp.dense {
        pair(Part::Dense, f64::from(dense.ffn) / t, dense.gated, 1.0, 1.0);
    }
    if let Some(moe) = mlp.moe {
        if moe.shared_ffn > 0 {
            pair(Part::Dense, f64::from(moe.shared_ffn) / t, moe.gated, 1.0, 1.0);
        }
        let local = f64::from(moe.experts) / f64::from(mesh.ep());
        pair(Part::Experts, f64::from(moe.ffn) / f64::from(mesh.etp()), moe.gated, routed_rows(moe.top_k, mesh), local);
        visit(Gemm { part: Part::Router, n: f64::from(moe.experts), k: h, rows: 1.0 / t, count: 1.0 });
    }
}

/// Width of what a linear-attention block reads per token, on all ranks: queries, keys and values.
#[must_use]
pub fn linear_width(block: &Block) -> f64 {
    match block.mixer {
        Mixer::DeltaNet(a) => {
            2.0 * f64::from(a.key_heads) * f64::from(a.key_dim) + f64::from(a.value_heads) * f64::from(a.value_dim)
        }
        Mixer::Mamba2(a) => f64::from(a.heads) * f64::from(a.head_dim) + 2.0 * f64::from(a.groups) * f64::from(a.state),
        Mixer::Gqa(_) | Mixer::Mla(_) | Mixer::None {} => 0.0,
    }
}

/// FLOP of the attention core, forward, per token of this rank: `2 s a/t D` for causal softmax (`QK^T` and `PV`, halved),
/// windows capped; linear layers pay for their state instead.
///
/// Source: Megatron-LM's `training.py` FLOP count (causal halved).
#[must_use]
pub fn core_flop(block: &Block, mesh: &Mesh, seq: f64) -> f64 {
    let t = f64::from(mesh.tp());
    match block.mixer {
        Mixer::Gqa(a) => {
            let span = a.window.map_or(seq / 2.0, |w| {
                let w = f64::from(w).min(seq);
                // Mean visible keys of a causal window: w - w^2 / 2s.
                w - w * w / (2.0 * seq)
            });
            4.0 * span * f64::from(a.heads) / t * f64::from(a.head_dim)
        }
        Mixer::Mla(a) => {
            let keys = a.indexer.map_or(seq / 2.0, |i| (seq / 2.0).min(f64::from(i.top_k)));
            let widths = f64::from(a.nope) + f64::from(a.rope) + f64::from(a.v);
            let index = a.indexer.map_or(0.0, |i| seq / 2.0 * 2.0 * f64::from(i.heads) * f64::from(i.dim));
            2.0 * keys * f64::from(a.heads) / t * widths + index
        }
        Mixer::DeltaNet(a) => {
            // Chunked delta rule: state update and read, about six passes over key x value per value head.
            6.0 * f64::from(a.value_heads) / t * f64::from(a.key_dim) * f64::from(a.value_dim)
        }
        Mixer::Mamba2(a) => 6.0 * f64::from(a.heads) / t * f64::from(a.head_dim) * f64::from(a.state),
        Mixer::None {} => 0.0,
    }
}

/// Bytes that memory-bound operations of one layer move, forward, per token of this rank: norms, residuals, rotary
/// embedding, activation function, permutation of routed tokens. `r` is what sequence parallelism divides by.
#[must_use]
pub fn elementwise_bytes(model: &Model, block: &Block, mesh: &Mesh, r: f64) -> f64 {
    let h = f64::from(model.spec().hidden);
    let t = f64::from(mesh.tp());
    let mut bytes = (f64::from(block.norms) * 4.0 * h + 2.0 * 6.0 * h) / r;
    match block.mixer {
        Mixer::Gqa(a) => {
            let width = f64::from(a.heads) / t + 2.0 * local_kv_heads(a.kv_heads, mesh.tp());
            bytes += 4.0 * width * f64::from(a.head_dim);
        }
        Mixer::Mla(a) => {
            let width = f64::from(a.heads) / t * (2.0 * (f64::from(a.nope) + f64::from(a.rope)) + f64::from(a.v));
            bytes += 4.0 * width;
        }
        Mixer::DeltaNet(a) => {
            let width = 2.0 * f64::from(a.key_heads) * f64::from(a.key_dim)
                + 2.0 * f64::from(a.value_heads) * f64::from(a.value_dim);
            bytes += 8.0 * width / t;
        }
        Mixer::Mamba2(a) => bytes += 8.0 * 2.0 * f64::from(a.heads) * f64::from(a.head_dim) / t,
        Mixer::None {} => {}
    }
    if let Some(dense) = block.mlp.dense {
        bytes += 2.0 * matrices(dense.gated) as f64 * f64::from(dense.ffn) / t;
    }
    if let Some(moe) = block.mlp.moe {
        let rows = routed_rows(moe.top_k, mesh);
        bytes += 2.0 * matrices(moe.gated) as f64 * f64::from(moe.shared_ffn) / t;
        bytes += rows * (8.0 * h + 2.0 * matrices(moe.gated) as f64 * f64::from(moe.ffn) / f64::from(mesh.etp()));
        bytes += 8.0 * f64::from(moe.experts) / r;
    }
    bytes
}

/// Kernels of one layer's forward pass, for the time the host needs to launch them.
#[must_use]
pub fn kernels(block: &Block) -> f64 {
    let mixer = match block.mixer {
        Mixer::Gqa(_) => 6.0,
        Mixer::Mla(_) => 12.0,
        Mixer::DeltaNet(_) | Mixer::Mamba2(_) => 12.0,
        Mixer::None {} => 0.0,
    };
    let dense = if block.mlp.dense.is_some() { 5.0 } else { 0.0 };
    let moe = block.mlp.moe.map_or(0.0, |m| if m.shared_ffn > 0 { 25.0 } else { 20.0 });
    mixer + dense + moe
}

/// Bytes one layer keeps for the backward pass, per token, by the module that could recompute them.
///
/// Source: Korthikanti et al. 2022 (Reducing Activation Recomputation), extended to GQA, MLA and routed experts as
/// Megatron-Core with Transformer Engine keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Kept {
    /// Inputs of the two norms: the residual stream.
    pub residual: f64,
    /// Outputs of the norms.
    pub norm_out: f64,
    /// Softmax statistics of the attention core.
    pub core: f64,
    /// Queries, keys, values (MLA: up-projected ones).
    pub qkv: f64,
    /// Whether `qkv` is MLA's, which can be recomputed from the latents.
    pub latent: bool,
    /// MLA's latents, before and after their norms.
    pub latents: f64,
    /// Output of the attention core.
    pub attn_out: f64,
    /// Dense MLP, without the activation's output.
    pub dense: f64,
    /// The activation's output in the dense MLP.
    pub dense_act: f64,
    /// Shared experts.
    pub shared: f64,
    /// Router: input copy, probabilities, map.
    pub router: f64,
    /// Routed experts: dispatched inputs and first GEMM's output.
    pub routed: f64,
    /// The activation's output in the routed experts.
    pub routed_act: f64,
}

impl Kept {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.residual
            + self.norm_out
            + self.core
            + self.qkv
            + self.latents
            + self.attn_out
            + self.dense
            + self.dense_act
            + self.shared
            + self.router
            + self.routed
            + self.routed_act
    }
}

/// What one layer keeps per token; `r` is what sequence parallelism divides by, `balance` the load of the fullest expert rank.
#[must_use]
pub fn kept(model: &Model, block: &Block, mesh: &Mesh, r: f64, balance: f64, stack: &Stack) -> Kept {
    let h = f64::from(model.spec().hidden);
    let t = f64::from(mesh.tp());
    // Blocks of an MLP alone (Nemotron-H) have one norm, the others two that keep their input and output.
    let norms = f64::from(block.norms.min(2));
    // Models with learned positions are trained with dropout: a byte of mask for each residual addition.
    let masks = if model.spec().learned_positions { 1.0 / stack.residual_cut(r) } else { 0.0 };
    let residual = (2.0 / stack.residual_cut(r) + stack.extra + masks) * h * norms;
    let mut k = Kept { residual, norm_out: 2.0 * h * stack.norm_share(r) * norms, ..Kept::default() };
    let act_out = |gated: bool| if gated { stack.gated_out } else { 2.0 };
    match block.mixer {
        Mixer::Gqa(a) => {
            let d = f64::from(a.head_dim);
            let q = f64::from(a.heads) / t;
            let gate = if a.output_gate { q } else { 0.0 };
            k.qkv = (stack.queries * q + 2.0 * gate + stack.keys * 2.0 * local_kv_heads(a.kv_heads, mesh.tp())) * d;
            k.attn_out = 2.0 * q * d;
            k.core = 4.0 * q;
        }
        Mixer::Mla(a) => {
            let heads = f64::from(a.heads) / t;
            let (nope, rope, v) = (f64::from(a.nope), f64::from(a.rope), f64::from(a.v));
            k.latent = true;
            k.latents = 4.0 * (f64::from(a.q_lora) + f64::from(a.kv_lora)) / r;
            k.qkv = 2.0 * heads * (2.0 * (nope + rope) + v);
            k.attn_out = 2.0 * heads * v;
            k.core = 4.0 * heads;
        }
        Mixer::DeltaNet(a) => {
            let key = f64::from(a.key_heads) * f64::from(a.key_dim) / t;
            let value = f64::from(a.value_heads) * f64::from(a.value_dim) / t;
            // Projections before and after the convolution, and the output before and after its gated norm.
            k.qkv = 4.0 * (2.0 * key + value) + 2.0 * value;
            k.attn_out = 4.0 * value;
        }
        Mixer::Mamba2(a) => {
            let inner = f64::from(a.heads) * f64::from(a.head_dim) / t;
            let bc = 2.0 * f64::from(a.groups) * f64::from(a.state) / t;
            k.qkv = 4.0 * (inner + bc) + 2.0 * inner;
            k.attn_out = 4.0 * inner;
        }
        Mixer::None {} => {}
    }
    if let Some(dense) = block.mlp.dense {
        let f = f64::from(dense.ffn) / t;
        k.dense = 2.0 * (matrices(dense.gated) - 1) as f64 * f;
        k.dense_act = act_out(dense.gated) * f;
    }
    if let Some(moe) = block.mlp.moe {
        let rows = balance * routed_rows(moe.top_k, mesh);
        let f = f64::from(moe.ffn) / f64::from(mesh.etp());
        let up = (matrices(moe.gated) - 1) as f64;
        k.shared = (2.0 * up + act_out(moe.gated)) * f64::from(moe.shared_ffn) / t;
        k.router = (2.0 * h + 8.0 * f64::from(moe.experts)) / r;
        k.routed = rows * (2.0 * h + 2.0 * up * f);
        k.routed_act = rows * act_out(moe.gated) * f;
    }
    k
}

/// Bytes of the largest working set of a layer's backward pass, per token, beside what is kept.
#[must_use]
pub fn transient(model: &Model, block: &Block, mesh: &Mesh, balance: f64, stack: &Stack) -> f64 {
    let h = f64::from(model.spec().hidden);
    let k = kept(model, block, mesh, 1.0, balance, stack);
    let up_projection = if k.latent { 2.0 * k.qkv } else { 0.0 };
    let dense = k.dense + k.dense_act;
    let routed = k.routed + k.routed_act;
    up_projection.max(dense).max(routed) + stack.working * h
}

/// The distinct weight shapes of a block on this rank, as products `n k` (one expert stands for all).
pub fn shapes(model: &Model, block: &Block, mesh: &Mesh, visit: &mut impl FnMut(u64, u64)) {
    gemms(model, block, mesh, &mut |g| {
        if g.part != Part::Router {
            visit(g.n as u64, g.k as u64);
        }
    });
}
