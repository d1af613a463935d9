//! Models: built-in files, our own compact form, and Hugging Face configs.

use super::{answers, list, lookup, read};
use crate::error::{Error, Locate, Result, nearest};
use crate::huggingface;
use crate::model::{Block, Model, ModelSpec, Norm, Quant, Run};
use serde::Deserialize;
use serde_json::Value;
use std::path::Path;
use std::sync::{LazyLock, OnceLock};

/// A file of `configs/models`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelFile {
    name: String,
    #[serde(default)]
    aliases: Vec<String>,
    source: Vec<String>,
    published_params: Option<u64>,
    note: Option<String>,
    hidden: u32,
    vocab: u32,
    max_positions: u32,
    #[serde(default)]
    learned_positions: bool,
    tied_embeddings: bool,
    norm: Norm,
    #[serde(default)]
    mtp: u32,
    quant: Option<Quant>,
    blocks: Vec<Block>,
    layers: Vec<Run>,
}

impl ModelFile {
    fn check(self, origin: &str) -> Result<(Model, Facts)> {
        let spec = ModelSpec {
            name: self.name,
            hidden: self.hidden,
            vocab: self.vocab,
            max_positions: self.max_positions,
            learned_positions: self.learned_positions,
            tied_embeddings: self.tied_embeddings,
            norm: self.norm,
            mtp: self.mtp,
            quant: self.quant,
            blocks: self.blocks,
            layers: self.layers,
        };
        let mut model = Model::new(spec).at(origin)?;
        model.published_params = self.published_params;
        model.source = self.source;
        Ok((model, Facts { aliases: self.aliases, note: self.note }))
    }
}

/// What a file says beside the model.
#[derive(Debug)]
struct Facts {
    aliases: Vec<String>,
    note: Option<String>,
}

/// One built-in model; its file is parsed when something of it is first asked for.
#[derive(Debug)]
pub struct ModelEntry {
    name: &'static str,
    text: &'static str,
    loaded: OnceLock<(Model, Facts)>,
}

impl ModelEntry {
    fn load(&self) -> &(Model, Facts) {
        self.loaded.get_or_init(|| {
            let origin = format!("configs/models/{}.json", self.name);
            read::typed::<ModelFile>(&origin, self.text)
                .and_then(|file| file.check(&origin))
                .expect("a test reads every built-in model")
        })
    }

    /// The name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.load().0
    }

    /// Other names it answers to.
    #[must_use]
    pub fn aliases(&self) -> &[String] {
        &self.load().1.aliases
    }

    /// What a reader should know about its parameter count.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.load().1.note.as_deref()
    }

    /// Where the shape comes from.
    #[must_use]
    pub fn source(&self) -> &[String] {
        &self.model().source
    }

    /// Parameter count its publisher states.
    #[must_use]
    pub fn published_params(&self) -> Option<u64> {
        self.model().published_params
    }
}

/// Every built-in model, by name.
pub(super) fn all() -> &'static [ModelEntry] {
    static MODELS: LazyLock<Vec<ModelEntry>> = LazyLock::new(|| {
        list::MODELS.iter().map(|&(name, text)| ModelEntry { name, text, loaded: OnceLock::new() }).collect()
    });
    &MODELS
}

/// A built-in name, or a path.
pub(super) fn find(asked: &str) -> Result<Model> {
    let asked = asked.trim();
    if let Some((name, _)) = lookup(list::MODELS, asked) {
        let entry = all().iter().find(|entry| entry.name == name).expect("the list has the name");
        return Ok(entry.model().clone());
    }
    let path = Path::new(asked);
    let like_a_path = asked.ends_with(".json") || asked.starts_with(['.', '/', '~']);
    if !asked.is_empty() && (like_a_path || path.exists()) {
        return from_path(path);
    }
    let known = answers(list::MODELS);
    let alike = known.iter().map(String::as_str).filter(|k| k.contains('/') == asked.contains('/'));
    let mut suggestions = nearest(asked, alike);
    if suggestions.is_empty() {
        suggestions = nearest(asked, known.iter().map(String::as_str));
    }
    let hint = format!("`list models` shows all {}; a path reads a config.json", list::MODELS.len());
    Err(Error::UnknownName { what: "model", name: asked.to_owned(), suggestions, hint })
}

fn from_path(path: &Path) -> Result<Model> {
    let file = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    let origin = file.display().to_string();
    let value = read::value(&origin, &read::text(&file)?)?;
    let beside = file.with_file_name("hf_quant_config.json");
    let quant = if beside.is_file() {
        let origin = beside.display().to_string();
        Some((read::value(&origin, &read::text(&beside)?)?, origin))
    } else {
        None
    };
    let stem = if file.file_name().is_some_and(|name| name == "config.json") {
        file.parent().and_then(Path::file_name)
    } else {
        file.file_stem()
    };
    let name = stem.map_or_else(|| model_type(&value), |s| s.to_string_lossy().into_owned());
    from_json(&origin, &name, &value, quant.as_ref().map(|(value, origin)| (origin.as_str(), value)))
}

/// A name for a config that has none.
fn model_type(value: &Value) -> String {
    let text = |key| value.get(key).and_then(Value::as_str).filter(|t| !t.is_empty());
    text("name").or(text("_name_or_path")).or(text("model_type")).unwrap_or("custom").to_owned()
}

/// An object: our own form when it lists blocks and layers, else a Hugging Face config.
pub(super) fn from_value(origin: &str, value: &Value) -> Result<Model> {
    match value {
        Value::String(name) => find(name),
        Value::Object(_) => from_json(origin, &model_type(value), value, None),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            let allowed = "the name of a model, or an object with the keys of a Hugging Face config.json";
            Err(Error::invalid(origin, "model", value, allowed))
        }
    }
}

fn from_json(origin: &str, name: &str, value: &Value, quant: Option<(&str, &Value)>) -> Result<Model> {
    if value.get("blocks").is_some() && value.get("layers").is_some() {
        return read::typed_value::<ModelFile>(origin, value)?.check(origin).map(|(model, _)| model);
    }
    huggingface::model(origin, name, value, quant)
}
