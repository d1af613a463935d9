//! What the engines do by themselves.

use crate::cluster::ExpertMaker;
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
    /// Whose expert kernels it runs.
    pub experts: ExpertMaker,
    /// Whether a step mixes prefill and decode; without, decode waits while a prefill step runs.
    pub mixes: bool,
    /// Whether attention data-parallel ranks prefill in the same steps (a balancer holds requests back until all have one).
    pub aligned_prefill: bool,
    /// Host time of a step that the GPU waits for. Fitted.
    pub host_s: f64,
    /// Host time of a step for each running request: scheduling, sampling, output. Fitted.
    pub request_s: f64,
    /// Time of a prefill over that of its kernels: launches outside of graphs, copies, uneven chunks. Fitted.
    pub prefill: f64,
    /// The release whose fused kernels shorten the time between the kernels.
    pub fused_since: Release,
    /// That time over the one of earlier and unnamed releases. Fitted.
    pub fused: f64,
    /// Host and scheduling time before a first token. Fitted.
    pub first_token_s: f64,
    /// Share of a burst's queue that the mean request waits for: half of a tenth when the first wave alone queues. Fitted.
    pub burst_share: f64,
    /// Steps until the first output leaves: engines under benchmark loads stream in groups of tokens. Fitted.
    pub burst_steps: f64,
}

/// vLLM: utilisation .9; logs show 2.75 GiB of non-torch memory for DeepSeek-V3 and .26 to .58 GiB of graphs.
const VLLM: EngineProfile = EngineProfile {
    memory_fraction: 0.9,
    chunk: 8192.0,
    max_sequences: 1024.0,
    other_bytes: 2.35e9,
    graph_bytes: 0.5e9,
    experts: ExpertMaker::Vllm,
    mixes: true,
    aligned_prefill: false,
    host_s: 0.0,
    request_s: 19e-6,
    prefill: 1.26,
    fused_since: Release(0, 18, 0),
    fused: 0.74,
    first_token_s: 17e-3,
    burst_share: 0.085,
    burst_steps: 2.5,
};

/// SGLang: static fraction about .88; its scheduler runs waiting prefills before anything else.
const SGLANG: EngineProfile = EngineProfile {
    memory_fraction: 0.88,
    chunk: 8192.0,
    max_sequences: 512.0,
    other_bytes: 2.0e9,
    graph_bytes: 1.5e9,
    experts: ExpertMaker::Sglang,
    mixes: false,
    aligned_prefill: false,
    host_s: 1.16e-3,
    request_s: 6.8e-6,
    prefill: 1.03,
    fused_since: Release(0, 5, 9),
    fused: 0.47,
    first_token_s: 0.0,
    burst_share: 0.14,
    burst_steps: 21.0,
};

/// TensorRT-LLM: 90 % of what is free once weights and activations are placed.
const TRTLLM: EngineProfile = EngineProfile {
    memory_fraction: 0.9,
    chunk: 8192.0,
    max_sequences: 512.0,
    other_bytes: 2.5e9,
    graph_bytes: 0.8e9,
    experts: ExpertMaker::Trtllm,
    mixes: true,
    aligned_prefill: true,
    host_s: 0.0,
    request_s: 1.2e-6,
    prefill: 1.22,
    fused_since: Release(1, 2, 0),
    fused: 0.39,
    first_token_s: 0.0,
    burst_share: 0.06,
    burst_steps: 12.0,
};

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

    /// Time between kernels of a release over that of the releases the constants describe.
    #[must_use]
    pub fn gaps(&self, release: Option<Release>) -> f64 {
        if release.is_some_and(|r| r >= self.fused_since) { self.fused } else { 1.0 }
    }
}
