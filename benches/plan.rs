//! How long the parts take: enumerating a space, pricing one plan, searching. Every case asserts its answer.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use meshwright::catalog;
use meshwright::estimate::{estimate, memory};
use meshwright::job::{Job, Serve, Train, Workload};
use meshwright::mesh::Convention;
use meshwright::search::{SearchOptions, Watch, search};
use meshwright::space::{Space, SpaceOptions};
use std::hint::black_box;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

fn train(model: &str, cluster: &str) -> Job {
    let train = Train { global_batch: 2048, ..Train::default() };
    let model = catalog::model(model).expect("a built-in model");
    let cluster = catalog::cluster(cluster).expect("a sound cluster");
    Job::new(model, cluster, Workload::Train(train)).expect("a sound job")
}

fn serve(model: &str, cluster: &str) -> Job {
    let model = catalog::model(model).expect("a built-in model");
    let cluster = catalog::cluster(cluster).expect("a sound cluster");
    let serve = Serve::of(model.quant());
    Job::new(model, cluster, Workload::Serve(serve)).expect("a sound job")
}

fn spaces(c: &mut Criterion) {
    let mut group = c.benchmark_group("space");
    for (cluster, factorisations) in [("16xH100", 35), ("64xH100", 84), ("1024xH100", 286)] {
        let job = train("deepseek-v3", cluster);
        group.bench_function(BenchmarkId::from_parameter(cluster), |b| {
            b.iter(|| {
                let space = Space::new(black_box(&job), &SpaceOptions::default());
                assert_eq!(space.factorisations, factorisations);
                space.len()
            });
        });
    }
    group.finish();
}

fn estimates(c: &mut Criterion) {
    let mut group = c.benchmark_group("one plan");
    let jobs = [("train", train("deepseek-v3", "64xH100")), ("serve", serve("deepseek-v3", "16xH200"))];
    for (name, job) in &jobs {
        let space = Space::new(job, &SpaceOptions::default());
        let plan = space.get(space.len() / 2);
        group.bench_function(BenchmarkId::new("memory", name), |b| {
            b.iter(|| {
                let memory = memory(black_box(job), Convention::Product, black_box(&plan));
                assert!(memory.ledger.total() > 0.0);
                memory
            });
        });
        group.bench_function(BenchmarkId::new("memory and time", name), |b| {
            b.iter(|| {
                let estimate = estimate(black_box(job), Convention::Product, black_box(&plan));
                assert!(estimate.tokens_per_s(job) > 0.0);
                estimate
            });
        });
    }
    group.finish();
}

fn searches(c: &mut Criterion) {
    let mut group = c.benchmark_group("search");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    let jobs = [
        ("train 16", train("qwen3-30b-a3b", "16xH100")),
        ("train 64", train("qwen3-30b-a3b", "64xH100")),
        ("train 1024", train("qwen3-30b-a3b", "1024xH100")),
        ("serve 16", serve("deepseek-v3", "16xH200")),
    ];
    for (name, job) in &jobs {
        group.bench_function(*name, |b| {
            b.iter(|| {
                let watch = Watch { stop: &AtomicBool::new(false), progress: &|_| {} };
                let outcome = search(black_box(job), &SpaceOptions::default(), &SearchOptions::default(), &watch);
                assert_eq!(outcome.covered, outcome.plans);
                assert!(!outcome.rows.is_empty());
                outcome.fit
            });
        });
    }
    group.finish();
}

criterion_group!(all, spaces, estimates, searches);
criterion_main!(all);
