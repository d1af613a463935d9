//! How the pipelines of a space cut the model: few ways, shared by all plans.

use crate::estimate::Cut;
use crate::estimate::train::Priced;
use crate::job::{Job, Workload};
use crate::mesh::Convention;
use crate::plan::{Knobs, Plan};
use crate::space::Space;

/// What a cut depends on: PP, virtual chunks, sizes of the first and the last stage.
type Key = (u32, u32, u32, u32);

/// The cuts of all plans of a training space, as memory and as time take them.
#[derive(Debug)]
pub(super) struct Cuts {
    cuts: Vec<(Key, Cut, Cut)>,
}

fn key(plan: &Plan) -> Key {
    let k = &plan.knobs;
    (plan.mesh.pp(), k.vpp, k.first_stage_layers, k.last_stage_layers)
}

impl Cuts {
    pub(super) fn new(job: &Job, convention: Convention, plans: &Space) -> Self {
        let mut cuts: Vec<(Key, Cut, Cut)> = Vec::new();
        let Workload::Train(train) = &job.workload else { return Self { cuts } };
        let mut seen = Vec::new();
        for block in plans.blocks() {
            let pp = block.mesh.pp();
            // More stages than layers are refused before anybody asks for their cut.
            if pp > job.model.layers() || seen.contains(&pp) {
                continue;
            }
            seen.push(pp);
            for &vpp in block.vpps {
                let plan = block.plan(Knobs { vpp, ..block.base });
                let held = Priced::new(job, train, convention, &plan).cut();
                cuts.push((key(&plan), held, Cut::of(convention, &job.model, &plan)));
            }
        }
        cuts.sort_unstable_by_key(|(key, ..)| *key);
        Self { cuts }
    }

    /// The cut of a plan, for memory and for time.
    pub(super) fn get(&self, plan: &Plan) -> Option<(&Cut, &Cut)> {
        let key = key(plan);
        let at = self.cuts.binary_search_by_key(&key, |(key, ..)| *key).ok()?;
        let (_, held, timed) = &self.cuts[at];
        Some((held, timed))
    }
}
