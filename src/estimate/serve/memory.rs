//! What every stage of a replica must hold, and how many KV tokens are left room for.

use super::{EngineProfile, Load};
use crate::cluster::{Architecture, Gpu, LinkKind};
use crate::cost::memory as mem;
use crate::cost::ops;
use crate::cost::{MemoryLedger, MemoryTerm};
use crate::estimate::{Memory, StageSpan, worst};
use crate::job::{Job, Serve};
use crate::mesh::{Convention, Mesh};
use crate::model::{Mixer, matrices};
use crate::plan::Plan;
use crate::units::Bytes;

/// Workspaces of an engine on one GPU, beside the context. vLLM's logs say .35 to 1.8 GiB for both.
const ALONE_BYTES: f64 = 0.5e9;
/// Communicators without NVLink: no custom all-reduce and no multicast buffers. vLLM's logs say .25 GiB for two RTX 4090.
const PCIE_BYTES: f64 = 0.3e9;
/// Bytes per logit of the sampler's dummy run: fp32 logits, their sorted copy and probabilities.
const SAMPLER: f64 = 12.0;
/// Tokens of a step and requests sampled at once on smaller GPUs (vLLM's `arg_utils`: under 70 GiB, and A100).
const SMALL_CHUNK: f64 = 2048.0;
const SMALL_SEQUENCES: f64 = 256.0;

/// Tokens a rank for which dispatch and combine buffers are laid out, whatever the EP degree.
pub(super) const EXPERT_TOKENS: f64 = 128.0;

/// Whether an engine takes its larger defaults on a GPU.
fn is_large(gpu: &Gpu) -> bool {
    gpu.memory.get() >= 70.0 * f64::from(1 << 30) && gpu.architecture != Architecture::Ampere
}

/// What an engine's share of the memory is a share of.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Budget {
    /// vLLM's `gpu_memory_utilization`: of the GPU, and everything the engine holds lies inside.
    Gpu(f64),
    /// SGLang's `mem_fraction_static`: weights and KV cache, of what is free before the weights are loaded. Unless told, the
    /// engine's own formula, or what really is left where that formula leaves no room for a request.
    Static { share: f64, told: bool },
    /// TensorRT-LLM's `free_gpu_memory_fraction`: the KV cache, of what is free once all else is placed.
    Free(f64),
}

impl Budget {
    fn of(job: &Job, serve: &Serve, convention: Convention, plan: &Plan) -> Self {
        let share = serve.memory_fraction.unwrap_or(EngineProfile::of(convention).memory_fraction);
        match convention {
            Convention::Sglang => {
                let own = || sglang_static(&job.cluster.gpu, plan);
                Self::Static { share: serve.memory_fraction.unwrap_or_else(own), told: serve.memory_fraction.is_some() }
            }
            Convention::Trtllm => Self::Free(share),
            Convention::Vllm
            | Convention::Product
            | Convention::Megatron
            | Convention::Bridge
            | Convention::Torchtitan
            | Convention::Deepspeed => Self::Gpu(share),
        }
    }

    /// Bytes that everything together may take.
    fn capacity(self, gpu: &Gpu) -> Bytes {
        match self {
            Self::Gpu(share) => gpu.memory * share,
            Self::Static { .. } | Self::Free(_) => gpu.memory,
        }
    }

    /// Bytes for the KV cache beside what a stage holds; `request` is what one request needs.
    fn room(self, gpu: &Gpu, fixed: &MemoryLedger, request: f64) -> f64 {
        let left = self.capacity(gpu).get() - fixed.total();
        let room = match self {
            Self::Gpu(_) => left,
            Self::Static { share, told } => {
                let before = gpu.memory.get() - fixed.get(MemoryTerm::Context) - fixed.get(MemoryTerm::Communication);
                let own = (share * before - fixed.get(MemoryTerm::Weights)).min(left);
                if own < request && !told { left } else { own }
            }
            Self::Free(share) => share * left,
        };
        room.max(0.0)
    }
}

/// Tokens of one prefill step of SGLang by the memory of the GPU. Source: `server_args.py` of 0.5.
fn sglang_chunk(gpu: &Gpu) -> f64 {
    match gpu.memory.get() / f64::from(1 << 30) {
        gib if gib < 35.0 => 2048.0,
        gib if gib < 60.0 => 4096.0,
        gib if gib < 160.0 => 8192.0,
        _ => 16_384.0,
    }
}

/// The share SGLang gives weights and KV cache by itself: all but .5 GiB, 1.5 MiB for each token of a prefill step, 2 MiB for each request of the
/// captured graphs, 128 MiB for each rank, and with data parallel attention 3 to 4.5 MiB for each request and rank.
///
/// Source: `server_args.py` of 0.5 (`reserved_mem`).
fn sglang_static(gpu: &Gpu, plan: &Plan) -> f64 {
    const MIB: f64 = 1_048_576.0;
    let all = gpu.memory.get() / MIB;
    let replicas = plan.knobs.replicas.max(1);
    let ranks = f64::from(plan.mesh.dp_attention() / replicas);
    let tensor = f64::from(plan.mesh.tp()) * ranks;
    let chunk = sglang_chunk(gpu);
    let graphs = match all / 1024.0 {
        gib if gib < 35.0 => 24.0,
        gib if gib < 60.0 => 80.0,
        gib if gib < 160.0 && tensor < 4.0 => 256.0,
        _ => 512.0,
    };
    let mut reserved = 512.0 + 1.5 * chunk + 2.0 * graphs + 128.0 * tensor * f64::from(plan.mesh.pp());
    if ranks > 1.0 {
        reserved += graphs * ranks * if graphs > 300.0 { 4.5 } else { 3.0 };
    }
    if all > 60.0 * 1024.0 {
        reserved = reserved.max(10.0 * 1024.0);
    }
    ((all - reserved) / all).clamp(0.05, 1.0)
}

/// Memory of the stage that needs most.
#[must_use]
pub fn memory(job: &Job, serve: &Serve, convention: Convention, plan: &Plan) -> Memory {
    let capacity = Budget::of(job, serve, convention, plan).capacity(&job.cluster.gpu);
    worst(capacity, (0..plan.mesh.pp()).map(|i| (i, stage_memory(job, serve, convention, plan, i))))
}

/// Layers that draft speculative tokens: the model's own predictor, one layer where it names none (a head trained for it). Each is
/// a copy of the model's last layer with a cache of its own, drafts all tokens in turn, and lies on the last stage.
fn drafting_layers(job: &Job, serve: &Serve) -> f64 {
    if serve.mtp == 0 { 0.0 } else { f64::from(job.model.spec().mtp.clamp(1, serve.mtp)) }
}

/// Layers of one kind that a stage holds, drafting ones included.
fn layers_held(job: &Job, serve: &Serve, span: &StageSpan, kind: usize) -> f64 {
    let drafts = kind == job.model.last_kind() && span.is_last(&job.model);
    f64::from(span.count(&job.model, kind)) + if drafts { drafting_layers(job, serve) } else { 0.0 }
}

/// Bytes of KV cache and state that one request of `context` tokens takes on a rank of a stage.
pub(super) fn request_bytes(job: &Job, serve: &Serve, plan: &Plan, span: &StageSpan, context: f64) -> f64 {
    let model = &job.model;
    let mut bytes = 0.0;
    for (kind, block) in model.blocks().iter().enumerate() {
        let count = layers_held(job, serve, span, kind);
        let kept = mem::window_tokens(block, context);
        let per_token = mem::kv_per_token(block, &plan.mesh, plan.knobs.dcp, serve.kv_cache.bytes());
        bytes += count * (kept * per_token + mem::state_per_request(block, &plan.mesh));
    }
    bytes
}

/// Everything of a stage but the KV cache.
fn stage_fixed(job: &Job, serve: &Serve, convention: Convention, plan: &Plan, stage: u32) -> MemoryLedger {
    let model = &job.model;
    let mesh = &plan.mesh;
    let profile = EngineProfile::of(convention);
    let span = StageSpan::of(convention, model, plan, stage);
    let mut ledger = MemoryLedger::EMPTY;
    for (kind, block) in model.blocks().iter().enumerate() {
        let count = layers_held(job, serve, &span, kind);
        let kv = block.mixer.gqa().map(|a| a.kv_heads);
        let extra = block
            .mlp
            .moe
            .map_or(1.0, |m| (f64::from(m.experts) + f64::from(plan.knobs.redundant_experts)) / f64::from(m.experts));
        let one = mem::serve_block_bytes(&model.block_params(block), kv, mesh, serve.quant, extra);
        ledger.add(MemoryTerm::Weights, count * one);
    }
    let (first, last) = (stage == 0, stage + 1 == mesh.pp());
    let table = mem::padded_vocab(model.spec().vocab, mesh.tp()) * f64::from(model.spec().hidden) * 2.0;
    if first {
        ledger.add(MemoryTerm::Weights, table / f64::from(mesh.tp()) + model.position_params() as f64 * 2.0);
    }
    if last && !(model.spec().tied_embeddings && first) {
        ledger.add(MemoryTerm::Weights, table / f64::from(mesh.tp()));
    }
    if span.is_last(model) && serve.mtp > 0 {
        let drafting = drafting_layers(job, serve);
        ledger.add(MemoryTerm::Weights, 2.0 * drafting * mem::predictor_params(model, 1));
        if !first {
            // The predictor embeds what it drafted.
            ledger.add(MemoryTerm::Weights, table / f64::from(mesh.tp()));
        }
    }
    ledger.add(MemoryTerm::ServeActivations, peak_activation(job, mesh, convention, last));
    let ranks = f64::from(mesh.dp_attention()) / f64::from(plan.knobs.replicas.max(1));
    if let Some(moe) = model.moe()
        && mesh.ep() > 1
        && ranks > 1.0
    {
        let experts = f64::from(moe.experts) + f64::from(plan.knobs.redundant_experts);
        ledger.add(
            MemoryTerm::ExpertBuffers,
            mem::deepep_low_latency(f64::from(model.spec().hidden), experts, EXPERT_TOKENS),
        );
    }
    let alone = mesh.world() / plan.knobs.replicas.max(1) == 1;
    let linked = job.cluster.scale_up.kind != LinkKind::Pcie;
    let other = match (alone, linked) {
        (true, _) => ALONE_BYTES,
        (false, true) => profile.other_bytes,
        (false, false) => PCIE_BYTES,
    };
    ledger.add(MemoryTerm::Communication, other);
    ledger.add(MemoryTerm::Graphs, profile.graph_bytes);
    ledger.add(MemoryTerm::Context, mem::CONTEXT);
    ledger
}

/// Tokens of an engine's prefill step.
pub(super) fn prefill_tokens(job: &Job, convention: Convention) -> f64 {
    let own = EngineProfile::of(convention).chunk;
    let chunk = match convention {
        Convention::Sglang => sglang_chunk(&job.cluster.gpu),
        Convention::Vllm
        | Convention::Trtllm
        | Convention::Product
        | Convention::Megatron
        | Convention::Bridge
        | Convention::Torchtitan
        | Convention::Deepspeed => {
            if is_large(&job.cluster.gpu) {
                own
            } else {
                own.min(SMALL_CHUNK)
            }
        }
    };
    chunk.min(f64::from(job.model.spec().max_positions))
}

/// What bounds the KV cache, in the engine's own words.
pub(super) fn budget_words(job: &Job, serve: &Serve, convention: Convention, plan: &Plan) -> String {
    match Budget::of(job, serve, convention, plan) {
        Budget::Gpu(share) => format!("gpu_memory_utilization {share} of the GPU leaves"),
        Budget::Static { share, told: true } => {
            format!("mem_fraction_static {share} of what is free before loading leaves beside the weights")
        }
        Budget::Static { share, told: false } => format!(
            "mem_fraction_static {share:.3} (the engine's own) leaves beside the weights, or what is free where that is nothing"
        ),
        Budget::Free(share) => format!("free_gpu_memory_fraction {share} of what all else leaves"),
    }
}

/// The largest prefill step: the residual stream and its neighbours, the widest of attention and MLP, the routed copies of
/// every token, and the sampler's fp32 logits.
///
/// Checked against vLLM's own "peak activation" lines; see `docs/VALIDATION.md`.
fn peak_activation(job: &Job, mesh: &Mesh, convention: Convention, last: bool) -> f64 {
    let model = &job.model;
    let profile = EngineProfile::of(convention);
    let large = is_large(&job.cluster.gpu);
    let h = f64::from(model.spec().hidden);
    let t = f64::from(mesh.tp());
    let chunk = prefill_tokens(job, convention);
    let mut widest: f64 = 0.0;
    for block in model.blocks() {
        let mut width = 0.0;
        if let Some(dense) = block.mlp.dense {
            width += 2.0 * matrices(dense.gated) as f64 * f64::from(dense.ffn) / t;
        }
        if let Some(moe) = block.mlp.moe {
            let inner = matrices(moe.gated) as f64 * f64::from(moe.ffn) / f64::from(mesh.etp());
            width += 2.0 * f64::from(moe.top_k) * (2.0 * h + inner);
        }
        let attention = match block.mixer {
            Mixer::Gqa(a) => {
                let heads = f64::from(a.heads) / t + 2.0 * ops::local_kv_heads(a.kv_heads, mesh.tp());
                2.0 * 2.0 * heads * f64::from(a.head_dim)
            }
            Mixer::Mla(a) => {
                let widths = 2.0 * (f64::from(a.nope) + f64::from(a.rope)) + 2.0 * f64::from(a.v);
                2.0 * f64::from(a.heads) / t * widths
            }
            Mixer::DeltaNet(_) | Mixer::Mamba2(_) => 12.0 * h / t,
            Mixer::None {} => 0.0,
        };
        widest = widest.max(width).max(attention);
    }
    let sampled = if large { profile.max_sequences } else { profile.max_sequences.min(SMALL_SEQUENCES) };
    let logits = if last { SAMPLER * sampled * f64::from(model.spec().vocab) } else { 0.0 };
    chunk * (8.0 * h + widest) + logits
}

/// Memory of one stage's ranks, the KV cache of the requests in flight included (no more than fits).
#[must_use]
pub fn stage_memory(job: &Job, serve: &Serve, convention: Convention, plan: &Plan, stage: u32) -> MemoryLedger {
    let mut ledger = stage_fixed(job, serve, convention, plan, stage);
    let load = Load::new(serve, plan);
    let span = StageSpan::of(convention, &job.model, plan, stage);
    let one = request_bytes(job, serve, plan, &span, load.longest);
    let room = Budget::of(job, serve, convention, plan).room(&job.cluster.gpu, &ledger, one);
    // What does not fit waits in the queue; a request that does not fit at all is a rule of its own.
    ledger.add(MemoryTerm::KvCache, (one * load.requests).min(room));
    ledger
}

/// KV tokens that one attention data-parallel rank holds, of requests as long as the job's.
#[must_use]
pub fn kv_tokens_per_rank(job: &Job, serve: &Serve, convention: Convention, plan: &Plan) -> f64 {
    let budget = Budget::of(job, serve, convention, plan);
    let load = Load::new(serve, plan);
    let mut least = f64::INFINITY;
    for stage in 0..plan.mesh.pp() {
        let span = StageSpan::of(convention, &job.model, plan, stage);
        let one = request_bytes(job, serve, plan, &span, load.longest);
        if one > 0.0 {
            let fixed = stage_fixed(job, serve, convention, plan, stage);
            least = least.min(budget.room(&job.cluster.gpu, &fixed, one) / one * load.longest);
        }
    }
    if least.is_finite() { least } else { 0.0 }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
