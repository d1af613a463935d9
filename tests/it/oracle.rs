//! A brute force to be read in one sitting. Belongs here: answers found by the plainest loops, held against the search's.
//!
//! Nothing here calls the code it judges, but for the price of a single plan.

use crate::laws::searched;
use crate::worlds::{cases, model, serve, train};
use meshwright::catalog;
use meshwright::estimate;
use meshwright::job::{Job, Serve, Workload};
use meshwright::mesh::{Convention, Mesh};
use meshwright::model::{Mixer, Model};
use meshwright::plan::{Knobs, Module, Plan, Recompute};
use meshwright::rank::{Objective, Row, trade};
use meshwright::rules;
use meshwright::search::SearchOptions;
use meshwright::space::{Bounds, Space, SpaceOptions, products};
use proptest::prelude::*;

/// TP, EP, PP, DP.
type Degrees = [u32; 4];

/// Every way to write `n` as a product of four degrees: all quadruples are tried.
fn factorisations(n: u32) -> Vec<Degrees> {
    let mut out = Vec::new();
    for tp in 1..=n {
        for ep in 1..=n / tp {
            for pp in 1..=n / tp / ep {
                if n.is_multiple_of(tp * ep * pp) {
                    out.push([tp, ep, pp, n / (tp * ep * pp)]);
                }
            }
        }
    }
    out
}

/// Whether a training or unquantised serving plan of these degrees can exist, by the model's shape alone.
fn legal_degrees(model: &Model, [tp, ep, pp, _]: Degrees) -> bool {
    let divides = |degree: u32, whole: u32| whole.is_multiple_of(degree);
    let has_experts = model.blocks().iter().any(|b| b.mlp.moe.is_some());
    if pp > model.layers() || (ep > 1 && !has_experts) {
        return false;
    }
    model.blocks().iter().all(|block| {
        let attention = match &block.mixer {
            Mixer::Gqa(a) => divides(tp, a.heads) && (divides(tp, a.kv_heads) || divides(a.kv_heads, tp)),
            Mixer::Mla(a) => divides(tp, a.heads),
            Mixer::DeltaNet(_) | Mixer::Mamba2(_) | Mixer::None {} => panic!("not generated"),
        };
        let dense = block.mlp.dense.is_none_or(|d| divides(tp, d.ffn));
        let experts =
            block.mlp.moe.is_none_or(|m| divides(ep, m.experts) && divides(tp, m.ffn) && divides(tp, m.shared_ffn));
        attention && dense && experts
    })
}

/// Whether the knobs of a training plan can exist.
fn legal_knobs(job: &Job, [tp, ep, pp, dp]: Degrees, micro_batch: u32, vpp: u32) -> bool {
    let train = job.train().expect("training");
    let ranks = ep * dp;
    if !train.global_batch.is_multiple_of(ranks * micro_batch) || !train.seq_len.is_multiple_of(tp) {
        return false;
    }
    let rounds = train.global_batch / (ranks * micro_batch);
    vpp == 1 || (pp > 1 && job.model.layers().is_multiple_of(pp * vpp) && rounds >= pp && rounds.is_multiple_of(pp))
}

fn training(model: &str, cluster: &str, seq_len: u32, global_batch: u32) -> Job {
    let text = format!(
        r#"{{"model":"{model}","cluster":"{cluster}","train":{{"seq_len":{seq_len},"global_batch":{global_batch}}}}}"#
    );
    let file = meshwright::import::job::JobFile::parse("test", &text).unwrap();
    file.read("test").unwrap().job
}

#[test]
fn the_space_is_every_factorisation_once() {
    for n in (1..=96).chain([1024]) {
        let plain = factorisations(n);
        assert_eq!(plain.len() as u64, products(u64::from(n), 4), "{n}");
        let job = training("mixtral-8x7b", &format!("{n}xh100"), 4096, 96);
        let space = Space::new(&job, &SpaceOptions::default());
        assert_eq!(space.factorisations, plain.len() as u64);
        let mut found: Vec<Degrees> =
            space.blocks().map(|b| [b.mesh.tp(), b.mesh.ep(), b.mesh.pp(), b.mesh.product_dp().unwrap()]).collect();
        found.sort_unstable();
        assert_eq!(found, plain, "{n}");
    }
    let count = |n| factorisations(n).len();
    assert_eq!([count(16), count(96), count(1024)], [35, 224, 286]);
}

#[test]
fn fewer_gpus_are_every_factorisation_of_each_number() {
    let job = training("mixtral-8x7b", "12xh100", 4096, 96);
    let space = Space::new(&job, &SpaceOptions { use_fewer: true, ..SpaceOptions::default() });
    let worlds: std::collections::BTreeSet<u32> = space.blocks().map(|b| b.mesh.world()).collect();
    assert_eq!(worlds, (6..=12).collect(), "down to half of them");
    for n in worlds {
        let of_n = space.blocks().filter(|b| b.mesh.world() == n).count();
        assert_eq!(of_n, factorisations(n).len(), "{n}");
    }
}

#[test]
fn pins_cut_the_space_and_nothing_else() {
    let job = training("mixtral-8x7b", "16xh100", 4096, 64);
    let all = Space::new(&job, &SpaceOptions::default());
    let bounds = Bounds { tp: vec![1, 2], ep: vec![4, 8], pp: vec![1, 2, 4], ..Bounds::default() };
    let some = Space::new(&job, &SpaceOptions { bounds, ..SpaceOptions::default() });
    let meshes: Vec<Mesh> = some.blocks().map(|b| b.mesh).collect();
    let filtered: Vec<Mesh> =
        all.blocks().map(|b| b.mesh).filter(|m| m.tp() <= 2 && [4, 8].contains(&m.ep()) && m.pp() <= 4).collect();
    assert_eq!(meshes, filtered);
    assert!(!meshes.is_empty());
}

/// Every plan of a training job, by nested loops over degrees and knobs.
fn all_training_plans(job: &Job, zeros: &[u8]) -> Vec<(Degrees, Plan)> {
    let latent = if job.model.is_mla() { 1 << Module::MlaUpProj as u8 } else { 0 };
    let light = 1 << Module::CoreAttn as u8 | 1 << Module::MlpAct as u8 | 1 << Module::Layernorm as u8 | latent;
    let mut out = Vec::new();
    for degrees in factorisations(job.gpus()) {
        let [tp, ep, pp, dp] = degrees;
        for micro_batch in 1..=job.train().expect("training").global_batch {
            for vpp in 1..=job.model.layers() {
                if !legal_degrees(&job.model, degrees) || !legal_knobs(job, degrees, micro_batch, vpp) {
                    continue;
                }
                for recompute in [Recompute::None, Recompute::SELECTIVE, Recompute::Modules(light), Recompute::Full] {
                    for &zero in zeros {
                        let mesh = Mesh::product(tp, 1, ep, pp, dp).expect("a product");
                        let sequence_parallel = tp > 1;
                        let knobs = Knobs { micro_batch, vpp, recompute, zero, sequence_parallel, ..Knobs::default() };
                        out.push((degrees, Plan { mesh, knobs }));
                    }
                }
            }
        }
    }
    out
}

/// Prices plans, keeps those that fit, the best `variants` of each mesh, sorted.
fn brute_force(
    job: &Job,
    plans: &[(Degrees, Plan)],
    objective: Objective,
    variants: usize,
) -> (u64, Vec<Row>, Vec<Row>) {
    let mut fitting: Vec<(Degrees, Row)> = Vec::new();
    for (degrees, plan) in plans {
        let estimate = estimate::estimate(job, Convention::Product, plan);
        if estimate::verdict(job, &estimate).is_empty() {
            let value = objective.value(job, plan, &estimate);
            fitting.push((*degrees, Row { plan: *plan, estimate, value }));
        }
    }
    fitting.sort_by(|a, b| a.1.order(&b.1));
    let mut best: Vec<(Degrees, Row)> = Vec::new();
    for (degrees, row) in &fitting {
        if best.iter().filter(|(d, _)| d == degrees).count() < variants {
            best.push((*degrees, *row));
        }
    }
    let rows: Vec<Row> = fitting.into_iter().map(|(_, row)| row).collect();
    (rows.len() as u64, best.into_iter().map(|(_, row)| row).collect(), rows)
}

/// Rows that nobody beats in one thing without losing in the other: every pair is looked at.
fn pareto(job: &Job, rows: &[Row]) -> Vec<(f64, f64)> {
    let points: Vec<(f64, f64)> = rows.iter().map(|row| trade(job, row)).collect();
    let beats = |p: &(f64, f64), q: &(f64, f64)| p.0 >= q.0 && p.1 >= q.1 && (p.0 > q.0 || p.1 > q.1);
    let mut out: Vec<(f64, f64)> = points.iter().filter(|q| !points.iter().any(|p| beats(p, q))).copied().collect();
    out.sort_by(|a, b| b.0.total_cmp(&a.0));
    out.dedup();
    out
}

fn agrees(job: &Job, space: &SpaceOptions, plans: &[(Degrees, Plan)], objective: Objective, variants: usize) -> u64 {
    let (fit, mut best, rows) = brute_force(job, plans, objective, variants);
    best.truncate(5);
    let outcome = searched(job, space, &SearchOptions { objective, top: 5, variants, exhaustive: false });
    assert_eq!(outcome.fit, fit, "{} plans fit", objective.name());
    let texts = |rows: &[Row]| -> Vec<(Plan, f64)> { rows.iter().map(|r| (r.plan, r.value)).collect() };
    assert_eq!(texts(&outcome.rows), texts(&best), "the best by {}", objective.name());
    let frontier: Vec<(f64, f64)> = outcome.frontier.iter().map(|row| trade(job, row)).collect();
    assert_eq!(frontier, pareto(job, &rows), "the frontier");
    fit
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn training_searches_find_what_brute_force_finds(
        model in model(), train in train(), gpus in prop::sample::select(vec![1_u32, 3, 4, 6, 8, 12, 16]),
        gpu in prop::sample::select(vec!["h100", "a100-40gb", "l40s"]), variants in 1_usize..4, objective in 0_usize..5,
    ) {
        let global_batch = train.global_batch.min(64);
        let cluster = catalog::cluster(&format!("{gpus}x{gpu}")).unwrap();
        let precision = if gpu == "a100-40gb" { meshwright::job::Precision::Bf16 } else { train.precision };
        let train = meshwright::job::Train { global_batch, precision, ..train };
        let job = Job::new(model, cluster, Workload::Train(train)).unwrap();
        let space = SpaceOptions { bounds: Bounds { zero: vec![1], ..Bounds::default() }, ..SpaceOptions::default() };
        agrees(&job, &space, &all_training_plans(&job, &[1]), Objective::ALL[objective], variants);
    }

    #[test]
    fn serving_searches_find_what_brute_force_finds(
        model in model(), serve in serve(), gpus in prop::sample::select(vec![1_u32, 3, 4, 8, 12, 24, 96]),
        gpu in prop::sample::select(vec!["h100", "a100-40gb", "l40s"]), objective in 0_usize..5,
    ) {
        let cluster = catalog::cluster(&format!("{gpus}x{gpu}")).unwrap();
        let job = Job::new(model, cluster, Workload::Serve(Serve { ..serve })).unwrap();
        let plans: Vec<(Degrees, Plan)> = factorisations(gpus)
            .into_iter()
            .filter(|degrees| legal_degrees(&job.model, *degrees))
            .map(|degrees| {
                let [tp, ep, pp, dp] = degrees;
                let knobs = Knobs { replicas: dp, sequence_parallel: tp > 1, ..Knobs::default() };
                (degrees, Plan { mesh: Mesh::product(tp, 1, ep, pp, dp).expect("a product"), knobs })
            })
            .collect();
        agrees(&job, &SpaceOptions::default(), &plans, Objective::ALL[objective], 1);
    }

    #[test]
    fn plain_divisions_and_the_rules_agree(model in model(), train in train(), gpus in 1_u32..=48) {
        let cluster = catalog::cluster(&format!("{gpus}xh100")).unwrap();
        let job = Job::new(model, cluster, Workload::Train(train)).unwrap();
        for degrees in factorisations(gpus) {
            let [tp, ep, pp, dp] = degrees;
            let knobs = Knobs { sequence_parallel: tp > 1, ..Knobs::default() };
            let plan = Plan { mesh: Mesh::product(tp, 1, ep, pp, dp).expect("a product"), knobs };
            let mut refused = Vec::new();
            rules::check_mesh(&job, None, &plan, &mut refused);
            prop_assert_eq!(refused.is_empty(), legal_degrees(&job.model, degrees), "{:?}: {:?}", degrees, refused);
            let mut refused = Vec::new();
            rules::check_plan(&job, None, &plan, &mut refused);
            prop_assert_eq!(refused.is_empty(), legal_knobs(&job, degrees, 1, 1), "{:?}: {:?}", degrees, refused);
        }
    }
}

#[test]
fn built_in_models_find_what_brute_force_finds() {
    let mut fit = 0;
    for (model, cluster) in [("qwen3-30b-a3b", "16xh100"), ("mixtral-8x7b", "16xh200"), ("llama-3-8b", "12xh100")] {
        let job = training(model, cluster, 4096, 32);
        let zeros = [1_u8];
        let space =
            SpaceOptions { bounds: Bounds { zero: zeros.to_vec(), ..Bounds::default() }, ..SpaceOptions::default() };
        fit += agrees(&job, &space, &all_training_plans(&job, &zeros), Objective::Throughput, 2);
    }
    assert!(fit > 100, "{fit} plans to compare");
}
