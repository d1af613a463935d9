//! The built-in models, GPUs and clusters, and the files people write in the same form.
//!
//! ```
//! let model = meshwright::catalog::model("deepseek-ai/DeepSeek-V3")?;
//! let cluster = meshwright::catalog::cluster("16xH200")?;
//! assert_eq!((model.layers(), cluster.nodes, cluster.gpus_per_node), (61, 2, 8));
//! let error = meshwright::catalog::model("deepseek-v33").expect_err("a refusal").to_string();
//! assert!(error.contains("did you mean `deepseek-v3"), "{error}");
//! # Ok::<(), meshwright::error::Error>(())
//! ```

mod clusters;
mod gpu;
mod list;
mod model;
pub mod read;
#[cfg(test)]
mod tests;

pub use model::ModelEntry;

use crate::cluster::{Cluster, Gpu};
use crate::error::{Error, Result};
use crate::estimate::band::{Residual, Residuals};
use crate::model::Model;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

/// The model of a built-in name or alias, a `config.json`, a folder that holds one, or a file in our own form.
///
/// Case does not matter, and the publisher may be left out or be another.
///
/// # Errors
/// When the name is unknown, or the file cannot be read or is wrong.
pub fn model(name_or_path: &str) -> Result<Model> {
    model::find(name_or_path)
}

/// The model of a value in a job file: a name, or an object with the keys of a Hugging Face `config.json`.
///
/// # Errors
/// As [`model()`].
pub fn model_from_value(origin: &str, value: &Value) -> Result<Model> {
    model::from_value(origin, value)
}

/// What measured runs of each kind were off by, from which error bands are read: `configs/validation/residuals.json`, as
/// `validate --residuals` writes it.
#[must_use]
pub fn residuals() -> &'static Residuals {
    static TABLE: LazyLock<Residuals> = LazyLock::new(|| {
        let text = include_str!("../../configs/validation/residuals.json");
        let rows: BTreeMap<String, (u32, f64)> =
            read::typed("configs/validation/residuals.json", text).expect("a built-in file is right; tests read it");
        rows.into_iter().map(|(kind, (rows, off))| (kind, Residual { rows, off })).collect()
    });
    &TABLE
}

/// The GPU of a built-in name or alias, or of a file.
///
/// # Errors
/// When the name is unknown, or the file cannot be read or is wrong.
pub fn gpu(name: &str) -> Result<Gpu> {
    let name = name.trim();
    if let Some((name, text)) = lookup(list::GPUS, name) {
        return built_in_gpu(name, text);
    }
    if name.to_lowercase().ends_with(".json") {
        return gpu::parse(name, &read::text(Path::new(name))?)?.check(name, &sibling);
    }
    let known = answers(list::GPUS);
    let hint = format!("`list gpus` shows all {}; a path reads a file", list::GPUS.len());
    Err(Error::unknown("gpu", name, known.iter().map(String::as_str), hint))
}

fn built_in_gpu(name: &str, text: &str) -> Result<Gpu> {
    built_in_gpu_entry(name, text).map(|entry| entry.gpu)
}

fn built_in_gpu_entry(name: &str, text: &str) -> Result<GpuEntry> {
    let origin = format!("configs/gpus/{name}.json");
    let file = gpu::parse(&origin, text)?;
    let aliases = file.aliases.clone();
    Ok(GpuEntry { gpu: file.check(&origin, &sibling)?, aliases })
}

/// The GPU that lends its curves: one with curves of its own, so that borrowing ends after one step.
fn sibling(name: &str) -> Result<Gpu> {
    let Some((file, text)) = lookup(list::GPUS, name) else {
        return gpu(name);
    };
    let origin = format!("configs/gpus/{file}.json");
    let refuse = |other: &str| Err(Error::invalid(&origin, "efficiency_like", other, "a GPU with curves of its own"));
    gpu::parse(&origin, text)?.check(&origin, &refuse)
}

/// The cluster of a text: `16xH100`, `2x8xH100` (nodes x GPUs of a node), a built-in name (`dgx-h100`, `4xdgx-h100` for four
/// nodes, `2xgb200-nvl72` for two racks), or a file.
///
/// GPUs that do not fill whole nodes are dealt evenly: 12 GPUs are two nodes of six.
///
/// # Errors
/// When a count or name is wrong, or the file cannot be read or is wrong.
pub fn cluster(spec: &str) -> Result<Cluster> {
    clusters::parse(spec)
}

/// The cluster of a value in a job file: a text as for [`cluster()`], or an object with a `gpu` and any keys of a cluster
/// file.
///
/// # Errors
/// As [`cluster()`].
pub fn cluster_from_value(origin: &str, value: &Value) -> Result<Cluster> {
    let name = value.get("gpu").and_then(Value::as_str).unwrap_or("custom");
    clusters::from_value(origin, name, value)
}

/// Every built-in model, by name; each file is parsed when it is first asked for.
#[must_use]
pub fn models() -> &'static [ModelEntry] {
    model::all()
}

/// A built-in GPU with its other names.
#[derive(Debug)]
pub struct GpuEntry {
    /// The GPU.
    pub gpu: Gpu,
    /// Other names it answers to.
    pub aliases: Vec<String>,
}

/// Every built-in GPU, by name.
#[must_use]
pub fn gpus() -> &'static [GpuEntry] {
    static GPUS: LazyLock<Vec<GpuEntry>> = LazyLock::new(|| {
        let read = |&(name, text): &(&'static str, &'static str)| {
            built_in_gpu_entry(name, text).expect("a test reads every built-in GPU")
        };
        list::GPUS.iter().map(read).collect()
    });
    &GPUS
}

/// A built-in cluster with its other names.
#[derive(Debug)]
pub struct ClusterEntry {
    /// The cluster, with as many nodes as its file says.
    pub cluster: Cluster,
    /// Other names it answers to.
    pub aliases: Vec<String>,
    /// Where its facts come from.
    pub source: Vec<String>,
}

/// Every built-in cluster, by name.
#[must_use]
pub fn clusters() -> &'static [ClusterEntry] {
    static CLUSTERS: LazyLock<Vec<ClusterEntry>> = LazyLock::new(|| {
        let read = |&(name, text): &(&'static str, &'static str)| {
            clusters::built_in(name, text).expect("a test reads every built-in cluster")
        };
        list::CLUSTERS.iter().map(read).collect()
    });
    &CLUSTERS
}

/// The first keys of a built-in file.
#[derive(Debug, Deserialize)]
struct Head {
    #[serde(skip)]
    name: &'static str,
    #[serde(default)]
    aliases: Vec<String>,
}

fn head(name: &'static str, text: &str) -> Head {
    let head: Head = serde_json::from_str(text).expect("a test reads every built-in file");
    Head { name, ..head }
}

/// Every name and alias of a list.
fn answers(files: &'static [(&'static str, &'static str)]) -> Vec<String> {
    files
        .iter()
        .flat_map(|&(name, text)| {
            let head = head(name, text);
            head.aliases.into_iter().chain([head.name.to_owned()])
        })
        .collect()
}

/// The file of a name or alias. Only files that hold the word at all are parsed.
fn lookup(files: &'static [(&'static str, &'static str)], asked: &str) -> Option<(&'static str, &'static str)> {
    let asked = asked.trim().to_lowercase();
    let last = asked.rsplit('/').next().filter(|last| !last.is_empty())?;
    if asked.matches('/').count() > 1 || asked.starts_with(['.', '/', '~']) {
        return None;
    }
    if let Some(found) = files.iter().find(|(name, _)| *name == asked) {
        return Some(*found);
    }
    let needle = format!("{last}\"");
    let candidates: Vec<_> = files
        .iter()
        .filter(|(_, text)| text.to_lowercase().contains(&needle))
        .map(|&(name, text)| (name, text, head(name, text).aliases))
        .collect();
    let find = |same: &dyn Fn(&str) -> bool| {
        candidates.iter().find(|(name, _, aliases)| same(name) || aliases.iter().any(|alias| same(alias)))
    };
    let tail = |alias: &str| alias.rsplit('/').next().is_some_and(|t| t.eq_ignore_ascii_case(last));
    find(&|alias| alias.eq_ignore_ascii_case(&asked)).or_else(|| find(&tail)).map(|(name, text, _)| (*name, *text))
}
