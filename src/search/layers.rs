//! Layers priced once for all plans that have the same: meshes that differ in PP and DP alone share them, whatever is sharded,
//! interleaved or scheduled around them.

use crate::estimate::train::{Bare, LayerTime, LikeLayers, Practice, Pricing};
use crate::job::Job;
use crate::mesh::Convention;
use crate::plan::{Plan, Recompute};

/// The layers of one micro-batch under one practice.
#[derive(Debug, Default)]
struct Batch {
    micro_batch: u32,
    practice: Option<Practice>,
    /// By kind, before anything is recomputed.
    bare: Vec<Bare>,
    /// By way and share of recomputing: by kind.
    recomputed: Vec<((Recompute, f64), Vec<LayerTime>)>,
    /// How many of these are of the meshes at hand; the rest is room to write in.
    live: usize,
}

/// The layers of the meshes at hand, priced when a plan asks.
#[derive(Debug)]
pub(super) struct SharedLayers<'a> {
    job: &'a Job,
    convention: Convention,
    pricing: Option<Pricing<'a>>,
    like: Option<LikeLayers>,
    batches: Vec<Batch>,
    live: usize,
}

impl<'a> SharedLayers<'a> {
    pub(super) const fn new(job: &'a Job, convention: Convention) -> Self {
        Self { job, convention, pricing: None, like: None, batches: Vec::new(), live: 0 }
    }

    /// Turns to another mesh.
    pub(super) fn turn(&mut self) {
        self.pricing = None;
    }

    /// The layers of a plan of the mesh at hand.
    pub(super) fn of(&mut self, plan: &Plan) -> (&Pricing<'a>, &[LayerTime]) {
        let (job, convention) = (self.job, self.convention);
        if self.pricing.is_none() {
            let train = job.train().expect("a training space");
            let pricing = Pricing::new(job, train, convention, plan);
            let like = Some(pricing.like());
            if like != self.like {
                self.like = like;
                self.live = 0;
            }
            self.pricing = Some(pricing);
        }
        let pricing = self.pricing.as_mut().expect("made above");
        pricing.aim(plan);
        let batch = batch(&mut self.batches, &mut self.live, pricing, plan.knobs.micro_batch);
        // A block of layers is a share of a stage that depends on PP and interleaving.
        let share = plan.recomputed_share(job.model.layers());
        (pricing, batch.recomputed(pricing, (plan.knobs.recompute, share)))
    }
}

/// The layers of a micro-batch, priced if they were not.
fn batch<'b>(all: &'b mut Vec<Batch>, live: &mut usize, pricing: &Pricing<'_>, micro_batch: u32) -> &'b mut Batch {
    let practice = Some(pricing.practice());
    let at = match all[..*live].iter().position(|b| b.micro_batch == micro_batch && b.practice == practice) {
        Some(at) => at,
        None => {
            if *live == all.len() {
                all.push(Batch::default());
            }
            let batch = &mut all[*live];
            (batch.micro_batch, batch.practice, batch.live) = (micro_batch, practice, 0);
            batch.bare.clear();
            batch.bare.extend(pricing.bare());
            *live += 1;
            *live - 1
        }
    };
    &mut all[at]
}

impl Batch {
    fn recomputed(&mut self, pricing: &Pricing<'_>, recompute: (Recompute, f64)) -> &[LayerTime] {
        let at = match self.recomputed[..self.live].iter().position(|(known, _)| *known == recompute) {
            Some(at) => at,
            None => {
                if self.live == self.recomputed.len() {
                    self.recomputed.push((recompute, Vec::new()));
                }
                let (known, layers) = &mut self.recomputed[self.live];
                *known = recompute;
                layers.clear();
                layers.extend(pricing.recomputed(&self.bare));
                self.live += 1;
                self.live - 1
            }
        };
        &self.recomputed[at].1
    }
}
