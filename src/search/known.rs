//! What all threads know of what was found so far: enough to prove that a plan cannot matter. Read and written without locks;
//! knowing less, or later, only means that more plans are priced.

use std::sync::atomic::{AtomicU64, Ordering};

/// Steps of the memory axis on which the frontier is remembered.
const STEPS: usize = 1024;

/// Bounds and prices are rounded apart: they are compared with this much room, millions of times their rounding.
pub(super) const ROOM: f64 = 1e-9;

/// The best that was found so far.
#[derive(Debug)]
pub(super) struct Known {
    /// A value that `top` rows reach; positive, so that its bits order as it does.
    worst_row: AtomicU64,
    /// By headroom in steps: the best first figure of a plan with at least so much.
    best_with: Vec<AtomicU64>,
}

impl Known {
    pub(super) fn new() -> Self {
        Self {
            worst_row: AtomicU64::new(f64::INFINITY.to_bits()),
            best_with: (0..=STEPS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Tells that `top` rows of different meshes are this good or better.
    pub(super) fn reached(&self, value: f64) {
        if value >= 0.0 {
            self.worst_row.fetch_min(value.to_bits(), Ordering::Relaxed);
        }
    }

    /// Whether a plan whose value is at least this is worse than as many rows as are asked for.
    pub(super) fn is_behind(&self, value: f64) -> bool {
        behind(value, f64::from_bits(self.worst_row.load(Ordering::Relaxed)))
    }

    /// Tells of a plan: the two figures of its trade, the second between 0 and 1.
    pub(super) fn found(&self, first: f64, second: f64) {
        if !(first > 0.0 && (0.0..=1.0).contains(&second)) {
            return;
        }
        // Every step up to the plan's own headroom is reached by it, those that knew better aside.
        for step in self.best_with[..=step_below(second)].iter().rev() {
            if step.fetch_max(first.to_bits(), Ordering::Relaxed) >= first.to_bits() {
                return;
            }
        }
    }

    /// Whether some plan is better in both figures than one that reaches these at most.
    pub(super) fn beats(&self, first: f64, second: f64) -> bool {
        if !(0.0..1.0).contains(&second) {
            return false;
        }
        let step = step_below(second + ROOM) + 1;
        let best = |step: &AtomicU64| f64::from_bits(step.load(Ordering::Relaxed));
        self.best_with.get(step).is_some_and(|step| best(step) > first * (1.0 + ROOM))
    }
}

fn step_below(second: f64) -> usize {
    ((second * STEPS as f64) as usize).min(STEPS)
}

/// Whether a bound on a value proves it worse than another value.
pub(super) fn behind(bound: f64, value: f64) -> bool {
    bound * (1.0 - ROOM) > value
}
