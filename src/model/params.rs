//! How many parameters each part of a model holds, by how parallelism cuts them.

use super::{Block, Gqa, Mixer, Model, QkNorm, Quant};

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

impl Model {
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
    /// let model = meshwright::catalog::model("deepseek-v3")?;
    /// assert_eq!((model.params() as f64 / 1e7).round() / 100.0, 671.03);
    /// # Ok::<(), meshwright::error::Error>(())
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
