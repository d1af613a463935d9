//! What the engines do by themselves.

use crate::cluster::{Architecture, KernelMaker};
use crate::job::Release;
use crate::mesh::Convention;

/// What an engine does by itself: constants with a meaning, one record an engine.
///
/// Host time, prefill time and the first token's constants are fitted to measured points (see `docs/MODEL-serving.md` for the
/// list, the data and the residuals); the rest are the engine's own defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineProfile {
    /// Share of the memory it takes unless told otherwise.
    pub memory_fraction: f64,
    /// Tokens of one prefill step.
    pub chunk: f64,
    /// Requests it samples at once, at most.
    pub max_sequences: f64,
    /// Non-PyTorch memory beside the context: communicators, all-reduce buffers, workspaces.
    pub other_bytes: f64,
    /// Captured graphs.
    pub graph_bytes: f64,
    /// Whose expert and all-reduce kernels it runs.
    pub kernels: KernelMaker,
    /// Whether a step mixes prefill and decode; without, decode waits while a prefill step runs.
    pub mixes: bool,
    /// Whether attention data-parallel ranks prefill in the same steps (a balancer holds requests back until all have one).
    pub aligned_prefill: bool,
    /// Time of one of the small kernels between the large ones: norms, activations, quantisation, routing. Fitted.
    pub small_kernel_s: f64,
    /// Host time of a step that the GPU waits for. Fitted.
    pub host_s: f64,
    /// Host time of a step for each running request: scheduling, sampling, output. Fitted.
    pub request_s: f64,
    /// Time of a prefill over that of its kernels: launches outside of graphs, copies, uneven chunks. Fitted.
    pub prefill: f64,
    /// Host time of each layer of a step with prefill, which runs outside of graphs: the step takes no less. Fitted where it shows, on
    /// Hopper's hosts; Blackwell's points show none.
    pub eager_layer_s: f64,
    /// The same of each layer's experts.
    pub eager_experts_s: f64,
    /// The release from which most of the small kernels are fused into their neighbours.
    pub fused_since: Release,
    /// What is left of their time then; earlier and unnamed releases run all of them. Fitted.
    pub fused: f64,
    /// Prefills of the others that the mean request of a loop that starts with a burst waits for, as a share of them all. Half of
    /// the first wave's would be .05 of them; what was prefilled together also ends together. Fitted.
    pub burst_share: f64,
    /// Decode steps until the first output leaves: engines stream in groups of tokens, and schedule before. Fitted.
    pub first_steps: f64,
}

/// vLLM: utilisation .9; logs show 2.75 GiB of non-torch memory for DeepSeek-V3 and .26 to .58 GiB of graphs.
const VLLM: EngineProfile = EngineProfile {
    memory_fraction: 0.9,
    chunk: 8192.0,
    max_sequences: 1024.0,
    other_bytes: 2.35e9,
    graph_bytes: 0.5e9,
    kernels: KernelMaker::Vllm,
    mixes: true,
    aligned_prefill: false,
    small_kernel_s: 4.3e-6,
    host_s: 0.022e-3,
    request_s: 15e-6,
    prefill: 1.32,
    eager_layer_s: 0.0,
    eager_experts_s: 0.0,
    fused_since: Release(0, 18, 0),
    fused: 0.58,
    burst_share: 0.070,
    first_steps: 2.3,
};

/// SGLang: static fraction about .88; its scheduler runs waiting prefills before anything else.
const SGLANG: EngineProfile = EngineProfile {
    memory_fraction: 0.88,
    chunk: 8192.0,
    max_sequences: 512.0,
    other_bytes: 2.0e9,
    graph_bytes: 1.5e9,
    kernels: KernelMaker::Sglang,
    mixes: false,
    aligned_prefill: false,
    small_kernel_s: 4.0e-6,
    host_s: 0.38e-3,
    request_s: 10.6e-6,
    prefill: 1.12,
    eager_layer_s: 0.0,
    eager_experts_s: 0.0,
    fused_since: Release(0, 5, 9),
    fused: 0.61,
    burst_share: 0.108,
    first_steps: 16.6,
};

/// TensorRT-LLM: 90 % of what is free once weights and activations are placed.
const TRTLLM: EngineProfile = EngineProfile {
    memory_fraction: 0.9,
    chunk: 8192.0,
    max_sequences: 512.0,
    other_bytes: 2.5e9,
    graph_bytes: 0.8e9,
    kernels: KernelMaker::Trtllm,
    mixes: true,
    aligned_prefill: true,
    small_kernel_s: 3.25e-6,
    host_s: 0.18e-3,
    request_s: 5.1e-6,
    prefill: 1.16,
    eager_layer_s: 0.63e-3,
    eager_experts_s: 0.33e-3,
    fused_since: Release(1, 2, 0),
    fused: 0.37,
    burst_share: 0.042,
    first_steps: 7.9,
};

/// Time of a small kernel on Blackwell over that on Hopper: kernels start before their predecessors end (programmatic dependent
/// launch). Fitted.
const ON_BLACKWELL: f64 = 0.85;

impl EngineProfile {
    /// The engine of a convention; vLLM's stands in where no engine is named.
    #[must_use]
    pub const fn of(convention: Convention) -> Self {
        match convention {
            Convention::Sglang => SGLANG,
            Convention::Trtllm => TRTLLM,
            Convention::Vllm
            | Convention::Product
            | Convention::Megatron
            | Convention::Bridge
            | Convention::Torchtitan
            | Convention::Deepspeed => VLLM,
        }
    }

    /// Seconds that a step with prefill takes at least for so many layers, so many of them with experts.
    #[must_use]
    pub fn eager_s(&self, layers: f64, experts: f64, on: Architecture) -> f64 {
        if matches!(on, Architecture::Hopper) {
            layers * self.eager_layer_s + experts * self.eager_experts_s
        } else {
            0.0
        }
    }

    /// Time of a small kernel of a release on an architecture.
    #[must_use]
    pub fn small_kernel(&self, release: Option<Release>, on: Architecture) -> f64 {
        let fused = if release.is_some_and(|r| r >= self.fused_since) { self.fused } else { 1.0 };
        self.small_kernel_s * fused * if matches!(on, Architecture::Blackwell) { ON_BLACKWELL } else { 1.0 }
    }
}
