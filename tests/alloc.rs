//! The hot loop of a search allocates nothing: four times the plans, the same allocations but for what is kept.

#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect fails")]

use meshwright::catalog;
use meshwright::job::{Job, Train, Workload};
use meshwright::plan::Schedule;
use meshwright::search::{SearchOptions, Watch, search_space};
use meshwright::space::{Bounds, Scope, Space, SpaceOptions};
use std::sync::atomic::AtomicBool;

/// Plans, and allocations of their search, the space enumerated before.
fn allocations(schedules: &[Schedule], exhaustive: bool) -> (u64, u64) {
    let train = Train { global_batch: 512, ..Train::default() };
    let model = catalog::model("deepseek-v3").unwrap();
    let job = Job::new(model, catalog::cluster("256xh200").unwrap(), Workload::Train(train)).unwrap();
    let bounds = Bounds { schedule: schedules.to_vec(), ..Bounds::default() };
    let space = SpaceOptions { scope: Scope::Folded, bounds, ..SpaceOptions::default() };
    let plans = Space::new(&job, &space);
    let options = SearchOptions { exhaustive, ..SearchOptions::default() };
    let watch = Watch { stop: &AtomicBool::new(false), progress: &|_| {} };
    // The counter is the thread's own, so the search runs on one.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let count = pool.install(|| {
        let mut outcome = None;
        let count = allocation_counter::measure(|| {
            outcome = Some(search_space(&job, &space, &plans, &options, &watch));
        });
        let outcome = outcome.unwrap();
        assert_eq!(outcome.covered, outcome.plans);
        assert!(outcome.fit > 10_000, "{}", outcome.fit);
        count
    });
    (plans.len(), count.count_total)
}

#[test]
fn plans_cost_no_allocation() {
    for exhaustive in [false, true] {
        let (few, before) = allocations(&[Schedule::OneFOneB], exhaustive);
        let (many, after) = allocations(&Schedule::ALL, exhaustive);
        assert!(many == 4 * few && few > 100_000, "{few} and {many} plans");
        // Room for lists that grow to what they keep; a plan or a mesh that allocated would need thousands.
        assert!(before < 500 && after < 500, "{before} allocations for {few} plans, {after} for {many}");
    }
}
