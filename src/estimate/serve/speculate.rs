//! Speculative tokens: what drafted tokens (multi-token prediction) do to a service.

use super::{Service, service};
use crate::cost::{ServeLedger, ServeTerm};
use crate::job::{Job, Serve};
use crate::mesh::Convention;
use crate::plan::Plan;

/// Tokens that one step yields when `drafted` tokens are checked and each is taken with probability `acceptance` if all before it
/// were: `1 + a + a^2 + ...`.
#[must_use]
pub fn accepted(drafted: u32, acceptance: f64) -> f64 {
    let mut power = 1.0;
    let mut sum = 1.0;
    for _ in 0..drafted {
        power *= acceptance;
        sum += power;
    }
    sum
}

/// As [`service`], with the job's speculative tokens.
///
/// ```text
/// step = D(b (n + 1) tokens, the KV cache of b requests) + n D(b) / L     n drafted tokens, a layer of L for each
/// TPOT = step / (1 + a + ... + a^n) + what others' prefills add
/// ```
/// A step that checks `n` drafts has `n + 1` rows a request in every GEMM and reads each request's KV cache once: the load of
/// `n + 1` times the requests with contexts that much shorter. Latent attention's FLOP, which grow with both, are under-counted.
/// The drafting layer's weights and cache are in `memory.rs`. [`Service::decode_step_s`] is then a step's time per token that it
/// yields.
#[must_use]
pub fn speculated(job: &Job, serve: &Serve, convention: Convention, plan: &Plan) -> Service {
    let plain = service(job, serve, convention, plan);
    if serve.mtp == 0 {
        return plain;
    }
    let rows = serve.mtp + 1;
    let shared = |tokens: u32| tokens.div_ceil(rows).max(1);
    // Every rank's requests, as many times: a rank that is not full stays so.
    let in_flight = (plain.concurrency.max(1.0) as u32).saturating_mul(rows);
    let wide = Serve { concurrency: in_flight, isl: shared(serve.isl), osl: shared(serve.osl), ..*serve };
    let checked = service(job, &wide, convention, plan);
    let drafts = f64::from(serve.mtp) / f64::from(job.model.layers());
    let step = checked.decode_step_s + drafts * plain.decode_step_s;
    let yields = accepted(serve.mtp, serve.mtp_acceptance);
    let each = step / yields;
    let (_, osl) = serve.mean_lengths();
    let mut token = ServeLedger::EMPTY;
    token.add_all(&checked.tpot.without(ServeTerm::Prefill), 1.0 / yields);
    token.add_all(&plain.tpot.without(ServeTerm::Prefill), drafts / yields);
    token.add(ServeTerm::Prefill, plain.tpot.get(ServeTerm::Prefill));
    let tpot = token.total();
    // The first token waits for one step, whatever it yields.
    let later = step - plain.decode_step_s;
    let answer = |s: &Service, first: f64, tpot: f64| (s.ttft_steady_s + first + (osl - 1.0) * tpot).max(1e-9);
    let faster = answer(&plain, 0.0, plain.tpot_s) / answer(&plain, later, tpot);
    Service {
        ttft_s: plain.ttft_s + later,
        ttft_steady_s: plain.ttft_steady_s + later,
        ttft_burst_s: plain.ttft_burst_s + later,
        tpot_s: tpot,
        tpot: token,
        decode_step_s: each,
        output_tokens_per_s: plain.output_tokens_per_s * faster,
        tokens_per_s_per_user: 1.0 / tpot,
        ..plain
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog;
    use crate::cost::MemoryTerm;
    use crate::job::Workload;
    use crate::mesh::Mesh;
    use crate::plan::Knobs;

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
            speculated(&job, &serve, Convention::Product, &plan)
        };
        let gain = |concurrency| at(concurrency, 0, 0.8).tpot_s / at(concurrency, 1, 0.8).tpot_s;
        // Weights are read once for both rows: nearly 1.8 tokens a step for one user, less where GEMMs are full.
        assert!((1.5..1.8).contains(&gain(1)), "{}", gain(1));
        assert!(gain(512) < gain(1), "{}", gain(512));
        assert!(at(8, 1, 0.0).tpot_s > at(8, 0, 0.0).tpot_s, "drafts that are never taken only cost");
        assert_eq!(at(8, 0, 0.9), at(8, 0, 0.1));
    }
}
