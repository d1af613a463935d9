//! Flags that several commands share.

use super::flag_error;
use crate::error::{Error, Result};
use crate::export::Format;
use crate::import::job::{JobFile, ReadJob, ServeFile, TrainFile};
use crate::plan::{MOST_DEGREE, Recompute, Schedule};
use crate::rank::Objective;
use crate::space::{Bounds, Scope, SpaceOptions};
use clap::Args;
use serde_json::Value;

/// What to plan for.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Job")]
pub(crate) struct JobArgs {
    /// Built-in name, path of a config.json, or of a folder holding one.
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// `16xH100`, `2x8xH100` (nodes x GPUs), `18x4xGB200`, a built-in cluster, or a file.
    #[arg(long)]
    pub(crate) cluster: Option<String>,
    /// A job file; flags given beside it win.
    #[arg(long, value_name = "FILE")]
    pub(crate) job: Option<String>,
    /// Plan a training run (the default).
    #[arg(long, conflicts_with = "serve")]
    pub(crate) train: bool,
    /// Plan a deployment.
    #[arg(long)]
    pub(crate) serve: bool,
    #[arg(long, hide = true, value_parser = ["train", "serve"], conflicts_with_all = ["train", "serve"])]
    mode: Option<String>,
    /// Framework whose rules and names hold: megatron, bridge, torchtitan, deepspeed, vllm, sglang, trtllm.
    #[arg(long)]
    pub(crate) framework: Option<String>,
    /// Convention of plans: product, or a framework's.
    #[arg(long)]
    pub(crate) convention: Option<String>,
    /// Price of a GPU-hour, as in `$2.50/h`; the built-in ones are guesses.
    #[arg(long, value_name = "PRICE")]
    pub(crate) gpu_price: Option<String>,
    #[command(flatten)]
    pub(crate) training: TrainArgs,
    #[command(flatten)]
    pub(crate) serving: ServeArgs,
}

/// The training part.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Training")]
pub(crate) struct TrainArgs {
    /// Tokens of a sequence (default: 4096).
    #[arg(long, alias = "seq")]
    seq_len: Option<u32>,
    /// Sequences of a step, all GPUs together (default: 512).
    #[arg(long, alias = "gbs")]
    global_batch: Option<u32>,
    /// bf16, fp16, fp8, mxfp8 or nvfp4 (default: bf16).
    #[arg(long)]
    precision: Option<String>,
    /// fp32 or bf16 (default: fp32).
    #[arg(long)]
    grad_dtype: Option<String>,
    /// Tokens of the fullest expert rank over the mean (default: 1.0, forced balance).
    #[arg(long)]
    moe_balance: Option<f64>,
    /// Multi-token prediction layers trained on top (default: 0).
    #[arg(long, value_name = "N")]
    mtp_layers: Option<u32>,
}

/// The serving part.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Serving")]
pub(crate) struct ServeArgs {
    /// Input tokens of a request: a number, `mean,p50,p95`, or a file of lines `tokens,count` (default: 4096).
    #[arg(long, value_name = "TOKENS")]
    isl: Option<String>,
    /// Output tokens of a request, likewise (default: 1024).
    #[arg(long, value_name = "TOKENS")]
    osl: Option<String>,
    /// Requests in flight on the whole plan (default: 64; with --ttft or --tpot as many as meet them).
    #[arg(long)]
    concurrency: Option<u32>,
    /// Requests a second, all GPUs together, instead of --concurrency; `plan` then looks for the fewest GPUs.
    #[arg(long, value_name = "REQUESTS/S")]
    rate: Option<f64>,
    /// bf16, fp8, int8, int4, nvfp4, mxfp4 (default: the checkpoint's own).
    #[arg(long)]
    weights: Option<String>,
    /// bf16 or fp8 (default: bf16).
    #[arg(long)]
    kv_cache: Option<String>,
    /// steady; burst10x: all requests at once, ten times the concurrency in all; poisson: independent requests at random times
    /// (default: steady, with --rate poisson).
    #[arg(long)]
    arrivals: Option<String>,
    /// Longest time to the first token, in milliseconds.
    #[arg(long, alias = "ttft", value_name = "MS")]
    ttft_ms: Option<f64>,
    /// Longest time per further token, in milliseconds.
    #[arg(long, alias = "tpot", value_name = "MS")]
    tpot_ms: Option<f64>,
    /// What of the latencies the targets hold for: mean, p50, p90, p95 or p99 (default: mean).
    #[arg(long, value_name = "WHICH")]
    percentile: Option<String>,
    /// Speculative tokens (multi-token prediction) that every decode step drafts and checks, 0 to 16 (default: 0).
    #[arg(long, value_name = "TOKENS")]
    mtp: Option<u32>,
    /// How often a drafted token is taken if all before it were, 0 to 1 (default: 0.6, measured on random prompts).
    #[arg(long, value_name = "SHARE")]
    mtp_acceptance: Option<f64>,
    /// Share of the input found in the prefix cache (default: 0).
    #[arg(long)]
    prefix_hit: Option<f64>,
    /// Share of the GPU's memory the engine may take (default: the engine's own).
    #[arg(long)]
    memory_fraction: Option<f64>,
    /// The engine's version.
    #[arg(long)]
    engine_version: Option<String>,
}

impl JobArgs {
    /// The job file with the flags over it.
    pub(crate) fn file(&self) -> Result<(String, JobFile)> {
        let (origin, mut file) = match &self.job {
            Some(path) => (path.clone(), JobFile::parse(path, &super::out::read(path)?)?),
            None => ("flags".to_owned(), JobFile::default()),
        };
        if file.train.is_some() && file.serve.is_some() {
            return Err(Error::invalid(origin, "serve", "train and serve", "exactly one of `train`, `serve`"));
        }
        let text = |value: &Option<String>| value.clone().map(Value::String);
        file.model = text(&self.model).or(file.model);
        file.cluster = text(&self.cluster).or(file.cluster);
        file.framework = self.framework.clone().or(file.framework);
        file.convention = self.convention.clone().or(file.convention);
        file.gpu_price = self.gpu_price.clone().or(file.gpu_price);
        let serve = self.serving.said();
        let train = self.training.said();
        let asked_serve = self.serve || self.mode.as_deref() == Some("serve");
        let asked_train = self.train || self.mode.as_deref() == Some("train");
        let serving_framework = file.framework.as_deref().or(file.convention.as_deref()).is_some_and(|name| {
            crate::import::job::framework("--framework", name).is_ok_and(crate::framework::Framework::serves)
        });
        let serving = asked_serve || !asked_train && (file.serve.is_some() || serve || serving_framework && !train);
        if serving {
            if train {
                return Err(flag_error("--serve", "with training flags", "either training or serving flags"));
            }
            let base = file.serve.take().unwrap_or_default();
            file.serve = Some(self.serving.over(base));
            file.train = None;
        } else {
            if serve {
                return Err(flag_error("--train", "with serving flags", "either training or serving flags"));
            }
            let base = file.train.take().unwrap_or_default();
            file.train = Some(self.training.over(base));
            file.serve = None;
        }
        Ok((origin, file))
    }

    /// The checked job.
    pub(crate) fn read(&self) -> Result<ReadJob> {
        let (origin, file) = self.file()?;
        file.read(&origin)
    }
}

impl TrainArgs {
    fn said(&self) -> bool {
        self.seq_len.is_some()
            || self.global_batch.is_some()
            || self.precision.is_some()
            || self.grad_dtype.is_some()
            || self.moe_balance.is_some()
            || self.mtp_layers.is_some()
    }

    fn over(&self, base: TrainFile) -> TrainFile {
        TrainFile {
            seq_len: self.seq_len.or(base.seq_len),
            global_batch: self.global_batch.or(base.global_batch),
            precision: self.precision.clone().or(base.precision),
            optimizer: base.optimizer,
            grad_dtype: self.grad_dtype.clone().or(base.grad_dtype),
            moe_balance: self.moe_balance.or(base.moe_balance),
            mtp_layers: self.mtp_layers.or(base.mtp_layers),
        }
    }
}

impl ServeArgs {
    fn said(&self) -> bool {
        self.isl.is_some()
            || self.osl.is_some()
            || self.concurrency.is_some()
            || self.weights.is_some()
            || self.kv_cache.is_some()
            || self.rate.is_some()
            || self.percentile.is_some()
            || self.arrivals.is_some()
            || self.ttft_ms.is_some()
            || self.tpot_ms.is_some()
            || self.mtp.is_some()
            || self.mtp_acceptance.is_some()
            || self.prefix_hit.is_some()
            || self.memory_fraction.is_some()
            || self.engine_version.is_some()
    }

    fn over(&self, base: ServeFile) -> ServeFile {
        ServeFile {
            isl: self.isl.clone().map(Value::String).or(base.isl),
            osl: self.osl.clone().map(Value::String).or(base.osl),
            // A flag for the one wins over the file's other.
            concurrency: self.concurrency.or(base.concurrency.filter(|_| self.rate.is_none())),
            rate: self.rate.or(base.rate.filter(|_| self.concurrency.is_none())),
            percentile: self.percentile.clone().or(base.percentile),
            weights: self.weights.clone().or(base.weights),
            kv_cache: self.kv_cache.clone().or(base.kv_cache),
            arrivals: self.arrivals.clone().or(base.arrivals),
            ttft_ms: self.ttft_ms.or(base.ttft_ms),
            tpot_ms: self.tpot_ms.or(base.tpot_ms),
            mtp: self.mtp.or(base.mtp),
            mtp_acceptance: self.mtp_acceptance.or(base.mtp_acceptance),
            prefix_hit: self.prefix_hit.or(base.prefix_hit),
            memory_fraction: self.memory_fraction.or(base.memory_fraction),
            engine_version: self.engine_version.clone().or(base.engine_version),
        }
    }
}

/// Which plans are looked at.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Space")]
pub(crate) struct SpaceArgs {
    /// Tensor parallel degrees: `2`, `1,2,4` or `1..=8`.
    #[arg(long)]
    tp: Option<String>,
    /// Expert parallel degrees.
    #[arg(long)]
    ep: Option<String>,
    /// Pipeline parallel degrees.
    #[arg(long)]
    pp: Option<String>,
    /// Data parallel degrees, in the convention in force.
    #[arg(long)]
    dp: Option<String>,
    /// Serving replicas, independent of each other.
    #[arg(long)]
    replicas: Option<String>,
    /// Context parallel degrees.
    #[arg(long)]
    cp: Option<String>,
    /// Expert tensor parallel degrees (with --space folded or a framework).
    #[arg(long)]
    etp: Option<String>,
    /// Sequences of a micro-batch.
    #[arg(long, alias = "mbs")]
    micro_batch: Option<String>,
    /// Virtual pipeline chunks of a rank.
    #[arg(long)]
    vpp: Option<String>,
    /// none, selective, full, or modules joined by `+`; several separated by commas.
    #[arg(long)]
    recompute: Option<String>,
    /// ZeRO stages 0 to 3.
    #[arg(long)]
    zero: Option<String>,
    /// 1f1b, gpipe, zb-h1 or dualpipe; several separated by commas.
    #[arg(long)]
    schedule: Option<String>,
    /// Share of the optimizer in host memory, 0 to 1.
    #[arg(long)]
    optimizer_offload: Option<f64>,
    /// product (TP*EP*PP*DP) or folded (every pair of grids).
    #[arg(long, value_parser = ["product", "folded"], default_value = "product")]
    space: String,
    /// Plans on fewer GPUs too, down to half of them (whole nodes and at most 64 counts on large clusters); the idle ones are
    /// named.
    #[arg(long)]
    use_fewer: bool,
}

impl SpaceArgs {
    /// Scope, framework and bounds.
    pub(crate) fn options(&self, read: &ReadJob) -> Result<SpaceOptions> {
        let list = |flag: &str, text: &Option<String>| text.as_ref().map_or(Ok(Vec::new()), |t| values(flag, t));
        let mut recompute = Vec::new();
        for word in self.recompute.iter().flat_map(|t| t.split(',')) {
            let allowed = "none, selective, full, or modules joined by `+`";
            let set = word.trim().to_ascii_lowercase();
            recompute.push(Recompute::parse(&set).ok_or_else(|| flag_error("--recompute", word, allowed))?);
        }
        let mut schedule = Vec::new();
        for word in self.schedule.iter().flat_map(|t| t.split(',')) {
            let found = Schedule::ALL.into_iter().find(|s| s.name() == word.trim().to_ascii_lowercase());
            schedule.push(found.ok_or_else(|| flag_error("--schedule", word, "1f1b, gpipe, zb-h1, dualpipe"))?);
        }
        let mut zero = Vec::new();
        for word in self.zero.iter().flat_map(|t| t.split(',')) {
            let stage = word.trim().parse::<u8>().ok().filter(|z| *z <= 3);
            zero.push(stage.ok_or_else(|| flag_error("--zero", word, "0, 1, 2 or 3"))?);
        }
        // A value said twice is one value: no plan is counted twice.
        recompute.sort_unstable();
        recompute.dedup();
        schedule.sort_unstable();
        schedule.dedup();
        zero.sort_unstable();
        zero.dedup();
        let optimizer_offload = match self.optimizer_offload {
            None => Vec::new(),
            Some(share) if (0.0..=1.0).contains(&share) => vec![(share * 100.0).round() as u8],
            Some(share) => return Err(flag_error("--optimizer-offload", &share.to_string(), "a share from 0 to 1")),
        };
        Ok(SpaceOptions {
            scope: if self.space == "folded" { Scope::Folded } else { Scope::Product },
            framework: read.framework,
            use_fewer: self.use_fewer,
            bounds: Bounds {
                tp: list("--tp", &self.tp)?,
                cp: list("--cp", &self.cp)?,
                ep: list("--ep", &self.ep)?,
                etp: list("--etp", &self.etp)?,
                pp: list("--pp", &self.pp)?,
                dp: list("--dp", &self.dp)?,
                replicas: list("--replicas", &self.replicas)?,
                micro_batch: list("--micro-batch", &self.micro_batch)?,
                vpp: list("--vpp", &self.vpp)?,
                recompute,
                zero,
                schedule,
                optimizer_offload,
            },
        })
    }
}

/// `2`, `1,2,4`, `1..=8`, `1..8`, or a mix.
pub(crate) fn values(flag: &str, text: &str) -> Result<Vec<u32>> {
    let refuse = || {
        let allowed = format!("whole numbers from 1 to {MOST_DEGREE}, as in `2`, `1,2,4` or `1..=8`");
        flag_error(flag, text, &allowed)
    };
    let one = |word: &str| -> Result<u32> {
        word.trim().parse::<u32>().ok().filter(|v| (1..=MOST_DEGREE).contains(v)).ok_or_else(refuse)
    };
    let mut out = Vec::new();
    for word in text.split(',') {
        match word.split_once("..") {
            None => out.push(one(word)?),
            Some((from, to)) => {
                let from = one(from)?;
                let to = match to.strip_prefix('=') {
                    Some(last) => one(last)?,
                    None => one(to)?.saturating_sub(1),
                };
                if from > to {
                    return Err(refuse());
                }
                out.extend(from..=to);
            }
        }
    }
    out.sort_unstable();
    out.dedup();
    Ok(out)
}

/// Where results go and how.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArgs {
    /// table, json, jsonl, csv, markdown or html (default: table).
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Write the result here instead of stdout.
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<String>,
    /// Nothing on stderr but errors.
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// No progress bar.
    #[arg(long)]
    pub(crate) no_progress: bool,
    /// Threads of the search (default: all cores).
    #[arg(long)]
    pub(crate) threads: Option<usize>,
}

impl OutputArgs {
    /// The format, one of those a command knows.
    pub(crate) fn format(&self, known: &[Format]) -> Result<Format> {
        let Some(name) = &self.format else { return Ok(Format::Table) };
        let asked = name.to_ascii_lowercase();
        let asked = if asked == "md" { "markdown".to_owned() } else { asked };
        known.iter().copied().find(|f| f.name() == asked).ok_or_else(|| {
            let names: Vec<&str> = known.iter().map(|f| f.name()).collect();
            flag_error("--format", name, &names.join(", "))
        })
    }

    /// Sets the number of threads for the whole process.
    pub(crate) fn set_threads(&self) -> Result<()> {
        let Some(threads) = self.threads else { return Ok(()) };
        if !(1..=1024).contains(&threads) {
            return Err(flag_error("--threads", &threads.to_string(), "1 to 1024"));
        }
        // Only fails when a pool was built before, which no command does.
        let _already_built = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
        Ok(())
    }
}

/// An objective by its name.
pub(crate) fn objective(name: Option<&str>) -> Result<Objective> {
    let Some(name) = name else { return Ok(Objective::default()) };
    Objective::ALL.into_iter().find(|o| o.name() == name.to_ascii_lowercase()).ok_or_else(|| {
        let names: Vec<&str> = Objective::ALL.iter().map(|o| o.name()).collect();
        let near = crate::error::nearest(name, names.iter().copied());
        let hint = near.first().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
        Error::invalid("--objective", "", name, format!("{}{hint}", names.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges() {
        assert_eq!(values("--tp", "2").expect("a list of sizes"), [2]);
        assert_eq!(values("--tp", "4,1,2,2").expect("a list of sizes"), [1, 2, 4]);
        assert_eq!(values("--tp", "1..=3,8").expect("a list of sizes"), [1, 2, 3, 8]);
        assert_eq!(values("--tp", "1..3").expect("a list of sizes"), [1, 2]);
        for bad in ["", "0", "a", "3..1", "1..", "-1", "1,,2", "99999999"] {
            assert!(values("--tp", bad).is_err(), "{bad}");
        }
    }
}
