//! A model as a planner sees it: blocks, their shapes, and how many parameters each part holds.
//!
//! [`ModelSpec`] is the plain data (what a file of `configs/models` says, what a Hugging Face `config.json` is
//! translated to); [`Model::new`] checks it, and after that nothing in a model is inconsistent.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WeightFormat {
    /// 32-bit floating point.
    Fp32,
    /// bfloat16.
    Bf16,
    /// 16-bit floating point.
    Fp16,
    /// 8-bit floating point with a scale per tensor or channel.
    Fp8,
    /// 8-bit floating point with one fp32 scale for each block of 128 x 128 (DeepSeek).
    Fp8Block,
    /// 8-bit integers with a scale per channel.
    Int8,
    /// 4-bit integers, one bf16 scale per group of 32 to 128 (AWQ, GPTQ, compressed-tensors).
    Int4,
    /// NVIDIA's 4-bit floating point, one fp8 scale per 16.
    Nvfp4,
    /// OCP microscaling 4-bit floating point, one 8-bit scale per 32.
    Mxfp4,
}

impl WeightFormat {
    /// Every format.
    pub const ALL: [Self; 9] = [
        Self::Fp32,
        Self::Bf16,
        Self::Fp16,
        Self::Fp8,
        Self::Fp8Block,
        Self::Int8,
        Self::Int4,
        Self::Nvfp4,
        Self::Mxfp4,
    ];

    /// The name in files and flags.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
            Self::Fp8 => "fp8",
            Self::Fp8Block => "fp8-block",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
            Self::Nvfp4 => "nvfp4",
            Self::Mxfp4 => "mxfp4",
        }
    }

    /// Bytes of one weight, its share of the scales included: fp8 blocks carry 4 bytes per 128 x 128, nvfp4 one byte per 16,
    /// mxfp4 one byte per 32, int4 two bytes per group of 32.
    #[must_use]
    pub const fn bytes(self) -> f64 {
        match self {
            Self::Fp32 => 4.0,
            Self::Bf16 | Self::Fp16 => 2.0,
            Self::Fp8 | Self::Int8 => 1.0,
            Self::Fp8Block => 1.0 + 4.0 / (128.0 * 128.0),
            Self::Int4 | Self::Nvfp4 => 0.5 + 1.0 / 16.0,
            Self::Mxfp4 => 0.5 + 1.0 / 32.0,
        }
    }

    /// The width a shard must be a multiple of, when the kernels ask for one (blocks of 128 for fp8-block and Marlin's int4,
    /// 16 for nvfp4, 32 for mxfp4).
    #[must_use]
    pub const fn block(self) -> Option<u64> {
        match self {
            Self::Fp8Block | Self::Int4 => Some(128),
            Self::Nvfp4 => Some(16),
            Self::Mxfp4 => Some(32),
            Self::Fp32 | Self::Bf16 | Self::Fp16 | Self::Fp8 | Self::Int8 => None,
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What of a model is stored in its weight format; embeddings, head, norms and routers stay in 16 bits everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuantScope {
    /// Every linear layer of the blocks.
    Linears,
    /// Only the routed experts (gpt-oss, Kimi-K2.5).
    RoutedExperts,
    /// Everything in the MLP: dense, shared and routed experts, not attention (NVIDIA's NVFP4 checkpoints of DeepSeek).
    Mlps,
}

/// A checkpoint's weight format and its reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quant {
    /// The format.
    pub format: WeightFormat,
    /// What is stored in it.
    pub scope: QuantScope,
}

impl Quant {
    /// 16-bit weights.
    pub const NONE: Self = Self { format: WeightFormat::Bf16, scope: QuantScope::Linears };

    /// Format of the attention's linear layers.
    #[must_use]
    pub const fn attention(self) -> WeightFormat {
        match self.scope {
            QuantScope::Linears => self.format,
            QuantScope::RoutedExperts | QuantScope::Mlps => WeightFormat::Bf16,
        }
    }

    /// Format of dense MLPs and shared experts.
    #[must_use]
    pub const fn dense(self) -> WeightFormat {
        match self.scope {
            QuantScope::Linears | QuantScope::Mlps => self.format,
            QuantScope::RoutedExperts => WeightFormat::Bf16,
        }
    }

    /// Format of the routed experts.
    #[must_use]
    pub const fn experts(self) -> WeightFormat {
        self.format
    }
}

/// Softmax attention with grouped KV heads (MHA and MQA are its ends).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gqa {
    /// Query heads.
    pub heads: u32,
    /// KV heads.
    pub kv_heads: u32,
    /// Width of one head.
    pub head_dim: u32,
    /// Tokens a query sees, for sliding-window layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
    /// Bias on the q, k and v projections.
    #[serde(default, skip_serializing_if = "is_false")]
    pub qkv_bias: bool,
    /// Bias on the output projection.
    #[serde(default, skip_serializing_if = "is_false")]
    pub out_bias: bool,
    /// Norm on each query and key head (Qwen3) or over their full width (MiniMax).
    #[serde(default, skip_serializing_if = "QkNorm::is_none")]
    pub qk_norm: QkNorm,
    /// A sigmoid gate as wide as the queries (Qwen3.5).
    #[serde(default, skip_serializing_if = "is_false")]
    pub output_gate: bool,
    /// One learned sink per head (gpt-oss).
    #[serde(default, skip_serializing_if = "is_false")]
    pub sinks: bool,
    /// Values reuse the keys' projection (Gemma 4's global layers).
    #[serde(default, skip_serializing_if = "is_false")]
    pub k_eq_v: bool,
}

/// Norms of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QkNorm {
    /// None.
    #[default]
    None,
    /// One weight per head dimension, shared by the heads.
    PerHead,
    /// One weight per channel of all heads.
    Full,
}

impl QkNorm {
    fn is_none(&self) -> bool {
        *self == Self::None
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form serde asks of skip_serializing_if")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// Multi-head latent attention (DeepSeek).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mla {
    /// Query heads.
    pub heads: u32,
    /// Rank of the query's down-projection; 0 when queries are projected directly.
    pub q_lora: u32,
    /// Rank of the KV latent.
    pub kv_lora: u32,
    /// Width of a query/key head without rotary part.
    pub nope: u32,
    /// Width of the rotary part, shared by all heads.
    pub rope: u32,
    /// Width of a value head.
    pub v: u32,
    /// DeepSeek sparse attention's indexer (V3.2, GLM-5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub indexer: Option<Indexer>,
}

/// The indexer that picks the keys of sparse attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Indexer {
    /// Index heads.
    pub heads: u32,
    /// Width of an index head.
    pub dim: u32,
    /// Keys kept for each query.
    pub top_k: u32,
    /// The keys an earlier layer picked are used again, so this one has no indexer weights (GLM-5.2).
    #[serde(default, skip_serializing_if = "is_false")]
    pub reused: bool,
}

/// Gated delta net, a linear attention with a constant state (Qwen3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeltaNet {
    /// Key heads.
    pub key_heads: u32,
    /// Value heads.
    pub value_heads: u32,
    /// Width of a key head.
    pub key_dim: u32,
    /// Width of a value head.
    pub value_dim: u32,
    /// Kernel of the short convolution.
    pub conv: u32,
}

/// A Mamba-2 state-space layer (Nemotron-H).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mamba2 {
    /// Heads.
    pub heads: u32,
    /// Width of a head.
    pub head_dim: u32,
    /// Groups of B and C.
    pub groups: u32,
    /// State size.
    pub state: u32,
    /// Kernel of the short convolution.
    pub conv: u32,
}

/// What mixes tokens in a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Mixer {
    /// Softmax attention.
    Gqa(Gqa),
    /// Latent attention.
    Mla(Mla),
    /// Linear attention.
    DeltaNet(DeltaNet),
    /// State space.
    Mamba2(Mamba2),
    /// Nothing: the block is an MLP alone (Nemotron-H).
    None {},
}

/// A dense feed-forward network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenseMlp {
    /// Inner width.
    pub ffn: u32,
    /// Three matrices (`SwiGLU`) instead of two.
    pub gated: bool,
    /// Biases.
    #[serde(default, skip_serializing_if = "is_false")]
    pub bias: bool,
}

/// A mixture of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moe {
    /// Routed experts.
    pub experts: u32,
    /// Experts of a token.
    pub top_k: u32,
    /// Inner width of one routed expert.
    pub ffn: u32,
    /// Three matrices instead of two.
    pub gated: bool,
    /// Inner width of all shared experts together; 0 when there are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub shared_ffn: u32,
    /// A scalar gate on the shared expert (Qwen).
    #[serde(default, skip_serializing_if = "is_false")]
    pub shared_gate: bool,
    /// Biases in experts and router (gpt-oss).
    #[serde(default, skip_serializing_if = "is_false")]
    pub bias: bool,
    /// One correction per expert that balances the load without a loss (DeepSeek-V3).
    #[serde(default, skip_serializing_if = "is_false")]
    pub router_bias: bool,
    /// Routing groups; a token's experts come from `top_groups` of them (1: no limit).
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub groups: u32,
    /// Groups a token may use.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub top_groups: u32,
}

const fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form serde asks of skip_serializing_if")]
const fn is_one(value: &u32) -> bool {
    *value == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form serde asks of skip_serializing_if")]
const fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// The feed-forward part of a block: none, dense, experts, or both side by side (Gemma 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mlp {
    /// The dense part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dense: Option<DenseMlp>,
    /// The experts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moe: Option<Moe>,
}

/// One kind of block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// What mixes tokens.
    pub mixer: Mixer,
    /// What transforms each token.
    #[serde(default)]
    pub mlp: Mlp,
    /// Norms of width `hidden` in the block.
    pub norms: u32,
}

/// A stretch of layers: a pattern of block numbers, repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Indices into `blocks`.
    pub pattern: Vec<usize>,
    /// How many times the pattern stands.
    pub repeat: u32,
}

/// Root-mean-square norm (one vector) or layer norm (two).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Norm {
    /// RMS norm: a weight.
    Rms,
    /// Layer norm: a weight and a bias.
    Layer,
}

impl Norm {
    /// Vectors per norm.
    #[must_use]
    pub const fn vectors(self) -> u64 {
        match self {
            Self::Rms => 1,
            Self::Layer => 2,
        }
    }
}

/// A model as plain data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// The name it is asked for by.
    pub name: String,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Vocabulary.
    pub vocab: u32,
    /// Longest sequence the positions allow.
    pub max_positions: u32,
    /// Learned position embeddings (GPT-2).
    #[serde(default, skip_serializing_if = "is_false")]
    pub learned_positions: bool,
    /// The output head is the embedding.
    pub tied_embeddings: bool,
    /// The norm.
    pub norm: Norm,
    /// Multi-token-prediction layers after the last one (not counted in the parameters).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mtp: u32,
    /// The checkpoint's own weight format; absent means 16 bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quant: Option<Quant>,
    /// The kinds of blocks.
    pub blocks: Vec<Block>,
    /// Their order.
    pub layers: Vec<Run>,
}

/// Why a model's numbers cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelError {
    /// The offending key.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// What is allowed.
    pub allowed: String,
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at `{}`: {} is not allowed: {}", self.key, self.value, self.allowed)
    }
}

impl std::error::Error for ModelError {}

/// Parameters of one block, by how parallelism cuts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockParams {
    /// Attention weights cut by TP, the KV projections apart.
    pub attention: u64,
    /// KV projections: cut by TP down to one head a rank, replicated beyond.
    pub kv: u64,
    /// Attention weights that every TP rank holds whole (MLA's down-projections and latent norms, q/k norms).
    pub attention_replicated: u64,
    /// Dense MLP, cut by TP.
    pub dense: u64,
    /// Shared experts, cut by TP.
    pub shared: u64,
    /// Routed experts, cut by EP and expert-TP.
    pub routed: u64,
    /// Router, shared-expert gate: on every rank.
    pub router: u64,
    /// Norms: on every rank.
    pub norms: u64,
}

impl BlockParams {
    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.attention
            + self.kv
            + self.attention_replicated
            + self.dense
            + self.shared
            + self.routed
            + self.router
            + self.norms
    }
}

/// A checked model.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    spec: ModelSpec,
    /// Block index of each layer.
    order: Vec<u8>,
    /// For each kind of block, how many stand before layer `i`.
    before: Vec<Vec<u32>>,
    /// What had to be assumed while reading it, in words.
    pub assumptions: Vec<String>,
    /// Parameter count its publisher states.
    pub published_params: Option<u64>,
    /// Where the shape comes from.
    pub source: Vec<String>,
}

/// Layers no real model exceeds; keeps a mistyped count from allocating the machine's memory.
const MOST_LAYERS: u64 = 10_000;
/// Kinds of blocks a model may have; prices are kept on the stack by kind.
pub const MOST_KINDS: usize = 16;
/// Parameters no block exceeds: with the most layers, sums still fit `u64`.
const MOST_PARAMS: f64 = 1e14;
/// Widths no real model exceeds.
const MOST_WIDTH: u32 = 1 << 24;

impl Model {
    /// Checks the plain data.
    ///
    /// # Errors
    /// When a size is zero or absurd, a pattern names a block that does not exist, or heads and KV heads do not divide.
    pub fn new(spec: ModelSpec) -> Result<Self, ModelError> {
        let refuse = |key, value: String, allowed: &str| Err(ModelError { key, value, allowed: allowed.to_owned() });
        let sizes = [("hidden", spec.hidden), ("vocab", spec.vocab), ("max_positions", spec.max_positions)];
        for (key, value) in sizes {
            if value == 0 || value > 1 << 28 {
                return refuse(key, value.to_string(), "a whole number from 1 to 268435456");
            }
        }
        if spec.mtp > 16 {
            return refuse("mtp", spec.mtp.to_string(), "0 to 16 prediction layers");
        }
        if spec.blocks.is_empty() || spec.blocks.len() > MOST_KINDS {
            return refuse("blocks", spec.blocks.len().to_string(), "1 to 16 kinds of blocks");
        }
        for block in &spec.blocks {
            check_block(block)?;
            if rough_params(spec.hidden, block) > MOST_PARAMS {
                let value = format!("{:.1e} parameters", rough_params(spec.hidden, block));
                return refuse("blocks", value, "sizes that multiply to at most 1e14 parameters a block");
            }
        }
        let count: u64 = spec.layers.iter().map(|run| run.pattern.len() as u64 * u64::from(run.repeat)).sum();
        if count == 0 || count > MOST_LAYERS {
            return refuse("layers", count.to_string(), "1 to 10000 layers");
        }
        let mut order = Vec::new();
        for run in &spec.layers {
            for _ in 0..run.repeat {
                for &index in &run.pattern {
                    if index >= spec.blocks.len() {
                        return refuse("layers", index.to_string(), "the number of a block");
                    }
                    order.push(u8::try_from(index).expect("at most 16 kinds"));
                }
            }
        }
        let before = (0..spec.blocks.len())
            .map(|kind| {
                let mut seen = 0;
                let mut sums = vec![0];
                for &k in &order {
                    seen += u32::from(usize::from(k) == kind);
                    sums.push(seen);
                }
                sums
            })
            .collect();
        Ok(Self { spec, order, before, assumptions: Vec::new(), published_params: None, source: Vec::new() })
    }

    /// The plain data.
    #[must_use]
    pub const fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Number of layers.
    #[must_use]
    pub fn layers(&self) -> u32 {
        u32::try_from(self.order.len()).expect("at most 10000")
    }

    /// The kinds of blocks.
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.spec.blocks
    }

    /// The block of one layer.
    #[must_use]
    pub fn block_of(&self, layer: u32) -> &Block {
        &self.spec.blocks[usize::from(self.order[layer as usize])]
    }

    /// How many layers of one kind stand in `from..to`.
    #[must_use]
    pub fn count(&self, kind: usize, from: u32, to: u32) -> u32 {
        self.before[kind][to as usize] - self.before[kind][from as usize]
    }

    /// The last block, which MTP layers copy.
    #[must_use]
    pub fn last_block(&self) -> &Block {
        self.block_of(self.layers() - 1)
    }

    /// The widest query-head count of any block (0 when no block has softmax attention).
    #[must_use]
    pub fn heads(&self) -> u32 {
        self.blocks().iter().map(|b| b.mixer.heads()).max().unwrap_or(0)
    }

    /// KV heads of the softmax layers, the smallest; `None` when latent attention or none is used.
    #[must_use]
    pub fn kv_heads(&self) -> Option<u32> {
        self.blocks().iter().filter_map(|b| b.mixer.gqa().map(|a| a.kv_heads)).min()
    }

    /// Whether any layer uses latent attention.
    #[must_use]
    pub fn is_mla(&self) -> bool {
        self.blocks().iter().any(|b| matches!(b.mixer, Mixer::Mla(_)))
    }

    /// The mixture of experts of the first block that has one.
    #[must_use]
    pub fn moe(&self) -> Option<&Moe> {
        self.blocks().iter().find_map(|b| b.mlp.moe.as_ref())
    }

    /// Inner width of the first dense MLP.
    #[must_use]
    pub fn dense_ffn(&self) -> Option<u32> {
        self.blocks().iter().find_map(|b| b.mlp.dense.as_ref().map(|d| d.ffn))
    }

    /// The checkpoint's weight format.
    #[must_use]
    pub fn quant(&self) -> Quant {
        self.spec.quant.unwrap_or(Quant::NONE)
    }

    /// Parameters of one embedding table.
    #[must_use]
    pub fn embedding_params(&self) -> u64 {
        u64::from(self.spec.vocab) * u64::from(self.spec.hidden)
    }

    /// Parameters of learned positions.
    #[must_use]
    pub fn position_params(&self) -> u64 {
        if self.spec.learned_positions { u64::from(self.spec.max_positions) * u64::from(self.spec.hidden) } else { 0 }
    }

    /// Parameters of one block.
    ///
    /// Source: the reference implementations of each architecture; `docs/MODEL.md` lists the terms.
    #[must_use]
    pub fn block_params(&self, block: &Block) -> BlockParams {
        let h = u64::from(self.spec.hidden);
        let mut p = BlockParams { norms: u64::from(block.norms) * self.spec.norm.vectors() * h, ..Default::default() };
        block.mixer.add_params(h, &mut p);
        if let Some(dense) = block.mlp.dense {
            let f = u64::from(dense.ffn);
            p.dense = matrices(dense.gated) * h * f;
            if dense.bias {
                p.dense += (matrices(dense.gated) - 1) * f + h;
            }
        }
        if let Some(moe) = block.mlp.moe {
            let (e, f, s) = (u64::from(moe.experts), u64::from(moe.ffn), u64::from(moe.shared_ffn));
            p.routed = e * matrices(moe.gated) * h * f;
            p.shared = matrices(moe.gated) * h * s;
            p.router = h * e;
            if moe.bias {
                p.routed += e * ((matrices(moe.gated) - 1) * f + h);
                p.router += e;
            }
            if moe.router_bias {
                p.router += e;
            }
            if moe.shared_gate {
                p.router += h;
            }
        }
        p
    }

    /// Parameters of the whole model, prediction layers left out as publishers do.
    ///
    /// ```
    /// let model = meshwright::catalog::model("deepseek-v3").unwrap();
    /// assert_eq!((model.params() as f64 / 1e7).round() / 100.0, 671.03);
    /// ```
    #[must_use]
    pub fn params(&self) -> u64 {
        let blocks: u64 = (0..self.layers()).map(|l| self.block_params(self.block_of(l)).total()).sum();
        let tables = if self.spec.tied_embeddings { 1 } else { 2 };
        let last_norm = self.spec.norm.vectors() * u64::from(self.spec.hidden);
        blocks + tables * self.embedding_params() + self.position_params() + last_norm
    }

    /// Parameters of the routed experts.
    #[must_use]
    pub fn routed_params(&self) -> u64 {
        (0..self.layers()).map(|l| self.block_params(self.block_of(l)).routed).sum()
    }

    /// Parameters that one token uses: everything but the routed experts it is not sent to.
    #[must_use]
    pub fn active_params(&self) -> u64 {
        let idle: u64 = (0..self.layers())
            .map(|l| {
                let block = self.block_of(l);
                let routed = self.block_params(block).routed;
                block.mlp.moe.map_or(0, |m| routed - routed / u64::from(m.experts) * u64::from(m.top_k.min(m.experts)))
            })
            .sum();
        self.params() - idle
    }

    /// Bytes the weights take in a checkpoint of the given format: embeddings, head, norms and routers in 16 bits.
    #[must_use]
    pub fn weight_bytes(&self, quant: Quant) -> f64 {
        let blocks: f64 = (0..self.layers())
            .map(|l| {
                let p = self.block_params(self.block_of(l));
                let plain = (p.norms + p.router) as f64;
                let attention = (p.attention + p.kv + p.attention_replicated) as f64;
                plain * 2.0
                    + attention * quant.attention().bytes()
                    + (p.dense + p.shared) as f64 * quant.dense().bytes()
                    + p.routed as f64 * quant.experts().bytes()
            })
            .sum();
        let tables = if self.spec.tied_embeddings { 1 } else { 2 };
        blocks + (tables * self.embedding_params() + self.position_params()) as f64 * 2.0
    }

    /// Numbers that one more token of context adds to the KV cache over all layers, one copy: sliding windows count while
    /// they fill, linear layers never.
    #[must_use]
    pub fn kv_elements_per_token(&self) -> u64 {
        (0..self.layers()).map(|l| self.block_of(l).mixer.kv_elements()).sum()
    }
}

/// Weight matrices of an MLP.
#[must_use]
pub const fn matrices(gated: bool) -> u64 {
    if gated { 3 } else { 2 }
}

/// An upper bound of a block's parameters in floating point, where absurd sizes cannot overflow.
fn rough_params(hidden: u32, block: &Block) -> f64 {
    let product = |factors: &[u32]| factors.iter().map(|f| f64::from(*f)).product::<f64>();
    let h = hidden;
    let mixer = match block.mixer {
        Mixer::Gqa(a) => 8.0 * product(&[h, a.heads.max(a.kv_heads), a.head_dim]),
        Mixer::Mla(a) => {
            let wide = f64::from(a.nope) + f64::from(a.rope) + f64::from(a.v);
            let narrow = f64::from(h) + f64::from(a.q_lora) + f64::from(a.kv_lora);
            let indexer = a.indexer.map_or(0.0, |i| narrow * 2.0 * product(&[i.heads, i.dim]));
            narrow * f64::from(a.heads) * wide * 2.0 + f64::from(h) * (narrow + wide) + indexer
        }
        Mixer::DeltaNet(a) => {
            let width = product(&[a.key_heads, a.key_dim]) + product(&[a.value_heads, a.value_dim]);
            4.0 * (f64::from(h) + f64::from(a.conv)) * width
        }
        Mixer::Mamba2(a) => {
            let width = product(&[a.heads, a.head_dim]) + product(&[a.groups, a.state]);
            8.0 * (f64::from(h) + f64::from(a.conv)) * width
        }
        Mixer::None {} => 0.0,
    };
    let dense = block.mlp.dense.map_or(0.0, |d| 4.0 * product(&[h, d.ffn]));
    let moe = block.mlp.moe.map_or(0.0, |m| 5.0 * product(&[h, m.experts, m.ffn]) + 4.0 * product(&[h, m.shared_ffn]));
    mixer + dense + moe + 2.0 * product(&[h, block.norms])
}

fn check_block(block: &Block) -> Result<(), ModelError> {
    let whole = |key, value: u32| {
        if value == 0 || value > MOST_WIDTH {
            let allowed = format!("a whole number from 1 to {MOST_WIDTH}");
            return Err(ModelError { key, value: value.to_string(), allowed });
        }
        Ok(())
    };
    match block.mixer {
        Mixer::Gqa(a) => {
            whole("heads", a.heads)?;
            whole("kv_heads", a.kv_heads)?;
            whole("head_dim", a.head_dim)?;
            if !a.heads.is_multiple_of(a.kv_heads) {
                let allowed = format!("a divisor of the {} query heads", a.heads);
                return Err(ModelError { key: "kv_heads", value: a.kv_heads.to_string(), allowed });
            }
        }
        Mixer::Mla(a) => {
            whole("heads", a.heads)?;
            whole("kv_lora", a.kv_lora)?;
            whole("nope", a.nope)?;
            whole("v", a.v)?;
        }
        Mixer::DeltaNet(a) => {
            whole("key_heads", a.key_heads)?;
            whole("value_heads", a.value_heads)?;
            whole("key_dim", a.key_dim)?;
            whole("value_dim", a.value_dim)?;
        }
        Mixer::Mamba2(a) => {
            whole("heads", a.heads)?;
            whole("head_dim", a.head_dim)?;
            whole("groups", a.groups)?;
            whole("state", a.state)?;
        }
        Mixer::None {} => {}
    }
    if let Some(dense) = block.mlp.dense {
        whole("ffn", dense.ffn)?;
    }
    if let Some(moe) = block.mlp.moe {
        whole("experts", moe.experts)?;
        whole("ffn", moe.ffn)?;
        whole("groups", moe.groups)?;
        if moe.top_k == 0 || moe.top_k > moe.experts {
            let allowed = format!("1 to the {} experts", moe.experts);
            return Err(ModelError { key: "top_k", value: moe.top_k.to_string(), allowed });
        }
    }
    Ok(())
}

impl Mixer {
    /// Query heads (heads of the state for linear layers).
    #[must_use]
    pub const fn heads(&self) -> u32 {
        match self {
            Self::Gqa(a) => a.heads,
            Self::Mla(a) => a.heads,
            Self::DeltaNet(a) => a.value_heads,
            Self::Mamba2(a) => a.heads,
            Self::None {} => 0,
        }
    }

    /// The softmax attention, if it is one.
    #[must_use]
    pub const fn gqa(&self) -> Option<&Gqa> {
        match self {
            Self::Gqa(a) => Some(a),
            Self::Mla(_) | Self::DeltaNet(_) | Self::Mamba2(_) | Self::None {} => None,
        }
    }

    /// Numbers one token adds to the KV cache of this layer, one copy.
    #[must_use]
    pub fn kv_elements(&self) -> u64 {
        match self {
            Self::Gqa(a) => 2 * u64::from(a.kv_heads) * u64::from(a.head_dim),
            Self::Mla(a) => u64::from(a.kv_lora) + u64::from(a.rope),
            Self::DeltaNet(_) | Self::Mamba2(_) | Self::None {} => 0,
        }
    }

    fn add_params(&self, h: u64, p: &mut BlockParams) {
        match *self {
            Self::Gqa(a) => {
                let q = u64::from(a.heads) * u64::from(a.head_dim);
                let kv = u64::from(a.kv_heads) * u64::from(a.head_dim);
                p.attention = h * q * if a.output_gate { 3 } else { 2 };
                p.kv = h * kv * if a.k_eq_v { 1 } else { 2 };
                if a.qkv_bias {
                    p.attention += q;
                    p.kv += 2 * kv;
                }
                if a.out_bias {
                    p.attention_replicated += h;
                }
                if a.sinks {
                    p.attention += u64::from(a.heads);
                }
                p.attention_replicated += match a.qk_norm {
                    QkNorm::None => 0,
                    QkNorm::PerHead => 2 * u64::from(a.head_dim),
                    QkNorm::Full => q + kv,
                };
            }
            Self::Mla(a) => {
                let heads = u64::from(a.heads);
                let (q_lora, kv_lora) = (u64::from(a.q_lora), u64::from(a.kv_lora));
                let (nope, rope, v) = (u64::from(a.nope), u64::from(a.rope), u64::from(a.v));
                let q_in = if q_lora > 0 { q_lora } else { h };
                p.attention = q_in * heads * (nope + rope) + kv_lora * heads * (nope + v) + heads * v * h;
                p.attention_replicated = h * q_lora + h * (kv_lora + rope) + q_lora + kv_lora;
                if let Some(i) = a.indexer.filter(|i| !i.reused) {
                    let (n, d) = (u64::from(i.heads), u64::from(i.dim));
                    p.attention_replicated += q_in * n * d + h * d + 2 * d + h * n;
                }
            }
            Self::DeltaNet(a) => {
                let key = u64::from(a.key_heads) * u64::from(a.key_dim);
                let value = u64::from(a.value_heads) * u64::from(a.value_dim);
                let heads = u64::from(a.value_heads);
                // q, k, v, gate z, the two per-head gates, the convolution, A and dt, the output and its norm.
                p.attention = h * (2 * key + 2 * value)
                    + 2 * h * heads
                    + (2 * key + value) * u64::from(a.conv)
                    + 2 * heads
                    + value * h;
                p.attention_replicated = u64::from(a.value_dim);
            }
            Self::Mamba2(a) => {
                let inner = u64::from(a.heads) * u64::from(a.head_dim);
                let bc = 2 * u64::from(a.groups) * u64::from(a.state);
                let heads = u64::from(a.heads);
                // Input projection (x, z, B, C, dt), convolution with bias, A, D and dt bias, gated norm, output.
                p.attention = h * (2 * inner + bc + heads)
                    + (inner + bc) * (u64::from(a.conv) + 1)
                    + 3 * heads
                    + inner
                    + inner * h;
            }
            Self::None {} => {}
        }
    }
}
