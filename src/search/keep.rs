//! What one thread keeps of the plans it walked: the best rows, the frontier, counts. Bounded, whatever the space.

use crate::job::Job;
use crate::plan::Plan;
use crate::rank::{Row, frontier, trade};
use crate::rules::{Rejection, Rule};
use std::cmp::Ordering;

/// Refusals of one rule.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tallied {
    pub(super) refused: u64,
    pub(super) nearest: Option<(Plan, Rejection)>,
}

impl Tallied {
    /// Counts refusals, the nearest of which is given; of equally near ones the lowest plan is kept.
    pub(super) fn add(&mut self, refused: u64, plan: &Plan, rejection: Rejection) {
        self.refused += refused;
        let nearer = match &self.nearest {
            None => true,
            Some((other, now)) => {
                rejection.miss().total_cmp(&now.miss()).then_with(|| plan.cmp(other)) == Ordering::Less
            }
        };
        if nearer {
            self.nearest = Some((*plan, rejection));
        }
    }

    /// Whether a refusal that misses by this factor at least could be the nearest.
    pub(super) fn could_be_nearest(&self, miss: f64) -> bool {
        self.nearest.is_none_or(|(_, now)| miss <= now.miss())
    }
}

/// Everything a thread keeps.
#[derive(Debug)]
pub(super) struct Kept {
    /// Up to twice the rows asked for, in no order until they are joined.
    pub(super) rows: Vec<Row>,
    /// In order.
    pub(super) frontier: Vec<Row>,
    pub(super) mesh: Vec<Tallied>,
    pub(super) plan: Vec<Tallied>,
    pub(super) meshes: u64,
    pub(super) plans: u64,
    pub(super) covered: u64,
    pub(super) priced: u64,
    pub(super) fit: u64,
}

impl Kept {
    pub(super) fn new() -> Self {
        let empty = vec![Tallied::default(); Rule::ALL.len()];
        Self {
            rows: Vec::new(),
            frontier: Vec::new(),
            mesh: empty.clone(),
            plan: empty,
            meshes: 0,
            plans: 0,
            covered: 0,
            priced: 0,
            fit: 0,
        }
    }

    /// Both together, whichever came first.
    pub(super) fn join(mut self, other: Self, job: &Job, top: usize) -> Self {
        for (mine, theirs) in [(&mut self.mesh, other.mesh), (&mut self.plan, other.plan)] {
            for (a, b) in mine.iter_mut().zip(theirs) {
                match b.nearest {
                    Some((plan, rejection)) => a.add(b.refused, &plan, rejection),
                    None => a.refused += b.refused,
                }
            }
        }
        self.rows.extend(other.rows);
        self.cut(top);
        self.frontier.extend(other.frontier);
        self.frontier = frontier(job, &self.frontier);
        self.meshes += other.meshes;
        self.plans += other.plans;
        self.covered += other.covered;
        self.priced += other.priced;
        self.fit += other.fit;
        self
    }

    fn cut(&mut self, top: usize) {
        self.rows.sort_unstable_by(Row::order);
        self.rows.truncate(top);
    }

    /// Takes the best rows of a mesh. Says what a row must not exceed to be among the best from now on, when that is new.
    pub(super) fn take(&mut self, best: &[Row], top: usize) -> Option<f64> {
        self.rows.extend_from_slice(best);
        // Sorting now and then is cheaper than keeping long lists sorted.
        if self.rows.len() < 2 * top {
            return None;
        }
        self.cut(top);
        self.rows.last().map(|row| row.value)
    }

    /// Takes a row for the frontier, if nothing kept beats it.
    pub(super) fn offer(&mut self, job: &Job, row: &Row) -> bool {
        let (a, b) = trade(job, row);
        let before = |other: &Row| {
            let (x, y) = trade(job, other);
            a.total_cmp(&x).then(b.total_cmp(&y)).then_with(|| other.plan.cmp(&row.plan)) == Ordering::Less
        };
        let at = self.frontier.partition_point(before);
        let best = if at == 0 { f64::NEG_INFINITY } else { trade(job, &self.frontier[at - 1]).1 };
        // As `rank::frontier`: in order of the first figure, each must improve on the second.
        if b.partial_cmp(&best) != Some(Ordering::Greater) {
            return false;
        }
        let beaten = self.frontier[at..].iter().take_while(|other| trade(job, other).1 <= b).count();
        self.frontier.splice(at..at + beaten, [*row]);
        true
    }
}

/// Keeps the best `most` rows in order.
pub(super) fn insert(best: &mut Vec<Row>, row: &Row, most: usize) {
    let at = best.partition_point(|other| other.order(row) == Ordering::Less);
    if at < most {
        best.truncate(most - 1);
        best.insert(at, *row);
    }
}
