//! Each rule once where it fires and once where it does not; users' stories; verdicts of the frameworks' own code.

use super::facts::{Fact, MEGATRON, SGLANG, Shape, TORCHTITAN, VLLM};
use super::*;
use crate::cluster::{
    Architecture, AttentionFit, Basis, Cluster, DecodeFit, Dtype, Efficiency, Gpu, KernelFit, LinkKind, MoeFit,
    Network, NetworkKind, ScaleUp,
};
use crate::job::{GradDtype, Precision, Serve, Train, Workload};
use crate::mesh::Convention;
use crate::model::{
    Block, DeltaNet, DenseMlp, Gqa, Mixer, Mla, Mlp, Model, ModelSpec, Moe, Norm, Quant, QuantScope, Run, WeightFormat,
};
use crate::units::{Bytes, BytesPerSec, FlopPerSec, Seconds};

/// GPUs in nodes of 8 at most, with every number format but the microscaling ones.
fn cluster(gpus: u32) -> Cluster {
    let per = gpus.min(8);
    let scale_up = ScaleUp { kind: LinkKind::Nvlink, bandwidth: BytesPerSec::new(450e9), domain: 8 };
    let zero = Seconds::new(0.0);
    let fit = KernelFit { t0: zero, compute: 0.7, memory: 0.8, per_k: zero, median_error: 0.1 };
    let mut peaks = [Some(FlopPerSec::new(1e15)); 9];
    for absent in [Dtype::Mxfp8, Dtype::Mxfp4, Dtype::Nvfp4] {
        peaks[absent as usize] = None;
    }
    let gpu = Gpu {
        name: "gpu".into(),
        architecture: Architecture::Hopper,
        memory: Bytes::new(80e9),
        datasheet_memory: None,
        hbm: BytesPerSec::new(3.35e12),
        peaks,
        scale_up,
        nic: BytesPerSec::new(50e9),
        gpus_per_node: 8,
        price: None,
        efficiency: Efficiency {
            gemm: [Some(fit); 4],
            prefill_attention: AttentionFit { t0: zero, compute: 0.5, half_length: 100.0 },
            latent_prefill: Vec::new(),
            decode_attention: DecodeFit { t0: zero, memory: 0.5, memory_8bit: 0.5 },
            moe: MoeFit { t0: zero, compute: 0.5, memory: 0.5, permute: 2.0 },
            experts: Vec::new(),
            custom_all_reduce: Vec::new(),
            collectives: [Vec::new(), Vec::new(), Vec::new(), Vec::new()],
            source: Vec::new(),
            basis: Basis::Assumed,
        },
        source: Vec::new(),
    };
    let network = Network {
        kind: NetworkKind::Infiniband,
        bandwidth: BytesPerSec::new(50e9),
        nics_per_node: 8,
        latency: Seconds::new(1e-6),
    };
    Cluster { name: "test".into(), gpu, nodes: gpus.div_ceil(per), gpus_per_node: per, scale_up, network }
}

/// A model of one kind of block.
fn spec([layers, hidden, heads, kv_heads, ffn, experts, expert_ffn]: Shape) -> ModelSpec {
    let moe = (experts > 0).then_some(Moe {
        experts,
        top_k: 2,
        ffn: expert_ffn,
        gated: true,
        shared_ffn: 0,
        shared_gate: false,
        router_bias: false,
        bias: false,
        groups: 1,
        top_groups: 1,
    });
    let dense = moe.is_none().then_some(DenseMlp { ffn, gated: true, bias: false });
    let gqa = Gqa::plain(heads, kv_heads, hidden / heads);
    ModelSpec {
        name: "test".into(),
        hidden,
        vocab: 50304,
        max_positions: 8192,
        learned_positions: false,
        tied_embeddings: false,
        norm: Norm::Rms,
        mtp: 0,
        quant: None,
        blocks: vec![Block { mixer: Mixer::Gqa(gqa), mlp: Mlp { dense, moe }, norms: 2 }],
        layers: vec![Run { pattern: vec![0], repeat: layers }],
    }
}

fn train(seq_len: u32, global_batch: u32) -> Workload {
    let (precision, grad_dtype) = (Precision::Bf16, GradDtype::Fp32);
    Workload::Train(Train { seq_len, global_batch, precision, grad_dtype, moe_balance: 1.0, mtp_layers: 0 })
}

fn serve(format: WeightFormat) -> Workload {
    Workload::Serve(Serve {
        isl: 1024,
        osl: 256,
        concurrency: 8,
        ..Serve::of(Quant { format, scope: QuantScope::Linears })
    })
}

fn job(spec: ModelSpec, gpus: u32, workload: Workload) -> Job {
    Job::new(Model::new(spec).expect("a consistent model"), cluster(gpus), workload)
        .expect("a workload the model takes")
}

/// The ids of the rules a plan breaks.
fn refused(job: &Job, framework: Option<Framework>, plan: &str) -> Vec<&'static str> {
    let convention = framework.map_or(Convention::Product, Framework::convention);
    let resolution = judge(job, framework, &Draft::parse(plan, convention).expect("a plan in its notation"));
    if resolution.rejections.is_empty() {
        assert!(resolution.plan.is_some(), "{plan}: accepted without grids");
    }
    resolution.rejections.iter().map(|r| r.rule.id()).collect()
}

const DENSE: Shape = [24, 2048, 16, 4, 5632, 0, 0];
const SPARSE: Shape = [24, 2048, 16, 4, 5632, 64, 1408];

/// Runs one table: rule, model, GPUs, plan that breaks it, plan that does not.
fn table(framework: Option<Framework>, rows: &[(Rule, Shape, u32, &str, &str)]) {
    for (rule, shape, gpus, bad, good) in rows {
        let serves = framework.is_some_and(Framework::serves);
        let workload = if serves { serve(WeightFormat::Bf16) } else { train(4096, 64) };
        let job = job(spec(*shape), *gpus, workload);
        let title = framework.map_or("product", Framework::name);
        assert!(refused(&job, framework, bad).contains(&rule.id()), "{title}: {bad} should break {}", rule.id());
        let left = refused(&job, framework, good);
        assert!(left.is_empty(), "{title}: {good} should hold, and breaks {left:?}");
    }
}

#[test]
fn generic_rules_fire_and_rest() {
    let odd = [24, 2048, 16, 4, 5630, 66, 1407];
    table(
        None,
        &[
            (Rule::World, SPARSE, 16, "tp2 ep4 pp2 dp2", "tp2 ep4 pp2 dp1"),
            (Rule::ExpertGrid, SPARSE, 16, "tp1 ep4 pp2 dp2 etp4", "tp1 ep4 pp2 dp2 etp2"),
            (Rule::NoExperts, DENSE, 16, "tp2 ep2 pp2 dp2", "tp2 pp2 dp4"),
            (Rule::Experts, odd, 8, "tp1 ep8 dp1", "tp1 ep2 dp4"),
            (Rule::Heads, [24, 2304, 18, 6, 5760, 0, 0], 8, "tp4 dp2", "tp2 dp4"),
            (Rule::KvHeads, [24, 2304, 18, 9, 5760, 0, 0], 8, "tp2 dp4", "pp2 dp4"),
            (Rule::Ffn, [24, 2048, 16, 4, 5630, 0, 0], 8, "tp4 dp2", "tp2 dp4"),
            (Rule::ExpertFfn, odd, 8, "tp2 ep2 dp2", "ep2 dp4"),
            (Rule::Stages, [2, 2048, 16, 4, 5632, 0, 0], 4, "pp4", "pp2 dp2"),
            (Rule::Layers, [25, 2048, 16, 4, 5632, 0, 0], 2, "pp2 vpp2", "pp2"),
            (Rule::StageSizes, DENSE, 2, "pp2 first_stage_layers=11 last_stage_layers=12", "pp2 first_stage_layers=11"),
            (Rule::StageChunks, DENSE, 2, "pp2 vpp2 first_stage_layers=11", "pp2 vpp2 first_stage_layers=10"),
            (Rule::Interleave, DENSE, 2, "dp2 vpp2", "pp2 vpp2"),
            (Rule::Batch, DENSE, 3, "dp3", "pp3"),
            (Rule::FewMicroBatches, DENSE, 64, "pp4 dp16 vpp2 mb2", "pp4 dp16 vpp2"),
            (Rule::MicroBatches, DENSE, 3, "pp3 vpp2", "pp3"),
            (Rule::SequenceCp, DENSE, 3, "cp3", "pp3"),
            (Rule::SequenceTp, [24, 2304, 18, 6, 5760, 0, 0], 3, "tp3", "tp3 sp=off"),
        ],
    );
}

#[test]
fn megatron_rules_fire_and_rest() {
    table(
        Some(Framework::Megatron),
        &[
            (Rule::DenseGrid, SPARSE, 16, "tp2 pp6", "tp2 pp2"),
            (Rule::ExpertGrid, SPARSE, 16, "tp4 ep8", "tp4 ep8 etp1"),
            (Rule::World, DENSE, 16, "tp2 pp2 dp2", "tp2 pp2 dp4"),
            (Rule::Layers, [25, 2048, 16, 4, 5632, 0, 0], 2, "pp2", "pp2 first_stage_layers=13"),
            (Rule::MoeSequenceParallel, SPARSE, 8, "tp2 sp=off", "tp2"),
            (Rule::Zero, DENSE, 8, "pp2 zero=3", "tp2 zero=3"),
            (Rule::TpOverlap, DENSE, 8, "tp2 sp=off tp_overlap=on", "tp2 tp_overlap=on"),
            (Rule::Interleave, DENSE, 8, "pp2 vpp2 pp_overlap=off", "pp2 vpp2"),
            (Rule::EpOverlap, SPARSE, 8, "pp2 ep2 ep_overlap=on", "pp2 ep2 vpp2 ep_overlap=on"),
        ],
    );
    let long = job(ModelSpec { max_positions: 2048, ..spec(DENSE) }, 8, train(4096, 64));
    assert_eq!(refused(&long, Some(Framework::Megatron), "tp2"), ["positions"]);
    let uneven = job(ModelSpec { hidden: 2050, ..spec(DENSE) }, 8, train(4096, 64));
    assert_eq!(refused(&uneven, Some(Framework::Megatron), "tp2"), ["hidden-heads"]);
    let mut biased = spec(SPARSE);
    biased.blocks[0].mlp.moe.as_mut().expect("a mixture of experts").bias = true;
    let biased = job(biased, 8, train(4096, 64));
    assert_eq!(refused(&biased, Some(Framework::Megatron), "tp2 ep2"), ["expert-bias"]);
    assert!(refused(&biased, Some(Framework::Megatron), "tp2 ep2 etp1").is_empty());
    // Unset expert TP: TP in Megatron, 1 in the Bridge.
    let wide = job(spec(SPARSE), 16, train(4096, 64));
    assert_eq!(refused(&wide, Some(Framework::Megatron), "tp4 ep8"), ["expert-grid"]);
    assert!(refused(&wide, Some(Framework::Bridge), "tp4 ep8").is_empty());
}

#[test]
fn linear_heads_and_shared_experts() {
    let mut linear = spec(SPARSE);
    let net = DeltaNet { key_heads: 4, value_heads: 8, key_dim: 128, value_dim: 128, conv: 4 };
    linear.blocks[0].mixer = Mixer::DeltaNet(net);
    linear.blocks[0].mlp.moe.as_mut().expect("a mixture of experts").shared_ffn = 1026;
    let job = job(linear, 8, train(4096, 64));
    assert_eq!(refused(&job, None, "tp8"), ["shared-ffn", "linear-heads"]);
    assert!(refused(&job, None, "tp2 dp4").is_empty());
    // Megatron deals linear heads out over CP too.
    assert_eq!(refused(&job, Some(Framework::Megatron), "tp2 cp4"), ["linear-heads"]);
}

#[test]
fn torchtitan_rules_fire_and_rest() {
    let wide = [24, 2304, 18, 6, 5760, 64, 1408];
    table(
        Some(Framework::Torchtitan),
        &[
            (Rule::World, SPARSE, 16, "pp3", "pp2"),
            (Rule::ExpertFold, SPARSE, 16, "ep8 dp_replicate=4", "ep4 dp_replicate=4"),
            (Rule::Experts, [24, 2048, 16, 4, 5632, 12, 1408], 16, "ep8", "ep4"),
            (Rule::KvHeadsWhole, SPARSE, 16, "tp8", "tp4"),
            (Rule::Tokens, wide, 3, "tp3", "tp3 sp=off"),
            (Rule::FewMicroBatches, SPARSE, 16, "pp4 pp_microbatches=2", "pp4 pp_microbatches=4"),
            (Rule::MicroBatches, SPARSE, 3, "pp3 vpp2 pp_microbatches=64", "pp3 vpp2 pp_microbatches=2"),
            (Rule::Batch, SPARSE, 16, "pp4 pp_microbatches=5", "pp4 pp_microbatches=8"),
            (Rule::DataParallel, SPARSE, 16, "dp16 dp_replicate=3", "dp16 dp_replicate=2"),
        ],
    );
    let tied = job(ModelSpec { tied_embeddings: true, ..spec(DENSE) }, 8, train(4096, 64));
    assert_eq!(refused(&tied, Some(Framework::Torchtitan), "pp2"), ["tied-embeddings"]);
    assert!(refused(&tied, Some(Framework::Torchtitan), "tp2").is_empty());
}

#[test]
fn deepspeed_rules_fire_and_rest() {
    table(
        Some(Framework::Deepspeed),
        &[
            (Rule::DenseGrid, DENSE, 16, "tp3", "tp2"),
            (Rule::ExpertFold, SPARSE, 16, "tp2 ep16", "tp2 ep8"),
            (Rule::Experts, [24, 2048, 16, 4, 5632, 12, 1408], 16, "ep8", "ep4"),
            (Rule::Zero, DENSE, 16, "pp2 zero=2", "dp16 zero=2"),
            (Rule::NoInterleaving, DENSE, 16, "pp2 vpp2", "pp2"),
            (Rule::Batch, DENSE, 16, "tp1 mb8", "tp1 mb4"),
        ],
    );
    // AutoTP cuts 4 KV heads unevenly over 3 ranks and warns only.
    let job = job(spec(DENSE), 3, train(4096, 63));
    assert!(refused(&job, Some(Framework::Deepspeed), "tp3").is_empty());
}

#[test]
fn vllm_rules_fire_and_rest() {
    table(
        Some(Framework::Vllm),
        &[
            (Rule::World, DENSE, 8, "tp8 dp2", "tp4 dp2"),
            (Rule::NoExperts, DENSE, 8, "tp8 ep=on", "tp8"),
            (Rule::NotExpressible, SPARSE, 8, "tp2 dp2 ep2", "tp2 dp2 ep4"),
            (Rule::DecodeContext, SPARSE, 8, "tp4 dcp=3", "tp8 dcp=2"),
            (Rule::DecodeContextKv, SPARSE, 8, "tp8 dcp=4", "tp8 dcp=2"),
            (Rule::BalancerEp, SPARSE, 8, "tp8 eplb=on", "tp8 ep=on eplb=on"),
            (Rule::BalancerEp, SPARSE, 1, "tp1 ep=on eplb=on", "tp1 ep=on"),
            (
                Rule::Balancer,
                SPARSE,
                8,
                "tp8 ep=on eplb=on redundant_experts=3",
                "tp8 ep=on eplb=on redundant_experts=8",
            ),
            (Rule::RedundantExperts, SPARSE, 8, "tp8 ep=on redundant_experts=8", "tp8 ep=on"),
            (Rule::TwoBatch, SPARSE, 8, "tp8 ep=on ep_overlap=on", "tp2 dp4 ep=on ep_overlap=on"),
            (Rule::Nodes, [24, 2304, 18, 9, 5760, 0, 0], 9, "tp9", "tp3 pp2"),
            (Rule::DataNodes, SPARSE, 24, "tp2 pp3 dp4", "tp2 pp1 dp8"),
            (Rule::NoInterleaving, SPARSE, 8, "pp2 vpp2", "pp2"),
        ],
    );
    // Experts may be uneven without a balancer.
    let uneven = job(spec([24, 2048, 16, 4, 5632, 66, 1408]), 8, serve(WeightFormat::Bf16));
    assert!(refused(&uneven, Some(Framework::Vllm), "tp8 ep=on").is_empty());
}

#[test]
fn sglang_rules_fire_and_rest() {
    table(
        Some(Framework::Sglang),
        &[
            (Rule::AttentionDp, SPARSE, 8, "tp8 attn_dp=3", "tp8 attn_dp=4"),
            (Rule::ExpertFold, SPARSE, 8, "tp4 ep8", "tp4 ep4"),
            (Rule::MoeDp, SPARSE, 8, "tp8 ep2 moe_dp=2", "tp8 ep8"),
            (Rule::MoeDpPipeline, SPARSE, 16, "tp8 pp2 ep4 moe_dp=2", "tp8 pp2 ep4"),
            (Rule::ContextParallel, SPARSE, 8, "tp8 ep4 moe_dp=2", "tp8 ep4"),
            (Rule::BalancerEp, SPARSE, 8, "tp8 eplb=on", "tp8 ep8 eplb=on"),
            (Rule::Nodes, [24, 2304, 18, 9, 5760, 0, 0], 9, "tp9", "tp3 pp2"),
            (Rule::ReplicaNodes, SPARSE, 16, "tp8 dp2", "tp4 dp2"),
            (Rule::ReplicaAttentionDp, SPARSE, 8, "tp4 dp2 attn_dp=2", "tp4 dp2"),
            (Rule::ExpertFfn, [24, 2048, 16, 4, 5632, 64, 1407], 8, "tp8 ep4", "tp8 ep8"),
        ],
    );
}

#[test]
fn trtllm_rules_fire_and_rest() {
    table(
        Some(Framework::Trtllm),
        &[
            (Rule::World, DENSE, 8, "tp8 pp2", "tp4 pp2"),
            (Rule::ExpertSplit, SPARSE, 8, "tp8 moe_tp=2 moe_ep=2", "tp8 moe_tp=2 moe_ep=4"),
            (Rule::ContextParallel, SPARSE, 8, "tp4 cp2 moe_tp=1 moe_ep=4", "tp4 cp2 moe_tp=1 moe_ep=8"),
            (Rule::Heads, DENSE, 32, "tp32", "tp16"),
            (Rule::NoExperts, DENSE, 8, "tp8 moe_tp=1 moe_ep=8", "tp8"),
            (
                Rule::NoTwoBatch,
                SPARSE,
                8,
                "tp8 moe_ep=8 attention_dp=on ep_overlap=on",
                "tp8 moe_ep=8 attention_dp=on ep_overlap=off",
            ),
        ],
    );
    // KV heads are rounded up: 9 over 6 ranks is 2 each.
    let odd = job(spec([24, 2304, 18, 9, 5760, 0, 0]), 6, serve(WeightFormat::Bf16));
    assert!(refused(&odd, Some(Framework::Trtllm), "tp6").is_empty());
}

#[test]
fn a_launch_that_the_build_refuses() {
    let odd = job(spec([24, 2048, 16, 4, 5632, 66, 1408]), 8, serve(WeightFormat::Bf16));
    for (text, rule) in [("tp8 ep4", Rule::Experts), ("tp4 ep4", Rule::Experts)] {
        let draft = Draft::parse(text, Convention::Sglang).expect("a plan in its notation");
        let resolution = judge(&odd, Some(Framework::Sglang), &draft);
        assert!(resolution.rejections.is_empty(), "{text}");
        let mut built = Vec::new();
        check_build(&odd, Some(Framework::Sglang), &resolution.plan.expect("a plan that resolves"), &mut built);
        assert_eq!(built[0].rule, rule, "{text}");
    }
    let few = job(spec([24, 2048, 16, 4, 5632, 4, 1408]), 16, serve(WeightFormat::Bf16));
    let plan = resolve(&few, &Draft::parse("tp16", Convention::Sglang).expect("a plan in its notation"))
        .plan
        .expect("a plan that resolves");
    let mut built = None;
    check_build(&few, Some(Framework::Sglang), &plan, &mut built);
    assert_eq!(built.expect("a violation").rule, Rule::ExpertTpExperts);
}

#[test]
fn foreign_grids_are_not_expressible() {
    let train = job(spec(SPARSE), 16, train(4096, 64));
    let serve = job(spec(SPARSE), 16, serve(WeightFormat::Bf16));
    let draft = Draft::parse("tp2 ep4 pp2 dp1", Convention::Product).expect("a plan in its notation");
    for (job, framework, holds) in [
        (&train, Framework::Megatron, true),
        (&train, Framework::Deepspeed, true),
        (&train, Framework::Torchtitan, false),
        (&serve, Framework::Sglang, true),
        (&serve, Framework::Vllm, false),
        (&serve, Framework::Trtllm, false),
    ] {
        let rejections = judge(job, Some(framework), &draft).rejections;
        assert_eq!(rejections.is_empty(), holds, "{framework}: {rejections:?}");
        assert!(holds || rejections.iter().all(|r| r.rule == Rule::NotExpressible), "{framework}: {rejections:?}");
    }
}

#[test]
fn every_rule_is_told_beside_a_missing_grid() {
    let job = job(spec([25, 2304, 18, 9, 5630, 0, 0]), 16, train(4098, 64));
    let all = refused(&job, Some(Framework::Megatron), "tp4 pp3 cp4");
    assert_eq!(all, ["dense-grid", "expert-grid", "heads", "kv-heads", "ffn", "sequence-cp", "layers"]);
}

/// US5: fp8 in blocks of 128, on 8 GPUs.
#[test]
fn quantised_shards_are_whole_blocks() {
    let large = [94, 4096, 64, 4, 12288, 128, 1536];
    let small = [48, 2048, 32, 4, 6144, 128, 768];
    for (shape, plan, rule, shard) in [
        (large, "tp8", Some(Rule::ExpertQuantBlock), 192.0),
        (large, "tp4", None, 0.0),
        (large, "tp8 ep=on", None, 0.0),
        (small, "tp2", None, 0.0),
        (small, "tp4", Some(Rule::ExpertQuantBlock), 192.0),
        (small, "tp8", Some(Rule::ExpertQuantBlock), 96.0),
    ] {
        let mut model = spec(shape);
        if let Mixer::Gqa(a) = &mut model.blocks[0].mixer {
            a.head_dim = 128;
        }
        let plain = job(model.clone(), 8, serve(WeightFormat::Bf16));
        assert!(refused(&plain, Some(Framework::Vllm), plan).is_empty(), "16 bits have no blocks: {plan}");
        let job = job(model, 8, serve(WeightFormat::Fp8Block));
        let draft = Draft::parse(plan, Convention::Vllm).expect("a plan in its notation");
        let resolution = judge(&job, Some(Framework::Vllm), &draft);
        assert_eq!(resolution.rejections.first().map(|r| r.rule), rule, "{plan}");
        assert!(resolution.rejections.iter().all(|r| (r.have, r.need) == (shard, 128.0)), "{plan}");
        let told = warnings(&job, Some(Framework::Vllm), &resolution.plan.expect("a plan that resolves"), Some(&draft));
        assert_eq!(told.contains(&Warning::KvReplicated { heads: 4, tp: 8 }), plan.starts_with("tp8"));
    }
}

#[test]
fn ep_does_not_help_dense_and_shared_shards() {
    let mut model = spec([61, 7168, 128, 128, 18432, 256, 2048]);
    let mla = Mla { heads: 128, q_lora: 1536, kv_lora: 512, nope: 128, rope: 64, v: 128, indexer: None };
    model.blocks[0].mixer = Mixer::Mla(mla);
    model.blocks[0].mlp.moe.as_mut().expect("a mixture of experts").shared_ffn = 2048;
    model.blocks[0].mlp.dense = Some(DenseMlp { ffn: 18432, gated: true, bias: false });
    let job = job(model, 32, serve(WeightFormat::Fp8Block));
    for (plan, shards) in [("tp32", vec![576.0, 64.0]), ("tp32 ep32", vec![576.0, 64.0]), ("tp16", vec![])] {
        let draft = Draft::parse(plan, Convention::Sglang).expect("a plan in its notation");
        let rejections = judge(&job, Some(Framework::Sglang), &draft).rejections;
        let found: Vec<f64> = rejections.iter().filter(|r| r.rule == Rule::QuantBlock).map(|r| r.have).collect();
        assert_eq!(found, shards, "{plan}");
    }
    // An all-to-all backend keeps shared experts whole.
    let draft = Draft::parse("tp32 attn_dp=32 a2a=deepep", Convention::Sglang).expect("a plan in its notation");
    assert!(judge(&job, Some(Framework::Sglang), &draft).rejections.is_empty());
    let missing = Job { workload: serve(WeightFormat::Fp8), ..job.clone() };
    let mut old = missing.clone();
    old.cluster.gpu.peaks[Dtype::Fp8 as usize] = None;
    assert_eq!(refused(&old, Some(Framework::Vllm), "tp8"), ["format"]);
    assert!(refused(&missing, Some(Framework::Vllm), "tp8").is_empty());
}

/// US6: recipes as published. GPUs, layers, plan, and the product that does not come out.
#[test]
fn published_recipes() {
    let rows: &[(u32, u32, &str, Option<f64>)] = &[
        (64, 94, "tp1 pp8 ep32 etp1", Some(256.0)),
        (64, 94, "tp1 pp4 ep32 etp1", Some(128.0)),
        (64, 94, "tp1 pp8 ep8 etp1", None),
        (64, 94, "tp1 pp2 ep32 etp1", None),
        (128, 61, "tp1 pp4 ep64 etp1", Some(256.0)),
        (128, 61, "tp1 pp2 ep64 etp1", None),
        (64, 61, "tp2 pp8 ep64 etp1", Some(512.0)),
        (1024, 61, "tp2 pp8 ep64 etp1", None),
        (256, 61, "tp2 pp16 ep64 etp1", Some(1024.0)),
        (1024, 61, "tp2 pp16 ep64 etp1", None),
        (1024, 61, "tp2 pp16 ep64", Some(2048.0)),
        (32, 48, "tp2 pp6 ep8 etp1", Some(12.0)),
        (48, 48, "tp2 pp6 ep8 etp1", None),
        (8, 92, "tp2 pp2 ep8 etp1", Some(16.0)),
        (8, 92, "tp2 pp2 ep4 etp1", None),
        (64, 94, "tp4 pp16 ep4 etp1", None),
        (64, 94, "tp4 pp16 ep4", Some(256.0)),
        (4, 48, "tp2 pp2 ep2 etp1", None),
        (4, 48, "tp2 pp2 ep2", Some(8.0)),
        (64, 80, "tp4 pp4 cp2", None),
        (1024, 126, "tp8 pp8 cp2", None),
        (64, 32, "tp1 pp4 ep8", None),
        (256, 56, "tp4 pp4 ep8 etp1", None),
        (256, 56, "tp4 pp4 ep8 etp2", None),
        (256, 56, "tp4 pp4 ep8", None),
    ];
    for (gpus, layers, plan, product) in rows {
        let shape = [*layers, 4096, 64, 8, 12288, 256, 2048];
        let job = job(spec(shape), *gpus, train(4096, 1024));
        let draft = Draft::parse(plan, Convention::Megatron).expect("a plan in its notation");
        let resolution = resolve(&job, &draft);
        assert_eq!(resolution.rejections.first().map(|r| r.need), *product, "{plan} on {gpus}");
        assert_eq!(resolution.plan.is_some(), product.is_none(), "{plan} on {gpus}");
    }
    for (layers, plan, rule) in [
        (60, "pp8", Some("layers")),
        (46, "pp4", Some("layers")),
        (48, "pp2 first_stage_layers=11 last_stage_layers=13", Some("stage-sizes")),
        (48, "pp4", None),
    ] {
        let job = job(spec([layers, 4096, 64, 8, 12288, 0, 0]), 8, train(4096, 1024));
        assert_eq!(refused(&job, Some(Framework::Megatron), plan).first().copied(), rule, "{layers} layers, {plan}");
    }
}

fn check_facts(framework: Framework, facts: &[Fact]) {
    for (shape, gpus, [seq, batch], plan, verdict) in facts {
        let workload = if framework.serves() { serve(WeightFormat::Bf16) } else { train(*seq, *batch) };
        let found = refused(&job(spec(*shape), *gpus, workload), Some(framework), plan);
        if *verdict == "ok" {
            assert!(found.is_empty(), "{framework} takes {plan} on {gpus}, {shape:?}: {found:?}");
        } else {
            assert!(
                found.contains(verdict),
                "{framework} refuses {plan} on {gpus} for {verdict}, {shape:?}: {found:?}"
            );
        }
    }
}

#[test]
fn verdicts_of_megatron() {
    check_facts(Framework::Megatron, MEGATRON);
}

#[test]
fn verdicts_of_torchtitan() {
    check_facts(Framework::Torchtitan, TORCHTITAN);
}

#[test]
fn verdicts_of_vllm() {
    check_facts(Framework::Vllm, VLLM);
}

#[test]
fn verdicts_of_sglang() {
    check_facts(Framework::Sglang, SGLANG);
}

#[test]
fn every_rule_has_a_source() {
    for rule in Rule::ALL {
        assert!(!rule.asked_by().is_empty(), "{}", rule.id());
        assert!(rule.asked_by().iter().all(|s| !s.place.is_empty() && !s.version.is_empty()), "{}", rule.id());
    }
}

#[test]
fn warnings_tell_what_no_rule_refuses() {
    let ids = |job: &Job, framework: Framework, text: &str| -> Vec<&'static str> {
        let draft = Draft::parse(text, framework.convention()).expect("a plan in its notation");
        let plan = resolve(job, &draft).plan.expect("a plan that resolves");
        warnings(job, Some(framework), &plan, Some(&draft)).iter().map(Warning::id).collect()
    };
    let sparse = job(spec(SPARSE), 16, train(4096, 64));
    assert_eq!(ids(&sparse, Framework::Megatron, "tp1 sp=on"), ["sequence-parallel-dropped"]);
    assert_eq!(ids(&sparse, Framework::Megatron, "tp2 ep4"), ["expert-tp-defaulted"]);
    assert_eq!(ids(&sparse, Framework::Megatron, "tp16"), ["kv-replicated", "expert-tp-defaulted", "tp-across"]);
    assert_eq!(ids(&sparse, Framework::Megatron, "ep16"), ["ep-across"]);
    let served = job(spec([25, 2048, 16, 4, 5632, 66, 1408]), 16, serve(WeightFormat::Bf16));
    assert_eq!(ids(&served, Framework::Vllm, "tp4 pp2 ep=on"), ["uneven-stages", "uneven-experts", "idle-gpus"]);
    assert_eq!(ids(&served, Framework::Sglang, "tp4 ep3"), ["idle-gpus", "ranks-without-experts", "fails-at-build"]);
}
