//! A job: the model, the cluster and the workload, checked once so that nothing later can be inconsistent.

use crate::cluster::{Architecture, Cluster, Dtype, GemmKind, Gpu};
use crate::lengths::Spread;
use crate::model::{Model, Quant, WeightFormat};
use crate::units::Seconds;
use std::fmt;

/// Number format of a training run's GEMMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Precision {
    /// bfloat16.
    Bf16,
    /// Half precision with loss scaling.
    Fp16,
    /// 8-bit GEMMs, bf16 weights kept.
    Fp8,
    /// Microscaling 8-bit GEMMs.
    Mxfp8,
    /// 4-bit GEMMs.
    Nvfp4,
}

impl Precision {
    /// Every precision.
    pub const ALL: [Self; 5] = [Self::Bf16, Self::Fp16, Self::Fp8, Self::Mxfp8, Self::Nvfp4];

    /// The name in files and flags.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Fp16 => "fp16",
            Self::Fp8 => "fp8",
            Self::Mxfp8 => "mxfp8",
            Self::Nvfp4 => "nvfp4",
        }
    }

    /// The curve that prices its GEMMs.
    #[must_use]
    pub const fn gemm(self) -> GemmKind {
        match self {
            Self::Bf16 | Self::Fp16 => GemmKind::Bf16,
            Self::Fp8 => GemmKind::Fp8,
            Self::Mxfp8 => GemmKind::Fp8Block,
            Self::Nvfp4 => GemmKind::Nvfp4,
        }
    }

    /// The format the hardware must have.
    #[must_use]
    pub const fn needs(self) -> Dtype {
        match self {
            Self::Bf16 => Dtype::Bf16,
            Self::Fp16 => Dtype::Fp16,
            Self::Fp8 => Dtype::Fp8,
            Self::Mxfp8 => Dtype::Mxfp8,
            Self::Nvfp4 => Dtype::Nvfp4,
        }
    }
}

/// Number format of accumulated gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GradDtype {
    /// fp32 main gradients (Megatron's default).
    Fp32,
    /// Accumulated and reduced in bf16.
    Bf16,
}

impl GradDtype {
    /// Every format.
    pub const ALL: [Self; 2] = [Self::Fp32, Self::Bf16];

    /// The name in files and flags.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
        }
    }

    /// Bytes of one gradient.
    #[must_use]
    pub const fn bytes(self) -> f64 {
        match self {
            Self::Fp32 => 4.0,
            Self::Bf16 => 2.0,
        }
    }
}

/// What one optimiser step works on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Train {
    /// Tokens of a sequence.
    pub seq_len: u32,
    /// Sequences of a step, all GPUs together.
    pub global_batch: u32,
    /// GEMM format.
    pub precision: Precision,
    /// Gradient format.
    pub grad_dtype: GradDtype,
    /// Tokens of the fullest expert rank over the mean; 1 is perfect balance.
    pub moe_balance: f64,
    /// Multi-token prediction layers trained on top, each with a head of its own pass; 0: none.
    pub mtp_layers: u32,
}

impl Default for Train {
    /// 512 sequences of 4096 tokens a step, bf16 with fp32 gradients, experts in forced balance.
    fn default() -> Self {
        Self {
            seq_len: 4096,
            global_batch: 512,
            precision: Precision::Bf16,
            grad_dtype: GradDtype::Fp32,
            moe_balance: 1.0,
            mtp_layers: 0,
        }
    }
}

/// Number format of the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KvFormat {
    /// bfloat16.
    Bf16,
    /// 8-bit.
    Fp8,
}

impl KvFormat {
    /// What deployments keep the cache in when nobody says: 8 bits for quantised checkpoints on Blackwell, whose attention kernels
    /// read them at full speed, and for `TensorRT-LLM`'s 8-bit and nvfp4 checkpoints, which carry the scales; 16 bits else.
    ///
    /// Assumed: published recipes do so; the engines' own default is the model's 16 bits.
    #[must_use]
    pub fn usual(gpu: &Gpu, quant: Quant, trtllm: bool) -> Self {
        let narrow = quant.format.bytes() < 2.0;
        let scaled = matches!(quant.format, WeightFormat::Fp8 | WeightFormat::Fp8Block | WeightFormat::Nvfp4);
        if narrow && gpu.architecture == Architecture::Blackwell || trtllm && scaled { Self::Fp8 } else { Self::Bf16 }
    }

    /// Every format.
    pub const ALL: [Self; 2] = [Self::Bf16, Self::Fp8];

    /// The name in files and flags.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
        }
    }

    /// Bytes of one number.
    #[must_use]
    pub const fn bytes(self) -> f64 {
        match self {
            Self::Bf16 => 2.0,
            Self::Fp8 => 1.0,
        }
    }
}

/// A release of an engine: its first three numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Release(pub u32, pub u32, pub u32);

impl Release {
    /// Newer than any number.
    pub const NIGHTLY: Self = Self(u32::MAX, 0, 0);

    /// Reads a version as engines write it (`0.19.0`, `v1.2.0rc6.post2`, `nightly-dev-20260216`); `None` when it tells no release.
    ///
    /// ```
    /// # use meshwright::job::Release;
    /// assert_eq!(Release::read("v1.2.0rc6.post2"), Some(Release(1, 2, 0)));
    /// assert_eq!(Release::read("nightly-dev"), Some(Release::NIGHTLY));
    /// assert_eq!(Release::read("gpt-oss-dev"), None);
    /// ```
    #[must_use]
    pub fn read(version: &str) -> Option<Self> {
        let version = version.trim().trim_start_matches('v');
        if version.to_ascii_lowercase().starts_with("nightly") {
            return Some(Self::NIGHTLY);
        }
        let mut numbers = version.split('.').map(|part| {
            let digits: &str = &part[..part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len())];
            digits.parse::<u32>().ok()
        });
        let major = numbers.next().flatten()?;
        let minor = numbers.next().flatten()?;
        Some(Self(major, minor, numbers.next().flatten().unwrap_or(0)))
    }
}

/// How requests arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arrivals {
    /// A closed loop in its steady state.
    Steady,
    /// A closed loop that starts with all requests at once and sends ten times the concurrency, as public benchmark clients do; they
    /// draw each length evenly from 80 to 100 % of what they are told.
    Burst10x,
    /// An open loop: independent requests at random times, as many a second as the load says.
    Poisson,
}

impl Arrivals {
    /// Every pattern.
    pub const ALL: [Self; 3] = [Self::Steady, Self::Burst10x, Self::Poisson];

    /// The name in files and flags.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Burst10x => "burst10x",
            Self::Poisson => "poisson",
        }
    }

    /// Mean length that is sent over the length that is named.
    #[must_use]
    pub const fn mean_length(self) -> f64 {
        match self {
            Self::Burst10x => 0.9,
            Self::Steady | Self::Poisson => 1.0,
        }
    }
}

/// How much is asked of a deployment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Load {
    /// So many requests in flight: [`Serve::concurrency`].
    InFlight,
    /// As many in flight as the targets and the KV cache allow, plan by plan.
    Most,
    /// So many requests a second, all GPUs together; how many are in flight follows plan by plan.
    Rate(f64),
}

/// What of a latency a target holds for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Percentile {
    /// The mean.
    #[default]
    Mean,
    /// The median.
    P50,
    /// Nine requests of ten.
    P90,
    /// Nineteen of twenty.
    P95,
    /// Ninety-nine of a hundred.
    P99,
}

impl Percentile {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::Mean, Self::P50, Self::P90, Self::P95, Self::P99];

    /// The name in files and flags.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::P50 => "p50",
            Self::P90 => "p90",
            Self::P95 => "p95",
            Self::P99 => "p99",
        }
    }
}

/// What a deployment answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Serve {
    /// Input tokens of a request.
    pub isl: u32,
    /// Output tokens of a request.
    pub osl: u32,
    /// Requests in flight on the whole plan.
    pub concurrency: u32,
    /// Whether that is the load, or a rate or the targets set it.
    pub load: Load,
    /// How far the input lengths spread; `isl` is their mean.
    pub isl_spread: Spread,
    /// How far the output lengths spread; `osl` is their mean.
    pub osl_spread: Spread,
    /// Weight format and its reach.
    pub quant: Quant,
    /// KV cache format.
    pub kv_cache: KvFormat,
    /// How requests arrive.
    pub arrivals: Arrivals,
    /// Target of the time to the first token.
    pub ttft: Option<Seconds>,
    /// Target of the time per further token.
    pub tpot: Option<Seconds>,
    /// What of the latencies the targets hold for.
    pub percentile: Percentile,
    /// Speculative tokens that every decode step drafts and checks; 0: none.
    pub mtp: u32,
    /// Probability that a drafted token is taken, if all before it were.
    pub mtp_acceptance: f64,
    /// Share of input tokens found in the prefix cache.
    pub prefix_hit: f64,
    /// Share of the GPU's memory the engine may take; its own default when absent.
    pub memory_fraction: Option<f64>,
    /// The engine's release, when the job names one.
    pub release: Option<Release>,
}

/// How often a drafted token is taken unless said: 130 published points of DeepSeek-R1 with one and three drafts, prompts drawn at random,
/// fit .62. Real text does better: the model's report gives .85 to .9 for its first draft.
pub const MTP_ACCEPTANCE: f64 = 0.6;

/// The most tokens a step may draft.
pub(crate) const MOST_MTP: u32 = 16;

impl Serve {
    /// Mean tokens of a prompt and of an answer, as they arrive: at least one of each.
    #[must_use]
    pub fn mean_lengths(&self) -> (f64, f64) {
        let share = self.arrivals.mean_length();
        let drawn = |tokens: u32| (f64::from(tokens) * share).max(1.0);
        (drawn(self.isl), drawn(self.osl))
    }

    /// 64 requests of 4096 tokens in and 1024 out, in a steady loop, with the given weights.
    #[must_use]
    pub const fn of(quant: Quant) -> Self {
        Self {
            isl: 4096,
            osl: 1024,
            concurrency: 64,
            load: Load::InFlight,
            isl_spread: Spread { cv2: 0.0, p95: 0 },
            osl_spread: Spread { cv2: 0.0, p95: 0 },
            quant,
            kv_cache: KvFormat::Bf16,
            arrivals: Arrivals::Steady,
            ttft: None,
            tpot: None,
            percentile: Percentile::Mean,
            mtp: 0,
            mtp_acceptance: MTP_ACCEPTANCE,
            prefix_hit: 0.0,
            memory_fraction: None,
            release: None,
        }
    }
}

/// Training or serving.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Workload {
    /// One optimiser step.
    Train(Train),
    /// Requests.
    Serve(Serve),
}

/// What to plan for.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The model.
    pub model: Model,
    /// The GPUs.
    pub cluster: Cluster,
    /// What they do.
    pub workload: Workload,
}

/// Why a job cannot be: a key, its value and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobError {
    /// The offending key.
    pub key: &'static str,
    /// Its value.
    pub value: String,
    /// What is allowed.
    pub allowed: String,
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at `{}`: {} is not allowed: {}", self.key, self.value, self.allowed)
    }
}

impl std::error::Error for JobError {}

/// Most requests a second a job may ask for; its inverse is the fewest.
const MOST_RATE: f64 = 1e6;

/// Most GPUs a job may have; keeps products inside `u32` and enumerations finite.
pub const MOST_GPUS: u32 = 1 << 20;

impl Job {
    /// Checks the triple.
    ///
    /// # Errors
    /// When a size is zero or absurd, or a sequence is longer than the model's positions.
    pub fn new(model: Model, cluster: Cluster, workload: Workload) -> Result<Self, JobError> {
        let refuse = |key, value: String, allowed: String| Err(JobError { key, value, allowed });
        let gpus = u64::from(cluster.nodes) * u64::from(cluster.gpus_per_node);
        if gpus == 0 || gpus > u64::from(MOST_GPUS) {
            return refuse("cluster", format!("{gpus} GPUs"), format!("1 to {MOST_GPUS} GPUs"));
        }
        let sizes: &[(&'static str, u32, u32)] = match &workload {
            Workload::Train(t) => &[("seq_len", t.seq_len, 1 << 26), ("global_batch", t.global_batch, 1 << 24)],
            Workload::Serve(s) => {
                &[("isl", s.isl, 1 << 26), ("osl", s.osl, 1 << 26), ("concurrency", s.concurrency, 1 << 24)]
            }
        };
        for &(key, value, most) in sizes {
            if value == 0 || value > most {
                return refuse(key, value.to_string(), format!("a whole number from 1 to {most}"));
            }
        }
        match workload {
            Workload::Train(t) => {
                if !(1.0..=64.0).contains(&t.moe_balance) {
                    return refuse("moe_balance", t.moe_balance.to_string(), "1.0 (forced balance) to 64".into());
                }
                if t.mtp_layers > MOST_MTP {
                    return refuse(
                        "mtp_layers",
                        t.mtp_layers.to_string(),
                        format!("0 to {MOST_MTP} prediction layers"),
                    );
                }
            }
            Workload::Serve(s) => {
                if !(0.0..=1.0).contains(&s.prefix_hit) {
                    return refuse("prefix_hit", s.prefix_hit.to_string(), "a share from 0 to 1".into());
                }
                if s.mtp > MOST_MTP {
                    return refuse("mtp", s.mtp.to_string(), format!("0 (none) to {MOST_MTP} drafted tokens"));
                }
                if !(0.0..=1.0).contains(&s.mtp_acceptance) {
                    return refuse("mtp_acceptance", s.mtp_acceptance.to_string(), "a share from 0 to 1".into());
                }
                if s.memory_fraction.is_some_and(|m| !(0.05..=1.0).contains(&m)) {
                    let value = s.memory_fraction.unwrap_or_default().to_string();
                    return refuse("memory_fraction", value, "a share from 0.05 to 1".into());
                }
                if let Load::Rate(rate) = s.load
                    && !(MOST_RATE.recip()..=MOST_RATE).contains(&rate)
                {
                    return refuse("rate", rate.to_string(), "requests a second, from 1e-6 to 1e6".into());
                }
                let span = u64::from(s.isl) + u64::from(s.osl);
                if span > u64::from(model.spec().max_positions) {
                    let most = model.spec().max_positions;
                    return refuse("isl + osl", span.to_string(), format!("at most the model's {most} positions"));
                }
            }
        }
        Ok(Self { model, cluster, workload })
    }

    /// GPUs of the cluster.
    #[must_use]
    pub const fn gpus(&self) -> u32 {
        self.cluster.gpus()
    }

    /// The training part, if it is training.
    #[must_use]
    pub const fn train(&self) -> Option<&Train> {
        match &self.workload {
            Workload::Train(t) => Some(t),
            Workload::Serve(_) => None,
        }
    }

    /// The serving part, if it is serving.
    #[must_use]
    pub const fn serve(&self) -> Option<&Serve> {
        match &self.workload {
            Workload::Train(_) => None,
            Workload::Serve(s) => Some(s),
        }
    }
}
