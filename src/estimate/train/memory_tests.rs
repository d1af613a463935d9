//! Measured peaks, and laws that memory must keep.

use super::*;
use crate::catalog;
use crate::cost::Term;
use crate::estimate::stages;
use crate::job::{GradDtype, Precision, Workload};
use crate::model::{Block, DenseMlp, Gqa, Mixer, Mlp, Model, ModelSpec, Moe, Norm, Run};
use crate::plan::{Knobs, Module, Recompute};

const GIB: f64 = 1_073_741_824.0;

fn gqa(heads: u32, kv_heads: u32, head_dim: u32) -> Mixer {
    Mixer::Gqa(Gqa::plain(heads, kv_heads, head_dim))
}

/// Layers, hidden, heads, KV heads, FFN, vocabulary.
type Shape = [u32; 6];

fn model(shape: Shape, mlp: Mlp, learned: bool, norm: Norm) -> Model {
    let [layers, hidden, heads, kv_heads, _, vocab] = shape;
    Model::new(ModelSpec {
        name: "test".into(),
        hidden,
        vocab,
        max_positions: 8192,
        learned_positions: learned,
        tied_embeddings: false,
        norm,
        mtp: 0,
        quant: None,
        blocks: vec![Block { mixer: gqa(heads, kv_heads, hidden / heads), mlp, norms: 2 }],
        layers: vec![Run { pattern: vec![0], repeat: layers }],
    })
    .expect("a consistent model")
}

fn dense(shape: Shape, gated: bool, learned: bool) -> Model {
    let mlp = Mlp { dense: Some(DenseMlp { ffn: shape[4], gated, bias: false }), moe: None };
    model(shape, mlp, learned, if gated { Norm::Rms } else { Norm::Layer })
}

fn sparse(shape: Shape, experts: u32) -> Model {
    let moe = Moe {
        experts,
        top_k: 2,
        ffn: shape[4],
        gated: true,
        shared_ffn: 0,
        shared_gate: false,
        bias: false,
        router_bias: false,
        groups: 1,
        top_groups: 1,
    };
    model(shape, Mlp { dense: None, moe: Some(moe) }, false, Norm::Rms)
}

fn job(model: Model, gpus: u32, gpu: &str, seq_len: u32, global_batch: u32) -> Job {
    let train = Train {
        seq_len,
        global_batch,
        precision: Precision::Bf16,
        grad_dtype: GradDtype::Fp32,
        moe_balance: 1.0,
        mtp_layers: 0,
    };
    Job::new(
        model,
        catalog::cluster(&format!("{gpus}x{gpu}")).expect("a built-in GPU in a readable shape"),
        Workload::Train(train),
    )
    .expect("a workload the model takes")
}

fn mesh(tp: u32, pp: u32, dp: u32, ep: u32, etp: u32) -> Mesh {
    Mesh::new(tp, 1, pp, dp, ep, etp).expect("factors that divide")
}

/// One published run of Megatron-LM's CI, last pipeline rank, GB as printed.
struct Golden {
    name: &'static str,
    model: Model,
    gpu: &'static str,
    mesh: Mesh,
    knobs: Knobs,
    seq: u32,
    batch: u32,
    /// Fused gradient accumulation keeps its buffers.
    dummies: bool,
    peak: f64,
    /// Weights, gradients and optimizer. Where the repository does not say how many GPUs ran, DP is the nearest power of two.
    states: f64,
}

/// Source: NVIDIA/Megatron-LM `tests/functional_tests`, golden values `mem-max-allocated-bytes` and `mem-allocated-bytes`.
fn goldens() -> Vec<Golden> {
    let knobs = Knobs { fused_kernels: Toggle::On, loss_fusion: Toggle::Off, ..Knobs::default() };
    let gpt7 = || dense([32, 4096, 32, 8, 16384, 131_073], false, true);
    let gpt15 = || dense([32, 6144, 48, 8, 24576, 256_000], false, false);
    let mixtral = |vocab| sparse([32, 4096, 32, 8, 14336, vocab], 8);
    vec![
        Golden {
            name: "gpt3_7b_tp4_pp1",
            model: gpt7(),
            gpu: "h100-sxm",
            mesh: mesh(4, 1, 2, 1, 4),
            knobs: Knobs { micro_batch: 2, sequence_parallel: false, ..knobs },
            seq: 8192,
            batch: 8,
            dummies: false,
            peak: 57.1438,
            states: 20.6635,
        },
        Golden {
            name: "gpt3_7b_tp1_pp4 vpp8",
            model: gpt7(),
            gpu: "h100-sxm",
            mesh: mesh(1, 4, 2, 1, 1),
            knobs: Knobs { vpp: 8, ..knobs },
            seq: 8192,
            batch: 8,
            dummies: false,
            peak: 60.7209,
            states: 24.809,
        },
        Golden {
            name: "gpt3_15b_8t",
            model: gpt15(),
            gpu: "h100-sxm",
            mesh: mesh(8, 1, 16, 1, 8),
            knobs: Knobs { micro_batch: 4, ..knobs },
            seq: 4096,
            batch: 1152,
            dummies: true,
            peak: 28.1602,
            states: 13.269,
        },
        Golden {
            name: "mixtral_8x7b tp2 pp4 ep4",
            model: mixtral(256_000),
            gpu: "h100-sxm",
            mesh: mesh(2, 4, 16, 4, 2),
            knobs,
            seq: 4096,
            batch: 1024,
            dummies: true,
            peak: 26.496,
            states: 17.7052,
        },
        Golden {
            name: "mixtral_8x7b tp2 pp4 ep8 vpp8",
            model: mixtral(32_000),
            gpu: "h100-sxm",
            mesh: mesh(2, 4, 8, 8, 1),
            knobs: Knobs { vpp: 8, ..knobs },
            seq: 4096,
            batch: 256,
            dummies: true,
            peak: 35.5058,
            states: 19.7434,
        },
        Golden {
            name: "mixtral_8x22b tp2 pp8 ep8",
            model: sparse([56, 6144, 48, 8, 16384, 32_000], 8),
            gpu: "h100-sxm",
            mesh: mesh(2, 8, 8, 8, 2),
            knobs,
            seq: 4096,
            batch: 256,
            dummies: true,
            peak: 28.5337,
            states: 23.0029,
        },
        Golden {
            name: "gpt3_15b_8t GB200 tp4 pp2 vpp2, native fused loss, overlapped TP",
            model: gpt15(),
            gpu: "gb200",
            mesh: mesh(4, 2, 16, 1, 4),
            knobs: Knobs { micro_batch: 4, vpp: 2, tp_overlap: Toggle::On, ..knobs },
            seq: 4096,
            batch: 1152,
            dummies: true,
            peak: 42.638,
            states: 12.7958,
        },
    ]
}

#[test]
fn megatron_peaks() {
    let mut near = 0;
    for g in goldens() {
        let job = job(g.model, g.mesh.world(), g.gpu, g.seq, g.batch);
        let plan = Plan { mesh: g.mesh, knobs: g.knobs };
        let ledger = *stages(&job, Convention::Megatron, &plan).last().expect("at least one");
        let of = |terms: &[MemoryTerm]| terms.iter().map(|t| ledger.get(*t)).sum::<f64>();
        let states = of(&[MemoryTerm::Weights, MemoryTerm::Gradients, MemoryTerm::Optimizer]);
        let dummies = if g.dummies { ledger.get(MemoryTerm::GradWork) } else { 0.0 };
        let plain = Plan { mesh: g.mesh, knobs: Knobs { tp_overlap: Toggle::Default, ..g.knobs } };
        let without = *stages(&job, Convention::Megatron, &plain).last().expect("at least one");
        // Transformer Engine takes its overlap buffers from PyTorch's allocator.
        let buffers = ledger.get(MemoryTerm::Communication) - without.get(MemoryTerm::Communication);
        let moving = of(&[MemoryTerm::Activations, MemoryTerm::Logits, MemoryTerm::Transients]) + dummies + buffers;
        // The dynamic part on top of the printed static one, as DP is not published everywhere.
        let error = (g.states * 1e9 + moving) / (g.peak * 1e9) - 1.0;
        assert!(error.abs() < 0.08, "{}: peak {error:+.3}", g.name);
        near += u32::from(error.abs() < 0.02);
        let error = states / (g.states * 1e9) - 1.0;
        assert!(error.abs() < 0.06, "{}: states {error:+.3}", g.name);
    }
    assert!(near >= 6, "{near} of 7 within 2 %");
}

/// Model, layers, TP, PP, EP, ETP, CP, sequence, GiB by stage.
type Peaks = (&'static str, u32, [u32; 5], u32, &'static [f64]);

/// Largest `max_allocated` of each stage's ranks. Source: MooreThreads/SimuMax `docs/b200/b200_release_v1.2_summary.json`.
const B200: &[Peaks] = &[
    ("llama-3-70b", 12, [1, 2, 1, 1, 1], 4096, &[66.55, 62.97]),
    ("llama-3-70b", 12, [2, 1, 1, 1, 1], 4096, &[60.68]),
    ("llama-3-70b", 12, [4, 1, 1, 1, 1], 4096, &[39.07]),
    ("llama-3-70b", 12, [8, 1, 1, 1, 1], 4096, &[28.29]),
    ("deepseek-v3", 4, [1, 1, 8, 1, 1], 4096, &[104.30]),
    ("deepseek-v3", 4, [1, 2, 4, 1, 1], 4096, &[71.24, 114.00]),
    ("llama-3.1-405b", 4, [1, 2, 1, 1, 1], 4096, &[86.61, 87.08]),
    ("llama-3.1-405b", 4, [4, 1, 1, 1, 1], 4096, &[52.89]),
    ("llama-3.1-405b", 4, [8, 1, 1, 1, 1], 4096, &[38.57]),
    ("llama-3.1-405b", 4, [2, 1, 1, 1, 4], 32768, &[87.03]),
    ("llama-3.1-405b", 4, [1, 1, 1, 1, 8], 32768, &[139.22]),
    ("llama-3.1-405b", 4, [2, 1, 1, 1, 4], 131072, &[118.13]),
];

#[test]
fn b200_peaks() {
    let mut sum = 0.0;
    let mut count = 0.0_f64;
    for &(name, layers, [tp, pp, ep, etp, cp], seq, peaks) in B200 {
        let full = catalog::model(name).expect("a built-in model");
        let mut spec = full.spec().clone();
        spec.layers = if full.is_mla() {
            vec![Run { pattern: vec![0], repeat: 1 }, Run { pattern: vec![1], repeat: layers - 1 }]
        } else {
            vec![Run { pattern: vec![0], repeat: layers }]
        };
        spec.mtp = 0;
        spec.max_positions = spec.max_positions.max(seq);
        if name == "llama-3.1-405b" {
            // SimuMax ran it with 16 KV heads.
            spec.blocks[0].mixer = gqa(128, 16, 128);
        }
        let dp = 8 / (tp * pp * cp);
        let job = job(Model::new(spec).expect("a consistent model"), 8, "b200-sxm", seq, 4 * dp);
        let mesh = Mesh::new(tp, cp, pp, dp, ep, etp).expect("factors that divide");
        let plan = Plan { mesh, knobs: Knobs::default() };
        for (ledger, peak) in stages(&job, Convention::Megatron, &plan).iter().zip(peaks) {
            let error = ledger.allocated().get() / GIB / peak - 1.0;
            assert!(error.abs() < 0.02, "{name} {mesh:?} {seq}: {error:+.4}");
            sum += error.abs();
            count += 1.0;
        }
    }
    assert!(sum / count < 0.008, "mean {}", sum / count);
}

/// Every tensor of one rank, walked one by one: rows and columns of each matrix after its own cut.
fn walk(shape: Shape, experts: u32, tp: u64, ep: u64, etp: u64) -> u64 {
    let [layers, h, heads, kv, ffn, vocab] = shape.map(u64::from);
    let d = h / heads;
    let padded = vocab.div_ceil(128 * tp) * 128 * tp;
    let mut bytes = 0;
    let mut tensor = |rows: u64, columns: u64| bytes += rows * columns * 2;
    for _ in 0..2 {
        tensor(padded / tp, h);
    }
    tensor(1, h);
    for _ in 0..layers {
        for _ in 0..heads / tp {
            tensor(d, h);
            tensor(h, d);
        }
        for _ in 0..2 * (kv / tp).max(1) {
            tensor(d, h);
        }
        for _ in 0..2 {
            tensor(1, h);
        }
        if experts > 0 {
            tensor(u64::from(experts), h);
            for _ in 0..u64::from(experts) / ep {
                for _ in 0..3 {
                    tensor(ffn / etp, h);
                }
            }
        } else {
            for _ in 0..3 {
                tensor(ffn / tp, h);
            }
        }
    }
    bytes
}

#[test]
fn tensors_walked_one_by_one_are_the_closed_form() {
    let shape = [6, 512, 8, 4, 1536, 32_000];
    for (tp, ep, etp) in [(1, 1, 1), (2, 1, 2), (4, 1, 4), (8, 1, 8), (2, 2, 1), (4, 4, 2)] {
        let experts = if ep > 1 { 8 } else { 0 };
        let model = if experts > 0 { sparse(shape, experts) } else { dense(shape, true, false) };
        let job = job(model, 8, "b200-sxm", 1024, 64);
        let plan = Plan { mesh: mesh(tp, 1, 8 / tp, ep, etp), knobs: Knobs { zero: 0, ..Knobs::default() } };
        let ledger = stages(&job, Convention::Megatron, &plan)[0];
        let want = walk(shape, experts, u64::from(tp), u64::from(ep), u64::from(etp));
        let got = ledger.get(MemoryTerm::Weights);
        assert!((got - want as f64).abs() < 0.5, "tp{tp} ep{ep}: {got} {want}");
        assert!((ledger.get(MemoryTerm::Gradients) - 2.0 * want as f64).abs() < 1.0);
        assert!((ledger.get(MemoryTerm::Optimizer) - 6.0 * want as f64).abs() < 1.0);
    }
}

fn worst_of(job: &Job, mesh: Mesh, knobs: Knobs) -> MemoryLedger {
    crate::estimate::memory(job, Convention::Megatron, &Plan { mesh, knobs }).ledger
}

#[test]
fn laws() {
    let shapes = [[32, 4096, 32, 8, 14336, 128_256], [24, 2048, 16, 4, 5632, 32_000]];
    let every = || shapes.into_iter().flat_map(|s| [dense(s, true, false), sparse(s, 8)]);
    for gpu in ["h100-sxm", "a100-sxm-80gb", "b200-sxm"] {
        for model in every() {
            let job = job(model, 64, gpu, 4096, 512);
            for zero in 0..=3 {
                for fused in [Toggle::Default, Toggle::On, Toggle::Off] {
                    let knobs = Knobs { zero, fused_kernels: fused, ..Knobs::default() };
                    let total = |mesh, knobs| worst_of(&job, mesh, knobs).total();
                    let etp = |t: u32| if job.model.moe().is_some() { 1 } else { t };
                    for pp in [1, 2, 4] {
                        for dp in [1, 2, 4, 8, 16] {
                            let (a, b) = (mesh(1, pp, dp, 1, 1), mesh(1, pp, 2 * dp, 1, 1));
                            assert!(total(b, knobs) <= total(a, knobs) + 1.0, "{gpu} zero{zero} pp{pp} dp{dp}");
                        }
                        // More TP under sequence parallelism.
                        for tp in [2, 4] {
                            let (a, b) = (mesh(tp, pp, 2, 1, etp(tp)), mesh(2 * tp, pp, 2, 1, etp(2 * tp)));
                            let of = |m| {
                                let ledger = worst_of(&job, m, knobs);
                                ledger.allocated().get()
                            };
                            assert!(of(b) <= of(a) * (1.0 + 1e-9), "{gpu} zero{zero} pp{pp} tp{tp}");
                        }
                    }
                    // Recomputing never raises what is kept.
                    let m = mesh(2, 2, 4, 1, etp(2));
                    let none = worst_of(&job, m, knobs).get(MemoryTerm::Activations);
                    let mut sets: Vec<Recompute> = (1..128).map(Recompute::Modules).collect();
                    sets.push(Recompute::Full);
                    for recompute in sets {
                        let ledger = worst_of(&job, m, Knobs { recompute, ..knobs });
                        assert!(ledger.get(MemoryTerm::Activations) <= none, "{recompute}");
                        let sum: f64 = MemoryTerm::ALL.iter().map(|t| ledger.get(*t)).sum();
                        assert!((sum - ledger.total()).abs() < 1.0);
                    }
                    let more = Recompute::Modules((1 << Module::Mlp as u8) | (1 << Module::Layernorm as u8));
                    let less = Recompute::Modules(1 << Module::Layernorm as u8);
                    let of = |recompute| worst_of(&job, m, Knobs { recompute, ..knobs }).get(MemoryTerm::Activations);
                    assert!(of(more) <= of(less));
                }
            }
        }
    }
}

/// States of US1 and US7, in GB of 10^9, which every planner should agree on.
#[test]
fn states_of_users() {
    let cases = [
        ("qwen3-30b-a3b", mesh(1, 2, 8, 8, 1), GradDtype::Fp32, 38.4),
        ("qwen3-30b-a3b", mesh(1, 2, 8, 2, 1), GradDtype::Fp32, 71.0),
        ("qwen3-30b-a3b", mesh(1, 2, 8, 2, 1), GradDtype::Bf16, 55.0),
        ("mixtral-8x7b", mesh(4, 1, 4, 8, 1), GradDtype::Fp32, 71.3),
        ("mixtral-8x7b", mesh(4, 1, 4, 4, 1), GradDtype::Fp32, 105.1),
        ("mixtral-8x7b", mesh(1, 2, 8, 8, 1), GradDtype::Fp32, 56.8),
    ];
    for (name, mesh, grad_dtype, want) in cases {
        let mut job = job(catalog::model(name).expect("a built-in model"), 16, "h100-sxm", 4096, 512);
        if let Workload::Train(train) = &mut job.workload {
            train.grad_dtype = grad_dtype;
        }
        let ledger = worst_of(&job, mesh, Knobs::default());
        let terms = [MemoryTerm::Weights, MemoryTerm::Gradients, MemoryTerm::Optimizer];
        let got = terms.iter().map(|t| ledger.get(*t)).sum::<f64>() / 1e9;
        assert!((got / want - 1.0).abs() < 0.01, "{name} {mesh:?}: {got:.1} GB, not {want}");
    }
}

/// Blocks of whole layers lie between nothing and everything recomputed; uniform checkpoints trade kept streams for a longer
/// working set; a chunk more is in flight when expert exchanges hide.
#[test]
fn whole_layers_by_block_and_run() {
    let job = job(dense([32, 4096, 32, 8, 14336, 128_256], true, false), 32, "h100-sxm", 4096, 512);
    let knobs = Knobs { fused_kernels: Toggle::On, ..Knobs::default() };
    let held = |recompute| {
        let knobs = Knobs { recompute, ..knobs };
        worst_of(&job, mesh(2, 4, 4, 1, 2), knobs).get(MemoryTerm::Activations)
    };
    let blocks: Vec<f64> = [1, 2, 4, 8].map(|layers| held(Recompute::Block(layers))).to_vec();
    assert!(held(Recompute::None) > blocks[0] && blocks.windows(2).all(|w| w[0] > w[1]));
    let same = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-12;
    assert!(same(blocks[3], held(Recompute::Full)));
    let one = |recompute| {
        let plan = Plan { mesh: mesh(2, 1, 16, 1, 2), knobs: Knobs { recompute, ..knobs } };
        stage_memory(&job, job.train().expect("a training job"), Convention::Megatron, &plan, 0)
    };
    let (each, fourth) = (one(Recompute::Full), one(Recompute::Uniform(4)));
    assert!(same(4.0 * fourth.get(MemoryTerm::Activations), each.get(MemoryTerm::Activations)));

    let moe = self::job(sparse([32, 4096, 32, 8, 14336, 32_000], 8), 32, "h100-sxm", 4096, 512);
    let knobs = Knobs { vpp: 4, ..knobs };
    let chunk = |ep_overlap| {
        let plan = Plan { mesh: mesh(1, 4, 8, 8, 1), knobs: Knobs { ep_overlap, ..knobs } };
        stage_memory(&moe, moe.train().expect("a training job"), Convention::Megatron, &plan, 0)
            .get(MemoryTerm::Activations)
    };
    // Rank 0 of four has 2 * 3 + 3 * 4 + 1 = 19 chunks in flight.
    assert!(same(chunk(Toggle::On) / chunk(Toggle::Off), 20.0 / 19.0));
}

/// A multi-token predictor is a layer, a projection, three norms and an embedding of its own on the last stage.
#[test]
fn predictors_stand_on_the_last_stage() {
    let plan = Plan { mesh: mesh(1, 4, 8, 8, 1), knobs: Knobs { fused_kernels: Toggle::On, ..Knobs::default() } };
    let stages = |mtp_layers| {
        let mut job = job(sparse([32, 4096, 32, 8, 14336, 32_000], 8), 32, "h100-sxm", 4096, 512);
        job.workload = Workload::Train(Train { mtp_layers, ..*job.train().expect("a training job") });
        let of = |stage| stage_memory(&job, job.train().expect("a training job"), Convention::Megatron, &plan, stage);
        [0, 3].map(of)
    };
    let ([first, last], [with_first, with_last]) = (stages(0), stages(1));
    assert_eq!(first, with_first);
    let more = |term| with_last.get(term) - last.get(term);
    // GQA 4096 x (4096 + 2 x 1024) + 4096^2, one expert of eight, router, two norms; eh_proj, three norms, embedding.
    let layer = 4096.0 * 6144.0 + 4096.0 * 4096.0 + 3.0 * 4096.0 * 14336.0 + 4096.0 * 8.0 + 2.0 * 4096.0;
    let own = 2.0 * 4096.0 * 4096.0 + 3.0 * 4096.0 + 32_000.0 * 4096.0;
    assert!((more(MemoryTerm::Weights) / (2.0 * (layer + own)) - 1.0).abs() < 1e-9, "{}", more(MemoryTerm::Weights));
    assert!(more(MemoryTerm::Activations) > 0.0);
}
