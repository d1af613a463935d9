//! How long the parts take: enumerating a space, pricing one plan, searching. Every case asserts its answer.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use meshwright::catalog;
use meshwright::estimate::{estimate, memory};
use meshwright::job::{Job, Serve, Train, Workload};
use meshwright::mesh::Convention;
use meshwright::search::{SearchOptions, Watch, search};
use meshwright::space::{Scope, Space, SpaceOptions};
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

fn folded() -> SpaceOptions {
    SpaceOptions { scope: Scope::Folded, ..SpaceOptions::default() }
}

fn spaces(c: &mut Criterion) {
    let mut group = c.benchmark_group("space");
    for (cluster, factorisations) in [("16xH100", 35), ("64xH100", 84), ("1024xH100", 286), ("16384xH100", 680)] {
        let job = train("deepseek-v3", cluster);
        for (scope, space) in [("product", SpaceOptions::default()), ("folded", folded())] {
            group.bench_function(BenchmarkId::new(scope, cluster), |b| {
                b.iter(|| {
                    let space = Space::new(black_box(&job), &space);
                    assert_eq!(space.factorisations, factorisations);
                    space.len()
                });
            });
        }
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

fn all_of(job: &Job, space: &SpaceOptions, exhaustive: bool) -> u64 {
    let watch = Watch { stop: &AtomicBool::new(false), progress: &|_| {} };
    let options = SearchOptions { exhaustive, ..SearchOptions::default() };
    let outcome = search(black_box(job), space, &options, &watch);
    assert_eq!(outcome.covered, outcome.plans);
    outcome.fit
}

/// With bounds and without, over every axis and knob.
fn searches(c: &mut Criterion) {
    let mut group = c.benchmark_group("search");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    let jobs = [
        ("train 16", train("deepseek-v3", "16xH200")),
        ("train 64", train("deepseek-v3", "64xH200")),
        ("train 1024", train("deepseek-v3", "1024xH100")),
        ("train 16384", train("deepseek-v3", "16384xH100")),
        ("serve 16", serve("deepseek-v3", "16xH200")),
        ("serve 1024", serve("deepseek-v3", "1024xH200")),
    ];
    for (name, job) in &jobs {
        group.throughput(Throughput::Elements(Space::new(job, &folded()).len()));
        let fits = all_of(job, &folded(), false);
        for (mode, exhaustive) in [("pruned", false), ("exhaustive", true)] {
            group.bench_function(BenchmarkId::new(mode, name), |b| {
                b.iter(|| assert_eq!(all_of(job, &folded(), exhaustive), fits));
            });
        }
    }
    group.finish();
}

/// Many clusters, one after the other, as `what-if --gpus 8..=256` asks.
fn sweeps(c: &mut Criterion) {
    let mut group = c.benchmark_group("what-if");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    let base = train("qwen3-235b-a22b", "8xH100");
    group.bench_function("8..=256", |b| {
        b.iter(|| {
            let fit = (8..=256).map(|gpus| {
                let cluster = base.cluster.resized(gpus);
                let job = Job::new(base.model.clone(), cluster, base.workload).expect("a sound job");
                all_of(&job, &SpaceOptions::default(), false)
            });
            assert!(fit.sum::<u64>() > 0);
        });
    });
    group.finish();
}

criterion_group!(all, spaces, estimates, searches, sweeps);
criterion_main!(all);
