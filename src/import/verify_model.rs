//! The model behind a launch script: named, spelled out in its flags, or in part.

use super::command::{ModelHints, ReadCommand};
use super::verify::Given;
use crate::catalog;
use crate::framework::Framework;
use crate::model::{Block, DenseMlp, Gqa, Mixer, Mla, Mlp, Model, ModelSpec, Moe, Norm, Run};
use crate::plan::Draft;
use crate::verify::Finding;
use std::path::Path;

/// How much of the model is known.
#[derive(Debug)]
pub(super) enum Shape {
    /// All of it.
    Known(Model),
    /// What the rules ask about.
    Spelled(Model),
    /// Some numbers; the others were chosen so that no rule can be broken by them.
    Part(Model),
    /// Nothing.
    Unknown,
}

/// Finds or builds the model.
pub(super) fn shape(read: &ReadCommand, given: &Given, findings: &mut Vec<Finding>) -> Shape {
    if let Some(model) = &given.model {
        findings.extend(differences(&read.model, model));
        return Shape::Known(model.clone());
    }
    if let Some(name) = &read.model.name {
        if let Some(model) = named(name) {
            findings.extend(differences(&read.model, &model));
            return Shape::Known(model);
        }
        if read.framework.serves() {
            let message =
                format!("the model `{name}` is not known here, so only degrees are checked; name one with --model");
            findings.push(Finding::note("model", message));
        }
    }
    spelled(read)
}

/// A model of the catalog; a script does not make us read files.
fn named(name: &str) -> Option<Model> {
    let known = |name: &str| catalog::model(name).ok().filter(|_| !Path::new(name).exists());
    known(name).or_else(|| {
        // Recipes are called `qwen3_30b_a3b_pretrain_config`, files `/models/Qwen3-8B`.
        let last = name.trim_end_matches('/').rsplit('/').next().unwrap_or(name);
        let recipe = last.split("_pretrain").next().unwrap_or(last).trim_end_matches("_config").replace('_', "-");
        known(last).or_else(|| known(&recipe))
    })
}

/// Flags that contradict the model that is named.
fn differences(hints: &ModelHints, model: &Model) -> Vec<Finding> {
    let moe = model.moe();
    let pairs = [
        ("layers", hints.layers, Some(model.layers())),
        ("hidden size", hints.hidden, Some(model.spec().hidden)),
        ("attention heads", hints.heads, Some(model.heads())),
        ("experts", hints.experts, Some(moe.map_or(0, |moe| moe.experts))),
    ];
    let differ = |(what, said, own): (&str, Option<u32>, Option<u32>)| {
        let (said, own) = (said?, own?);
        let message = format!("the script says {said} {what}, and {} has {own}", model.name());
        let found = Finding::violation("model", message);
        let numbers = (Some(f64::from(said)), Some(f64::from(own)));
        (said != own).then_some(Finding { claimed: numbers.0, actual: numbers.1, ..found })
    };
    pairs.into_iter().filter_map(differ).collect()
}

/// A model of the flags' numbers.
fn spelled(read: &ReadCommand) -> Shape {
    let h = &read.model;
    if h.layers.is_none() && h.heads.is_none() && h.experts.is_none() && h.hidden.is_none() {
        return Shape::Unknown;
    }
    let whole = h.layers.is_some() && h.heads.is_some() && h.hidden.is_some();
    match build(read, h) {
        Some(model) if whole => Shape::Spelled(model),
        Some(model) => Shape::Part(model),
        None => Shape::Unknown,
    }
}

fn build(read: &ReadCommand, h: &ModelHints) -> Option<Model> {
    let d = &read.draft;
    let one = |degree: Option<u32>| degree.unwrap_or(1).max(1);
    // A number nobody wrote is one that every degree of the plan divides.
    let even = one(d.tp).checked_mul(one(d.cp))?.checked_mul(one(d.etp))?.checked_mul(128)?.min(1 << 20);
    let heads = h.heads.unwrap_or(even);
    let hidden = h.hidden.unwrap_or(heads.checked_mul(8)?);
    let stages = one(d.pp).checked_mul(d.knobs.vpp.max(1))?;
    let layers = h.layers.unwrap_or(stages);
    if layers > 1 << 16 {
        return None;
    }
    let mixer = match h.kv_lora {
        Some(kv_lora) => Mixer::Mla(Mla { heads, q_lora: 0, kv_lora, nope: 128, rope: 64, v: 128, indexer: None }),
        None => {
            let head_dim = h.head_dim.unwrap_or((hidden / heads).max(1));
            Mixer::Gqa(Gqa::plain(heads, h.kv_heads.unwrap_or(heads), head_dim))
        }
    };
    // Megatron's own width when none is given.
    let usual = if h.gated { (hidden.checked_mul(8)? / 3 / 64).max(1) * 64 } else { hidden.checked_mul(4)? };
    let width = h.ffn.unwrap_or(if h.hidden.is_some() && read.framework == Framework::Megatron { usual } else { even });
    let dense = Mlp { dense: Some(DenseMlp { ffn: width, gated: h.gated, bias: h.bias }), moe: None };
    // Only a whole command's silence about experts means that there are none.
    let whole = h.layers.is_some() && h.heads.is_some() && h.hidden.is_some();
    let experts = h.experts.or(Some(one(d.ep)).filter(|ep| *ep > 1 && !whole));
    let sparse = experts.map(|experts| Mlp {
        dense: None,
        moe: Some(Moe {
            experts,
            top_k: h.top_k.unwrap_or(1).min(experts),
            ffn: h.expert_ffn.unwrap_or(width),
            gated: h.gated,
            shared_ffn: h.shared_ffn.unwrap_or(0),
            shared_gate: false,
            // Only a whole command's silence about biases means that it has them.
            bias: h.bias && whole,
            router_bias: false,
            groups: 1,
            top_groups: 1,
        }),
    });
    let block = |mlp: Mlp| Block { mixer, mlp, norms: 2 };
    let (blocks, runs) = match sparse {
        None => (vec![block(dense)], vec![Run { pattern: vec![0], repeat: layers }]),
        Some(sparse) => match dense_first(h.moe_layers.as_deref(), layers) {
            0 => (vec![block(sparse)], vec![Run { pattern: vec![0], repeat: layers }]),
            first => (
                vec![block(dense), block(sparse)],
                vec![Run { pattern: vec![0], repeat: first }, Run { pattern: vec![1], repeat: layers - first }],
            ),
        },
    };
    Model::new(ModelSpec {
        name: "the script's model".into(),
        hidden,
        vocab: h.vocab.unwrap_or(1 << 17),
        max_positions: h.max_positions.unwrap_or(1 << 26),
        learned_positions: false,
        tied_embeddings: false,
        norm: Norm::Rms,
        mtp: 0,
        quant: None,
        blocks,
        layers: runs,
    })
    .ok()
}

/// Dense layers of a model with experts, out of `1`, `2` or `([0]*3+[1]*58)`; where they stand matters to no rule.
fn dense_first(pattern: Option<&str>, layers: u32) -> u32 {
    let Some(pattern) = pattern else { return 0 };
    let dense = if let Ok(every) = pattern.parse::<u32>() {
        layers - layers.div_ceil(every.max(1))
    } else {
        pattern
            .split('+')
            .filter_map(|part| part.split_once("[0]*"))
            .filter_map(|(_, count)| count.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u32>().ok())
            .fold(0_u32, u32::saturating_add)
    };
    dense.min(layers.saturating_sub(1))
}

/// The model as the rules on stages count it: with embedding and output where the script counts them as layers, and with even
/// stages where it writes out a layout, which is not read.
pub(super) fn as_counted(model: &Model, read: &ReadCommand, draft: &Draft) -> Model {
    let stages = draft.pp.unwrap_or(1).max(1).saturating_mul(draft.knobs.vpp.max(1));
    let layers = model.layers();
    let more = if read.train.layout {
        layers.div_ceil(stages).saturating_mul(stages).saturating_sub(layers)
    } else {
        read.train.counted
    };
    if more == 0 || more > 1 << 12 {
        return model.clone();
    }
    let mut spec = model.spec().clone();
    let last = spec.layers.last().and_then(|run| run.pattern.last()).copied().unwrap_or(0);
    spec.layers.push(Run { pattern: vec![last], repeat: more });
    Model::new(spec).unwrap_or_else(|_| model.clone())
}
