//! One thread's walk over blocks: rules, then memory, then time, each only where the one before left something open.

use super::SearchOptions;
use super::cuts::Cuts;
use super::keep::{Kept, insert};
use super::known::{Known, ROOM, behind};
use super::layers::SharedLayers;
use crate::cost::{MemoryLedger, MemoryTerm, TimeLedger, TimeTerm};
use crate::estimate::train::{self, Priced, Step};
use crate::estimate::{self, Cut, Estimate, Memory};
use crate::job::{Job, Train, Workload};
use crate::mesh::Convention;
use crate::plan::{Knobs, Plan, Recompute};
use crate::rank::{Row, trade};
use crate::rules::{self, Rejection, Rule};
use crate::space::{MeshBlock, SpaceOptions};

/// The walk of one thread, with what it keeps and room to work in.
pub(super) struct Walk<'a> {
    job: &'a Job,
    space: &'a SpaceOptions,
    options: &'a SearchOptions,
    convention: Convention,
    cuts: &'a Cuts,
    known: &'a Known,
    pub(super) kept: Kept,
    /// The best of the block at hand.
    best: Vec<Row>,
    /// What the block's plans share, by way of recomputing.
    shared: Vec<Shared<'a>>,
    /// Layers of the block, priced once a plan may matter.
    layers: SharedLayers<'a>,
    /// Floors of what sorts of stages hold through a step: by interleaving, schedule, ZeRO, offload and sort.
    held: Vec<f64>,
    /// Whether `shared` is about the micro-batch, interleaving and schedule at hand.
    turned: bool,
}

/// What plans of one mesh and one way of recomputing share.
struct Shared<'a> {
    recompute: Recompute,
    priced: Priced<'a>,
    /// A floor of the step for micro-batch, interleaving and schedule at hand.
    step_floor: Option<f64>,
    /// The least memory with which a plan of these was proven hopeless: so are all that need more.
    hopeless_from: f64,
    /// Floors of what moves in each sort of stages, for the same.
    moving: Vec<f64>,
}

/// What bounds say of a plan.
enum Settled {
    /// It does not fit, and others miss by less.
    TooLarge,
    /// It fits with at least so many bytes.
    Fits(f64),
    /// It fits, and can neither be among the best nor on the frontier.
    Hopeless,
}

impl<'a> Shared<'a> {
    const fn new(recompute: Recompute, priced: Priced<'a>) -> Self {
        Self { recompute, priced, step_floor: None, hopeless_from: f64::INFINITY, moving: Vec::new() }
    }
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        job: &'a Job,
        space: &'a SpaceOptions,
        options: &'a SearchOptions,
        cuts: &'a Cuts,
        known: &'a Known,
    ) -> Self {
        Self {
            job,
            space,
            options,
            convention: space.convention(),
            cuts,
            known,
            kept: Kept::new(),
            best: Vec::new(),
            shared: Vec::new(),
            layers: SharedLayers::new(job, space.convention()),
            held: Vec::new(),
            turned: false,
        }
    }

    /// Walks one block.
    pub(super) fn block(&mut self, block: &MeshBlock<'_>) {
        self.kept.meshes += 1;
        self.kept.covered += block.len();
        let sample = block.sample();
        let mut refused: Option<Rejection> = None;
        rules::check_mesh(self.job, self.space.framework, &sample, &mut refused);
        if let Some(rejection) = refused {
            self.kept.mesh[rejection.rule as usize].add(1, &sample, rejection);
            return;
        }
        self.kept.plans += block.len();
        self.best.clear();
        let job: &'a Job = self.job;
        match &job.workload {
            Workload::Train(train) => self.training(train, block),
            Workload::Serve(_) => {
                for i in 0..block.len() {
                    self.plan(&block.get(i));
                }
            }
        }
        if let Some(value) = self.kept.take(&self.best, self.options.top) {
            self.known.reached(value);
        }
    }

    /// One plan by itself.
    fn plan(&mut self, plan: &Plan) {
        if self.is_refused(plan, 1) {
            return;
        }
        self.kept.priced += 1;
        let memory = estimate::memory(self.job, self.convention, plan);
        if !memory.fits() && !self.options.exhaustive {
            self.refuse(Rule::Memory, plan, estimate::memory_rejection(&memory));
            return;
        }
        self.take(plan, estimate::estimate(self.job, self.convention, plan));
    }

    /// Whether a rule on knobs refuses a plan, and as many that differ in nothing rules look at.
    fn is_refused(&mut self, plan: &Plan, alike: u64) -> bool {
        let mut refused: Option<Rejection> = None;
        rules::check_plan(self.job, self.space.framework, plan, &mut refused);
        if let Some(rejection) = refused {
            self.kept.plan[rejection.rule as usize].add(alike, plan, rejection);
        }
        refused.is_some()
    }

    fn refuse(&mut self, rule: Rule, plan: &Plan, rejection: Rejection) {
        self.kept.plan[rule as usize].add(1, plan, rejection);
    }

    /// A plan priced in full.
    fn take(&mut self, plan: &Plan, estimate: Estimate) {
        let mut refused: Option<Rejection> = None;
        estimate::judge(self.job, &estimate, &mut refused);
        if let Some(rejection) = refused {
            self.refuse(rejection.rule, plan, rejection);
            return;
        }
        self.kept.fit += 1;
        let value = self.options.objective.value(self.job, plan, &estimate);
        let row = Row { plan: *plan, estimate, value };
        insert(&mut self.best, &row, self.options.variants);
        if self.kept.offer(self.job, &row) && self.job.train().is_some() {
            let (first, second) = trade(self.job, &row);
            self.known.found(first, second);
        }
    }

    /// The plans of a training mesh. They share what they have in common:
    ///
    /// ```text
    /// memory of a stage = held(interleaving, schedule, ZeRO, offload) + moving(micro-batch, recomputation, interleaving, schedule)
    ///                     + what the allocator cannot use of both
    /// time of a step    = pipeline of layers(micro-batch, recomputation) + data parallelism(ZeRO) + optimizer
    /// ```
    fn training(&mut self, train: &'a Train, block: &MeshBlock<'_>) {
        if block.is_empty() {
            return;
        }
        self.share(train, block);
        for &micro_batch in block.micro_batches {
            let mut held_at = 0;
            for &vpp in block.vpps {
                for &schedule in block.schedules {
                    let knobs = Knobs { micro_batch, vpp, schedule, ..first_knobs(block) };
                    let Some((held_cut, cut)) = self.cuts.get(&block.plan(knobs)) else {
                        self.each(block, knobs);
                        continue;
                    };
                    self.turned = false;
                    let each = block.offloads.len() * held_cut.sorts.len();
                    // Higher stages need less memory: what is hopeless with them is so without.
                    for (i, &zero) in block.zeros.iter().enumerate().rev() {
                        self.recomputed(block, Knobs { zero, ..knobs }, held_at + i * each, held_cut, cut);
                    }
                    held_at += each * block.zeros.len();
                }
            }
        }
    }

    /// Prices what the plans of a block share.
    fn share(&mut self, train: &'a Train, block: &MeshBlock<'_>) {
        let job = self.job;
        self.layers.turn();
        self.shared.truncate(block.recomputes.len());
        for (at, &recompute) in block.recomputes.iter().enumerate() {
            let plan = block.plan(Knobs { recompute, ..first_knobs(block) });
            let priced = Priced::new(job, train, self.convention, &plan);
            match self.shared.get_mut(at) {
                Some(shared) => (shared.recompute, shared.priced) = (recompute, priced),
                None => self.shared.push(Shared::new(recompute, priced)),
            }
        }
        self.held.clear();
        if self.options.exhaustive {
            return;
        }
        let priced = &mut self.shared[0].priced;
        for &vpp in block.vpps {
            for &schedule in block.schedules {
                for &zero in block.zeros {
                    for &optimizer_offload in block.offloads {
                        let plan = block.plan(Knobs { vpp, schedule, zero, optimizer_offload, ..first_knobs(block) });
                        let Some((cut, _)) = self.cuts.get(&plan) else { continue };
                        priced.aim(&plan);
                        self.held.extend(cut.sorts.iter().map(|at| priced.held_floor(at)));
                    }
                }
            }
        }
    }

    /// Turns to a micro-batch, interleaving and schedule, if that has not happened.
    fn turn(&mut self, block: &MeshBlock<'_>, knobs: Knobs, cut: &Cut) {
        if self.options.exhaustive || std::mem::replace(&mut self.turned, true) {
            return;
        }
        for shared in &mut self.shared {
            shared.priced.aim(&block.plan(Knobs { recompute: shared.recompute, ..knobs }));
            (shared.step_floor, shared.hopeless_from) = (None, f64::INFINITY);
            shared.moving.clear();
            shared.moving.extend(cut.sorts.iter().map(|at| shared.priced.moving_floor(at)));
        }
    }

    /// All plans of these knobs, each by itself.
    fn each(&mut self, block: &MeshBlock<'_>, knobs: Knobs) {
        for &zero in block.zeros {
            for &recompute in block.recomputes {
                for &optimizer_offload in block.offloads {
                    self.plan(&block.plan(Knobs { zero, recompute, optimizer_offload, ..knobs }));
                }
            }
        }
    }

    /// Every recomputation and offload of these knobs.
    fn recomputed(&mut self, block: &MeshBlock<'_>, knobs: Knobs, held_at: usize, held_cut: &Cut, cut: &Cut) {
        let alike = block.recomputes.len() * block.offloads.len();
        // Rules look at neither, so that one plan speaks for all; the lowest of them is the nearest miss.
        if self.is_refused(&block.plan(knobs), alike as u64) {
            return;
        }
        self.kept.priced += alike as u64;
        let sorts = held_cut.sorts.len();
        if self.held_alone_is_too_much(held_at, sorts, block.offloads.len()) {
            self.kept.plan[Rule::Memory as usize].refused += alike as u64;
            return;
        }
        self.turn(block, knobs, held_cut);
        for at in 0..block.recomputes.len() {
            for (i, &optimizer_offload) in block.offloads.iter().enumerate() {
                let held = held_at + i * sorts;
                let settled = if self.options.exhaustive { None } else { self.settled(at, held..held + sorts) };
                // Most plans end here, before they are put together.
                match settled {
                    Some(Settled::TooLarge) => self.kept.plan[Rule::Memory as usize].refused += 1,
                    Some(Settled::Hopeless) => self.kept.fit += 1,
                    None | Some(Settled::Fits(_)) => {
                        let plan = block.plan(Knobs { recompute: block.recomputes[at], optimizer_offload, ..knobs });
                        if let Some(Settled::Fits(floor)) = settled
                            && self.is_hopeless(&plan, at, floor)
                        {
                            self.kept.fit += 1;
                        } else {
                            self.price(&plan, at, held_cut, cut);
                        }
                    }
                }
            }
        }
    }

    /// Whether no offload leaves room for what stages hold through a step, nor a miss near enough to be named.
    fn held_alone_is_too_much(&self, held_at: usize, sorts: usize, offloads: usize) -> bool {
        if self.options.exhaustive {
            return false;
        }
        let capacity = self.job.cluster.gpu.memory.get();
        let most = |floors: &[f64]| floors.iter().copied().fold(0.0, f64::max);
        let least = self.held[held_at..].chunks_exact(sorts).take(offloads).map(most).fold(f64::INFINITY, f64::min);
        behind(least, capacity) && !self.could_be_nearest(least)
    }

    /// Whether a plan that needs at least so many bytes, too many, could be the nearest miss.
    fn could_be_nearest(&self, floor: f64) -> bool {
        let capacity = self.job.cluster.gpu.memory.get();
        self.kept.plan[Rule::Memory as usize].could_be_nearest(floor * (1.0 - ROOM) / capacity)
    }

    /// What the floors of a plan's memory settle, if anything.
    fn settled(&self, at: usize, held: std::ops::Range<usize>) -> Option<Settled> {
        let shared = &self.shared[at];
        let floors = self.held[held].iter().zip(&shared.moving);
        let floor = floors.map(|(held, moving)| held + moving).fold(0.0, f64::max);
        let capacity = self.job.cluster.gpu.memory.get();
        if behind(floor, capacity) {
            return (!self.could_be_nearest(floor)).then_some(Settled::TooLarge);
        }
        if !behind(capacity, shared.priced.ceiling(floor)) {
            return None;
        }
        Some(if floor >= shared.hopeless_from { Settled::Hopeless } else { Settled::Fits(floor) })
    }

    /// Whether a plan that needs at least `floor` bytes can neither be among the best nor on the frontier.
    fn is_hopeless(&mut self, plan: &Plan, at: usize, floor: f64) -> bool {
        if floor >= self.shared[at].hopeless_from {
            return true;
        }
        let seconds = self.step_floor(plan, at);
        let (mut bytes, mut time) = (MemoryLedger::EMPTY, TimeLedger::EMPTY);
        bytes.add(MemoryTerm::Weights, floor);
        time.add(TimeTerm::Compute, seconds);
        let memory = Memory { ledger: bytes, worst_stage: 0, capacity: self.job.cluster.gpu.memory };
        let estimate = Estimate::of_step(memory, Step { ledger: time, slowest_stage: 0 });
        // Every objective and both figures of the trade grow worse with time and with memory.
        let value = self.options.objective.value(self.job, plan, &estimate);
        let full = self.best.len() >= self.options.variants;
        let behind_mesh = full && self.best.last().is_some_and(|row| behind(value, row.value));
        if !behind_mesh && !self.known.is_behind(value) {
            return false;
        }
        let (first, second) = trade(self.job, &Row { plan: *plan, estimate, value });
        let hopeless = self.known.beats(first, second);
        if hopeless {
            self.shared[at].hopeless_from = floor;
        }
        hopeless
    }

    /// A floor of the step of a plan, the same for every ZeRO and offload.
    fn step_floor(&mut self, plan: &Plan, at: usize) -> f64 {
        if let Some(seconds) = self.shared[at].step_floor {
            return seconds;
        }
        let (pricing, layers) = self.layers.of(plan);
        let seconds = train::step_floor(pricing, layers);
        self.shared[at].step_floor = Some(seconds);
        seconds
    }

    /// One plan in full.
    fn price(&mut self, plan: &Plan, at: usize, held_cut: &Cut, cut: &Cut) {
        let priced = &mut self.shared[at].priced;
        priced.aim(plan);
        let memory = priced.worst(held_cut);
        if !self.options.exhaustive {
            if !memory.fits() {
                self.refuse(Rule::Memory, plan, estimate::memory_rejection(&memory));
                return;
            }
            if self.is_hopeless(plan, at, memory.ledger.total()) {
                self.kept.fit += 1;
                return;
            }
        }
        let (pricing, layers) = self.layers.of(plan);
        let step = train::step_of(pricing, layers, cut);
        self.take(plan, Estimate::of_step(memory, step));
    }
}

/// The knobs of a block's first plan; in each list but the recomputations' and offloads' the order is the block's own.
fn first_knobs(block: &MeshBlock<'_>) -> Knobs {
    let least = |list: &[Recompute]| list.iter().copied().min().unwrap_or_default();
    Knobs {
        micro_batch: block.micro_batches[0],
        vpp: block.vpps[0],
        recompute: least(block.recomputes),
        zero: block.zeros[0],
        schedule: block.schedules[0],
        optimizer_offload: block.offloads.iter().copied().min().unwrap_or_default(),
        ..block.base
    }
}
