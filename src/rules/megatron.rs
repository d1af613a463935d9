//! What Megatron-Core's own code asks (0.19.2 and 0.20.0-dev; Megatron Bridge 0.6.2 calls the same code).

use super::{Sink, ask};
use crate::job::Job;
use crate::plan::{Plan, Toggle};

/// Degrees. Source: `megatron/core/transformer/transformer_config.py`, `megatron/training/arguments.py`.
pub(super) fn check_mesh(job: &Job, plan: &Plan, out: &mut impl Sink) {
    // A parallel configuration with FSDP2 or ZeRO-2/3 is another code path; here ZeRO-3 excludes a pipeline and EP.
    let mesh = &plan.mesh;
    for block in job.model.blocks() {
        if let Some(a) = block.mixer.gqa()
            && job.model.spec().hidden % a.heads != 0
            && a.head_dim == job.model.spec().hidden / a.heads
        {
            ask!(out, false, HiddenHeads, job.model.spec().hidden, a.heads);
        }
    }
    let _ = mesh;
}

/// Knobs. Source: `megatron/training/arguments.py`, `megatron/core/pipeline_parallel/schedules.py`.
pub(super) fn check_knobs(job: &Job, plan: &Plan, out: &mut impl Sink) {
    let mesh = &plan.mesh;
    let knobs = &plan.knobs;
    let layers = job.model.layers();
    let explicit = knobs.first_stage_layers > 0 || knobs.last_stage_layers > 0;
    ask!(out, explicit || layers.is_multiple_of(mesh.pp()), Layers, layers, mesh.pp());
    if let Some(train) = job.train() {
        let positions = job.model.spec().max_positions;
        ask!(out, train.seq_len <= positions, Positions, positions, train.seq_len);
    }
    ask!(out, knobs.zero < 3 || (mesh.pp() == 1 && mesh.ep() == 1), Zero, mesh.pp(), knobs.zero);
    if knobs.ep_overlap == Toggle::On {
        let ready = mesh.ep() > 1 && (mesh.pp() == 1 || knobs.vpp > 1);
        ask!(out, ready, EpOverlap, mesh.pp(), mesh.ep());
    }
}
