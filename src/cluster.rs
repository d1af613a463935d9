//! GPUs, the links between them, and clusters of them.
//!
//! Datasheet facts (peaks, bandwidths) and efficiencies (what kernels really reach) are separate records with separate
//! sources. The scale-up domain (NVLink) is not the node: GB200 NVL72 has 4 GPUs a node and 72 in a domain.

use crate::model::WeightFormat;
use crate::units::{Bytes, BytesPerSec, FlopPerSec, Seconds, UsdPerHour};
use std::fmt;

/// How far a figure can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Basis {
    /// Follows from definitions.
    Exact,
    /// Fitted to measurements of the very thing.
    Measured,
    /// A formula that was checked against measurements elsewhere.
    Modelled,
    /// A guess.
    Assumed,
}

impl Basis {
    /// The word in outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Measured => "measured",
            Self::Modelled => "modelled",
            Self::Assumed => "assumed",
        }
    }
}

/// Formats a tensor core computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dtype {
    /// 32-bit.
    Fp32,
    /// 19-bit on tensor cores.
    Tf32,
    /// Half precision.
    Fp16,
    /// bfloat16.
    Bf16,
    /// 8-bit integers.
    Int8,
    /// 8-bit floating point.
    Fp8,
    /// Microscaling 8-bit.
    Mxfp8,
    /// Microscaling 4-bit.
    Mxfp4,
    /// NVIDIA's 4-bit.
    Nvfp4,
}

impl Dtype {
    /// Every format.
    pub const ALL: [Self; 9] =
        [Self::Fp32, Self::Tf32, Self::Fp16, Self::Bf16, Self::Int8, Self::Fp8, Self::Mxfp8, Self::Mxfp4, Self::Nvfp4];

    /// The name in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Tf32 => "tf32",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Fp8 => "fp8",
            Self::Mxfp8 => "mxfp8",
            Self::Mxfp4 => "mxfp4",
            Self::Nvfp4 => "nvfp4",
        }
    }
}

/// Kinds of GEMM that have an efficiency curve of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GemmKind {
    /// 16-bit.
    Bf16,
    /// 8-bit with a scale per tensor.
    Fp8,
    /// 8-bit with scales per block.
    Fp8Block,
    /// 4-bit.
    Nvfp4,
}

impl GemmKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Bf16, Self::Fp8, Self::Fp8Block, Self::Nvfp4];

    /// The name in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
            Self::Fp8Block => "fp8_block",
            Self::Nvfp4 => "nvfp4",
        }
    }

    /// The format whose peak bounds it.
    #[must_use]
    pub const fn dtype(self) -> Dtype {
        match self {
            Self::Bf16 => Dtype::Bf16,
            Self::Fp8 | Self::Fp8Block => Dtype::Fp8,
            Self::Nvfp4 => Dtype::Nvfp4,
        }
    }
}

/// A fitted GEMM of `m` rows over `n x k` weights:
///
/// ```text
/// t = t0 + per_k k + hypot(FLOP / (compute * peak), weight bytes / (memory * HBM)) + activation bytes / (memory * HBM)
/// ```
/// A tile walks all of `k` step by step, which takes its time however few tiles there are; inputs and outputs are read and written
/// before and after the product.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KernelFit {
    /// Fixed time.
    pub t0: Seconds,
    /// Share of the peak reached by large ones.
    pub compute: f64,
    /// Share of the memory bandwidth reached by large ones.
    pub memory: f64,
    /// Time of one step along `k`.
    pub per_k: Seconds,
    /// Median relative error of the fit.
    pub median_error: f64,
}

/// A fitted attention kernel of prefill or training: `t = t0 + FLOP (1 + half / s) / (compute * peak)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionFit {
    /// Fixed time.
    pub t0: Seconds,
    /// Share of the 16-bit peak on long sequences.
    pub compute: f64,
    /// Sequence length at which half of that is reached.
    pub half_length: f64,
}

/// A fitted decode attention: `t = t0 + KV bytes / (memory * HBM)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DecodeFit {
    /// Fixed time.
    pub t0: Seconds,
    /// Share of the memory bandwidth.
    pub memory: f64,
    /// The same with 8-bit keys and values: Hopper's kernels lose time converting them.
    pub memory_8bit: f64,
}

impl DecodeFit {
    /// Share of the memory bandwidth for keys and values of so many bytes a number.
    #[must_use]
    pub const fn share(&self, bytes: f64) -> f64 {
        if bytes < 1.5 { self.memory_8bit } else { self.memory }
    }
}

/// A fitted fused MoE kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MoeFit {
    /// Fixed time.
    pub t0: Seconds,
    /// Share of the peak.
    pub compute: f64,
    /// Share of the memory bandwidth.
    pub memory: f64,
    /// Passes over the permuted activations.
    pub permute: f64,
}

impl MoeFit {
    /// The curve of a format without one of its own: no tiles, half of the passes divided by EP.
    #[must_use]
    pub const fn of(self, format: WeightFormat) -> ExpertFit {
        let Self { t0, compute, memory, permute } = self;
        let (maker, median_error) = (KernelMaker::Vllm, 0.3);
        ExpertFit { maker, format, t0, compute, memory, permute, spread: 0.5, rows: 1.0, median_error }
    }
}

/// Whose kernels an engine runs: fused experts, small all-reduces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelMaker {
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// TensorRT-LLM.
    Trtllm,
}

impl KernelMaker {
    /// Every maker.
    pub const ALL: [Self; 3] = [Self::Vllm, Self::Sglang, Self::Trtllm];

    /// The name in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::Trtllm => "trtllm",
        }
    }
}

/// A fused expert kernel of one engine and weight format, for `T` tokens, `k` experts a token, hidden width `H`, and `I` the
/// width of an expert on this rank:
///
/// ```text
/// t = t0 + hypot(2 W max(T k / EP, rows * hit) / (compute * peak), hit W bytes / (memory * HBM))
///   + permute * T k (4H + 6I) (1 - spread + spread / EP) / HBM,      W = 3 H I
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpertFit {
    /// Whose kernel.
    pub maker: KernelMaker,
    /// Format of the weights.
    pub format: WeightFormat,
    /// Fixed time: routing, sorting, several launches.
    pub t0: Seconds,
    /// Share of the peak of the format's GEMM kind.
    pub compute: f64,
    /// Share of the memory bandwidth.
    pub memory: f64,
    /// Passes over the permuted activations.
    pub permute: f64,
    /// Share of those passes that EP divides.
    pub spread: f64,
    /// Rows an expert that is hit computes at least: its tile.
    pub rows: f64,
    /// Median relative error of the fit.
    pub median_error: f64,
}

/// A fitted collective: `t = alpha + bytes * factor / bus`, bus bandwidth as nccl-tests counts it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CollectiveFit {
    /// Ranks it was measured on.
    pub ranks: u32,
    /// Fixed time.
    pub alpha: Seconds,
    /// Bus bandwidth.
    pub bus: BytesPerSec,
}

/// An engine's own all-reduce of small messages inside a node, the faster of two ways:
///
/// ```text
/// direct (every rank reads all of the others')      t0 + bytes / direct
/// two steps (reduce-scatter, then all-gather)       two_step_t0 + bytes * factor / bus
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SmallReduceFit {
    /// Whose kernel.
    pub maker: KernelMaker,
    /// Ranks it was measured on.
    pub ranks: u32,
    /// Fixed time of the direct way.
    pub t0: Seconds,
    /// Message bytes a second of the direct way.
    pub direct: BytesPerSec,
    /// Fixed time of the two steps.
    pub two_step_t0: Seconds,
    /// Bus bandwidth of the two steps.
    pub bus: BytesPerSec,
}

/// Collectives that are priced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Collective {
    /// Every rank ends with the sum.
    AllReduce,
    /// Every rank ends with all parts.
    AllGather,
    /// Every rank ends with its part of the sum.
    ReduceScatter,
    /// Every rank sends a part to every other.
    AllToAll,
    /// One rank sends to one other.
    SendRecv,
}

impl Collective {
    /// Every collective.
    pub const ALL: [Self; 5] = [Self::AllReduce, Self::AllGather, Self::ReduceScatter, Self::AllToAll, Self::SendRecv];

    /// The name in files and outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all_reduce",
            Self::AllGather => "all_gather",
            Self::ReduceScatter => "reduce_scatter",
            Self::AllToAll => "all_to_all",
            Self::SendRecv => "send_recv",
        }
    }

    /// Bytes over the wire per byte of the whole buffer on a ring of `n`: `2(n-1)/n` for an all-reduce, `(n-1)/n` for the
    /// others, 1 for a send. Source: nccl-tests, PERFORMANCE.md.
    #[must_use]
    pub fn factor(self, n: u32) -> f64 {
        let n = f64::from(n.max(1));
        match self {
            Self::AllReduce => 2.0 * (n - 1.0) / n,
            Self::AllGather | Self::ReduceScatter | Self::AllToAll => (n - 1.0) / n,
            Self::SendRecv => 1.0,
        }
    }
}

/// What kernels and collectives reach on one GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct Efficiency {
    /// GEMM curves, by [`GemmKind`].
    pub gemm: [Option<KernelFit>; 4],
    /// Attention of prefill and training.
    pub prefill_attention: AttentionFit,
    /// Latent attention of prefill, where an engine's kernel is of its own speed.
    pub latent_prefill: Vec<(KernelMaker, AttentionFit)>,
    /// Attention of decode.
    pub decode_attention: DecodeFit,
    /// Fused experts, where no engine's kernel is measured for a format.
    pub moe: MoeFit,
    /// Fused experts by engine and format.
    pub experts: Vec<ExpertFit>,
    /// The engines' own all-reduce for small messages inside a node; empty when there is none.
    pub custom_all_reduce: Vec<SmallReduceFit>,
    /// NCCL inside the scale-up domain, by [`Collective`] (send/recv has none).
    pub collectives: [Vec<CollectiveFit>; 4],
    /// Where the curves come from.
    pub source: Vec<String>,
    /// Measured on this GPU, or assumed from a sibling.
    pub basis: Basis,
}

impl Efficiency {
    /// The expert kernel of an engine for a format: its own, else another engine's, else the other 8-bit format's.
    #[must_use]
    pub fn experts(&self, maker: KernelMaker, format: WeightFormat) -> Option<ExpertFit> {
        let formats: &[WeightFormat] = match format {
            WeightFormat::Fp32 | WeightFormat::Bf16 | WeightFormat::Fp16 => &[WeightFormat::Bf16],
            WeightFormat::Fp8 => &[WeightFormat::Fp8, WeightFormat::Fp8Block],
            WeightFormat::Fp8Block => &[WeightFormat::Fp8Block, WeightFormat::Fp8],
            WeightFormat::Int8 => &[WeightFormat::Fp8Block, WeightFormat::Fp8],
            WeightFormat::Int4 => &[WeightFormat::Int4],
            WeightFormat::Nvfp4 => &[WeightFormat::Nvfp4],
            WeightFormat::Mxfp4 => &[WeightFormat::Mxfp4],
        };
        let of = |format: WeightFormat, maker: Option<KernelMaker>| {
            self.experts.iter().find(|e| e.format == format && maker.is_none_or(|m| m == e.maker)).copied()
        };
        formats
            .iter()
            .find_map(|f| of(*f, Some(maker)))
            .or_else(|| formats.iter().find_map(|f| of(*f, Some(KernelMaker::Sglang)).or_else(|| of(*f, None))))
    }

    /// The prefill kernel of an engine for latent attention.
    #[must_use]
    pub fn latent_prefill(&self, maker: KernelMaker) -> AttentionFit {
        self.latent_prefill.iter().find(|(m, _)| *m == maker).map_or(self.prefill_attention, |(_, fit)| *fit)
    }

    /// The small all-reduce of an engine over so many ranks, if it has one there.
    #[must_use]
    pub fn small_reduce(&self, maker: KernelMaker, ranks: u32) -> Option<&SmallReduceFit> {
        self.custom_all_reduce.iter().find(|f| f.maker == maker && f.ranks == ranks)
    }

    /// The curve of a kind of GEMM; formats without one use the nearest wider one's shares of their own peak.
    #[must_use]
    pub fn gemm(&self, kind: GemmKind) -> KernelFit {
        let order: &[GemmKind] = match kind {
            GemmKind::Bf16 => &[GemmKind::Bf16],
            GemmKind::Fp8 => &[GemmKind::Fp8, GemmKind::Bf16],
            GemmKind::Fp8Block => &[GemmKind::Fp8Block, GemmKind::Fp8, GemmKind::Bf16],
            GemmKind::Nvfp4 => &[GemmKind::Nvfp4, GemmKind::Fp8, GemmKind::Bf16],
        };
        order.iter().find_map(|k| self.gemm[*k as usize]).unwrap_or(KernelFit {
            t0: Seconds::new(5e-6),
            compute: 0.7,
            memory: 0.8,
            per_k: Seconds::ZERO,
            median_error: 0.3,
        })
    }
}

/// The kind of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkKind {
    /// NVLink through switches.
    Nvlink,
    /// PCI Express.
    Pcie,
    /// AMD's Infinity Fabric.
    InfinityFabric,
    /// Ethernet inside the box (Gaudi).
    Roce,
}

impl LinkKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Nvlink, Self::Pcie, Self::InfinityFabric, Self::Roce];

    /// The name in files and outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nvlink => "nvlink",
            Self::Pcie => "pcie",
            Self::InfinityFabric => "infinity-fabric",
            Self::Roce => "roce",
        }
    }
}

/// The fast links among the GPUs of one domain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScaleUp {
    /// What it is made of.
    pub kind: LinkKind,
    /// Per GPU and direction.
    pub bandwidth: BytesPerSec,
    /// GPUs that reach each other through it.
    pub domain: u32,
}

/// The kind of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkKind {
    /// InfiniBand.
    Infiniband,
    /// RDMA over Ethernet.
    Roce,
    /// Plain Ethernet.
    Ethernet,
    /// Amazon's elastic fabric.
    Efa,
}

impl NetworkKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Infiniband, Self::Roce, Self::Ethernet, Self::Efa];

    /// The name in files and outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Infiniband => "infiniband",
            Self::Roce => "roce",
            Self::Ethernet => "ethernet",
            Self::Efa => "efa",
        }
    }
}

/// The network between nodes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Network {
    /// What it is made of.
    pub kind: NetworkKind,
    /// Per NIC and direction.
    pub bandwidth: BytesPerSec,
    /// NICs of a node.
    pub nics_per_node: u32,
    /// Time of the smallest message.
    pub latency: Seconds,
}

/// GPU architectures, in order of age within a vendor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Architecture {
    /// NVIDIA V100.
    Volta,
    /// NVIDIA A100.
    Ampere,
    /// NVIDIA L40S, L4.
    Ada,
    /// NVIDIA H100 and kin.
    Hopper,
    /// NVIDIA B200 and kin.
    Blackwell,
    /// AMD MI300.
    Cdna3,
    /// AMD MI350.
    Cdna4,
    /// Intel Gaudi 3.
    Gaudi3,
}

impl Architecture {
    /// Every architecture.
    pub const ALL: [Self; 8] =
        [Self::Volta, Self::Ampere, Self::Ada, Self::Hopper, Self::Blackwell, Self::Cdna3, Self::Cdna4, Self::Gaudi3];

    /// The name in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Volta => "volta",
            Self::Ampere => "ampere",
            Self::Ada => "ada",
            Self::Hopper => "hopper",
            Self::Blackwell => "blackwell",
            Self::Cdna3 => "cdna3",
            Self::Cdna4 => "cdna4",
            Self::Gaudi3 => "gaudi3",
        }
    }
}

/// One kind of GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct Gpu {
    /// The name it is asked for by.
    pub name: String,
    /// Its architecture.
    pub architecture: Architecture,
    /// Memory as the driver reports it.
    pub memory: Bytes,
    /// Memory as the datasheet prints it.
    pub datasheet_memory: Option<Bytes>,
    /// Memory bandwidth.
    pub hbm: BytesPerSec,
    /// Dense peaks, by [`Dtype`]; `None` where the hardware lacks the format.
    pub peaks: [Option<FlopPerSec>; 9],
    /// Links inside the domain.
    pub scale_up: ScaleUp,
    /// Usual network rate of one GPU, per direction.
    pub nic: BytesPerSec,
    /// Usual GPUs of a node.
    pub gpus_per_node: u32,
    /// A rough public price; always a guess.
    pub price: Option<UsdPerHour>,
    /// What kernels reach.
    pub efficiency: Efficiency,
    /// Where the facts come from.
    pub source: Vec<String>,
}

impl Gpu {
    /// The dense peak of a format, if the hardware has it.
    #[must_use]
    pub const fn peak(&self, dtype: Dtype) -> Option<FlopPerSec> {
        self.peaks[dtype as usize]
    }

    /// The dense 16-bit peak, bf16 before fp16.
    ///
    /// Every GPU has one: the catalogue refuses a file without.
    #[must_use]
    pub fn peak16(&self) -> FlopPerSec {
        self.peak(Dtype::Bf16).or(self.peak(Dtype::Fp16)).expect("the catalogue refuses a GPU without a 16-bit peak")
    }

    /// The peak of a GEMM; a format the hardware lacks is computed in the next wider one.
    #[must_use]
    pub fn gemm_peak(&self, kind: GemmKind) -> FlopPerSec {
        let fallback = self.peak16();
        match kind {
            GemmKind::Bf16 => fallback,
            GemmKind::Fp8 | GemmKind::Fp8Block => self.peak(Dtype::Fp8).unwrap_or(fallback),
            GemmKind::Nvfp4 => self.peak(Dtype::Nvfp4).or(self.peak(Dtype::Mxfp4)).unwrap_or(fallback),
        }
    }
}

/// Nodes of one kind of GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// What it was asked for by.
    pub name: String,
    /// The GPU.
    pub gpu: Gpu,
    /// Nodes.
    pub nodes: u32,
    /// GPUs of a node.
    pub gpus_per_node: u32,
    /// Links inside a domain, with its size in this cluster.
    pub scale_up: ScaleUp,
    /// Links between nodes.
    pub network: Network,
}

impl Cluster {
    /// All GPUs.
    #[must_use]
    pub const fn gpus(&self) -> u32 {
        self.nodes * self.gpus_per_node
    }

    /// GPUs that reach each other over the scale-up links: a domain, or the cluster when it is smaller.
    #[must_use]
    pub fn domain(&self) -> u32 {
        self.scale_up.domain.min(self.gpus()).max(1)
    }

    /// Network bandwidth one GPU has to itself when all of its node send, per direction.
    #[must_use]
    pub fn nic_share(&self) -> BytesPerSec {
        self.network.bandwidth * (f64::from(self.network.nics_per_node) / f64::from(self.gpus_per_node))
    }

    /// The same cluster with another number of GPUs: whole nodes where they divide, one smaller node otherwise.
    #[must_use]
    pub fn resized(&self, gpus: u32) -> Self {
        let per = if gpus.is_multiple_of(self.gpus_per_node) {
            self.gpus_per_node
        } else if gpus < self.gpus_per_node {
            gpus
        } else {
            (1..=self.gpus_per_node).rev().find(|per| gpus.is_multiple_of(*per)).unwrap_or(1)
        };
        let nics = (self.network.nics_per_node * per).div_ceil(self.gpus_per_node).max(1);
        let mut other = self.clone();
        other.nodes = gpus / per;
        other.gpus_per_node = per;
        other.network.nics_per_node = nics;
        if self.scale_up.domain <= self.gpus_per_node {
            other.scale_up.domain = per;
        }
        other
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} x {} ({} {} x {}, {} domain of {}, {} {} per GPU)",
            self.gpus(),
            self.gpu.name,
            self.nodes,
            if self.nodes == 1 { "node" } else { "nodes" },
            self.gpus_per_node,
            self.scale_up.kind.name(),
            self.domain(),
            self.network.kind.name(),
            self.nic_share()
        )
    }
}
