//! Serving: what a replica holds, how fast it answers, how many requests fit.
//!
//! A plan is `replicas` independent engines; inside one, every attention data-parallel rank holds its own requests and the
//! ranks of a stage share the experts.

mod engine;
mod memory;
mod queue;
mod speculate;
mod step;
mod time;
mod words;

pub use engine::EngineProfile;
pub use memory::{kv_tokens_per_rank, memory, stage_memory};
pub(crate) use queue::largest;
pub use queue::{Latency, Loaded, settle, under_load};
pub use speculate::yields;
pub(crate) use step::in_two_batches;
pub use time::{Service, service};
pub use words::formula;

use crate::job::Serve;
use crate::plan::Plan;

/// The sizes that follow from a plan and a load.
#[derive(Debug, Clone, Copy)]
struct Load {
    replicas: f64,
    /// Attention data-parallel ranks of one replica.
    ranks: f64,
    /// Requests in flight on one of them.
    requests: f64,
    /// Context of a request halfway through its answer.
    context: f64,
    /// Longest context of a request.
    longest: f64,
}

impl Load {
    fn new(serve: &Serve, plan: &Plan) -> Self {
        let replicas = plan.knobs.replicas.max(1);
        let ranks = (plan.mesh.dp_attention() / replicas).max(1);
        let requests = f64::from(serve.concurrency.div_ceil(replicas).div_ceil(ranks).max(1));
        let (isl, osl) = serve.mean_lengths();
        Self {
            replicas: f64::from(replicas),
            ranks: f64::from(ranks),
            requests,
            // Long answers stay longer, so more of those in flight are long.
            context: isl + osl * (1.0 + serve.osl_spread.cv2) / 2.0,
            longest: f64::from(serve.isl) + f64::from(serve.osl),
        }
    }
}
