//! Pipeline schedules, slice by slice: what each rank runs in which order, and an exact simulation of it.
//!
//! The order of a rank is fixed before the step, as in the frameworks; a slice starts when the rank is free and what it needs has
//! arrived. There is nothing to tune, so the simulation is the oracle of the closed forms in [`crate::cost::pipeline`].

use super::pipeline::{StageTime, round, warm_up};
use crate::plan::Schedule;

/// What a slice computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pass {
    /// The forward pass.
    Forward,
    /// The whole backward pass.
    Backward,
    /// The backward pass without the weight gradients.
    Input,
    /// The weight gradients.
    Weight,
}

impl Pass {
    /// The letter papers use.
    #[must_use]
    pub const fn letter(self) -> &'static str {
        match self {
            Self::Forward => "F",
            Self::Backward | Self::Input => "B",
            Self::Weight => "W",
        }
    }
}

/// One pass of one micro-batch through one chunk of a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Op {
    /// What is computed.
    pub pass: Pass,
    /// The chunk, first to last in forward order; in `DualPipe` 0 for the stage that forward passes reach from rank 0, 1 for the other.
    pub chunk: u32,
    /// The micro-batch; in `DualPipe` of the chunk's direction.
    pub micro_batch: u32,
}

/// What a rank runs at once: one pass, or in `DualPipe` a forward and a backward pass of opposite directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// The pass.
    pub op: Op,
    /// The one that shares the slot.
    pub with: Option<Op>,
}

/// A slot that ran.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slice {
    /// Where.
    pub rank: u32,
    /// What.
    pub slot: Slot,
    /// From when, in seconds from the step's start.
    pub start: f64,
    /// Until when.
    pub end: f64,
}

/// A simulated step.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Every slice, rank by rank in order of time.
    pub slices: Vec<Slice>,
    /// When the last one ends.
    pub end: f64,
    /// Most micro-batches in flight on each rank, as a fraction of its layers, from their forward pass to their weight gradients.
    pub in_flight: Vec<f64>,
}

/// Most slices that a simulation may have: a trace of more could not be looked at.
pub const MOST_SLICES: u64 = 1_000_000;

/// A step to simulate.
#[derive(Debug, Clone, Copy)]
pub struct Pipeline<'a> {
    /// The order of micro-batches.
    pub schedule: Schedule,
    /// Chunks of a rank (interleaving, with 1F1B).
    pub vpp: u32,
    /// Micro-batches of a data-parallel rank.
    pub micro_batches: u32,
    /// Seconds of one micro-batch on each stage, all its chunks; chunks of one stage are alike.
    pub stages: &'a [StageTime],
    /// Seconds on the way between two ranks, during which both may compute.
    pub hop: f64,
}

impl Pipeline<'_> {
    fn pp(&self) -> u32 {
        u32::try_from(self.stages.len()).unwrap_or(u32::MAX)
    }

    /// Chunks of a rank: both directions' stages in `DualPipe`.
    fn chunks(&self) -> u32 {
        match self.schedule {
            Schedule::DualPipe => 2,
            Schedule::OneFOneB => self.vpp.max(1),
            Schedule::Gpipe | Schedule::ZbH1 => 1,
        }
    }

    /// Whether the schedule has an order for these numbers: `DualPipe` needs an even number of ranks, and an even number of
    /// micro-batches, at least twice as many. Source: deepseek-ai/DualPipe.
    #[must_use]
    pub fn exists(&self) -> bool {
        let (pp, n) = (self.pp(), self.micro_batches);
        let fits = u64::from(pp) * u64::from(n) * u64::from(self.chunks()) * 3 <= MOST_SLICES;
        let dual = self.schedule != Schedule::DualPipe || (pp.is_multiple_of(2) && n.is_multiple_of(2) && n / 2 >= pp);
        pp > 0 && n > 0 && fits && dual
    }

    /// Runs the step: each slice once, a rank that has to wait woken by what it waits for. `None` when the schedule does not exist.
    #[must_use]
    pub fn simulate(&self) -> Option<Run> {
        if !self.exists() {
            return None;
        }
        let orders: Vec<Vec<Slot>> = (0..self.pp()).map(|rank| self.order(rank)).collect();
        let ranks = orders.len();
        let mut state = State {
            done: vec![[f64::NAN; 2]; self.points()],
            waiting: vec![NOBODY; 2 * self.points()],
            at: vec![0; ranks],
            free: vec![0.0; ranks],
            slices: orders.iter().map(|order| Vec::with_capacity(order.len())).collect(),
        };
        let mut ready: Vec<usize> = (0..ranks).rev().collect();
        while let Some(rank) = ready.pop() {
            self.run(rank, &orders[rank], &mut state, &mut ready);
        }
        let whole = state.at.iter().zip(&orders).all(|(at, order)| *at == order.len());
        let in_flight = orders.iter().map(|order| self.peak(order)).collect();
        let end = state.free.iter().copied().fold(0.0, f64::max);
        // No order of this file waits for itself; a step that did would have no end.
        whole.then(|| Run { slices: state.slices.concat(), end, in_flight })
    }

    /// Runs a rank's slots until one needs what is not there yet.
    fn run(&self, rank: usize, order: &[Slot], state: &mut State, ready: &mut Vec<usize>) {
        while let Some(slot) = order.get(state.at[rank]) {
            let mut start = state.free[rank];
            for op in [Some(slot.op), slot.with].into_iter().flatten() {
                let Some((need, far)) = self.need(rank, op) else { continue };
                let arrived = state.done[need.0][need.1];
                if arrived.is_nan() {
                    state.waiting[2 * need.0 + need.1] = rank;
                    return;
                }
                start = start.max(arrived + if far { self.hop } else { 0.0 });
            }
            let end = start + self.seconds(rank, slot.op) + slot.with.map_or(0.0, |op| self.seconds(rank, op));
            state.free[rank] = end;
            state.at[rank] += 1;
            state.slices[rank].push(Slice { rank: u32::try_from(rank).unwrap_or(u32::MAX), slot: *slot, start, end });
            for op in [Some(slot.op), slot.with].into_iter().flatten() {
                let way = match op.pass {
                    Pass::Forward => 0,
                    Pass::Backward | Pass::Input => 1,
                    Pass::Weight => continue,
                };
                let point = self.point(self.depth(rank, op.chunk), op);
                state.done[point][way] = end;
                let woken = std::mem::replace(&mut state.waiting[2 * point + way], NOBODY);
                if woken != NOBODY && woken != rank {
                    ready.push(woken);
                }
            }
        }
    }

    /// Seconds of one pass.
    fn seconds(&self, rank: usize, op: Op) -> f64 {
        let (stage, share) = match self.schedule {
            Schedule::DualPipe if op.chunk == 1 => (self.stages[self.stages.len() - 1 - rank], 1.0),
            Schedule::DualPipe | Schedule::Gpipe | Schedule::ZbH1 => (self.stages[rank], 1.0),
            Schedule::OneFOneB => (self.stages[rank], f64::from(self.chunks())),
        };
        let whole = match op.pass {
            Pass::Forward => stage.forward,
            Pass::Backward => stage.backward + stage.weight,
            Pass::Input => stage.backward,
            Pass::Weight => stage.weight,
        };
        whole / share
    }

    /// How deep in the model a rank's chunk lies, in chunks of its direction.
    fn depth(&self, rank: usize, chunk: u32) -> usize {
        match self.schedule {
            Schedule::DualPipe if chunk == 1 => self.stages.len() - 1 - rank,
            Schedule::DualPipe => rank,
            Schedule::OneFOneB | Schedule::Gpipe | Schedule::ZbH1 => chunk as usize * self.stages.len() + rank,
        }
    }

    /// Depths of one direction.
    fn deepest(&self) -> usize {
        let rounds = if self.schedule == Schedule::DualPipe { 1 } else { self.chunks() as usize };
        self.stages.len() * rounds
    }

    fn points(&self) -> usize {
        2 * self.deepest() * self.micro_batches as usize
    }

    /// The number of a micro-batch at a depth; directions of `DualPipe` apart.
    fn point(&self, depth: usize, op: Op) -> usize {
        let direction = if self.schedule == Schedule::DualPipe { op.chunk as usize } else { 0 };
        (direction * self.deepest() + depth) * self.micro_batches as usize + op.micro_batch as usize
    }

    /// What a pass needs first, as its point and way, and whether it comes from another rank.
    fn need(&self, rank: usize, op: Op) -> Option<((usize, usize), bool)> {
        let depth = self.depth(rank, op.chunk);
        let far = self.stages.len() > 1;
        match op.pass {
            Pass::Forward => depth.checked_sub(1).map(|above| ((self.point(above, op), 0), far)),
            Pass::Backward | Pass::Input if depth + 1 == self.deepest() => Some(((self.point(depth, op), 0), false)),
            Pass::Backward | Pass::Input => Some(((self.point(depth + 1, op), 1), far)),
            Pass::Weight => Some(((self.point(depth, op), 1), false)),
        }
    }

    /// The most that an order holds at once, as a fraction of the rank's layers.
    fn peak(&self, order: &[Slot]) -> f64 {
        let (mut held, mut most) = (0_i64, 0_i64);
        for slot in order {
            let ops = [Some(slot.op), slot.with];
            held += ops.iter().flatten().filter(|op| op.pass == Pass::Forward).count() as i64;
            most = most.max(held);
            held -= ops.iter().flatten().filter(|op| matches!(op.pass, Pass::Backward | Pass::Weight)).count() as i64;
        }
        let share = if self.schedule == Schedule::OneFOneB { f64::from(self.chunks()) } else { 1.0 };
        most as f64 / share
    }

    /// What a rank runs, in order.
    #[must_use]
    pub fn order(&self, rank: u32) -> Vec<Slot> {
        match self.schedule {
            // A pipeline of one stage has nothing to wait for: no framework holds all its micro-batches there.
            Schedule::Gpipe if self.pp() > 1 => self.gpipe(),
            Schedule::Gpipe | Schedule::OneFOneB => self.one_f_one_b(rank),
            Schedule::ZbH1 => self.zero_bubble(rank),
            Schedule::DualPipe => self.dual(rank),
        }
    }

    fn gpipe(&self) -> Vec<Slot> {
        let all = |pass| (0..self.micro_batches).map(move |m| single(pass, 0, m));
        all(Pass::Forward).chain(all(Pass::Backward)).collect()
    }

    /// Chunk and micro-batch of every slice of one way: rounds of micro-batches, each through all chunks.
    fn rounds(&self) -> Vec<(u32, u32)> {
        let n = self.micro_batches;
        let size = if self.vpp > 1 { round(self.pp(), n) } else { n };
        let mut out = Vec::with_capacity(n as usize * self.chunks() as usize);
        for from in (0..n).step_by(size as usize) {
            for chunk in 0..self.chunks() {
                out.extend((from..n.min(from + size)).map(|m| (chunk, m)));
            }
        }
        out
    }

    /// Source: Megatron-Core `schedules.py`, `forward_backward_pipelining_with(out)_interleaving`.
    fn one_f_one_b(&self, rank: u32) -> Vec<Slot> {
        let last = self.chunks() - 1;
        let forward = self.rounds();
        let warm = (warm_up(self.pp(), self.chunks(), self.micro_batches, rank) as usize).min(forward.len());
        let mut out = Vec::with_capacity(2 * forward.len());
        let f = |at: usize| single(Pass::Forward, forward[at].0, forward[at].1);
        let b = |at: usize| single(Pass::Backward, last - forward[at].0, forward[at].1);
        out.extend((0..warm).map(f));
        for at in warm..forward.len() {
            out.extend([f(at), b(at - warm)]);
        }
        out.extend((forward.len() - warm..forward.len()).map(b));
        out
    }

    /// Rank `i` takes weight gradients `i` micro-batches late, so that every rank holds `p`. Source: Qi et al. 2023, section 2.
    fn zero_bubble(&self, rank: u32) -> Vec<Slot> {
        let n = self.micro_batches;
        let warm = (self.pp() - rank - 1).min(n);
        let mut out: Vec<Slot> = (0..warm).map(|m| single(Pass::Forward, 0, m)).collect();
        let mut weights = 0..n;
        for m in 0..n {
            if m + warm < n {
                out.push(single(Pass::Forward, 0, m + warm));
            }
            out.push(single(Pass::Input, 0, m));
            // Nothing is late any more once the last forward pass is through.
            if m >= rank || m + warm >= n {
                out.extend(weights.next().map(|w| single(Pass::Weight, 0, w)));
            }
        }
        out.extend(weights.map(|w| single(Pass::Weight, 0, w)));
        out
    }

    /// The eight steps of a rank. Source: deepseek-ai/DualPipe, `dualpipe.py`, its order of passes.
    fn dual(&self, rank: u32) -> Vec<Slot> {
        let (pp, half) = (self.pp(), self.pp() / 2);
        let inner = rank.min(pp - 1 - rank);
        let outside = half - inner - 1;
        let mut queue = Dual { mirrored: rank >= half, ..Dual::default() };
        let mut out = Vec::new();
        for _ in 0..2 * outside {
            out.push(queue.forward(0));
        }
        for _ in 0..=inner {
            out.extend([queue.forward(0), queue.forward(1)]);
        }
        for _ in 0..outside {
            out.extend([queue.input(1), queue.weight(), queue.forward(1)]);
        }
        for i in 0..self.micro_batches / 2 - pp + inner + 1 {
            if i == 0 && outside == 0 {
                // The two ranks in the middle do not overlap their first pair.
                out.extend([queue.forward(0), queue.backward(1)]);
            } else {
                out.push(queue.both(0, 1));
            }
            out.push(queue.both(1, 0));
        }
        for _ in 0..outside {
            out.extend([queue.backward(1), queue.both(1, 0)]);
        }
        // The second half of these leaves its weight gradients for later.
        for i in 0..=inner {
            let late = i > inner.div_ceil(2) || (i == inner.div_ceil(2) && inner % 2 == 1);
            out.push(if late { queue.input(1) } else { queue.backward(1) });
            let late = late || i == inner.div_ceil(2);
            out.push(if late { queue.input(0) } else { queue.backward(0) });
        }
        for _ in 0..outside {
            out.extend([queue.weight(), queue.input(0)]);
        }
        for _ in 0..=inner {
            out.push(queue.weight());
        }
        out
    }
}

/// Nobody waits.
const NOBODY: usize = usize::MAX;

/// A step while it runs.
struct State {
    /// When a micro-batch left a depth, forward and backward; not a number before.
    done: Vec<[f64; 2]>,
    /// The rank that waits for it: only one neighbour needs it, and itself.
    waiting: Vec<usize>,
    /// Slots that a rank has run.
    at: Vec<usize>,
    /// When a rank is free.
    free: Vec<f64>,
    slices: Vec<Vec<Slice>>,
}

const fn single(pass: Pass, chunk: u32, micro_batch: u32) -> Slot {
    Slot { op: Op { pass, chunk, micro_batch }, with: None }
}

/// Which micro-batch of each direction comes next on a rank of `DualPipe`. Phase 0 is the direction that enters on its own half.
#[derive(Default)]
struct Dual {
    mirrored: bool,
    forward: [u32; 2],
    backward: [u32; 2],
    late: std::collections::VecDeque<(u32, u32)>,
}

impl Dual {
    fn chunk(&self, phase: u32) -> u32 {
        phase ^ u32::from(self.mirrored)
    }

    fn forward(&mut self, phase: u32) -> Slot {
        let chunk = self.chunk(phase);
        let m = &mut self.forward[chunk as usize];
        *m += 1;
        single(Pass::Forward, chunk, *m - 1)
    }

    fn backward(&mut self, phase: u32) -> Slot {
        let chunk = self.chunk(phase);
        let m = &mut self.backward[chunk as usize];
        *m += 1;
        single(Pass::Backward, chunk, *m - 1)
    }

    fn input(&mut self, phase: u32) -> Slot {
        let Op { chunk, micro_batch, .. } = self.backward(phase).op;
        self.late.push_back((chunk, micro_batch));
        single(Pass::Input, chunk, micro_batch)
    }

    fn weight(&mut self) -> Slot {
        let (chunk, micro_batch) = self.late.pop_front().unwrap_or_default();
        single(Pass::Weight, chunk, micro_batch)
    }

    fn both(&mut self, forward: u32, backward: u32) -> Slot {
        let op = self.forward(forward).op;
        Slot { op, with: Some(self.backward(backward).op) }
    }
}
