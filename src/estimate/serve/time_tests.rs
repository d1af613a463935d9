//! Measured exchanges and answers across nodes, against ours.

use super::super::EngineProfile;
use super::*;
use crate::catalog;
use crate::cluster::Cluster;
use crate::cost::network::{self, Exchange, Placed, Tier};
use crate::job::{Release, Workload};
use crate::mesh::Mesh;
use crate::model::{Quant, QuantScope, WeightFormat};
use crate::plan::{Knobs, Toggle};

/// Microseconds of `DeepEP`'s low-latency dispatch and combine for 8 to 256 tokens a rank (7,168 wide, top 8) on nodes of 8 H100.
const EXCHANGES: [(u32, [(f64, f64); 6]); 3] = [
    (2, [(24.0, 36.0), (30.0, 46.0), (40.0, 61.0), (58.0, 102.0), (102.0, 186.0), (183.0, 337.0)]),
    (4, [(32.0, 42.0), (40.0, 57.0), (55.0, 86.0), (83.0, 152.0), (143.0, 263.0), (264.0, 500.0)]),
    (8, [(35.0, 43.0), (46.0, 60.0), (63.0, 96.0), (94.0, 160.0), (167.0, 305.0), (301.0, 580.0)]),
];

#[test]
fn exchanges_across_nodes_take_what_was_measured() {
    for (nodes, rows) in EXCHANGES {
        let cluster = catalog::cluster(&format!("{nodes}x8xh100-sxm")).expect("a built-in GPU in a readable shape");
        let placed = Placed { size: 8 * nodes, near: 8, tier: Tier::Network };
        let (mut out, mut back) = (0.0, 0.0);
        for (i, (dispatch, combine)) in rows.into_iter().enumerate() {
            let copies = 8.0 * f64::from(8 << i);
            let time = |way, bytes| network::low_latency_exchange(&cluster, placed, way, copies * bytes).get() * 1e6;
            out += (time(Exchange::Dispatch, 7168.0 + 224.0 + 16.0) / dispatch - 1.0).abs() / 6.0;
            back += (time(Exchange::Combine, 2.0 * 7168.0) / combine - 1.0).abs() / 6.0;
        }
        assert!(out < 0.05 && back < 0.05, "{nodes} nodes: {out:.3} of a dispatch, {back:.3} of a combine");
    }
}

fn answer(cluster: &str, mesh: (u32, u32, u32, u32), concurrency: u32, release: Option<Release>) -> Service {
    answer_on(catalog::cluster(cluster).expect("a built-in GPU in a readable shape"), mesh, concurrency, release)
}

fn answer_on(cluster: Cluster, mesh: (u32, u32, u32, u32), concurrency: u32, release: Option<Release>) -> Service {
    let model = catalog::model("deepseek-v3").expect("a built-in model");
    let quant = Quant { format: WeightFormat::Fp8Block, scope: QuantScope::Linears };
    let serve = Serve { isl: 1024, osl: 1024, concurrency, release, ..Serve::of(quant) };
    let job = Job::new(model, cluster, Workload::Serve(serve)).expect("a workload the model takes");
    let (tp, dp, ep, etp) = mesh;
    let plan = Plan { mesh: Mesh::new(tp, 1, 1, dp, ep, etp).expect("factors that divide"), knobs: Knobs::default() };
    service(&job, &serve, Convention::Vllm, &plan)
}

#[test]
fn one_request_over_two_nodes_takes_what_users_measured() {
    // DeepSeek-R1 TP16 on 2 x 8 H100: 23.1 and 31.2 ms a token (tenstorrent/tt-inference-server#356).
    let tpot = answer("2x8xh100-sxm", (16, 1, 1, 16), 1, None).tpot_s * 1e3;
    assert!((18.0..32.0).contains(&tpot), "{tpot} ms");
}

#[test]
fn experts_over_two_nodes_never_cost_what_one_node_does() {
    let far = catalog::cluster("2x8xh200-sxm").expect("a built-in GPU in a readable shape");
    let mut near = far.clone();
    (near.nodes, near.gpus_per_node, near.scale_up.domain) = (1, 16, 16);
    for concurrency in [16, 128, 1024] {
        let [far, near] = [&far, &near].map(|c| answer_on(c.clone(), (1, 16, 16, 1), concurrency, None));
        assert!(far.decode_step_s > near.decode_step_s && far.prefill_s > near.prefill_s, "{concurrency} requests");
    }
}

#[test]
fn terms_make_a_token_and_two_batches_hide_the_exchange() {
    let model = catalog::model("deepseek-v3").expect("a built-in model");
    let quant = Quant { format: WeightFormat::Fp8Block, scope: QuantScope::Linears };
    let at = |concurrency, slower: f64, ep_overlap| {
        let serve = Serve { isl: 128, osl: 4096, concurrency, ..Serve::of(quant) };
        let mut cluster = catalog::cluster("2x8xh200-sxm").expect("a built-in GPU in a readable shape");
        cluster.network.bandwidth = cluster.network.bandwidth * (1.0 / slower);
        let job = Job::new(model.clone(), cluster, Workload::Serve(serve)).expect("a workload the model takes");
        let plan = Plan {
            mesh: Mesh::new(1, 1, 1, 16, 16, 1).expect("factors that divide"),
            knobs: Knobs { ep_overlap, ..Knobs::default() },
        };
        service(&job, &serve, Convention::Vllm, &plan)
    };
    for (concurrency, slower) in [(16, 1.0), (4096, 1.0), (4096, 8.0)] {
        let [plain, halved] = [Toggle::Default, Toggle::On].map(|overlap| at(concurrency, slower, overlap));
        for service in [plain, halved] {
            assert!((service.tpot.total() / service.tpot_s - 1.0).abs() < 1e-9);
        }
        if concurrency == 16 {
            assert_eq!(plain, halved, "one token a rank is not cut in two");
            continue;
        }
        let ep = |service: &Service| service.tpot.get(ServeTerm::Ep);
        assert!(ep(&halved) < 0.5 * ep(&plain), "{plain:?} {halved:?}");
        // Both halves read the weights and start the kernels: what a fast network takes is not worth it.
        assert_eq!(halved.decode_step_s < plain.decode_step_s, slower > 1.0, "{plain:?} {halved:?}");
    }
}

#[test]
fn newer_releases_answer_sooner() {
    let of = |release| answer("1x8xh200-sxm", (8, 1, 1, 8), 8, release).tpot_s;
    assert!(of(Some(Release(0, 19, 0))) < of(None));
    assert!((of(Some(Release(0, 11, 2))) - of(None)).abs() < 1e-12);
}

#[test]
fn a_token_hits_its_own_experts_and_skewed_routers_hit_fewer() {
    let share = super::super::step::hit_share;
    for twice in [1, 3] {
        assert!((share(1e-6, twice) / 1e-6 - 1.0).abs() < 1e-5, "few tokens hit an expert each");
        let mut last = 0.0;
        for step in 0..60 {
            let each = 0.01 * 1.3_f64.powi(step);
            let now = share(each, twice);
            assert!(now > last && now < 1.0, "{each} tokens of an expert, shape {twice}/2: {now} after {last}");
            last = now;
        }
    }
    assert!((share(1.0, 2) - 0.5).abs() < 1e-12, "an exponential hits x / (1 + x)");
    assert!(share(1.0, 1) < 0.5 && 0.5 < share(1.0, 3), "the exponential's half lies between");
}

#[test]
fn steps_outside_of_graphs_take_the_host_time_of_their_layers() {
    let model = catalog::model("qwen3-32b").expect("a built-in model");
    let quant = Quant { format: WeightFormat::Fp8, scope: QuantScope::Linears };
    let serve = Serve { isl: 1024, osl: 128, concurrency: 128, ..Serve::of(quant) };
    let on = |cluster: &str, tp, convention| {
        let cluster = catalog::cluster(cluster).expect("a built-in GPU in a readable shape");
        let job = Job::new(model.clone(), cluster, Workload::Serve(serve)).expect("a workload the model takes");
        let plan = Plan { mesh: Mesh::new(tp, 1, 1, 1, 1, tp).expect("factors that divide"), knobs: Knobs::default() };
        service(&job, &serve, convention, &plan)
    };
    // Measured: 39.7 ms on four, 40.5 ms on eight.
    let [four, eight] = [4, 8].map(|tp| on("8xh100-sxm", tp, Convention::Trtllm));
    assert!((eight.tpot_s / four.tpot_s - 1.0).abs() < 0.1, "{} ms, {} ms", four.tpot_s * 1e3, eight.tpot_s * 1e3);
    assert!((eight.tpot_s / 40.5e-3 - 1.0).abs() < 0.2, "{} ms", eight.tpot_s * 1e3);
    let [four, eight] = [4, 8].map(|tp| on("8xh100-sxm", tp, Convention::Vllm));
    assert!(
        eight.tpot_s < 0.85 * four.tpot_s,
        "vLLM's points show no floor: {} ms, {} ms",
        four.tpot_s * 1e3,
        eight.tpot_s * 1e3
    );
    assert!(
        on("8xb200-sxm", 8, Convention::Trtllm).prefill_s < 64.0 * EngineProfile::of(Convention::Trtllm).eager_layer_s,
        "nor do Blackwell's"
    );
}

#[test]
fn every_group_of_a_pipeline_waits_for_the_host() {
    let model = catalog::model("qwen3-32b").expect("a built-in model");
    let quant = Quant { format: WeightFormat::Fp8, scope: QuantScope::Linears };
    let serve = Serve { isl: 1024, osl: 128, concurrency: 1024, ..Serve::of(quant) };
    let cluster = catalog::cluster("8xh100-sxm").expect("a built-in GPU in a readable shape");
    let job = Job::new(model, cluster, Workload::Serve(serve)).expect("a workload the model takes");
    let plan = Plan { mesh: Mesh::new(4, 1, 2, 1, 1, 4).expect("factors that divide"), knobs: Knobs::default() };
    let tpot = service(&job, &serve, Convention::Trtllm, &plan).tpot_s;
    // More prompts than steps: both groups prefill in every step, each through 32 layers of every stage.
    let least = 2.0 * 32.0 * EngineProfile::of(Convention::Trtllm).eager_layer_s;
    assert!(tpot > 0.95 * least, "{} ms, {} at least", tpot * 1e3, least * 1e3);
}
