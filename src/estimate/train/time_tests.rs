//! Tests of a step's time: what its terms must do, not what they come to.

use super::exposed;
use crate::catalog;
use crate::cost::TimeTerm;
use crate::estimate::{Estimate, assess};
use crate::job::{Job, Workload};
use crate::mesh::Convention;
use crate::plan::Draft;

fn priced(gpus: u32, gpu: &str, model: &str, plan: &str) -> Estimate {
    let train = crate::job::Train { seq_len: 4096, global_batch: 64, ..crate::job::Train::default() };
    let cluster = catalog::cluster(&format!("{gpus}x{gpu}")).expect("a built-in GPU in a readable shape");
    let job = Job::new(catalog::model(model).expect("a built-in model"), cluster, Workload::Train(train))
        .expect("a workload the model takes");
    let draft = Draft::parse(plan, Convention::Megatron).expect("a plan in its notation");
    assess(&job, None, &draft).estimate.expect("a plan with a price")
}

fn seconds(gpus: u32, gpu: &str, model: &str, plan: &str) -> f64 {
    priced(gpus, gpu, model, plan).step().expect("a training estimate").seconds().get()
}

#[test]
fn hidden_traffic_still_costs_a_little() {
    assert!(exposed(2.0, 0.0) >= 2.0);
    assert!(exposed(2.0, 5.0) < 0.5 && exposed(2.0, 5.0) > 0.0);
    assert!(exposed(3.0, 1.0) < 3.0 && exposed(3.0, 1.0) > 2.0);
}

#[test]
fn older_code_cuts_the_stream_only_when_told() {
    let model = "llama-2-70b";
    let said = seconds(8, "a100", model, "tp8 dp1 mb1 sequence_parallel=true");
    let unsaid = seconds(8, "a100", model, "tp8 dp1 mb1");
    let off = seconds(8, "a100", model, "tp8 dp1 mb1 sequence_parallel=false");
    assert!(said < unsaid, "{said} {unsaid}");
    assert!((unsaid - off).abs() < 1e-9, "{unsaid} {off}");
    // Named kernels speak for themselves.
    let fused = seconds(8, "a100", model, "tp8 dp1 mb1 fused_kernels=true");
    assert!(fused < said, "{fused} {said}");
}

#[test]
fn a_plan_at_the_end_of_memory_waits_for_the_driver() {
    let wait = |e: &Estimate| e.step().expect("a training estimate").ledger.get(TimeTerm::Allocator);
    let full = priced(4, "h100", "llama-3-8b", "tp1 pp2 dp2 mb1");
    let share = full.memory.ledger.total() / full.memory.capacity.get();
    assert!(share > 0.98 && wait(&full) > 0.0, "{share}");
    let roomy = priced(32, "h100", "llama-3-8b", "tp4 dp8 mb1");
    assert!(wait(&roomy) <= 0.0);
}

#[test]
fn a_plan_far_beyond_memory_is_priced_on_the_kernels_it_could_run_on() {
    let plan = "tp1 pp1 dp2 mb2";
    let unsaid = priced(2, "h100", "llama-3-8b", plan);
    assert!(unsaid.memory.ledger.total() > 1.5 * unsaid.memory.capacity.get());
    let fused = seconds(2, "h100", "llama-3-8b", &format!("{plan} fused_kernels=true"));
    assert!((unsaid.step().expect("a training estimate").seconds().get() - fused).abs() < 1e-9);
    let own = seconds(2, "h100", "llama-3-8b", &format!("{plan} fused_kernels=false"));
    assert!(own > fused);
}
