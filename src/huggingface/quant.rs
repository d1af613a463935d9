//! Weight formats as checkpoints describe them: `quantization_config` and `NVIDIA`'s `hf_quant_config.json`.

use super::keys::Keys;
use crate::error::{Error, Result};
use crate::model::{Quant, QuantScope, WeightFormat};
use serde_json::{Map, Value};

/// Reads `quantization_config`; what cannot be told is told as an assumption.
pub(super) fn read(keys: &Keys<'_>, assumptions: &mut Vec<String>) -> Result<Option<Quant>> {
    let Some(map) = keys.object("quantization_config")? else { return Ok(None) };
    let prefix = keys.path("quantization_config.");
    let inner = Keys { origin: keys.origin, prefix: &prefix, object: map, outer: None };
    let method = inner.text(&["quant_method"])?.unwrap_or("modelopt").to_lowercase();
    let plain = plain_scope(&excluded(&inner)?);
    let quant = match method.as_str() {
        "fp8" | "fbgemm_fp8" | "deepspeedfp" => {
            let format =
                if inner.numbers("weight_block_size")?.is_some() { WeightFormat::Fp8Block } else { WeightFormat::Fp8 };
            Some(Quant { format, scope: plain })
        }
        "mxfp4" => Some(Quant { format: WeightFormat::Mxfp4, scope: QuantScope::RoutedExperts }),
        "awq" | "gptq" | "auto-round" | "awq_marlin" | "gptq_marlin" | "intel/auto-round" => {
            integer(inner.number(&["bits", "w_bit"])?.unwrap_or(4)).map(|format| Quant { format, scope: plain })
        }
        "compressed-tensors" => {
            group_format(&inner)?.map(|format| Quant { format, scope: packed_scope(&inner, plain, format) })
        }
        "modelopt" | "nvfp4" | "modelopt_fp4" => return modelopt(&inner, map, assumptions),
        "bitsandbytes" => {
            let format =
                if inner.flag("load_in_8bit")? == Some(true) { WeightFormat::Int8 } else { WeightFormat::Int4 };
            assumptions.push(format!("bitsandbytes weights are counted as {format}"));
            Some(Quant { format, scope: plain })
        }
        _ => None,
    };
    if quant.is_none() {
        assumptions.push(unknown(&format!("quantisation method `{method}`")));
    }
    Ok(quant)
}

/// Reads the file `NVIDIA`'s `ModelOpt` writes beside a config.
pub(super) fn modelopt_file(origin: &str, value: &Value, assumptions: &mut Vec<String>) -> Result<Option<Quant>> {
    let Some(map) = value.get("quantization").and_then(Value::as_object) else {
        return Err(Error::missing(origin, "quantization", "write an object with `quant_algo`"));
    };
    let keys = Keys { origin, prefix: "quantization.", object: map, outer: None };
    modelopt(&keys, map, assumptions)
}

fn modelopt(keys: &Keys<'_>, map: &Map<String, Value>, assumptions: &mut Vec<String>) -> Result<Option<Quant>> {
    let Some(algorithm) = keys.text(&["quant_algo"])? else {
        if map.get("quant_algo").is_none_or(Value::is_null) {
            assumptions.push("no `quant_algo` is given: weights are counted in 16 bits".into());
        }
        return Ok(None);
    };
    let format = match algorithm.to_uppercase().as_str() {
        "NVFP4" | "NVFP4_AWQ" | "W4A16_NVFP4" => WeightFormat::Nvfp4,
        "FP8" | "FP8_PER_CHANNEL_PER_TOKEN" => WeightFormat::Fp8,
        "FP8_PB_WO" | "FP8_BLOCK_SCALES" => WeightFormat::Fp8Block,
        "MXFP4" | "W4A8_MXFP4_FP8" => WeightFormat::Mxfp4,
        "W4A16_AWQ" | "W4A8_AWQ" | "INT4_AWQ" => WeightFormat::Int4,
        "W8A8_SQ_PER_CHANNEL" | "INT8_SQ" | "W8A16" => WeightFormat::Int8,
        _ => {
            assumptions.push(unknown(&format!("quantisation algorithm `{algorithm}`")));
            return Ok(None);
        }
    };
    Ok(Some(Quant { format, scope: plain_scope(&excluded(keys)?) }))
}

fn unknown(what: &str) -> String {
    format!("{what} is unknown: weights are counted in 16 bits")
}

/// Module patterns left in 16 bits, under any of the names that tools use.
fn excluded<'a>(keys: &Keys<'a>) -> Result<Vec<&'a str>> {
    let mut all = Vec::new();
    for key in ["modules_to_not_convert", "ignore", "exclude_modules", "ignored_layers"] {
        all.extend(keys.texts(key)?.unwrap_or_default());
    }
    Ok(all)
}

fn plain_scope(excluded: &[&str]) -> QuantScope {
    let attention = |name: &&str| name.contains("self_attn") || name.contains("self_attention");
    if excluded.iter().any(attention) { QuantScope::Mlps } else { QuantScope::Linears }
}

/// Kimi K2.5 leaves attention and shared experts alone: only the routed experts are packed.
fn packed_scope(keys: &Keys<'_>, plain: QuantScope, format: WeightFormat) -> QuantScope {
    let shared = excluded(keys).unwrap_or_default().iter().any(|name| name.contains("shared_expert"));
    let four_bits = matches!(format, WeightFormat::Int4 | WeightFormat::Nvfp4 | WeightFormat::Mxfp4);
    if plain == QuantScope::Mlps && shared && four_bits { QuantScope::RoutedExperts } else { plain }
}

const fn integer(bits: u32) -> Option<WeightFormat> {
    match bits {
        4 => Some(WeightFormat::Int4),
        8 => Some(WeightFormat::Int8),
        _ => None,
    }
}

/// The format of the first group of a compressed-tensors config.
fn group_format(keys: &Keys<'_>) -> Result<Option<WeightFormat>> {
    let Some(groups) = keys.object("config_groups")? else { return Ok(None) };
    let Some((name, weights)) =
        groups.iter().find_map(|(name, group)| Some((name, group.get("weights")?.as_object()?)))
    else {
        return Ok(None);
    };
    let prefix = keys.path(&format!("config_groups.{name}.weights."));
    let weights = Keys { origin: keys.origin, prefix: &prefix, object: weights, outer: None };
    let bits = weights.number(&["num_bits"])?.unwrap_or(16);
    let strategy = weights.text(&["strategy"])?.unwrap_or("tensor");
    Ok(match (weights.text(&["type"])?.unwrap_or("int"), bits) {
        ("int", bits) => integer(bits),
        ("float", 8) if strategy == "block" => Some(WeightFormat::Fp8Block),
        ("float", 8) => Some(WeightFormat::Fp8),
        ("float", 4) if weights.number(&["group_size"])? == Some(32) => Some(WeightFormat::Mxfp4),
        ("float", 4) => Some(WeightFormat::Nvfp4),
        _ => None,
    })
}
