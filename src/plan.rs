//! A plan: the mesh and the knobs beside it, and the text and key forms people write it in.
//!
//! A [`Draft`] is what somebody wrote, in the names of one convention, sizes possibly left out; `rules` turns it into a
//! [`Plan`] or says which rules it breaks. A [`Plan`] is `Copy + Ord + Hash`: its order is the last tie-break everywhere.

use crate::mesh::{Convention, Mesh};
use std::fmt;

/// Parts of a block whose activations can be recomputed in the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Module {
    /// The attention core (scores and softmax).
    CoreAttn,
    /// The activation function between an expert's or MLP's two GEMMs.
    MlpAct,
    /// Norms.
    Layernorm,
    /// MLA's up-projections.
    MlaUpProj,
    /// The dense MLP.
    Mlp,
    /// The routed experts, dispatch included.
    Moe,
    /// The shared experts.
    SharedExperts,
}

impl Module {
    /// Every module.
    pub const ALL: [Self; 7] =
        [Self::CoreAttn, Self::MlpAct, Self::Layernorm, Self::MlaUpProj, Self::Mlp, Self::Moe, Self::SharedExperts];

    /// Megatron's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CoreAttn => "core_attn",
            Self::MlpAct => "moe_act",
            Self::Layernorm => "layernorm",
            Self::MlaUpProj => "mla_up_proj",
            Self::Mlp => "mlp",
            Self::Moe => "moe",
            Self::SharedExperts => "shared_experts",
        }
    }
}

/// What is recomputed in the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Recompute {
    /// Nothing.
    #[default]
    None,
    /// A set of modules, as a bit set over [`Module::ALL`].
    Modules(u8),
    /// Whole layers, one checkpoint each.
    Full,
}

impl Recompute {
    /// Megatron's `selective`: the attention core alone.
    pub const SELECTIVE: Self = Self::Modules(1 << Module::CoreAttn as u8);

    /// Whether a module is recomputed on its own (full recomputation is a different scheme).
    #[must_use]
    pub const fn has(self, module: Module) -> bool {
        match self {
            Self::None | Self::Full => false,
            Self::Modules(set) => set & (1 << module as u8) != 0,
        }
    }

    /// Reads `none`, `selective`, `full`, or modules joined by `+`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "none" => return Some(Self::None),
            "full" => return Some(Self::Full),
            "selective" => return Some(Self::SELECTIVE),
            _ => {}
        }
        let mut set = 0;
        for part in text.split(['+', '/', '|']) {
            let module = Module::ALL.iter().find(|m| m.name() == part)?;
            set |= 1 << *module as u8;
        }
        Some(Self::Modules(set))
    }
}

impl fmt::Display for Recompute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::None => f.write_str("none"),
            Self::Full => f.write_str("full"),
            Self::SELECTIVE => f.write_str("selective"),
            Self::Modules(_) => {
                let names: Vec<&str> = Module::ALL.iter().filter(|m| self.has(**m)).map(|m| m.name()).collect();
                f.write_str(&names.join("+"))
            }
        }
    }
}

/// How a pipeline orders its micro-batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Schedule {
    /// One forward, one backward; interleaved when `vpp > 1`.
    #[default]
    OneFOneB,
    /// All forwards, then all backwards.
    Gpipe,
    /// Zero bubble, H1: weight gradients fill the bubble.
    ZbH1,
    /// `DeepSeek`'s bidirectional schedule.
    DualPipe,
}

impl Schedule {
    /// Every schedule.
    pub const ALL: [Self; 4] = [Self::OneFOneB, Self::Gpipe, Self::ZbH1, Self::DualPipe];

    /// The name in flags and files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OneFOneB => "1f1b",
            Self::Gpipe => "gpipe",
            Self::ZbH1 => "zb-h1",
            Self::DualPipe => "dualpipe",
        }
    }
}

/// On, off, or what the framework does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Toggle {
    /// What the framework does by itself.
    #[default]
    Default,
    /// On.
    On,
    /// Off.
    Off,
}

impl Toggle {
    /// Resolved against a default.
    #[must_use]
    pub const fn or(self, default: bool) -> bool {
        match self {
            Self::Default => default,
            Self::On => true,
            Self::Off => false,
        }
    }
}

/// Everything of a plan that is not a degree. Zero means "not set" where a count cannot be zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Knobs {
    /// Sequences of one micro-batch (training).
    pub micro_batch: u32,
    /// Virtual pipeline chunks of a rank.
    pub vpp: u32,
    /// What is recomputed.
    pub recompute: Recompute,
    /// ZeRO stage: 0 none, 1 optimizer (Megatron's distributed optimizer), 2 gradients, 3 parameters (FSDP).
    pub zero: u8,
    /// Norms and residuals cut by TP too.
    pub sequence_parallel: bool,
    /// Order of micro-batches.
    pub schedule: Schedule,
    /// Percent of the optimizer kept in host memory.
    pub optimizer_offload: u8,
    /// TP communication hidden behind GEMMs.
    pub tp_overlap: Toggle,
    /// Gradient reduction and parameter gather hidden behind compute.
    pub dp_overlap: Toggle,
    /// Expert all-to-all hidden behind another micro-batch.
    pub ep_overlap: Toggle,
    /// Fused kernels that keep less (Transformer Engine's), not a framework's own PyTorch operations.
    pub fused_kernels: Toggle,
    /// Cross entropy fused with its softmax, logits kept once in 16 bits.
    pub loss_fusion: Toggle,
    /// Layers of the first stage; 0: not set.
    pub first_stage_layers: u32,
    /// Layers of the last stage; 0: not set.
    pub last_stage_layers: u32,
    /// Micro-batches of a pipeline step (torchtitan); 0: not set.
    pub pp_microbatches: u32,
    /// Whole model copies that only hybrid sharding keeps apart (torchtitan's `dp_replicate`).
    pub dp_replicate: u32,
    /// Decode context parallel degree (vLLM).
    pub dcp: u32,
    /// Expert load balancer (vLLM, SGLang).
    pub eplb: bool,
    /// Redundant experts of the load balancer.
    pub redundant_experts: u32,
    /// MoE data parallel degree (SGLang).
    pub moe_dp: u32,
    /// An all-to-all backend other than the default, which forces EP = TP size (SGLang).
    pub a2a: bool,
    /// Independent copies of a serving replica; 1 in training.
    pub replicas: u32,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            micro_batch: 1,
            vpp: 1,
            recompute: Recompute::None,
            zero: 1,
            sequence_parallel: true,
            schedule: Schedule::OneFOneB,
            optimizer_offload: 0,
            tp_overlap: Toggle::Default,
            dp_overlap: Toggle::Default,
            ep_overlap: Toggle::Default,
            fused_kernels: Toggle::Default,
            loss_fusion: Toggle::Default,
            first_stage_layers: 0,
            last_stage_layers: 0,
            pp_microbatches: 0,
            dp_replicate: 1,
            dcp: 1,
            eplb: false,
            redundant_experts: 0,
            moe_dp: 1,
            a2a: false,
            replicas: 1,
        }
    }
}

/// A mesh and its knobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Plan {
    /// The degrees.
    pub mesh: Mesh,
    /// The rest.
    pub knobs: Knobs,
}

/// Whether a plan's text carries training knobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Training.
    Train,
    /// Serving.
    Serve,
}

impl Plan {
    /// The text form, which [`Draft::parse`] reads back: `tp2 ep4 pp2 dp1 mb1`.
    ///
    /// The product convention falls back to naming both grids (`etp`, and `dp` of the attention side) for meshes that have no
    /// product form; the caller names the convention with [`Plan::convention`].
    #[must_use]
    pub fn text(&self, convention: Convention, purpose: Purpose) -> String {
        let m = &self.mesh;
        let k = &self.knobs;
        let mut out = self.degrees(convention);
        let mut push = |text: String| {
            out.push(' ');
            out.push_str(&text);
        };
        if purpose == Purpose::Train {
            push(format!("mb{}", k.micro_batch));
            if k.vpp > 1 {
                push(format!("vpp{}", k.vpp));
            }
            if k.recompute != Recompute::None {
                push(format!("recompute={}", k.recompute));
            }
            if k.zero != 1 {
                push(format!("zero={}", k.zero));
            }
            if m.tp() > 1 && !k.sequence_parallel {
                push("sequence_parallel=false".to_owned());
            }
            if k.schedule != Schedule::OneFOneB {
                push(format!("schedule={}", k.schedule.name()));
            }
            if k.optimizer_offload > 0 {
                push(format!("optimizer_offload={}", f64::from(k.optimizer_offload) / 100.0));
            }
            for (name, toggle) in [
                ("tp_overlap", k.tp_overlap),
                ("dp_overlap", k.dp_overlap),
                ("ep_overlap", k.ep_overlap),
                ("fused_kernels", k.fused_kernels),
                ("loss_fusion", k.loss_fusion),
            ] {
                match toggle {
                    Toggle::Default => {}
                    Toggle::On => push(format!("{name}=true")),
                    Toggle::Off => push(format!("{name}=false")),
                }
            }
            if k.pp_microbatches > 0 && convention == Convention::Torchtitan {
                push(format!("pp_microbatches={}", k.pp_microbatches));
            }
        }
        if k.first_stage_layers > 0 {
            push(format!("first_stage_layers={}", k.first_stage_layers));
        }
        if k.last_stage_layers > 0 {
            push(format!("last_stage_layers={}", k.last_stage_layers));
        }
        if k.dcp > 1 && convention == Convention::Vllm {
            push(format!("dcp={}", k.dcp));
        }
        if k.eplb {
            push("eplb=true".to_owned());
        }
        if k.redundant_experts > 0 {
            push(format!("redundant_experts={}", k.redundant_experts));
        }
        if k.a2a {
            push("a2a=deepep".to_owned());
        }
        if k.replicas > 1 && !matches!(convention, Convention::Product) && purpose == Purpose::Serve {
            push(format!("replicas={}", k.replicas));
        }
        out
    }

    fn degrees(&self, convention: Convention) -> String {
        let m = &self.mesh;
        let k = &self.knobs;
        let replica_dp = m.dp_attention() / k.replicas.max(1);
        let mut parts: Vec<(&str, u32)> = Vec::new();
        let cp = |parts: &mut Vec<(&str, u32)>| {
            if m.cp() > 1 {
                parts.push(("cp", m.cp()));
            }
        };
        match convention {
            Convention::Product => {
                parts.extend([("tp", m.tp()), ("ep", m.ep()), ("pp", m.pp()), ("dp", convention.dp(m))]);
                cp(&mut parts);
            }
            Convention::Megatron | Convention::Bridge => {
                parts.extend([("tp", m.tp()), ("ep", m.ep()), ("pp", m.pp()), ("dp", m.dp_attention())]);
                cp(&mut parts);
                if m.ep() > 1 || m.etp() != m.tp() {
                    parts.push(("etp", m.etp()));
                }
            }
            Convention::Torchtitan => {
                let shard = m.dp_attention() / k.dp_replicate.max(1);
                parts.extend([("tp", m.tp()), ("ep", m.ep()), ("pp", m.pp())]);
                cp(&mut parts);
                parts.extend([("dp_replicate", k.dp_replicate), ("dp_shard", shard)]);
            }
            Convention::Deepspeed => {
                parts.extend([("tp", m.tp()), ("ep", m.ep()), ("pp", m.pp()), ("dp", m.dp_attention())]);
            }
            Convention::Vllm => {
                parts.extend([("tp", m.tp()), ("pp", m.pp()), ("dp", replica_dp)]);
                if m.cp() > 1 {
                    parts.push(("pcp", m.cp()));
                }
                let text = join(&parts);
                return format!("{text} ep={}", m.ep() > 1);
            }
            Convention::Sglang => {
                parts.extend([("tp", m.tp() * m.cp() * replica_dp), ("pp", m.pp())]);
                parts.extend([("attn_dp", replica_dp), ("ep", m.ep())]);
                if m.cp() > 1 {
                    parts.push(("attn_cp", m.cp()));
                }
                if k.moe_dp > 1 {
                    parts.push(("moe_dp", k.moe_dp));
                }
            }
            Convention::Trtllm => {
                parts.extend([("tp", m.tp() * replica_dp), ("pp", m.pp())]);
                cp(&mut parts);
                // A dense model's experts grid is a shadow of its attention grid, not a split of the stage.
                if m.etp() * m.ep() == m.tp() * replica_dp {
                    parts.extend([("moe_tp", m.etp()), ("moe_ep", m.ep())]);
                }
                let text = join(&parts);
                return if replica_dp > 1 { format!("{text} attention_dp=true") } else { text };
            }
        }
        join(&parts)
    }

    /// The convention whose names can say this mesh: the one asked for, or Megatron's when a mesh has no product form.
    #[must_use]
    pub fn convention(&self, asked: Convention) -> Convention {
        if asked == Convention::Product && self.mesh.product_dp().is_none() { Convention::Megatron } else { asked }
    }
}

fn join(parts: &[(&str, u32)]) -> String {
    let words: Vec<String> = parts
        .iter()
        .map(|(name, degree)| if name.contains('_') { format!("{name}={degree}") } else { format!("{name}{degree}") })
        .collect();
    words.join(" ")
}

/// Why a plan's text or object cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanError {
    /// The key.
    pub key: String,
    /// What stood there.
    pub value: String,
    /// What is allowed.
    pub allowed: String,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plan: at `{}`: `{}` is not allowed: {}", self.key, self.value, self.allowed)
    }
}

impl std::error::Error for PlanError {}

/// A plan as somebody wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Draft {
    /// Whose names these are.
    pub convention: Convention,
    /// TP (SGLang's and TensorRT-LLM's `tp` is the whole stage).
    pub tp: Option<u32>,
    /// CP.
    pub cp: Option<u32>,
    /// PP.
    pub pp: Option<u32>,
    /// EP, as a number.
    pub ep: Option<u32>,
    /// EP, as vLLM's switch.
    pub expert_parallel: Option<bool>,
    /// ETP.
    pub etp: Option<u32>,
    /// DP of the convention.
    pub dp: Option<u32>,
    /// torchtitan's replicated DP.
    pub dp_replicate: Option<u32>,
    /// torchtitan's sharded DP.
    pub dp_shard: Option<u32>,
    /// SGLang's attention DP.
    pub attn_dp: Option<u32>,
    /// SGLang's attention CP, vLLM's PCP.
    pub pcp: Option<u32>,
    /// TensorRT-LLM's expert TP.
    pub moe_tp: Option<u32>,
    /// TensorRT-LLM's EP.
    pub moe_ep: Option<u32>,
    /// TensorRT-LLM's attention DP switch.
    pub attention_dp: Option<bool>,
    /// Sequence parallelism, when said.
    pub sequence_parallel: Option<bool>,
    /// The rest.
    pub knobs: Knobs,
}

/// A value of a plan's key, before its meaning is known.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Not set on purpose.
    Null,
    /// A switch.
    Bool(bool),
    /// A number.
    Number(f64),
    /// A word.
    Text(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::Number(n) => write!(f, "{n}"),
            Self::Text(t) => f.write_str(t),
        }
    }
}

/// The largest degree that is read; larger ones are typing slips.
pub const MOST_DEGREE: u32 = 1 << 20;

const TRAIN_KNOBS: [&str; 14] = [
    "micro_batch",
    "vpp",
    "recompute",
    "zero",
    "sequence_parallel",
    "optimizer_offload",
    "schedule",
    "tp_overlap",
    "dp_overlap",
    "ep_overlap",
    "fused_kernels",
    "loss_fusion",
    "first_stage_layers",
    "last_stage_layers",
];

impl Draft {
    /// The degree keys a convention knows.
    #[must_use]
    pub const fn keys(convention: Convention) -> &'static [&'static str] {
        match convention {
            Convention::Product => &["tp", "ep", "pp", "dp", "cp", "etp"],
            Convention::Megatron | Convention::Bridge => &["tp", "cp", "pp", "ep", "etp", "dp", "replicas"],
            Convention::Torchtitan => &["tp", "cp", "pp", "ep", "dp", "dp_replicate", "dp_shard", "pp_microbatches"],
            Convention::Deepspeed => &["tp", "pp", "ep", "dp"],
            Convention::Vllm => &["tp", "pp", "dp", "ep", "dcp", "pcp", "eplb", "redundant_experts", "replicas"],
            Convention::Sglang => &[
                "tp",
                "pp",
                "dp",
                "attn_dp",
                "attn_cp",
                "ep",
                "moe_dp",
                "a2a",
                "eplb",
                "redundant_experts",
                "replicas",
            ],
            Convention::Trtllm => &["tp", "pp", "cp", "moe_tp", "moe_ep", "attention_dp", "replicas"],
        }
    }

    /// Reads the text form: `tp2 ep4 pp2 dp1 mb1 recompute=full`, in any order, case ignored, `x`, `,` and spaces between.
    ///
    /// # Errors
    /// Names the key, what stood there and what is allowed.
    pub fn parse(text: &str, convention: Convention) -> Result<Self, PlanError> {
        let mut draft = Self { convention, ..Self::default() };
        let mut seen: Vec<String> = Vec::new();
        for word in words(text) {
            let (key, value) = split_word(&word).ok_or_else(|| PlanError {
                key: word.clone(),
                value: word.clone(),
                allowed: "write degrees as in `tp2 ep4 pp2 dp1` and knobs as in `mb1 recompute=full`".into(),
            })?;
            let key = canonical(&key);
            if seen.contains(&key) {
                return Err(PlanError { key, value, allowed: "each key once".into() });
            }
            draft.set(&key, &read_value(&value))?;
            seen.push(key);
        }
        if seen.is_empty() {
            let allowed = "at least one degree, as in `tp2 ep4 pp2 dp1`".into();
            return Err(PlanError { key: "plan".into(), value: text.trim().into(), allowed });
        }
        Ok(draft)
    }

    /// Sets one key.
    ///
    /// # Errors
    /// When the key is unknown to the convention or the value is not allowed.
    pub fn set(&mut self, key: &str, value: &Value) -> Result<(), PlanError> {
        let refuse = |allowed: String| PlanError { key: key.to_owned(), value: value.to_string(), allowed };
        let known = Self::keys(self.convention);
        if !known.contains(&key) && !TRAIN_KNOBS.contains(&key) {
            let mut list: Vec<&str> = known.to_vec();
            list.extend(TRAIN_KNOBS);
            return Err(refuse(format!("keys of the {} convention: {}", self.convention, list.join(", "))));
        }
        if *value == Value::Null {
            return Ok(());
        }
        let count = |least: u32| match value {
            Value::Number(n) if n.fract() == 0.0 && *n >= f64::from(least) && *n <= f64::from(MOST_DEGREE) => {
                Ok(*n as u32)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => {
                Err(refuse(format!("a whole number from {least} to {MOST_DEGREE}")))
            }
        };
        let switch = || match value {
            Value::Bool(b) => Ok(*b),
            Value::Null | Value::Number(_) | Value::Text(_) => Err(refuse("true or false".into())),
        };
        let toggle = || switch().map(|on| if on { Toggle::On } else { Toggle::Off });
        match key {
            "tp" => self.tp = Some(count(1)?),
            "cp" => self.cp = Some(count(1)?),
            "pp" => self.pp = Some(count(1)?),
            "ep" => match value {
                Value::Bool(on) if self.convention == Convention::Vllm => self.expert_parallel = Some(*on),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => self.ep = Some(count(1)?),
            },
            "etp" => self.etp = Some(count(1)?),
            "dp" => self.dp = Some(count(1)?),
            "dp_replicate" => self.dp_replicate = Some(count(1)?),
            "dp_shard" => match value {
                Value::Number(n) if *n < 0.0 => self.dp_shard = None,
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => self.dp_shard = Some(count(1)?),
            },
            "attn_dp" => self.attn_dp = Some(count(1)?),
            "pcp" | "attn_cp" => self.pcp = Some(count(1)?),
            "moe_tp" => self.moe_tp = Some(count(1)?),
            "moe_ep" => self.moe_ep = Some(count(1)?),
            "attention_dp" => self.attention_dp = Some(switch()?),
            "moe_dp" => self.knobs.moe_dp = count(1)?,
            "dcp" => self.knobs.dcp = count(1)?,
            "eplb" => self.knobs.eplb = switch()?,
            "redundant_experts" => self.knobs.redundant_experts = count(0)?,
            "replicas" => self.knobs.replicas = count(1)?,
            "a2a" => {
                self.knobs.a2a = match value {
                    Value::Bool(on) => *on,
                    Value::Text(name) => name != "none",
                    Value::Null | Value::Number(_) => return Err(refuse("none, or the name of a backend".into())),
                }
            }
            "pp_microbatches" => self.knobs.pp_microbatches = count(1)?,
            "micro_batch" => self.knobs.micro_batch = count(1)?,
            "vpp" => self.knobs.vpp = count(1)?,
            "first_stage_layers" => self.knobs.first_stage_layers = count(1)?,
            "last_stage_layers" => self.knobs.last_stage_layers = count(1)?,
            "zero" => match value {
                Value::Number(n) if [0.0, 1.0, 2.0, 3.0].contains(n) => self.knobs.zero = *n as u8,
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => {
                    return Err(refuse("0, 1, 2 or 3".into()));
                }
            },
            "sequence_parallel" => self.sequence_parallel = Some(switch()?),
            "optimizer_offload" => match value {
                Value::Number(n) if (0.0..=1.0).contains(n) => {
                    self.knobs.optimizer_offload = (*n * 100.0).round() as u8;
                }
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => {
                    return Err(refuse("a share from 0 to 1".into()));
                }
            },
            "tp_overlap" => self.knobs.tp_overlap = toggle()?,
            "dp_overlap" => self.knobs.dp_overlap = toggle()?,
            "ep_overlap" => self.knobs.ep_overlap = toggle()?,
            "fused_kernels" => self.knobs.fused_kernels = toggle()?,
            "loss_fusion" => self.knobs.loss_fusion = toggle()?,
            "recompute" => {
                let list = || {
                    let names: Vec<&str> = Module::ALL.iter().map(|m| m.name()).collect();
                    format!("none, selective, full, or modules joined by `+`: {}", names.join(", "))
                };
                let text = match value {
                    Value::Text(text) => text.to_ascii_lowercase(),
                    Value::Null | Value::Bool(_) | Value::Number(_) => return Err(refuse(list())),
                };
                self.knobs.recompute = Recompute::parse(&text).ok_or_else(|| refuse(list()))?;
            }
            "schedule" => {
                let text = value.to_string().to_ascii_lowercase();
                self.knobs.schedule = match text.as_str() {
                    "interleaved" => Schedule::OneFOneB,
                    _ => Schedule::ALL.into_iter().find(|s| s.name() == text).ok_or_else(|| {
                        let names: Vec<&str> = Schedule::ALL.iter().map(|s| s.name()).collect();
                        refuse(format!("{}, interleaved", names.join(", ")))
                    })?,
                };
            }
            _ => unreachable!("every known key has an arm"),
        }
        Ok(())
    }
}

/// Splits at spaces, commas and those `x` that stand between a number and the next key.
fn words(text: &str) -> Vec<String> {
    let lower = text.to_ascii_lowercase().replace('×', "x");
    let chars: Vec<char> = lower.chars().collect();
    let mut out = vec![String::new()];
    for (i, &c) in chars.iter().enumerate() {
        let after_digit = i > 0 && chars[i - 1].is_ascii_digit();
        let before_letter = chars.get(i + 1).is_some_and(char::is_ascii_alphabetic);
        if c.is_whitespace() || matches!(c, ',' | ';') || (c == 'x' && after_digit && before_letter) {
            out.push(String::new());
        } else if let Some(last) = out.last_mut() {
            last.push(c);
        }
    }
    out.retain(|word| !word.is_empty() && word != "x");
    out
}

/// `tp2` and `tp=2` give the key and its value.
fn split_word(word: &str) -> Option<(String, String)> {
    if let Some((key, value)) = word.split_once(['=', ':']) {
        return (!key.is_empty() && !value.is_empty()).then(|| (key.to_owned(), value.to_owned()));
    }
    let at = word.find(|c: char| c.is_ascii_digit())?;
    let (key, value) = word.split_at(at);
    (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
}

fn canonical(key: &str) -> String {
    match key.replace('-', "_").as_str() {
        "mb" | "mbs" | "micro_batch_size" => "micro_batch".to_owned(),
        "sp" => "sequence_parallel".to_owned(),
        "offload" => "optimizer_offload".to_owned(),
        other => other.to_owned(),
    }
}

fn read_value(text: &str) -> Value {
    match text {
        "true" | "on" | "yes" => Value::Bool(true),
        "false" | "off" | "no" => Value::Bool(false),
        "null" => Value::Null,
        _ => text.parse().map_or_else(|_| Value::Text(text.to_owned()), Value::Number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_order_case_and_separator() {
        let a = Draft::parse("tp2 ep4 pp2 dp1 mb1", Convention::Product).unwrap();
        for other in ["TP2xEP4xPP2xDP1 mb1", "dp=1, pp=2, ep=4, tp=2, micro_batch=1", "pp2,tp2,ep4,dp1"] {
            assert_eq!(Draft::parse(other, Convention::Product).unwrap(), a, "{other}");
        }
    }

    #[test]
    fn bad_words_name_what_is_allowed() {
        for bad in ["", "tp", "tp0", "tp2 tp4", "tq2", "tp1.5", "recompute=some", "zero=4", "tp99999999999"] {
            let error = Draft::parse(bad, Convention::Product).unwrap_err();
            assert!(!error.allowed.is_empty(), "{bad}");
        }
    }

    #[test]
    fn modules_round_trip() {
        let draft = Draft::parse("tp2 recompute=core_attn+moe_act", Convention::Megatron).unwrap();
        assert_eq!(draft.knobs.recompute.to_string(), "core_attn+moe_act");
        assert_eq!(Recompute::SELECTIVE.to_string(), "selective");
    }
}
