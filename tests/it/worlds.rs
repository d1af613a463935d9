//! Random jobs and plans. Belongs here: generators of sound input that laws and the oracle share.

use meshwright::catalog;
use meshwright::framework::Framework;
use meshwright::job::{Arrivals, GradDtype, Job, KvFormat, Load, Percentile, Precision, Serve, Train, Workload};
use meshwright::lengths::Spread;
use meshwright::mesh::Convention;
use meshwright::model::{
    Block, DenseMlp, Gqa, Mixer, Mla, Mlp, Model, ModelSpec, Moe, Norm, QkNorm, Quant, QuantScope, Run, WeightFormat,
};
use meshwright::units::Seconds;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;

/// The same cases on every run, unless `PROPTEST_RNG_SEED` asks for others, or `PROPTEST_CASES` for more.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    let mut config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() {
        config.cases = ProptestConfig::default().cases;
    }
    if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
        config.rng_seed = RngSeed::Fixed(0x6d65_7368);
    }
    config
}

/// Softmax attention of a few heads.
fn gqa(window: bool) -> impl Strategy<Value = Mixer> {
    (
        select(vec![2_u32, 4, 6, 8, 12, 16, 32]),
        select(vec![1_u32, 2, 3, 4, 8]),
        select(vec![32_u32, 64, 128]),
        any::<u8>(),
    )
        .prop_map(move |(heads, share, head_dim, bits)| {
            let kv_heads = if heads % share == 0 { heads / share } else { heads };
            Mixer::Gqa(Gqa {
                heads,
                kv_heads,
                head_dim,
                window: window.then_some(128),
                qkv_bias: bits & 1 > 0,
                out_bias: bits & 2 > 0,
                qk_norm: if bits & 4 > 0 { QkNorm::PerHead } else { QkNorm::None },
                output_gate: false,
                sinks: bits & 8 > 0,
                k_eq_v: false,
            })
        })
}

/// Latent attention.
fn mla() -> impl Strategy<Value = Mixer> {
    (select(vec![4_u32, 8, 16, 32]), select(vec![0_u32, 256, 512]), select(vec![128_u32, 256])).prop_map(
        |(heads, q_lora, kv_lora)| {
            Mixer::Mla(Mla { heads, q_lora, kv_lora, nope: 128, rope: 64, v: 128, indexer: None })
        },
    )
}

fn dense() -> impl Strategy<Value = DenseMlp> {
    (select(vec![256_u32, 1024, 1536, 2560, 5632]), any::<bool>()).prop_map(|(ffn, gated)| DenseMlp {
        ffn,
        gated,
        bias: false,
    })
}

fn moe() -> impl Strategy<Value = Moe> {
    (
        select(vec![4_u32, 6, 8, 12, 16, 64]),
        1_u32..=4,
        select(vec![128_u32, 384, 768, 1024]),
        select(vec![0_u32, 0, 512]),
        any::<bool>(),
    )
        .prop_map(|(experts, top_k, ffn, shared_ffn, gated)| Moe {
            experts,
            top_k,
            ffn,
            gated,
            shared_ffn,
            shared_gate: false,
            bias: false,
            router_bias: shared_ffn > 0,
            groups: 1,
            top_groups: 1,
        })
}

/// Kinds of blocks and the order they come in.
fn body() -> impl Strategy<Value = (Vec<Block>, Vec<Run>)> {
    let with = |mixer, mlp| Block { mixer, mlp, norms: 2 };
    let of = |dense: Option<DenseMlp>, moe: Option<Moe>| Mlp { dense, moe };
    let run = |pattern: Vec<usize>, repeat: u32| Run { pattern, repeat };
    prop_oneof![
        (gqa(false), dense(), 1_u32..=24)
            .prop_map(move |(a, d, n)| (vec![with(a, of(Some(d), None))], vec![run(vec![0], n)])),
        (gqa(false), moe(), 1_u32..=96)
            .prop_map(move |(a, m, n)| (vec![with(a, of(None, Some(m)))], vec![run(vec![0], n)])),
        (mla(), dense(), moe(), 1_u32..=3, 1_u32..=13).prop_map(move |(a, d, m, first, n)| {
            let blocks = vec![with(a, of(Some(d), None)), with(a, of(None, Some(m)))];
            (blocks, vec![run(vec![0], first), run(vec![1], n)])
        }),
        (gqa(true), gqa(false), dense(), 1_u32..=8).prop_map(move |(near, far, d, n)| {
            let blocks = vec![with(near, of(Some(d), None)), with(far, of(Some(d), None))];
            (blocks, vec![run(vec![0, 1], n)])
        }),
        (gqa(true), gqa(false), moe(), 1_u32..=8).prop_map(move |(near, far, m, n)| {
            let blocks = vec![with(near, of(None, Some(m))), with(far, of(None, Some(m)))];
            (blocks, vec![run(vec![0, 1], n)])
        }),
    ]
}

/// A small model of any kind.
pub(crate) fn model() -> impl Strategy<Value = Model> {
    let quant = select(vec![
        None,
        None,
        Some(Quant { format: WeightFormat::Fp8Block, scope: QuantScope::Linears }),
        Some(Quant { format: WeightFormat::Int4, scope: QuantScope::Linears }),
        Some(Quant { format: WeightFormat::Mxfp4, scope: QuantScope::RoutedExperts }),
    ]);
    (
        body(),
        select(vec![256_u32, 1024, 2048, 6144, 12_288, 12_288]),
        select(vec![1_000_u32, 32_000, 151_936]),
        any::<bool>(),
        quant,
    )
        .prop_map(|((blocks, layers), hidden, vocab, tied_embeddings, quant)| {
            let spec = ModelSpec {
                name: "random".into(),
                hidden,
                vocab,
                max_positions: 32_768,
                learned_positions: false,
                tied_embeddings,
                norm: Norm::Rms,
                mtp: 0,
                quant,
                blocks,
                layers,
            };
            Model::new(spec).expect("a sound shape")
        })
}

/// A cluster of up to 96 GPUs.
fn cluster() -> impl Strategy<Value = String> {
    let gpu = select(vec!["h100", "h200", "a100-40gb", "l40s", "gb200", "b200", "mi300x", "rtx-pro-6000"]);
    prop_oneof![
        (1_u32..=96, gpu.clone()).prop_map(|(n, gpu)| format!("{n}x{gpu}")),
        (select(vec![1_u32, 2, 3, 4, 8]), select(vec![1_u32, 2, 4, 6, 8]), gpu)
            .prop_map(|(n, per, gpu)| format!("{n}x{per}x{gpu}")),
    ]
}

/// A training workload.
pub(crate) fn train() -> impl Strategy<Value = Train> {
    (
        select(vec![512_u32, 2048, 4096, 8192]),
        select(vec![1_u32, 8, 48, 64, 96, 256]),
        select(vec![Precision::Bf16, Precision::Bf16, Precision::Fp8]),
        select(vec![GradDtype::Fp32, GradDtype::Bf16]),
        select(vec![1.0, 1.5]),
    )
        .prop_map(|(seq_len, global_batch, precision, grad_dtype, moe_balance)| Train {
            seq_len,
            global_batch,
            precision,
            grad_dtype,
            moe_balance,
            mtp_layers: 0,
        })
}

/// How much is asked, of which lengths, with which drafts; the rest is the usual.
fn load() -> impl Strategy<Value = Serve> {
    (
        select(vec![Load::InFlight, Load::InFlight, Load::Most, Load::Rate(0.01), Load::Rate(30.0)]),
        select(vec![0.0, 0.0, 0.5, 20.0]),
        select(vec![Percentile::Mean, Percentile::Mean, Percentile::P50, Percentile::P99]),
        select(vec![0_u32, 0, 1, 4]),
    )
        .prop_map(|(load, cv2, percentile, mtp)| Serve {
            load,
            isl_spread: Spread { cv2, p95: 0 },
            osl_spread: Spread { cv2, p95: 0 },
            percentile,
            mtp,
            ..Serve::of(Quant::NONE)
        })
}

/// A serving workload; weights are the model's own.
pub(crate) fn serve() -> impl Strategy<Value = Serve> {
    (
        select(vec![1_u32, 128, 4096, 16_000]),
        select(vec![1_u32, 16, 1024]),
        select(vec![1_u32, 7, 64, 1024]),
        select(vec![KvFormat::Bf16, KvFormat::Fp8]),
        select(vec![Arrivals::Steady, Arrivals::Burst10x, Arrivals::Poisson]),
        select(vec![0.0, 0.5, 1.0]),
        select(vec![None, None, Some(0.5), Some(1.0)]),
        select(vec![None, None, None, Some(0.05)]),
        load(),
    )
        .prop_map(|(isl, osl, concurrency, kv_cache, arrivals, prefix_hit, memory_fraction, tpot, load)| Serve {
            isl,
            osl,
            concurrency,
            kv_cache,
            arrivals,
            tpot: tpot.map(Seconds::new),
            prefix_hit,
            memory_fraction,
            ..load
        })
}

/// A whole job.
pub(crate) fn job() -> impl Strategy<Value = Job> {
    let workload = prop_oneof![train().prop_map(Workload::Train), serve().prop_map(Workload::Serve)];
    (model(), cluster(), workload).prop_map(|(model, cluster, workload)| {
        let workload = match workload {
            Workload::Train(train) => Workload::Train(train),
            Workload::Serve(serve) => Workload::Serve(Serve { quant: model.quant(), ..serve }),
        };
        let cluster = catalog::cluster(&cluster).expect("a sound cluster");
        Job::new(model, cluster, workload).expect("a sound job")
    })
}

/// Nothing, or a framework that does what the job asks.
pub(crate) fn framework(job: &Job, pick: usize) -> Option<Framework> {
    let fit: Vec<Framework> = Framework::ALL.into_iter().filter(|f| f.serves() == job.serve().is_some()).collect();
    (pick % (fit.len() + 1)).checked_sub(1).map(|i| fit[i])
}

/// The text of a plan with any degrees and knobs, legal or not, in the words of a convention; half of them fill the GPUs if
/// they can.
pub(crate) fn any_plan(convention: Convention, train: bool, gpus: u32) -> impl Strategy<Value = String> {
    let degree = select(vec![1_u32, 1, 1, 1, 2, 2, 2, 3, 4, 4, 5, 8, 16, 64]);
    let degrees = proptest::collection::vec(degree, 8);
    (degrees, any::<u16>()).prop_map(move |(mut d, bits)| {
        let on = bits & 1 > 0;
        if bits & 1024 > 0 {
            let filled = match convention {
                Convention::Product => Some((d[0] * d[1] * d[2], 3)),
                Convention::Vllm => Some((d[0] * d[1], 2)),
                Convention::Sglang | Convention::Trtllm => Some((d[1], 0)),
                Convention::Megatron | Convention::Bridge | Convention::Torchtitan | Convention::Deepspeed => None,
            };
            if let Some((others, rest)) = filled
                && gpus.is_multiple_of(others)
            {
                d[rest] = gpus / others;
            }
        }
        let mut text = match convention {
            Convention::Product => format!("tp{} ep{} pp{} dp{}", d[0], d[1], d[2], d[3]),
            Convention::Megatron | Convention::Bridge => {
                let etp = if on { format!(" etp{}", d[4]) } else { String::new() };
                format!("tp{} cp{} pp{} ep{}{etp}", d[0], d[1], d[2], d[3])
            }
            Convention::Torchtitan => {
                format!("tp{} cp{} pp{} ep{} dp_replicate={}", d[0], d[1], d[2], d[3], d[4])
            }
            Convention::Deepspeed => format!("tp{} pp{} ep{}", d[0], d[1], d[2]),
            Convention::Vllm => format!("tp{} pp{} dp{} ep={on}", d[0], d[1], d[2]),
            Convention::Sglang => format!("tp{} pp{} attn_dp={} ep{}", d[0], d[1], d[2], d[3]),
            Convention::Trtllm => format!("tp{} pp{} moe_tp={} moe_ep={} attention_dp={on}", d[0], d[1], d[2], d[3]),
        };
        if train {
            text.push_str(&format!(" mb{}", d[5]));
            if bits & 2 > 0 {
                text.push_str(&format!(" vpp{}", d[6]));
            }
            if bits & 4 > 0 {
                text.push_str(
                    ["", " recompute=full", " recompute=selective", " recompute=core_attn+mlp"]
                        [usize::from(bits >> 3 & 3)],
                );
            }
            if bits & 32 > 0 {
                text.push_str(&format!(" zero={}", bits >> 6 & 3));
            }
            if bits & 256 > 0 {
                text.push_str(" optimizer_offload=0.5");
            }
            if bits & 512 > 0 && d[2] > 1 {
                text.push_str(&format!(" first_stage_layers={}", d[7]));
            }
        }
        text
    })
}
