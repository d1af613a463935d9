//! A model as a planner sees it: blocks, their shapes, and how many parameters each part holds.
//!
//! [`ModelSpec`] is the plain data (what a file of `configs/models` says, what a Hugging Face `config.json` is
//! translated to); [`Model::new`] checks it, and after that nothing in a model is inconsistent.

mod params;
mod spec;

pub use params::{BlockParams, matrices};
pub use spec::*;

use std::fmt;

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

    /// The kind of the last layer, which MTP layers copy.
    #[must_use]
    pub fn last_kind(&self) -> usize {
        self.order.last().map_or(0, |kind| usize::from(*kind))
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

    /// Whether any layer uses linear attention or a state space in place of softmax attention.
    #[must_use]
    pub fn has_linear_attention(&self) -> bool {
        self.blocks().iter().any(|b| matches!(b.mixer, Mixer::DeltaNet(_) | Mixer::Mamba2(_)))
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
