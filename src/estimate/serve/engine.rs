//! What the engines do by themselves.

use crate::mesh::Convention;

/// What an engine does by itself: constants with a meaning, one record an engine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EngineProfile {
    /// Share of the memory it takes unless told otherwise.
    pub memory_fraction: f64,
    /// Tokens of one prefill step.
    pub chunk: f64,
    /// Requests it samples at once, at most.
    pub max_sequences: f64,
    /// Host time of a decode step.
    pub host_s: f64,
    /// Host and scheduling time before a first token.
    pub first_token_s: f64,
    /// Share of the queue of a burst that the mean request waits for.
    pub burst_share: f64,
    /// Non-PyTorch memory beside the context: communicators, all-reduce buffers, workspaces.
    pub other_bytes: f64,
    /// Captured graphs.
    pub graph_bytes: f64,
}

/// vLLM 0.24 and later: utilisation .9; logs show 2.75 GiB of non-torch memory for DeepSeek-V3 and .26 to .58 GiB of graphs.
const VLLM: EngineProfile = EngineProfile {
    memory_fraction: 0.9,
    chunk: 8192.0,
    max_sequences: 1024.0,
    host_s: 0.5e-3,
    first_token_s: 23e-3,
    burst_share: 0.077,
    other_bytes: 2.35e9,
    graph_bytes: 0.5e9,
};

/// SGLang 0.5: static fraction about .88; its scheduler batches prefills, so bursts wait longer.
const SGLANG: EngineProfile = EngineProfile {
    memory_fraction: 0.88,
    chunk: 8192.0,
    max_sequences: 512.0,
    host_s: 0.6e-3,
    first_token_s: 165e-3,
    burst_share: 0.15,
    other_bytes: 2.0e9,
    graph_bytes: 1.5e9,
};

/// TensorRT-LLM 1.3: 90 % of what is free once weights and activations are placed.
const TRTLLM: EngineProfile = EngineProfile {
    memory_fraction: 0.9,
    chunk: 8192.0,
    max_sequences: 512.0,
    host_s: 0.4e-3,
    first_token_s: 40e-3,
    burst_share: 0.10,
    other_bytes: 2.5e9,
    graph_bytes: 0.8e9,
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
}
