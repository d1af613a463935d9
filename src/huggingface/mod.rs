//! Hugging Face `config.json` to [`ModelSpec`]: the keys of each architecture, and what its code assumes without a key.
//!
//! Source: the modelling files of Hugging Face transformers and the publishers' own code. An architecture that is not
//! known here is read by the common keys, and the model says so.

mod keys;
mod quant;
#[cfg(test)]
mod tests;

use crate::error::{Error, Locate, Result};
use crate::model::{
    Block, DeltaNet, DenseMlp, Gqa, Indexer, Mamba2, Mixer, Mla, Mlp, Model, ModelError, ModelSpec, Moe, Norm, QkNorm,
    Run,
};
use keys::Keys;
use serde_json::Value;

/// Where multimodal configs keep their text model.
const NESTED: [&str; 3] = ["text_config", "language_config", "llm_config"];
/// Spellings of the number of routed experts.
const EXPERTS: [&str; 4] = ["n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts"];
/// Spellings of the experts of a token.
const TOP_K: [&str; 4] = ["num_experts_per_tok", "top_k_experts", "experts_per_token", "moe_topk"];

/// Architectures that differ in more than their sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Llama,
    Mixtral,
    Llama4,
    Qwen2,
    Qwen3,
    QwenHybrid,
    Deepseek,
    Glm4Moe,
    Minimax,
    GptOss,
    Gemma,
    Gemma2,
    Gemma3,
    Gemma4,
    NemotronH,
    Gpt2,
    Grok,
    Unknown,
}

impl Family {
    /// From `model_type` or the class name, both reduced to letters and digits.
    fn of(word: &str) -> Self {
        let mut id: String = word.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase();
        for tail in ["forcausallm", "forconditionalgeneration", "lmheadmodel", "model", "text"] {
            if let Some(head) = id.strip_suffix(tail) {
                id = head.to_owned();
            }
        }
        match id.as_str() {
            "llama" | "mistral" | "mistral3" | "ministral" | "internlm" | "phi3" | "yi" => Self::Llama,
            "mixtral" => Self::Mixtral,
            "llama4" => Self::Llama4,
            "qwen2" | "qwen2moe" => Self::Qwen2,
            "qwen3" | "qwen3moe" => Self::Qwen3,
            "qwen3next" | "qwen35" | "qwen35moe" => Self::QwenHybrid,
            "deepseekv2" | "deepseekv3" | "deepseekv32" | "kimik2" | "kimik25" | "glmmoedsa" | "glm4moelite" => {
                Self::Deepseek
            }
            "glm4moe" => Self::Glm4Moe,
            "minimaxm2" => Self::Minimax,
            "gptoss" => Self::GptOss,
            "gemma" => Self::Gemma,
            "gemma2" => Self::Gemma2,
            "gemma3" => Self::Gemma3,
            "gemma4" => Self::Gemma4,
            "nemotronh" => Self::NemotronH,
            "gpt2" => Self::Gpt2,
            "grok1" | "grok" => Self::Grok,
            _ => Self::Unknown,
        }
    }

    const fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma | Self::Gemma2 | Self::Gemma3 | Self::Gemma4)
    }
}

/// What mixes the tokens of one layer, before its sizes are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Full,
    Window(u32),
    Linear,
}

/// Reads a config; `quant_file` is what `hf_quant_config.json` beside it holds.
///
/// # Errors
/// When a key that the architecture needs is missing, or a value is of the wrong type or out of range.
pub fn model(origin: &str, name: &str, value: &Value, quant_file: Option<(&str, &Value)>) -> Result<Model> {
    let (spec, assumptions) = spec(origin, name, value, quant_file)?;
    let mut model = Model::new(spec).map_err(|e| ModelError { key: hf_key(e.key, value), ..e }).at(origin)?;
    model.assumptions = assumptions;
    Ok(model)
}

/// As [`model`], before the last checks: the plain data and what had to be assumed.
///
/// # Errors
/// As [`model`].
pub fn spec(
    origin: &str,
    name: &str,
    value: &Value,
    quant_file: Option<(&str, &Value)>,
) -> Result<(ModelSpec, Vec<String>)> {
    let Some(outer) = value.as_object() else {
        return Err(Error::invalid(origin, "", value, "an object with the keys of a Hugging Face config.json"));
    };
    let inner = NESTED.iter().find_map(|key| Some((*key, outer.get(*key)?.as_object()?)));
    let prefix = inner.map(|(key, _)| format!("{key}.")).unwrap_or_default();
    let keys = match inner {
        Some((_, object)) => Keys { origin, prefix: &prefix, object, outer: Some(outer) },
        None => Keys { origin, prefix: "", object: outer, outer: None },
    };
    let mut import = Import::new(keys)?;
    if outer.contains_key("vision_config") || outer.contains_key("audio_config") {
        import.assumptions.push("only the text model is counted: towers for images and sound are left out".into());
    }
    let mut quant = quant::read(&keys, &mut import.assumptions)?;
    if let Some((file, value)) = quant_file {
        quant = quant::modelopt_file(file, value, &mut import.assumptions)?.or(quant);
    }
    let blocks = (0..import.layers).map(|layer| import.block(layer)).collect::<Result<Vec<Block>>>()?;
    let (blocks, layers) = fold(&blocks);
    let spec = ModelSpec {
        name: name.to_owned(),
        hidden: import.hidden,
        vocab: keys.need(&["vocab_size"])?,
        max_positions: import.max_positions()?,
        learned_positions: import.family == Family::Gpt2,
        tied_embeddings: keys
            .flag("tie_word_embeddings")?
            .unwrap_or(import.family.is_gemma() || import.family == Family::Gpt2),
        norm: import.norm(),
        mtp: import.mtp()?,
        quant,
        blocks,
        layers,
    };
    Ok((spec, import.assumptions))
}

/// The names of our checks in the words of the file: the first spelling that it uses.
fn hf_key(key: &'static str, config: &Value) -> &'static str {
    let words: &[&'static str] = match key {
        "hidden" => &["hidden_size", "n_embd", "d_model"],
        "vocab" => &["vocab_size"],
        "max_positions" => &["max_position_embeddings", "n_positions", "n_ctx"],
        "mtp" => &["num_nextn_predict_layers", "mtp_num_hidden_layers"],
        "layers" | "blocks" => &["num_hidden_layers", "n_layer"],
        "heads" => &["num_attention_heads", "n_head"],
        "kv_heads" => &["num_key_value_heads", "num_kv_heads"],
        "kv_lora" => &["kv_lora_rank"],
        "nope" => &["qk_nope_head_dim"],
        "v" => &["v_head_dim"],
        "ffn" => &["intermediate_size", "n_inner"],
        "experts" => &EXPERTS,
        "top_k" => &TOP_K,
        "groups" => &["n_group"],
        other => return other,
    };
    let objects = [Some(config), NESTED.iter().find_map(|key| config.get(*key))];
    let used = |word: &&'static str| objects.iter().flatten().any(|object| object.get(*word).is_some());
    words.iter().copied().find(used).unwrap_or(words[0])
}

/// Distinct blocks, and their order as repeated patterns.
fn fold(layers: &[Block]) -> (Vec<Block>, Vec<Run>) {
    let mut blocks: Vec<Block> = Vec::new();
    let order: Vec<usize> = layers
        .iter()
        .map(|block| {
            blocks.iter().position(|known| known == block).unwrap_or_else(|| {
                blocks.push(*block);
                blocks.len() - 1
            })
        })
        .collect();
    let mut runs = Vec::new();
    let mut rest = order.as_slice();
    while !rest.is_empty() {
        // The pattern that covers most of what is left, the shortest of them; patterns beyond 12 save no ink.
        let repeats = |len: usize| 1 + rest.chunks_exact(len).skip(1).take_while(|part| *part == &rest[..len]).count();
        let covers = |len: usize| if len == 1 || repeats(len) > 1 { len * repeats(len) } else { 0 };
        let best = (1..=rest.len().min(12)).rev().max_by_key(|len| covers(*len)).unwrap_or(1);
        let repeat = u32::try_from(repeats(best)).unwrap_or(u32::MAX);
        runs.push(Run { pattern: rest[..best].to_vec(), repeat });
        rest = &rest[best * repeats(best)..];
    }
    (blocks, runs)
}

/// One config while it is read.
struct Import<'a> {
    keys: Keys<'a>,
    family: Family,
    hidden: u32,
    layers: u32,
    kinds: Vec<Kind>,
    assumptions: Vec<String>,
}

impl<'a> Import<'a> {
    fn new(keys: Keys<'a>) -> Result<Self> {
        let mut assumptions = Vec::new();
        let family = family(&keys, &mut assumptions)?;
        let hidden = keys.need(&["hidden_size", "n_embd", "d_model"])?;
        let layers = keys.need(&["num_hidden_layers", "n_layer", "n_layers", "num_layers"])?;
        if layers > 10_000 {
            return Err(Error::invalid(keys.origin, keys.path("num_hidden_layers"), layers, "1 to 10000 layers"));
        }
        let mut import = Self { keys, family, hidden, layers, kinds: Vec::new(), assumptions };
        import.kinds = (0..layers).map(|layer| import.kind(layer)).collect::<Result<_>>()?;
        import.note_what_is_left_out()?;
        Ok(import)
    }

    fn note_what_is_left_out(&mut self) -> Result<()> {
        let (keys, family) = (self.keys, self.family);
        if keys.number(&["hidden_size_per_layer_input"])?.unwrap_or(0) > 0 {
            self.assumptions.push("embeddings per layer are left out".into());
        }
        if keys.number(&["num_kv_shared_layers"])?.unwrap_or(0) > 0 {
            self.assumptions.push("layers that share a KV cache are counted as if each had its own".into());
        }
        if family == Family::Minimax && keys.number(&["num_mtp_modules"])?.unwrap_or(0) > 0 {
            self.assumptions.push("prediction layers are left out: the published checkpoint has none".into());
        }
        if family == Family::Llama4 {
            self.assumptions.push("chunked attention is counted as a sliding window as long as the chunk".into());
        }
        Ok(())
    }

    fn max_positions(&mut self) -> Result<u32> {
        const OPEN: u32 = 1 << 20;
        let found = self.keys.size(&[
            "max_position_embeddings",
            "n_positions",
            "n_ctx",
            "max_sequence_length",
            "seq_length",
            "model_max_length",
        ])?;
        Ok(found.unwrap_or_else(|| {
            self.assumptions
                .push(format!("no `max_position_embeddings` is given: sequences up to {OPEN} tokens are accepted"));
            OPEN
        }))
    }

    fn norm(&self) -> Norm {
        let layer_norm = self.keys.first(&["layer_norm_epsilon", "layer_norm_eps"]).is_some();
        if self.family == Family::Gpt2 || (self.family == Family::Unknown && layer_norm) {
            Norm::Layer
        } else {
            Norm::Rms
        }
    }

    fn mtp(&self) -> Result<u32> {
        if self.family == Family::Minimax {
            return Ok(0);
        }
        let keys = ["num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers", "mtp_num_layers"];
        Ok(self.keys.number(&keys)?.unwrap_or(0))
    }

    /// What the layer attends with: `layer_types`, or the rule of the architecture.
    fn kind(&self, layer: u32) -> Result<Kind> {
        let keys = self.keys;
        let chunk = keys.size(&["attention_chunk_size"])?;
        let window = keys.number(&["sliding_window"])?.filter(|w| *w > 0);
        if let Some(types) = keys.texts("layer_types")? {
            let Some(word) = types.get(layer as usize) else {
                let allowed = format!("a list of the {} layers", self.layers);
                return Err(Error::invalid(keys.origin, keys.path("layer_types"), types.len(), allowed));
            };
            let sizeless = |key| Error::missing(keys.origin, keys.path(key), "write the tokens that a query sees");
            return match *word {
                "full_attention" | "attention" | "global_attention" => Ok(Kind::Full),
                "sliding_attention" | "local_attention" => {
                    window.map(Kind::Window).ok_or_else(|| sizeless("sliding_window"))
                }
                "chunked_attention" => chunk.map(Kind::Window).ok_or_else(|| sizeless("attention_chunk_size")),
                "linear_attention" => Ok(Kind::Linear),
                other => {
                    let allowed = "full_attention, sliding_attention, chunked_attention or linear_attention";
                    Err(Error::invalid(keys.origin, keys.path("layer_types"), other, allowed))
                }
            };
        }
        let sliding = |on: bool| window.filter(|_| on).map_or(Kind::Full, Kind::Window);
        Ok(match self.family {
            Family::QwenHybrid => {
                let every = keys.size(&["full_attention_interval"])?.unwrap_or(4);
                if (layer + 1).is_multiple_of(every) { Kind::Full } else { Kind::Linear }
            }
            Family::Llama4 => {
                let roped = match keys.numbers("no_rope_layers")?.filter(|list| !list.is_empty()) {
                    Some(list) => list.get(layer as usize).is_none_or(|on| *on != 0),
                    None => !(layer + 1).is_multiple_of(keys.size(&["no_rope_layer_interval"])?.unwrap_or(4)),
                };
                if roped { Kind::Window(chunk.unwrap_or(8192)) } else { Kind::Full }
            }
            Family::GptOss | Family::Gemma2 => sliding(layer.is_multiple_of(2)),
            Family::Gemma3 | Family::Gemma4 => {
                let every = keys.size(&["sliding_window_pattern", "_sliding_window_pattern"])?.unwrap_or(6);
                sliding(!(layer + 1).is_multiple_of(every))
            }
            Family::Qwen2 | Family::Qwen3 => {
                let from = keys.number(&["max_window_layers"])?.unwrap_or(0);
                sliding(keys.flag("use_sliding_window")? == Some(true) && layer >= from)
            }
            Family::Llama | Family::Mixtral | Family::Unknown => {
                let longest = keys.number(&["max_position_embeddings"])?;
                let shorter = window.is_some_and(|w| longest.is_none_or(|most| w < most));
                sliding(shorter && keys.flag("use_sliding_window")? != Some(false))
            }
            Family::Deepseek
            | Family::Glm4Moe
            | Family::Minimax
            | Family::Gemma
            | Family::NemotronH
            | Family::Gpt2
            | Family::Grok => Kind::Full,
        })
    }

    fn block(&self, layer: u32) -> Result<Block> {
        if self.family == Family::NemotronH {
            return self.nemotron(layer);
        }
        let kind = self.kinds[layer as usize];
        let mixer = match kind {
            Kind::Linear => Mixer::DeltaNet(self.delta_net()?),
            Kind::Full | Kind::Window(_) if self.keys.number(&["kv_lora_rank"])?.is_some() => {
                Mixer::Mla(self.mla(layer)?)
            }
            Kind::Full => Mixer::Gqa(self.gqa(None)?),
            Kind::Window(tokens) => Mixer::Gqa(self.gqa(Some(tokens))?),
        };
        let gemma_experts = self.family == Family::Gemma4 && self.keys.flag("enable_moe_block")? == Some(true);
        let mlp = if gemma_experts {
            Mlp { dense: Some(self.dense()?), moe: Some(self.moe()?) }
        } else if self.family != Family::Gemma4 && self.is_moe(layer)? {
            Mlp { dense: None, moe: Some(self.moe()?) }
        } else {
            Mlp { dense: Some(self.dense()?), moe: None }
        };
        let norms = if gemma_experts {
            7
        } else if matches!(self.family, Family::Grok | Family::Gemma2 | Family::Gemma3 | Family::Gemma4) {
            4
        } else {
            2
        };
        Ok(Block { mixer, mlp, norms })
    }

    fn heads(&self) -> Result<u32> {
        self.keys.need(&["num_attention_heads", "n_head", "n_heads"])
    }

    fn gqa(&self, window: Option<u32>) -> Result<Gqa> {
        let (keys, family) = (self.keys, self.family);
        let heads = self.heads()?;
        // Gemma 4's global layers have heads, widths and values of their own.
        let global = family == Family::Gemma4 && window.is_none();
        let common = keys.size(&["num_key_value_heads", "num_kv_heads", "n_head_kv"])?.unwrap_or(heads);
        let kv_heads = if global { keys.size(&["num_global_key_value_heads"])?.unwrap_or(common) } else { common };
        let head_dim = keys.size(&["head_dim", "attention_head_dim"])?.unwrap_or(self.hidden / heads);
        let head_dim = if global { keys.size(&["global_head_dim"])?.unwrap_or(head_dim) } else { head_dim };
        let biased = keys.flag("attention_bias")?;
        let asked = keys.flag("use_qk_norm")? == Some(true);
        let always = matches!(family, Family::Qwen3 | Family::QwenHybrid | Family::Gemma3 | Family::Gemma4);
        let qk_norm = if always || (asked && family == Family::Glm4Moe) {
            QkNorm::PerHead
        } else if asked && family == Family::Minimax {
            QkNorm::Full
        } else {
            QkNorm::None
        };
        let bias_by_nature = matches!(family, Family::GptOss | Family::Gpt2);
        Ok(Gqa {
            heads,
            kv_heads,
            head_dim,
            window,
            qkv_bias: family == Family::Qwen2 || biased.unwrap_or(bias_by_nature),
            out_bias: !matches!(family, Family::Qwen2 | Family::Glm4Moe) && biased.unwrap_or(bias_by_nature),
            qk_norm,
            output_gate: family == Family::QwenHybrid && keys.flag("attn_output_gate")? != Some(false),
            sinks: family == Family::GptOss,
            k_eq_v: global && keys.flag("attention_k_eq_v")? == Some(true),
        })
    }

    fn mla(&self, layer: u32) -> Result<Mla> {
        let keys = self.keys;
        let indexer = match keys.size(&["index_n_heads"])? {
            None => None,
            Some(heads) => {
                let word = keys.texts("indexer_types")?.and_then(|list| list.get(layer as usize).copied());
                Some(Indexer {
                    heads,
                    dim: keys.need(&["index_head_dim"])?,
                    top_k: keys.need(&["index_topk"])?,
                    reused: word == Some("shared"),
                })
            }
        };
        Ok(Mla {
            heads: self.heads()?,
            q_lora: keys.number(&["q_lora_rank"])?.unwrap_or(0),
            kv_lora: keys.need(&["kv_lora_rank"])?,
            nope: keys.need(&["qk_nope_head_dim"])?,
            rope: keys.need(&["qk_rope_head_dim"])?,
            v: keys.need(&["v_head_dim"])?,
            indexer,
        })
    }

    fn delta_net(&self) -> Result<DeltaNet> {
        let keys = self.keys;
        Ok(DeltaNet {
            key_heads: keys.need(&["linear_num_key_heads"])?,
            value_heads: keys.need(&["linear_num_value_heads"])?,
            key_dim: keys.need(&["linear_key_head_dim"])?,
            value_dim: keys.need(&["linear_value_head_dim"])?,
            conv: keys.size(&["linear_conv_kernel_dim"])?.unwrap_or(4),
        })
    }

    /// One mixer or one MLP a layer, as the letters of the pattern say.
    fn nemotron(&self, layer: u32) -> Result<Block> {
        let keys = self.keys;
        let letter = if let Some(words) = keys.texts("layers_block_type")? {
            words.get(layer as usize).copied()
        } else {
            keys.text(&["hybrid_override_pattern"])?.and_then(|p| p.get(layer as usize..=layer as usize))
        };
        let mlp = Mlp::default();
        let (mixer, mlp) = match letter {
            Some("M" | "mamba") => (Mixer::Mamba2(self.mamba()?), mlp),
            Some("*" | "attention") => (Mixer::Gqa(self.gqa(None)?), mlp),
            Some("-" | "mlp") => (Mixer::None {}, Mlp { dense: Some(self.dense()?), moe: None }),
            Some("E" | "moe") => (Mixer::None {}, Mlp { dense: None, moe: Some(self.moe()?) }),
            other => {
                let value = other.map_or_else(|| format!("no letter for layer {layer}"), str::to_owned);
                let allowed = format!("one of M, *, - and E for each of the {} layers", self.layers);
                return Err(Error::invalid(keys.origin, keys.path("hybrid_override_pattern"), value, allowed));
            }
        };
        Ok(Block { mixer, mlp, norms: 1 })
    }

    fn mamba(&self) -> Result<Mamba2> {
        let keys = self.keys;
        Ok(Mamba2 {
            heads: keys.need(&["mamba_num_heads"])?,
            head_dim: keys.need(&["mamba_head_dim"])?,
            groups: keys.need(&["n_groups"])?,
            state: keys.need(&["ssm_state_size"])?,
            conv: keys.size(&["conv_kernel"])?.unwrap_or(4),
        })
    }

    fn gated(&self) -> Result<bool> {
        let act = self.keys.text(&["hidden_act", "hidden_activation", "mlp_hidden_act", "activation_function"])?;
        let plain = act.is_some_and(|a| {
            let a = a.to_lowercase();
            !a.contains("glu") && (a.starts_with("gelu") || a.contains("relu"))
        });
        let by_nature = matches!(self.family, Family::Gpt2 | Family::NemotronH);
        Ok(!(by_nature || plain && self.family == Family::Unknown))
    }

    fn dense(&self) -> Result<DenseMlp> {
        let keys = self.keys;
        let ffn = if self.family == Family::Llama4 {
            keys.need_width(&["intermediate_size_mlp", "intermediate_size"])?
        } else if self.family == Family::Gpt2 {
            keys.size(&["n_inner", "intermediate_size"])?.unwrap_or(self.hidden.saturating_mul(4))
        } else {
            keys.need_width(&["intermediate_size", "ffn_hidden_size", "n_inner"])?
        };
        let bias = keys.flag("mlp_bias")?.unwrap_or(self.family == Family::Gpt2);
        Ok(DenseMlp { ffn, gated: self.gated()?, bias })
    }

    fn experts(&self) -> Result<Option<u32>> {
        Ok(self.keys.number(&EXPERTS)?.filter(|e| *e > 0))
    }

    /// Whether a layer has experts: leading dense layers, strides and lists, as each publisher writes them.
    fn is_moe(&self, layer: u32) -> Result<bool> {
        let keys = self.keys;
        if self.experts()?.is_none() || layer < keys.number(&["first_k_dense_replace"])?.unwrap_or(0) {
            return Ok(false);
        }
        if keys.first(&["moe_layer_freq"]).is_some_and(|(_, v)| v.is_array()) {
            let list = keys.numbers("moe_layer_freq")?.unwrap_or_default();
            return Ok(list.get(layer as usize).is_none_or(|on| *on != 0));
        }
        if !layer.is_multiple_of(keys.size(&["moe_layer_freq"])?.unwrap_or(1)) {
            return Ok(false);
        }
        if keys.numbers("mlp_only_layers")?.is_some_and(|list| list.contains(&layer)) {
            return Ok(false);
        }
        if let Some(list) = keys.numbers("moe_layers")?.filter(|list| !list.is_empty()) {
            return Ok(list.contains(&layer));
        }
        let step = keys.size(&["decoder_sparse_step", "interleave_moe_layer_step"])?.unwrap_or(1);
        Ok((layer + 1).is_multiple_of(step))
    }

    fn moe(&self) -> Result<Moe> {
        let (keys, family) = (self.keys, self.family);
        let experts = match self.experts()? {
            Some(experts) => experts,
            None => keys.need(&["num_experts", "n_routed_experts", "num_local_experts"])?,
        };
        let ffn = keys.need_width(&["moe_intermediate_size", "intermediate_size"])?;
        let by_nature = u32::from(family == Family::Llama4);
        let shared_count = keys.number(&["n_shared_experts", "num_shared_experts"])?.unwrap_or(by_nature);
        // Nemotron's width is of one shared expert, Qwen's of all.
        let one = keys.number(&["moe_shared_expert_intermediate_size"])?.unwrap_or(ffn);
        let shared_ffn = keys.number(&["shared_expert_intermediate_size"])?.unwrap_or(one.saturating_mul(shared_count));
        let noaux = keys.text(&["topk_method"])? == Some("noaux_tc");
        let lite = keys.text(&["model_type"])? == Some("glm4_moe_lite");
        Ok(Moe {
            experts,
            top_k: keys.need(&TOP_K)?,
            ffn,
            gated: self.gated()?,
            shared_ffn,
            shared_gate: matches!(family, Family::Qwen2 | Family::QwenHybrid) && shared_ffn > 0,
            bias: family == Family::GptOss,
            router_bias: noaux
                || lite
                || matches!(family, Family::Glm4Moe | Family::NemotronH)
                || (family == Family::Minimax && keys.flag("use_routing_bias")? != Some(false)),
            groups: keys.size(&["n_group"])?.unwrap_or(1),
            top_groups: keys.size(&["topk_group"])?.unwrap_or(1),
        })
    }
}

/// The family by `model_type`, else by the class; an unknown one is said.
fn family(keys: &Keys<'_>, assumptions: &mut Vec<String>) -> Result<Family> {
    let class = keys.texts("architectures")?.and_then(|list| list.first().copied());
    let outer = keys.outer.and_then(|map| map.get("model_type")).and_then(Value::as_str);
    let words: Vec<&str> = [keys.text(&["model_type"])?, class, outer].into_iter().flatten().collect();
    let known = words.iter().map(|word| Family::of(word)).find(|family| *family != Family::Unknown);
    if let Some(family) = known {
        return Ok(family);
    }
    let latent = keys.first(&["kv_lora_rank"]).is_some();
    let attention = if latent { "latent" } else { "grouped-query" };
    assumptions.push(match words.first() {
        Some(word) => {
            let word: String = word.chars().filter(|c| !c.is_control()).take(60).collect();
            format!("architecture `{word}` is unknown: read as a pre-norm transformer with {attention} attention")
        }
        None => format!("no `model_type` is given: read as a pre-norm transformer with {attention} attention"),
    });
    Ok(if latent { Family::Deepseek } else { Family::Unknown })
}
