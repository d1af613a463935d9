//! Speculative tokens: what a step that checks drafted ones (multi-token prediction) yields. Its price is in `time.rs`.

use crate::job::Serve;

/// Tokens that one step yields when `drafted` tokens are checked and each is taken with probability `acceptance` if all before it
/// were: `1 + a + a^2 + ...`.
fn accepted(drafted: u32, acceptance: f64) -> f64 {
    let mut power = 1.0;
    let mut sum = 1.0;
    for _ in 0..drafted {
        power *= acceptance;
        sum += power;
    }
    sum
}

/// Tokens that one step of a service yields a request: no more than an answer has.
#[must_use]
pub fn yields(serve: &Serve) -> f64 {
    accepted(serve.mtp, serve.mtp_acceptance).min(serve.mean_lengths().1.max(1.0))
}

#[cfg(test)]
mod tests {
    use super::super::service;
    use super::*;
    use crate::catalog;
    use crate::cost::MemoryTerm;
    use crate::job::{Arrivals, Job, Workload};
    use crate::mesh::{Convention, Mesh};
    use crate::model::Quant;
    use crate::plan::{Knobs, Plan};

    #[test]
    fn a_drafting_layer_takes_a_layers_memory() {
        let model = catalog::model("deepseek-v3").expect("a built-in model");
        let plan = Plan { mesh: Mesh::product(8, 1, 1, 1, 1).expect("factors that divide"), knobs: Knobs::default() };
        let of = |mtp| {
            let serve = Serve { mtp, ..Serve::of(model.quant()) };
            let job = Job::new(
                model.clone(),
                catalog::cluster("8xH200").expect("a built-in GPU in a readable shape"),
                Workload::Serve(serve),
            )
            .expect("a workload the model takes");
            let held = super::super::stage_memory(&job, &serve, Convention::Vllm, &plan, 0);
            (held.get(MemoryTerm::Weights), super::super::kv_tokens_per_rank(&job, &serve, Convention::Vllm, &plan))
        };
        let ((plain, tokens), (drafting, fewer)) = (of(0), of(1));
        // 11.5 billion parameters of a layer of experts, 8 bits, eight ranks; 206 MB of projection on each.
        assert!((1.6e9..1.7e9).contains(&(drafting - plain)), "{} bytes", drafting - plain);
        assert!(fewer < tokens * 61.0 / 62.0);
        assert_eq!(of(3), (drafting, fewer), "one predictor drafts all tokens");
    }

    #[test]
    fn drafts_help_the_single_user_and_not_the_full_house() {
        assert!((accepted(0, 0.8) - 1.0).abs() < 1e-12);
        assert!((accepted(2, 0.5) - 1.75).abs() < 1e-12);
        let short = Serve { osl: 1, mtp: 16, mtp_acceptance: 1.0, ..Serve::of(Quant::NONE) };
        assert!((yields(&short) - 1.0).abs() < 1e-12, "one token is all there is");
        let model = catalog::model("llama-3-70b").expect("a built-in model");
        let plan = Plan { mesh: Mesh::product(8, 1, 1, 1, 1).expect("factors that divide"), knobs: Knobs::default() };
        let at = |concurrency, mtp, acceptance| {
            let serve =
                Serve { isl: 1000, osl: 500, concurrency, mtp, mtp_acceptance: acceptance, ..Serve::of(model.quant()) };
            let job = Job::new(
                model.clone(),
                catalog::cluster("8xH200").expect("a built-in GPU in a readable shape"),
                Workload::Serve(serve),
            )
            .expect("a workload the model takes");
            service(&job, &serve, Convention::Product, &plan)
        };
        let gain = |concurrency| at(concurrency, 0, 0.8).tpot_s / at(concurrency, 1, 0.8).tpot_s;
        // Weights are read once for both rows: nearly 1.8 tokens a step for one user, less where GEMMs are full.
        assert!((1.5..1.8).contains(&gain(1)), "{}", gain(1));
        assert!(gain(512) < gain(1), "{}", gain(512));
        assert!(at(8, 1, 0.0).tpot_s > at(8, 0, 0.0).tpot_s, "drafts that are never taken only cost");
        assert_eq!(at(8, 0, 0.9), at(8, 0, 0.1));
    }

    #[test]
    fn three_drafts_take_what_was_measured() {
        // DeepSeek-R1 on 8 H200, TensorRT-LLM 1.1.0rc2, 1,024 tokens in and out, EP 8: milliseconds a token of a public benchmark.
        let model = catalog::model("deepseek-r1").expect("a built-in model");
        let plan = Plan { mesh: Mesh::new(8, 1, 1, 1, 8, 1).expect("factors that divide"), knobs: Knobs::default() };
        for (concurrency, without, with) in [(4, 13.82, 8.58), (16, 20.19, 14.20), (64, 33.12, 23.42)] {
            for (mtp, measured) in [(0, without), (3, with)] {
                let serve = Serve {
                    isl: 1024,
                    osl: 1024,
                    concurrency,
                    mtp,
                    arrivals: Arrivals::Burst10x,
                    ..Serve::of(model.quant())
                };
                let cluster = catalog::cluster("8xH200").expect("a built-in GPU in a readable shape");
                let job = Job::new(model.clone(), cluster, Workload::Serve(serve)).expect("a workload the model takes");
                let tpot = service(&job, &serve, Convention::Trtllm, &plan).tpot_s * 1e3;
                assert!((tpot / measured - 1.0).abs() < 0.2, "{concurrency} requests, {mtp} drafts: {tpot} ms");
            }
        }
    }
}
