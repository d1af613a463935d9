//! The stages of a pipeline, alike ones together: they cost the same, so they are priced once.

use super::StageSpan;
use crate::mesh::Convention;
use crate::model::{MOST_KINDS, Model};
use crate::plan::Plan;

/// Stages that hold the same blocks at the same end of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Alike {
    /// The first of them, which has the most micro-batches in flight of them.
    pub(crate) stage: u32,
    /// How many they are.
    pub(crate) stages: u32,
    /// Layers of each kind that each holds.
    pub(crate) layers: [u32; MOST_KINDS],
}

impl Alike {
    /// One stage by itself.
    pub(crate) fn one(model: &Model, stage: u32, span: StageSpan) -> Self {
        let mut layers = [0; MOST_KINDS];
        for (kind, count) in layers.iter_mut().enumerate().take(model.blocks().len()) {
            *count = span.count(model, kind);
        }
        Self { stage, stages: 1, layers }
    }

    /// Layers of one kind.
    pub(crate) fn count(&self, kind: usize) -> f64 {
        f64::from(self.layers[kind])
    }
}

/// A model cut into stages, in the order of the first stage of each sort. It depends on the job, on PP, interleaving and the sizes
/// of first and last stage alone: plans of one space that share these share it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cut {
    pub(crate) sorts: Vec<Alike>,
}

impl Cut {
    /// The cut of a plan, as it or its framework says.
    pub(crate) fn of(convention: Convention, model: &Model, plan: &Plan) -> Self {
        Self::new(model, plan.mesh.pp(), |stage| StageSpan::of(convention, model, plan, stage))
    }

    /// The cut of a plan, each stage by itself, first to last.
    pub(crate) fn apart(convention: Convention, model: &Model, plan: &Plan) -> Self {
        let one = |stage| Alike::one(model, stage, StageSpan::of(convention, model, plan, stage));
        Self { sorts: (0..plan.mesh.pp()).map(one).collect() }
    }

    /// Of stages that lie where `span` says.
    pub(crate) fn new(model: &Model, pp: u32, span: impl Fn(u32) -> StageSpan) -> Self {
        let mut sorts: Vec<Alike> = Vec::new();
        for stage in 0..pp {
            let one = Alike::one(model, stage, span(stage));
            // The first and the last stage hold embedding and head besides.
            let inner = |s: u32| s > 0 && s + 1 < pp;
            let same = |s: &&mut Alike| s.layers == one.layers && inner(s.stage) && inner(stage);
            match sorts.iter_mut().find(same) {
                Some(sort) => sort.stages += 1,
                None => sorts.push(one),
            }
        }
        Self { sorts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog;
    use crate::mesh::Mesh;
    use crate::plan::Knobs;

    #[test]
    fn every_layer_is_in_one_stage() {
        for name in ["deepseek-v3", "gemma-4-26b-a4b", "qwen3-235b-a22b", "llama-3-8b"] {
            let model = catalog::model(name).expect("a built-in model");
            for pp in 1..=model.layers().min(40) {
                let mesh = Mesh::new(1, 1, pp, 1, 1, 1).expect("factors that divide");
                for vpp in 1..4 {
                    let plan = Plan { mesh, knobs: Knobs { vpp, ..Knobs::default() } };
                    let cut = Cut::of(Convention::Megatron, &model, &plan);
                    assert_eq!(cut.sorts.iter().map(|s| s.stages).sum::<u32>(), pp);
                    for kind in 0..model.blocks().len() {
                        let held: u32 = cut.sorts.iter().map(|s| s.stages * s.layers[kind]).sum();
                        assert_eq!(held, model.count(kind, 0, model.layers()), "{name} pp{pp} vpp{vpp}");
                    }
                }
            }
        }
    }
}
