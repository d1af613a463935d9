//! A model as plain data: formats, blocks, layers.

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

    /// The width a shard must be a multiple of, when the kernels ask for one: blocks of 128 for fp8-block and Marlin's int4, 16
    /// for nvfp4. Engines pad mxfp4 shards (gpt-oss runs at TP 4 and 8, whose shards of 2880 are no multiple of 32).
    #[must_use]
    pub const fn block(self) -> Option<u64> {
        match self {
            Self::Fp8Block | Self::Int4 => Some(128),
            Self::Nvfp4 => Some(16),
            Self::Mxfp4 | Self::Fp32 | Self::Bf16 | Self::Fp16 | Self::Fp8 | Self::Int8 => None,
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

impl Gqa {
    /// Heads and their width, with none of the extras.
    #[must_use]
    pub const fn plain(heads: u32, kv_heads: u32, head_dim: u32) -> Self {
        Self {
            heads,
            kv_heads,
            head_dim,
            window: None,
            qkv_bias: false,
            out_bias: false,
            qk_norm: QkNorm::None,
            output_gate: false,
            sinks: false,
            k_eq_v: false,
        }
    }
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
