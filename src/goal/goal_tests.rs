use super::*;
use crate::catalog;
use crate::job::Arrivals;
use crate::units::Seconds;
use std::sync::atomic::AtomicBool;

fn job(model: &str, cluster: &str, change: impl FnOnce(&mut Serve)) -> Job {
    let model = catalog::model(model).expect("a built-in model");
    let mut serve = Serve::of(model.quant());
    change(&mut serve);
    Job::new(model, catalog::cluster(cluster).expect("a built-in GPU in a readable shape"), Workload::Serve(serve))
        .expect("a workload the model takes")
}

fn found<T>(look: impl FnOnce(&Watch<'_>) -> T) -> T {
    look(&Watch { stop: &AtomicBool::new(false), progress: &|_| {} })
}

#[test]
fn a_fleet_takes_the_rate_and_one_replica_less_does_not() {
    for rate in [2.0, 11.0, 40.0] {
        let job = job("llama-3-70b", "64xH100", |s| {
            (s.isl, s.osl, s.arrivals, s.load) = (2000, 300, Arrivals::Poisson, Load::Rate(rate));
            (s.ttft, s.tpot) = (Some(Seconds::new(1.0)), Some(Seconds::new(0.04)));
        });
        let space = SpaceOptions::default();
        let fleets = found(|w| fleets(&job, &space, &SearchOptions::default(), w)).expect("a job with plans that fit");
        let best = fleets.outcome.rows.first().expect("64 GPUs take it");
        assert!(best.estimate.load.capacity_per_s >= rate, "{best:?}");
        assert!(best.estimate.load.ttft.mean <= 1.0 && best.estimate.load.tpot.mean <= 0.04, "{best:?}");
        let (world, replicas) = (best.plan.mesh.world(), best.plan.knobs.replicas);
        assert!(world.is_multiple_of(replicas) && world <= 64);
        // No plan on fewer GPUs takes the rate within the targets.
        for gpus in [world / 2, world.saturating_sub(world / replicas)] {
            if gpus == 0 || gpus == world {
                continue;
            }
            let mut fewer = job.clone();
            fewer.cluster = job.cluster.resized(gpus);
            let outcome = found(|w| search(&fewer, &space, &SearchOptions::default(), w));
            assert!(outcome.rows.is_empty(), "{rate} requests/s on {gpus} GPUs: {:?}", outcome.rows[0].plan);
        }
    }
}

#[test]
fn a_rate_beyond_the_gpus_names_the_fleet_it_takes() {
    let job = job("llama-3-70b", "8xH100", |s| (s.arrivals, s.load) = (Arrivals::Poisson, Load::Rate(100.0)));
    let fleets = found(|w| fleets(&job, &SpaceOptions::default(), &SearchOptions::default(), w))
        .expect("a job with plans that fit");
    assert!(fleets.outcome.rows.is_empty());
    assert!(fleets.beyond.expect("a larger fleet").plan.mesh.world() > 8);
}

#[test]
fn a_sweep_trades_speed_for_users() {
    let job = job("qwen3-30b-a3b", "8xH100", |_| {});
    let outcome = found(|w| sweep(&job, &SpaceOptions::default(), &SearchOptions::default(), w));
    assert!(outcome.rows.len() > 3);
    let in_flight = |row: &Row| row.estimate.service().expect("a serving estimate").concurrency;
    let (first, last) = (&outcome.rows[0], outcome.rows.last().expect("at least one"));
    assert!(in_flight(first) > 8.0 * in_flight(last), "{} {}", in_flight(first), in_flight(last));
    for pair in outcome.rows.windows(2) {
        let (a, b) = (crate::rank::trade(&job, &pair[0]), crate::rank::trade(&job, &pair[1]));
        assert!(a.0 >= b.0 && a.1 < b.1, "{a:?} {b:?}");
    }
}

#[test]
fn pools_keep_to_the_gpus_the_targets_and_the_links() {
    for (model, cluster, ttft) in
        [("deepseek-v3", "32xH200", Some(2.0)), ("llama-3-70b", "2x8xH100", None), ("gpt2", "2xA100", None)]
    {
        let job = job(model, cluster, |s| {
            (s.isl, s.osl) = (500, 200);
            s.ttft = ttft.map(Seconds::new);
        });
        let rungs = found(|w| pools::ladder(&job, &SpaceOptions::default(), w));
        assert!(rungs.iter().any(|r| r.apart.is_some()), "{model}");
        for rung in &rungs {
            let Some(split) = rung.apart else { continue };
            assert!(split.gpus() <= job.gpus() && split.tpot_s <= rung.tpot_s, "{split:?}");
            assert!(ttft.is_none_or(|t| split.ttft_s <= t * (1.0 + 1e-9)), "{split:?}");
            let most = |p: &pools::Pool| f64::from(p.workers) * p.rate * (1.0 + 1e-9);
            assert!(split.requests_per_s <= most(&split.prefill) && split.requests_per_s <= most(&split.decode));
            assert!(split.exposed_s <= split.transfer_s && split.link_share <= 1.0 + 1e-9, "{split:?}");
        }
    }
    // DeepSeek-V3's latent cache: 70,272 bytes a token in 16 bits.
    let job = job("deepseek-v3", "32xH200", |s| s.isl = 1000);
    let bytes = pools::transfer_bytes(&job, job.serve().expect("a serving job"));
    assert!((bytes / 70_272_000.0 - 1.0).abs() < 1e-12, "{bytes}");
}

#[test]
fn one_gpu_has_no_pools() {
    let job = job("gpt2", "1xA100", |s| (s.isl, s.osl) = (100, 100));
    let rungs = found(|w| pools::ladder(&job, &SpaceOptions::default(), w));
    assert!(rungs.iter().all(|r| r.apart.is_none()) && rungs.iter().any(|r| r.together.is_some()));
}
