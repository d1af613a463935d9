//! One optimiser step: memory of every stage and where the time goes.

mod flops;
mod layer;
mod memory;
mod practice;
mod time;
mod timeline;
mod words;

pub use flops::Utilization;
pub(crate) use layer::{Bare, Groups, LayerTime, LikeLayers, Pricing};
pub(crate) use memory::Priced;
pub use memory::{memory, stage_memory, stage_params};
pub(crate) use practice::Practice;
pub use time::{Step, forward_flop_per_token, step};
pub(crate) use time::{crowd, step_floor, step_of, step_within};
pub use timeline::{Timeline, timeline};
pub use words::formula;

use super::StageSpan;
use crate::cost::ops;
use crate::cost::stack::Stack;
use crate::job::{Job, Train};
use crate::mesh::{Convention, Mesh};
use crate::model::Model;
use crate::plan::Plan;

/// Tokens one rank works on per micro-batch, before sequence parallelism cuts them.
fn tokens(train: &Train, plan: &Plan) -> f64 {
    f64::from(train.seq_len) * f64::from(plan.knobs.micro_batch) / f64::from(plan.mesh.cp())
}

/// What sequence parallelism divides by.
fn sp_degree(plan: &Plan) -> f64 {
    if plan.knobs.sequence_parallel { f64::from(plan.mesh.tp()) } else { 1.0 }
}

/// Micro-batches of a data-parallel rank; at least one, so that a refused plan can still be priced.
#[must_use]
pub fn micro_batches(train: &Train, plan: &Plan) -> u32 {
    (train.global_batch / plan.knobs.micro_batch.saturating_mul(plan.mesh.dp_attention()).max(1)).max(1)
}

/// How a plan's layers are cut into stages: as it or its framework says, or by cost where its stack does.
#[derive(Debug, Clone, Copy)]
struct Split {
    /// What the head costs, in layers, when it is cut by cost.
    head: Option<f64>,
}

impl Split {
    fn of(job: &Job, convention: Convention, plan: &Plan, stack: &Stack) -> Self {
        let knobs = &plan.knobs;
        let said = knobs.vpp > 1 || knobs.first_stage_layers > 0 || knobs.last_stage_layers > 0;
        let free = matches!(convention, Convention::Product | Convention::Megatron) && !said;
        let by_cost = stack.by_cost && free && plan.mesh.pp() > 1;
        Self { head: by_cost.then(|| head_layers(&job.model)) }
    }

    fn span(self, job: &Job, convention: Convention, plan: &Plan, stage: u32) -> StageSpan {
        match self.head {
            Some(head) => StageSpan::by_cost(job.model.layers(), plan.mesh.pp(), head, stage),
            None => StageSpan::of(convention, &job.model, plan, stage),
        }
    }
}

/// FLOP of the head over those of a mean layer, from the weights a token is multiplied with.
fn head_layers(model: &Model) -> f64 {
    let one = Mesh::new(1, 1, 1, 1, 1, 1).expect("one GPU is a mesh");
    let mut all = 0.0;
    for (kind, block) in model.blocks().iter().enumerate() {
        let count = f64::from(model.count(kind, 0, model.layers()));
        ops::gemms(model, block, &one, &mut |g| all += count * g.rows * g.n * g.k);
    }
    let head = f64::from(model.spec().vocab) * f64::from(model.spec().hidden);
    head * f64::from(model.layers()) / f64::max(all, 1.0)
}

/// Layers of each stage, first to last.
pub(crate) fn stage_layers(job: &Job, train: &Train, convention: Convention, plan: &Plan) -> Vec<u32> {
    let split = Split::of(job, convention, plan, &Stack::of(job, train.precision, convention, &plan.knobs));
    (0..plan.mesh.pp()).map(|stage| split.span(job, convention, plan, stage).layers()).collect()
}
