//! Flags and keys that nobody knows and that are a slip away from a degree: a framework would refuse them, or worse, not.

use super::flags::Flags;
use super::keys::Keys;
use super::{CommandError, Source};
use crate::framework::Framework;

/// Names long enough that two letters more or less are a slip and no other name.
const LONG: usize = 16;

const MEGATRON: [&str; 8] = [
    "tensor-model-parallel-size",
    "pipeline-model-parallel-size",
    "context-parallel-size",
    "expert-model-parallel-size",
    "expert-tensor-parallel-size",
    "num-virtual-stages-per-pipeline-rank",
    "num-layers-per-virtual-pipeline-stage",
    "global-batch-size",
];
const BRIDGE: [&str; 6] = [
    "tensor-model-parallel-size",
    "pipeline-model-parallel-size",
    "context-parallel-size",
    "expert-model-parallel-size",
    "expert-tensor-parallel-size",
    "virtual-pipeline-model-parallel-size",
];
const TITAN: [&str; 7] = [
    "tensor-parallel-degree",
    "pipeline-parallel-degree",
    "context-parallel-degree",
    "expert-parallel-degree",
    "data-parallel-replicate-degree",
    "data-parallel-shard-degree",
    "pipeline-parallel-schedule",
];
const DEEPSPEED: [&str; 7] = [
    "tensor-model-parallel-size",
    "pipeline-model-parallel-size",
    "moe-expert-parallel-size",
    "train-batch-size",
    "train-micro-batch-size-per-gpu",
    "gradient-accumulation-steps",
    "zero-optimization",
];
const VLLM: [&str; 7] = [
    "tensor-parallel-size",
    "pipeline-parallel-size",
    "data-parallel-size",
    "data-parallel-size-local",
    "enable-expert-parallel",
    "decode-context-parallel-size",
    "prefill-context-parallel-size",
];
const SGLANG: [&str; 5] = [
    "tensor-parallel-size",
    "pipeline-parallel-size",
    "data-parallel-size",
    "expert-parallel-size",
    "enable-dp-attention",
];
const TRTLLM: [&str; 6] = [
    "tensor-parallel-size",
    "pipeline-parallel-size",
    "context-parallel-size",
    "moe-expert-parallel-size",
    "moe-tensor-parallel-size",
    "enable-attention-dp",
];

const fn known(framework: Framework) -> &'static [&'static str] {
    match framework {
        Framework::Megatron => &MEGATRON,
        Framework::Bridge => &BRIDGE,
        Framework::Torchtitan => &TITAN,
        Framework::Deepspeed => &DEEPSPEED,
        Framework::Vllm => &VLLM,
        Framework::Sglang => &SGLANG,
        Framework::Trtllm => &TRTLLM,
    }
}

/// The name that was meant, if this one is a slip.
fn meant(name: &str, framework: Framework) -> Option<&'static str> {
    let known = known(framework);
    // The last part alone is compared: torchtitan's flags carry their section.
    let name = name.trim_start_matches('-');
    let name = name.rsplit('.').next().unwrap_or(name).replace('_', "-");
    if name.len() + 2 < LONG || known.contains(&name.as_str()) {
        return None;
    }
    known.iter().copied().find(|k| k.len() >= LONG && strsim::osa_distance(&name, k) <= 2)
}

/// Refuses the first slip.
pub(super) fn refuse(source: &Source<'_>, framework: Framework) -> Result<(), CommandError> {
    flags(&source.flags, framework)?;
    let keyed = matches!(framework, Framework::Bridge | Framework::Trtllm);
    if keyed || (framework == Framework::Torchtitan && source.commands.is_empty()) {
        let keys = Keys::scan(source.text, source.script);
        for (name, line) in keys.names() {
            if let Some(meant) = meant(name, framework) {
                return Err(slip(line, name, &meant.replace('-', "_")));
            }
        }
    }
    Ok(())
}

fn flags(flags: &Flags, framework: Framework) -> Result<(), CommandError> {
    for (name, written, line) in flags.names() {
        if let Some(meant) = meant(name, framework) {
            let section = name.rsplit_once('.').map_or("--".to_owned(), |(section, _)| format!("{section}."));
            return Err(slip(line, written, &format!("{section}{meant}")));
        }
    }
    Ok(())
}

/// Refuses the first slip among the keys of a DeepSpeed configuration.
pub(super) fn refuse_json<'a>(
    names: impl Iterator<Item = &'a String>,
    line: impl Fn(&str) -> usize,
) -> Result<(), CommandError> {
    for name in names {
        if let Some(meant) = meant(name, Framework::Deepspeed) {
            return Err(slip(line(name), name, &meant.replace('-', "_")));
        }
    }
    Ok(())
}

fn slip(line: usize, written: &str, meant: &str) -> CommandError {
    CommandError::new(line, "flag or key", written, format!("{meant}, if that was meant"))
}
