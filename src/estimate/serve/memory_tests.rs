//! KV-cache sizes that vLLM printed at startup in public logs, against ours.

use super::*;
use crate::catalog;
use crate::job::Workload;
use crate::model::{Quant, QuantScope, WeightFormat};
use crate::plan::Knobs;
use crate::units::Bytes;

/// "GPU KV cache size", or "Available KV cache memory".
#[derive(Clone, Copy)]
enum Kv {
    Tokens(f64),
    Bytes(f64),
}

const fn gib(gib: f64) -> Kv {
    Kv::Bytes(gib * 1_073_741_824.0)
}

/// One startup log.
struct Fact {
    model: &'static str,
    format: WeightFormat,
    gpu: &'static str,
    /// Memory that the log or its GPU's name gives, in GiB, where the catalogue has another card.
    gib: Option<f64>,
    /// TP, PP, DP of one engine, whether experts are parallel.
    mesh: (u32, u32, u32, bool),
    utilization: f64,
    /// What it printed, of one data-parallel rank.
    kv: Kv,
    /// Whether captured graphs come out of the budget (vLLM 0.19 with profiling, by default since 0.21).
    graphs: bool,
    source: &'static str,
}

fn job(fact: &Fact) -> (Job, Serve, Plan) {
    let (tp, pp, dp, experts) = fact.mesh;
    let mut cluster =
        catalog::cluster(&format!("{}x{}", tp * pp * dp, fact.gpu)).expect("a built-in GPU in a readable shape");
    if let Some(gib) = fact.gib {
        cluster.gpu.memory = Bytes::new(gib * 1_073_741_824.0);
    }
    let serve = Serve {
        isl: 1024,
        osl: 1024,
        concurrency: 256,
        memory_fraction: Some(fact.utilization),
        ..Serve::of(Quant { format: fact.format, scope: QuantScope::Linears })
    };
    let model = catalog::model(fact.model).expect("a built-in model");
    let moe = model.moe().is_some();
    let (ep, etp) = if experts {
        (tp * dp, 1)
    } else if moe {
        (1, tp * dp)
    } else {
        (1, tp)
    };
    let mesh = Mesh::new(tp, 1, pp, dp, ep, etp).expect("factors that divide");
    let job = Job::new(model, cluster, Workload::Serve(serve)).expect("a workload the model takes");
    (job, serve, Plan { mesh, knobs: Knobs::default() })
}

const BF16: WeightFormat = WeightFormat::Bf16;
const FP8: WeightFormat = WeightFormat::Fp8Block;

const FACTS: &[Fact] = &[
    Fact {
        model: "llama-3-8b",
        format: BF16,
        gpu: "h100-sxm",
        gib: Some(79.22),
        mesh: (1, 1, 1, false),
        utilization: 0.9,
        kv: gib(53.29),
        graphs: false,
        source: "https://github.com/vllm-project/vllm/pull/10511",
    },
    Fact {
        model: "llama-3-8b",
        format: BF16,
        gpu: "h100-sxm",
        gib: Some(79.22),
        mesh: (2, 1, 1, false),
        utilization: 0.9,
        kv: gib(58.97),
        graphs: false,
        source: "https://github.com/vllm-project/vllm/pull/10511",
    },
    Fact {
        model: "llama-3-8b",
        format: BF16,
        gpu: "l40s",
        gib: Some(47.5),
        mesh: (1, 1, 1, false),
        utilization: 0.9,
        kv: Kv::Tokens(211_968.0),
        graphs: false,
        source: "https://github.com/vllm-project/vllm/pull/4454",
    },
    Fact {
        model: "llama-3.1-8b",
        format: BF16,
        gpu: "l4",
        gib: Some(23.58),
        mesh: (1, 1, 1, false),
        utilization: 0.9,
        kv: Kv::Tokens(31_232.0),
        graphs: false,
        source: "https://github.com/vllm-project/vllm/issues/10517",
    },
    Fact {
        model: "qwen2.5-14b",
        format: BF16,
        gpu: "l4",
        gib: Some(23.08),
        mesh: (2, 1, 1, false),
        utilization: 0.98,
        kv: Kv::Tokens(81_536.0),
        graphs: false,
        source: "https://github.com/vllm-project/vllm/issues/13061",
    },
    Fact {
        model: "llama-3.1-70b",
        format: WeightFormat::Int8,
        gpu: "h100-sxm",
        gib: None,
        mesh: (1, 1, 1, false),
        utilization: 0.98,
        kv: Kv::Tokens(22_096.0),
        graphs: false,
        source: "https://github.com/vllm-project/vllm/pull/12569",
    },
    Fact {
        model: "deepseek-v3",
        format: FP8,
        gpu: "h800-sxm",
        gib: None,
        mesh: (16, 1, 1, false),
        utilization: 0.9,
        kv: Kv::Tokens(305_216.0),
        graphs: false,
        source: "https://github.com/vllm-project/vllm/issues/16692",
    },
    Fact {
        model: "qwen3-235b-a22b",
        format: FP8,
        gpu: "h100-sxm",
        gib: None,
        mesh: (4, 1, 1, false),
        utilization: 0.9,
        kv: Kv::Tokens(178_880.0),
        graphs: false,
        source: "https://github.com/vllm-project/vllm/issues/21348",
    },
    Fact {
        model: "qwen3-coder-480b",
        format: FP8,
        gpu: "h20",
        gib: Some(139.8),
        mesh: (1, 1, 8, true),
        utilization: 0.9,
        kv: gib(48.66),
        graphs: false,
        source: "https://github.com/vllm-project/recipes/pull/12",
    },
    Fact {
        model: "qwen3-coder-480b",
        format: FP8,
        gpu: "h20",
        gib: Some(139.8),
        mesh: (1, 1, 8, true),
        utilization: 0.95,
        kv: gib(55.65),
        graphs: false,
        source: "https://github.com/vllm-project/recipes/pull/12",
    },
    Fact {
        model: "gpt-oss-20b",
        format: WeightFormat::Mxfp4,
        gpu: "a100-sxm-80gb",
        gib: None,
        mesh: (1, 1, 1, false),
        utilization: 0.65,
        kv: gib(36.56),
        graphs: true,
        source: "https://myoceane.fr/index.php/ai-vllm-a100-gemma-4/",
    },
    Fact {
        model: "gemma-4-26b-a4b",
        format: BF16,
        gpu: "a100-sxm-80gb",
        gib: None,
        mesh: (1, 1, 1, false),
        utilization: 0.9,
        kv: gib(21.5),
        graphs: false,
        source: "https://myoceane.fr/index.php/ai-vllm-a100-gemma-4/",
    },
];

/// Bytes for the KV cache: predicted, printed.
fn bytes(fact: &Fact) -> (f64, f64) {
    let (job, serve, plan) = job(fact);
    let capacity = Budget::of(&job, &serve, Convention::Vllm, &plan).capacity(&job.cluster.gpu).get();
    let fixed = stage_fixed(&job, &serve, Convention::Vllm, &plan, 0);
    let graphs = if fact.graphs { 0.0 } else { fixed.get(MemoryTerm::Graphs) };
    let span = StageSpan::of(Convention::Vllm, &job.model, &plan, 0);
    let printed = match fact.kv {
        Kv::Bytes(bytes) => bytes,
        Kv::Tokens(tokens) => tokens * request_bytes(&job, &serve, &plan, &span, 1.0),
    };
    (capacity - fixed.total() + graphs, printed)
}

#[test]
fn startup_logs_say_the_same() {
    let mut errors: Vec<f64> = Vec::new();
    for fact in FACTS {
        let (got, want) = bytes(fact);
        errors.push((got / want - 1.0).abs());
        assert!(fact.source.starts_with("https://"));
    }
    errors.sort_by(f64::total_cmp);
    assert!(errors.len() >= 8);
    assert!(errors[errors.len() / 2] <= 0.05, "{errors:?}");
}
