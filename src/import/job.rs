//! The job file, and each line of a batch: model, cluster, workload, framework, plan.

use crate::catalog;
use crate::cluster::{Cluster, Gpu};
use crate::error::{Error, Locate, Result, nearest};
use crate::framework::Framework;
use crate::job::{Arrivals, GradDtype, Job, KvFormat, Precision, Release, Serve, Train, Workload};
use crate::mesh::Convention;
use crate::model::{Model, Quant, QuantScope, WeightFormat};
use crate::plan::{Draft, Value as PlanValue};
use crate::units::{Seconds, UsdPerHour};
use serde::Deserialize;
use serde_json::Value;

/// A job as written, every part optional so that flags can fill or replace it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobFile {
    /// Echoed in the result.
    #[serde(default)]
    pub id: Option<Value>,
    /// A name, a path, or an object with the keys of a `config.json`.
    #[serde(default)]
    pub model: Option<Value>,
    /// A name, a path, `16xH100`, or an object.
    #[serde(default)]
    pub cluster: Option<Value>,
    /// Training.
    #[serde(default)]
    pub train: Option<TrainFile>,
    /// Serving.
    #[serde(default)]
    pub serve: Option<ServeFile>,
    /// The framework whose rules hold.
    #[serde(default)]
    pub framework: Option<String>,
    /// The convention the plan is written in.
    #[serde(default)]
    pub convention: Option<String>,
    /// The plan, as text or as an object.
    #[serde(default)]
    pub plan: Option<Value>,
    /// Dollars per GPU-hour, as in `$2.50/h`.
    #[serde(default)]
    pub gpu_price: Option<String>,
}

/// The training part.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainFile {
    /// Tokens of a sequence; 4096 unless said.
    #[serde(default)]
    pub seq_len: Option<u32>,
    /// Sequences of a step; 512 unless said.
    #[serde(default)]
    pub global_batch: Option<u32>,
    /// `bf16`, `fp16`, `fp8`, `mxfp8`, `nvfp4`.
    #[serde(default)]
    pub precision: Option<String>,
    /// `adam`.
    #[serde(default)]
    pub optimizer: Option<String>,
    /// `fp32` or `bf16`.
    #[serde(default)]
    pub grad_dtype: Option<String>,
    /// Load of the fullest expert rank over the mean.
    #[serde(default)]
    pub moe_balance: Option<f64>,
    /// Multi-token prediction layers trained on top.
    #[serde(default)]
    pub mtp_layers: Option<u32>,
}

/// The serving part.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServeFile {
    /// Input tokens: a number, `mean,p50,p95` (text, list or object), or the path of a histogram; 4096 unless said.
    #[serde(default)]
    pub isl: Option<Value>,
    /// Output tokens, likewise; 1024 unless said.
    #[serde(default)]
    pub osl: Option<Value>,
    /// Requests a second, all GPUs together, instead of `concurrency`.
    #[serde(default)]
    pub rate: Option<f64>,
    /// What of the latencies the targets hold for: `mean`, `p50`, `p90`, `p95`, `p99`.
    #[serde(default)]
    pub percentile: Option<String>,
    /// Requests in flight on the whole plan; 64 unless said, or as many as the targets allow when those are given.
    #[serde(default)]
    pub concurrency: Option<u32>,
    /// Weight format; the checkpoint's own unless said.
    #[serde(default)]
    pub weights: Option<String>,
    /// `bf16` or `fp8`.
    #[serde(default)]
    pub kv_cache: Option<String>,
    /// `steady`, `burst10x` or `poisson`.
    #[serde(default)]
    pub arrivals: Option<String>,
    /// Target in milliseconds.
    #[serde(default)]
    pub ttft_ms: Option<f64>,
    /// Target in milliseconds.
    #[serde(default)]
    pub tpot_ms: Option<f64>,
    /// Speculative tokens that a decode step drafts; 0 unless said.
    #[serde(default)]
    pub mtp: Option<u32>,
    /// How often one is taken; 0.8 unless said, which is a guess.
    #[serde(default)]
    pub mtp_acceptance: Option<f64>,
    /// Share of input tokens in the prefix cache.
    #[serde(default)]
    pub prefix_hit: Option<f64>,
    /// Share of the GPU's memory the engine may take.
    #[serde(default)]
    pub memory_fraction: Option<f64>,
    /// The engine's version: what its release does by itself is priced where it matters.
    #[serde(default)]
    pub engine_version: Option<String>,
}

/// A job that can be worked on.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadJob {
    /// Echoed.
    pub id: Option<Value>,
    /// The checked triple.
    pub job: Job,
    /// The framework whose rules hold.
    pub framework: Option<Framework>,
    /// The convention of plans.
    pub convention: Convention,
    /// The plan, when one was written.
    pub draft: Option<Draft>,
}

impl JobFile {
    /// Parses JSON text.
    ///
    /// # Errors
    /// When it is not JSON, or a key is unknown or of the wrong type.
    pub fn parse(origin: &str, text: &str) -> Result<Self> {
        let mut json = serde_json::Deserializer::from_str(text);
        let file: Self = serde_path_to_error::deserialize(&mut json)
            .map_err(|e| Error::parse(origin, e.path().to_string(), e.inner()))?;
        json.end().map_err(|e| Error::parse(origin, "", e))?;
        Ok(file)
    }

    /// Checks every part and joins them.
    ///
    /// # Errors
    /// Names the file, the key, the value and what is allowed.
    pub fn read(self, origin: &str) -> Result<ReadJob> {
        let model = match &self.model {
            None => return Err(Error::missing(origin, "model", "a built-in name, a path, or a config.json object")),
            Some(Value::String(name)) => catalog::model(name)?,
            Some(value @ Value::Object(_)) => catalog::model_from_value(&format!("{origin}: model"), value)?,
            Some(other) => {
                let allowed = "a built-in name, a path, or a config.json object";
                return Err(Error::invalid(origin, "model", other, allowed));
            }
        };
        let mut cluster = match &self.cluster {
            None => {
                return Err(Error::missing(origin, "cluster", "as in `16xH100`, a built-in name, a path or an object"));
            }
            Some(Value::String(name)) => catalog::cluster(name)?,
            Some(value @ Value::Object(_)) => catalog::cluster_from_value(&format!("{origin}: cluster"), value)?,
            Some(other) => {
                let allowed = "text as in `16xH100`, a built-in name, a path, or an object";
                return Err(Error::invalid(origin, "cluster", other, allowed));
            }
        };
        if let Some(price) = &self.gpu_price {
            cluster.gpu.price = Some(UsdPerHour::parse(price).at_key(origin, "gpu_price")?);
        }
        let framework = self.framework.as_deref().map(|name| framework(origin, name)).transpose()?;
        let named = self.convention.as_deref().map(|name| convention(origin, name)).transpose()?;
        let convention = named.or(framework.map(Framework::convention)).unwrap_or_default();
        // A convention is a way of naming; only a named framework's rules hold. Its engines still tell serving from training.
        let engine = framework.or(Framework::of(convention));
        let workload = workload(origin, &model, &cluster.gpu, engine, self.train.as_ref(), self.serve.as_ref())?;
        check_cluster(origin, &cluster)?;
        if let Some(framework) = framework
            && framework.serves() != matches!(workload, Workload::Serve(_))
        {
            let (does, allowed) = if framework.serves() { ("serves", "serve") } else { ("trains", "train") };
            let allowed = format!("{framework} {does}: give `{allowed}`");
            return Err(Error::invalid(origin, "framework", framework.name(), allowed));
        }
        let job = Job::new(model, cluster, workload).at(origin)?;
        let draft = self.plan.as_ref().map(|plan| draft(origin, convention, plan)).transpose()?;
        Ok(ReadJob { id: self.id, job, framework, convention, draft })
    }
}

fn check_cluster(origin: &str, cluster: &Cluster) -> Result<()> {
    let gpus = u64::from(cluster.nodes) * u64::from(cluster.gpus_per_node);
    if gpus > u64::from(crate::job::MOST_GPUS) {
        let allowed = format!("1 to {} GPUs", crate::job::MOST_GPUS);
        return Err(Error::invalid(origin, "cluster", format!("{gpus} GPUs"), allowed));
    }
    Ok(())
}

/// A framework by its name or its makers' spelling.
///
/// # Errors
/// Names the known ones.
pub fn framework(origin: &str, name: &str) -> Result<Framework> {
    let bare = name.to_ascii_lowercase().replace([' ', '_'], "-");
    let known = match bare.as_str() {
        "megatron-lm" | "megatron-core" | "mcore" => Some(Framework::Megatron),
        "megatron-bridge" | "nemo" => Some(Framework::Bridge),
        "tensorrt-llm" | "trt-llm" => Some(Framework::Trtllm),
        _ => Framework::ALL.into_iter().find(|f| f.name() == bare),
    };
    known.ok_or_else(|| {
        let names: Vec<&str> = Framework::ALL.iter().map(|f| f.name()).collect();
        unknown(origin, "framework", name, &names)
    })
}

/// A convention by its name.
///
/// # Errors
/// Names the known ones.
pub fn convention(origin: &str, name: &str) -> Result<Convention> {
    let bare = name.to_ascii_lowercase();
    if let Some(known) = Convention::ALL.into_iter().find(|c| c.name() == bare) {
        return Ok(known);
    }
    match framework(origin, name) {
        Ok(known) => Ok(known.convention()),
        Err(_) => {
            let names: Vec<&str> = Convention::ALL.iter().map(|c| c.name()).collect();
            Err(unknown(origin, "convention", name, &names))
        }
    }
}

fn unknown(origin: &str, key: &str, value: &str, names: &[&str]) -> Error {
    let near = nearest(value, names.iter().copied());
    let hint = near.first().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
    Error::invalid(origin, key, value, format!("{}{hint}", names.join(", ")))
}

pub(super) fn one_of<T: Copy>(
    origin: &str,
    key: &str,
    text: &str,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> Result<T> {
    let bare = text.to_ascii_lowercase();
    all.iter().copied().find(|t| name(*t) == bare).ok_or_else(|| {
        let names: Vec<&str> = all.iter().map(|t| name(*t)).collect();
        unknown(origin, key, text, &names)
    })
}

fn workload(
    origin: &str,
    model: &Model,
    gpu: &Gpu,
    framework: Option<Framework>,
    train: Option<&TrainFile>,
    serve: Option<&ServeFile>,
) -> Result<Workload> {
    match (train, serve) {
        (Some(_), Some(_)) => {
            Err(Error::invalid(origin, "serve", "train and serve", "exactly one of `train`, `serve`"))
        }
        (None, None) if framework.is_some_and(Framework::serves) => {
            serve_workload(origin, model, gpu, framework, &ServeFile::default()).map(Workload::Serve)
        }
        (Some(file), None) => train_workload(origin, file).map(Workload::Train),
        (None, Some(file)) => serve_workload(origin, model, gpu, framework, file).map(Workload::Serve),
        (None, None) => Err(Error::missing(origin, "train", "exactly one of `train`, `serve`")),
    }
}

fn train_workload(origin: &str, file: &TrainFile) -> Result<Train> {
    let precision = file.precision.as_deref().unwrap_or("bf16");
    let grad = file.grad_dtype.as_deref().unwrap_or("fp32");
    if let Some(optimizer) = &file.optimizer
        && !optimizer.eq_ignore_ascii_case("adam")
        && !optimizer.eq_ignore_ascii_case("adamw")
    {
        return Err(Error::invalid(origin, "train.optimizer", optimizer, "adam"));
    }
    let usual = Train::default();
    Ok(Train {
        seq_len: file.seq_len.unwrap_or(usual.seq_len),
        global_batch: file.global_batch.unwrap_or(usual.global_batch),
        precision: one_of(origin, "train.precision", precision, &Precision::ALL, Precision::name)?,
        grad_dtype: one_of(origin, "train.grad_dtype", grad, &GradDtype::ALL, GradDtype::name)?,
        moe_balance: file.moe_balance.unwrap_or(usual.moe_balance),
        mtp_layers: file.mtp_layers.unwrap_or(usual.mtp_layers),
    })
}

fn serve_workload(
    origin: &str,
    model: &Model,
    gpu: &Gpu,
    framework: Option<Framework>,
    file: &ServeFile,
) -> Result<Serve> {
    let quant = match file.weights.as_deref() {
        None => model.quant(),
        Some(name) => {
            let format = one_of(origin, "serve.weights", name, &WeightFormat::ALL, WeightFormat::name)?;
            quant_for(model, format)
        }
    };
    let kv_cache = match file.kv_cache.as_deref() {
        None => KvFormat::usual(gpu, quant, framework == Some(Framework::Trtllm)),
        Some(kv) => one_of(origin, "serve.kv_cache", kv, &KvFormat::ALL, KvFormat::name)?,
    };
    let arrivals = file.arrivals.as_deref().unwrap_or("steady");
    let target = |key: &str, ms: Option<f64>| match ms {
        None => Ok(None),
        Some(ms) if ms > 0.0 && ms.is_finite() => Ok(Some(Seconds::new(ms / 1e3))),
        Some(ms) => Err(Error::invalid(origin, key, ms, "a positive number of milliseconds")),
    };
    let usual = Serve::of(quant);
    let mut serve = Serve {
        concurrency: file.concurrency.unwrap_or(usual.concurrency),
        quant,
        kv_cache,
        arrivals: one_of(origin, "serve.arrivals", arrivals, &Arrivals::ALL, Arrivals::name)?,
        ttft: target("serve.ttft_ms", file.ttft_ms)?,
        tpot: target("serve.tpot_ms", file.tpot_ms)?,
        prefix_hit: file.prefix_hit.unwrap_or(0.0),
        memory_fraction: file.memory_fraction,
        release: file.engine_version.as_deref().and_then(Release::read),
        mtp: file.mtp.unwrap_or(usual.mtp),
        mtp_acceptance: file.mtp_acceptance.unwrap_or(usual.mtp_acceptance),
        ..usual
    };
    super::load::load(origin, file, &mut serve)?;
    Ok(serve)
}

/// The reach of a weight format on a model: its checkpoint's own when that is the same family, else what publishers of that
/// format do (nvfp4 leaves latent and linear attention in 16 bits, microscaling touches the experts alone).
#[must_use]
pub fn quant_for(model: &Model, format: WeightFormat) -> Quant {
    let own = model.quant();
    let fp8 = |f: WeightFormat| matches!(f, WeightFormat::Fp8 | WeightFormat::Fp8Block);
    if own.format == format || fp8(own.format) && format == WeightFormat::Fp8 {
        return own;
    }
    let scope = match format {
        WeightFormat::Nvfp4 if model.is_mla() || model.has_linear_attention() => QuantScope::Mlps,
        WeightFormat::Mxfp4 if model.moe().is_some() => QuantScope::RoutedExperts,
        WeightFormat::Fp32
        | WeightFormat::Bf16
        | WeightFormat::Fp16
        | WeightFormat::Fp8
        | WeightFormat::Fp8Block
        | WeightFormat::Int8
        | WeightFormat::Int4
        | WeightFormat::Nvfp4
        | WeightFormat::Mxfp4 => QuantScope::Linears,
    };
    Quant { format, scope }
}

/// A plan as text or as an object.
///
/// # Errors
/// Names the key, the value and what is allowed.
pub fn draft(origin: &str, convention: Convention, plan: &Value) -> Result<Draft> {
    match plan {
        Value::String(text) => Draft::parse(text, convention).at(origin),
        Value::Object(map) => {
            let mut draft = Draft { convention, ..Draft::default() };
            for (key, value) in map {
                let refuse = |allowed: &str| Error::invalid(origin, format!("plan.{key}"), value, allowed);
                let value = match value {
                    Value::Null => PlanValue::Null,
                    Value::Bool(b) => PlanValue::Bool(*b),
                    Value::Number(n) => PlanValue::Number(n.as_f64().ok_or_else(|| refuse("a number"))?),
                    Value::String(text) => PlanValue::Text(text.clone()),
                    Value::Array(items) => {
                        let names: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
                        let names = names.ok_or_else(|| refuse("a list of names"))?;
                        let bare = names.iter().map(|n| n.trim_matches(['"', '\'', ' '])).filter(|n| !n.is_empty());
                        let joined = bare.collect::<Vec<&str>>().join("+");
                        // An empty list of modules recomputes nothing.
                        PlanValue::Text(if joined.is_empty() { "none".to_owned() } else { joined })
                    }
                    Value::Object(_) => return Err(refuse("a number, a word, true, false or null")),
                };
                draft.set(key, &value).at(&format!("{origin}: plan"))?;
            }
            if map.is_empty() {
                return Err(Error::invalid(origin, "plan", "{}", "at least one degree"));
            }
            Ok(draft)
        }
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_)) => {
            Err(Error::invalid(origin, "plan", other, "text as in `tp2 ep4 pp2 dp1`, or an object"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog;

    #[test]
    fn a_format_reaches_what_its_publishers_quantise() {
        for (model, format, scope) in [
            ("qwen3.5-397b-a17b", WeightFormat::Nvfp4, QuantScope::Mlps),
            ("deepseek-v2-lite", WeightFormat::Nvfp4, QuantScope::Mlps),
            ("qwen3-32b", WeightFormat::Nvfp4, QuantScope::Linears),
            ("qwen3-30b-a3b", WeightFormat::Mxfp4, QuantScope::RoutedExperts),
            ("qwen3.5-397b-a17b", WeightFormat::Fp8, QuantScope::Linears),
        ] {
            let read = catalog::model(model).expect("a built-in model");
            assert_eq!(quant_for(&read, format).scope, scope, "{model} in {}", format.name());
        }
    }
}
