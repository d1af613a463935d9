//! A plan: the mesh and the knobs beside it, and the text and key forms people write it in.
//!
//! A [`Draft`] is what somebody wrote, in the names of one convention, sizes possibly left out; `rules` turns it into a
//! [`Plan`] or says which rules it breaks. A [`Plan`] is `Copy + Ord + Hash`: its order is the last tie-break everywhere.

mod draft;

pub use draft::{Draft, MOST_DEGREE, PlanError, Value};

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
    /// Whole layers, one checkpoint for so many of them (Megatron's `uniform`).
    Uniform(u16),
    /// So many whole layers of each stage or chunk, its first ones; the others keep all (Megatron's `block`).
    Block(u16),
}

impl Recompute {
    /// Megatron's `selective`: the attention core alone.
    pub const SELECTIVE: Self = Self::Modules(1 << Module::CoreAttn as u8);

    /// Whether a module is recomputed on its own (full recomputation is a different scheme).
    #[must_use]
    pub const fn has(self, module: Module) -> bool {
        match self {
            Self::None | Self::Full | Self::Uniform(_) | Self::Block(_) => false,
            Self::Modules(set) => set & (1 << module as u8) != 0,
        }
    }

    /// Whole layers recomputed in one go: one, unless checkpoints are further apart.
    #[must_use]
    pub fn layers_at_once(self) -> f64 {
        match self {
            Self::Uniform(layers) => f64::from(layers.max(1)),
            Self::None | Self::Modules(_) | Self::Full | Self::Block(_) => 1.0,
        }
    }

    /// How many of a stage's layers, cut in `chunks`, are recomputed whole.
    #[must_use]
    pub fn whole_layers(self, layers: f64, chunks: u32) -> f64 {
        match self {
            Self::None | Self::Modules(_) => 0.0,
            Self::Full | Self::Uniform(_) => layers,
            Self::Block(each) => (f64::from(each) * f64::from(chunks.max(1))).min(layers),
        }
    }

    /// Reads `none`, `selective`, `full`, `uniform:4`, `block:8`, or modules joined by `+`; `norm`, `act` and `up_proj` are understood
    /// too.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "none" => return Some(Self::None),
            "full" => return Some(Self::Full),
            "selective" => return Some(Self::SELECTIVE),
            _ => {}
        }
        if let Some((method, layers)) = text.split_once(':') {
            let layers: u16 = layers.parse().ok().filter(|n| *n > 0)?;
            return match (method, layers) {
                ("uniform", 1) => Some(Self::Full),
                ("uniform", _) => Some(Self::Uniform(layers)),
                ("block", _) => Some(Self::Block(layers)),
                _ => None,
            };
        }
        let mut set = 0;
        for part in text.split(['+', '/', '|']) {
            let name = match part {
                "norm" => "layernorm",
                "act" | "mlp_act" => "moe_act",
                "up_proj" => "mla_up_proj",
                other => other,
            };
            let module = Module::ALL.iter().find(|m| m.name() == name)?;
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
            Self::Uniform(layers) => write!(f, "uniform:{layers}"),
            Self::Block(layers) => write!(f, "block:{layers}"),
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
    /// Whether the plan says so; unsaid, time does not credit it where older software goes without.
    pub sequence_parallel_said: bool,
    /// Order of micro-batches.
    pub schedule: Schedule,
    /// Percent of the optimizer kept in host memory.
    pub optimizer_offload: u8,
    /// TP communication hidden behind GEMMs.
    pub tp_overlap: Toggle,
    /// Gradient reduction and parameter gather hidden behind compute.
    pub dp_overlap: Toggle,
    /// Expert all-to-all hidden behind another micro-batch: of a training step, or half of a serving step's tokens (two-batch
    /// overlap).
    pub ep_overlap: Toggle,
    /// Activations between pipeline stages sent while the next chunk computes; by itself when interleaved.
    pub pp_overlap: Toggle,
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
            sequence_parallel_said: false,
            schedule: Schedule::OneFOneB,
            optimizer_offload: 0,
            tp_overlap: Toggle::Default,
            dp_overlap: Toggle::Default,
            ep_overlap: Toggle::Default,
            pp_overlap: Toggle::Default,
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
    /// Share of a model's layers that is recomputed whole.
    #[must_use]
    pub fn recomputed_share(&self, layers: u32) -> f64 {
        let of_stage = f64::from(layers) / f64::from(self.mesh.pp());
        self.knobs.recompute.whole_layers(of_stage, self.knobs.vpp) / of_stage.max(f64::MIN_POSITIVE)
    }

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
            if m.tp() > 1 && k.sequence_parallel && k.sequence_parallel_said {
                push("sequence_parallel=true".to_owned());
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
                ("pp_overlap", k.pp_overlap),
                ("fused_kernels", k.fused_kernels),
                ("loss_fusion", k.loss_fusion),
            ] {
                // Megatron's own kernels go without saying.
                let usual = matches!(convention, Convention::Megatron | Convention::Bridge) && name == "fused_kernels";
                match toggle {
                    Toggle::Default => {}
                    Toggle::On if usual => {}
                    Toggle::On => push(format!("{name}=true")),
                    Toggle::Off => push(format!("{name}=false")),
                }
            }
            if k.pp_microbatches > 0 && convention == Convention::Torchtitan {
                push(format!("pp_microbatches={}", k.pp_microbatches));
            }
        }
        if purpose == Purpose::Serve && k.ep_overlap != Toggle::Default {
            push(format!("ep_overlap={}", k.ep_overlap == Toggle::On));
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
