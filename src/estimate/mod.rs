//! What a plan costs: memory first, then time.

pub mod band;
mod cut;
pub mod serve;
pub mod traffic;
pub mod train;

pub(crate) use cut::{Alike, Cut};

use crate::cluster::Basis;
use crate::cost::{Ledger, MemoryLedger, MemoryTerm, ServeTerm, Term, TimeTerm};
use crate::framework::{Framework, stage_len};
use crate::job::{Job, Load, Workload};
use crate::mesh::Convention;
use crate::model::Model;
use crate::plan::{Draft, Plan, Toggle};
use crate::rules::{self, Rejection, Resolution, Rule, Sink};
use crate::units::Bytes;

/// Share of the memory above which a fit is called tight.
pub const TIGHT: f64 = 0.95;

/// Memory of the GPU that needs most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Memory {
    /// Term by term, on the worst stage.
    pub ledger: MemoryLedger,
    /// The stage that binds.
    pub worst_stage: u32,
    /// What a GPU may hold: all of it when training, the engine's share when serving.
    pub capacity: Bytes,
}

impl Memory {
    /// Needed over available; above 1 the plan does not fit.
    #[must_use]
    pub fn utilization(&self) -> f64 {
        self.ledger.bytes() / self.capacity
    }

    /// Whether it fits.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.ledger.bytes() <= self.capacity
    }

    /// A fit with less than a twentieth of the memory left, which the error of the model may eat; the share used. A KV cache
    /// gives way, so it does not count.
    #[must_use]
    pub fn tight(&self) -> Option<f64> {
        let firm = self.ledger.total() - self.ledger.get(MemoryTerm::KvCache);
        Some(firm / self.capacity.get()).filter(|used| self.fits() && *used > TIGHT)
    }

    /// The largest term.
    #[must_use]
    pub fn largest(&self) -> MemoryTerm {
        let all = MemoryTerm::ALL.iter().copied();
        all.max_by(|a, b| self.ledger.get(*a).total_cmp(&self.ledger.get(*b))).expect("there are terms")
    }
}

/// What a plan costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Memory per GPU, worst stage.
    pub memory: Memory,
    /// Time.
    pub time: Time,
    /// Serving: the load it was priced under, and what it does to latencies; zero in training.
    pub load: serve::Loaded,
}

/// Time, by workload.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Time {
    /// One optimiser step.
    Train(train::Step),
    /// Prefill and decode.
    Serve(serve::Service),
}

/// One term of a time: a step in training, a further token of a request when serving.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TimePart {
    /// Its key in outputs.
    pub key: &'static str,
    /// Seconds.
    pub seconds: f64,
    /// What it is, for people.
    pub meaning: &'static str,
}

impl Time {
    /// What it is made of, in the order of columns; terms of nothing included.
    #[must_use]
    pub fn parts(&self) -> Vec<TimePart> {
        fn of<T: Term, const N: usize>(ledger: &Ledger<N>) -> Vec<TimePart> {
            let part = |t: &T| TimePart { key: t.key(), seconds: ledger.get(*t), meaning: t.meaning() };
            T::ALL.iter().map(part).collect()
        }
        match self {
            Self::Train(step) => of::<TimeTerm, _>(&step.ledger),
            Self::Serve(service) => of::<ServeTerm, _>(&service.tpot),
        }
    }
}

impl Estimate {
    /// Of a training step.
    pub(crate) fn of_step(memory: Memory, step: train::Step) -> Self {
        Self { memory, time: Time::Train(step), load: serve::Loaded::default() }
    }

    /// The training step, if it is one.
    #[must_use]
    pub const fn step(&self) -> Option<&train::Step> {
        match &self.time {
            Time::Train(step) => Some(step),
            Time::Serve(_) => None,
        }
    }

    /// The service, if it is one.
    #[must_use]
    pub const fn service(&self) -> Option<&serve::Service> {
        match &self.time {
            Time::Train(_) => None,
            Time::Serve(service) => Some(service),
        }
    }

    /// Tokens per second of the whole plan: trained, or generated.
    #[must_use]
    pub fn tokens_per_s(&self, job: &Job) -> f64 {
        match &self.time {
            Time::Train(step) => step.tokens_per_s(job),
            Time::Serve(service) => service.output_tokens_per_s,
        }
    }
}

/// Prices a plan: memory of every stage, and time. Never fails: whether it fits is for [`verdict`] to say.
#[must_use]
pub fn estimate(job: &Job, convention: Convention, plan: &Plan) -> Estimate {
    match &job.workload {
        Workload::Train(train) => {
            let memory = train::memory(job, train, convention, plan);
            let step = train::step_within(job, train, convention, plan, &memory);
            Estimate::of_step(memory, step)
        }
        Workload::Serve(serve) => {
            let (settled, service, load) = serve::under_load(job, serve, convention, plan);
            let memory = serve::memory(job, &settled, convention, plan);
            Estimate { memory, time: Time::Serve(service), load }
        }
    }
}

/// Memory alone, which is cheaper than [`estimate`].
#[must_use]
pub fn memory(job: &Job, convention: Convention, plan: &Plan) -> Memory {
    match &job.workload {
        Workload::Train(train) => train::memory(job, train, convention, plan),
        Workload::Serve(serve) => serve::memory(job, serve, convention, plan),
    }
}

/// Memory of every pipeline stage, first to last.
#[must_use]
pub fn stages(job: &Job, convention: Convention, plan: &Plan) -> Vec<MemoryLedger> {
    let pp = plan.mesh.pp();
    match &job.workload {
        Workload::Train(train) => (0..pp).map(|i| train::stage_memory(job, train, convention, plan, i)).collect(),
        Workload::Serve(serve) => {
            let settled = serve::settle(job, serve, convention, plan);
            (0..pp).map(|i| serve::stage_memory(job, &settled, convention, plan, i)).collect()
        }
    }
}

/// The rules that only an estimate can judge: memory, and the targets of a service.
#[must_use]
pub fn verdict(job: &Job, estimate: &Estimate) -> Vec<Rejection> {
    let mut out = Vec::new();
    judge(job, estimate, &mut out);
    out
}

/// The same into a sink: all of them, or the first alone without allocating.
pub fn judge(job: &Job, estimate: &Estimate, out: &mut impl Sink) {
    let memory = &estimate.memory;
    if !memory.fits() && !out.refuse(memory_rejection(memory)) {
        return;
    }
    if let (Some(service), Some(serve)) = (estimate.service(), job.serve()) {
        let request = f64::from(serve.isl) + f64::from(serve.osl);
        if memory.fits() && service.kv_tokens_per_replica < request {
            let have = service.kv_tokens_per_replica;
            if !out.refuse(Rejection { rule: Rule::KvCapacity, need: request, have }) {
                return;
            }
        }
        if let Load::Rate(need) = serve.load
            && need > estimate.load.capacity_per_s
        {
            let have = estimate.load.capacity_per_s;
            if !out.refuse(Rejection { rule: Rule::Rate, need, have }) {
                return;
            }
        }
        let (ttft, tpot) = (estimate.load.ttft.at(serve.percentile), estimate.load.tpot.at(serve.percentile));
        for (rule, target, got) in [(Rule::Ttft, serve.ttft, ttft), (Rule::Tpot, serve.tpot, tpot)] {
            if let Some(target) = target
                && got > target.get()
                && !out.refuse(Rejection { rule, need: got, have: target.get() })
            {
                return;
            }
        }
    }
}

/// A written plan, judged: by the rules, and by what it costs when its grids exist.
#[derive(Debug, Clone, PartialEq)]
pub struct Assessment {
    /// What the rules made of it; the rules of memory and targets are added to its rejections.
    pub resolution: Resolution,
    /// What it costs, when there is a mesh; priced even if some rule refuses it.
    pub estimate: Option<Estimate>,
}

/// Judges a written plan against every rule, and prices it where it can be.
#[must_use]
pub fn assess(job: &Job, framework: Option<Framework>, draft: &Draft) -> Assessment {
    let mut resolution = rules::judge(job, framework, draft);
    if let (Some(plan), Some(framework)) = (&mut resolution.plan, framework)
        && plan.knobs.fused_kernels == Toggle::Default
    {
        plan.knobs.fused_kernels = framework.kernels();
    }
    let estimate = resolution.plan.map(|plan| estimate(job, draft.convention, &plan));
    if let Some(estimate) = &estimate {
        resolution.rejections.extend(verdict(job, estimate));
    }
    Assessment { resolution, estimate }
}

/// The refusal of a plan that does not fit.
#[must_use]
pub fn memory_rejection(memory: &Memory) -> Rejection {
    Rejection { rule: Rule::Memory, need: memory.ledger.total(), have: memory.capacity.get() }
}

/// How a memory term of a stage comes about: its formula with the numbers that went in.
#[must_use]
pub fn formula(job: &Job, convention: Convention, plan: &Plan, stage: u32, term: MemoryTerm) -> String {
    match &job.workload {
        Workload::Train(train) => train::formula(job, train, convention, plan, stage, term),
        Workload::Serve(serve) => serve::formula(job, serve, convention, plan, stage, term),
    }
}

/// Layers of each pipeline stage, first to last, as the memory and the time of a plan take them.
#[must_use]
pub fn stage_layers(job: &Job, convention: Convention, plan: &Plan) -> Vec<u32> {
    match &job.workload {
        Workload::Train(train) => train::stage_layers(job, train, convention, plan),
        Workload::Serve(_) => {
            let of = |stage| StageSpan::of(convention, &job.model, plan, stage).layers();
            (0..plan.mesh.pp()).map(of).collect()
        }
    }
}

/// How far the figures can be trusted: memory, time.
#[must_use]
pub fn basis(job: &Job) -> (Basis, Basis) {
    let time = match job.cluster.gpu.efficiency.basis {
        Basis::Exact | Basis::Measured | Basis::Modelled => Basis::Modelled,
        Basis::Assumed => Basis::Assumed,
    };
    (Basis::Modelled, time)
}

/// Where a stage's layers lie: `chunks` stretches of `len` layers each, `stride` apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StageSpan {
    first: u32,
    len: u32,
    chunks: u32,
    stride: u32,
}

impl StageSpan {
    /// The layers of stage `i`; interleaved stages hold every `pp`-th chunk.
    pub(crate) fn of(convention: Convention, model: &Model, plan: &Plan, stage: u32) -> Self {
        let (pp, vpp, layers) = (plan.mesh.pp(), plan.knobs.vpp.max(1), model.layers());
        if vpp > 1 && layers.is_multiple_of(pp * vpp) {
            let len = layers / (pp * vpp);
            return Self { first: stage * len, len, chunks: vpp, stride: pp * len };
        }
        let ends = (plan.knobs.first_stage_layers, plan.knobs.last_stage_layers);
        let len_of = |i: u32| stage_len(convention, layers, pp, ends, i);
        let first = (0..stage).map(len_of).sum();
        Self { first, len: len_of(stage), chunks: 1, stride: 0 }
    }

    /// The layers of stage `i` when each stage is filled until its share of the FLOP is passed and the head costs as much as `head`
    /// layers; a dear head may leave the last stage without any.
    ///
    /// Source: nanotron `models/base.py`, cumulative block costs.
    pub(crate) fn by_cost(layers: u32, pp: u32, head: f64, stage: u32) -> Self {
        let share = (f64::from(layers) + head) / f64::from(pp);
        let end = |i: u32| {
            if i + 1 >= pp {
                return layers;
            }
            // The layer that passes the share still belongs to the stage; the sum is exact but for rounding.
            let passed = (share * f64::from(i + 1) + 1e-9).floor() as u32 + 1;
            passed.min(layers)
        };
        let first = if stage == 0 { 0 } else { end(stage - 1) };
        Self { first, len: end(stage) - first, chunks: 1, stride: 0 }
    }

    /// How many layers the stage holds.
    pub(crate) const fn layers(&self) -> u32 {
        self.len * self.chunks
    }

    /// Whether it holds the model's last layer.
    pub(crate) fn is_last(&self, model: &Model) -> bool {
        self.len > 0 && self.first + (self.chunks - 1) * self.stride + self.len == model.layers()
    }

    /// How many layers of one kind the stage holds.
    pub(crate) fn count(&self, model: &Model, kind: usize) -> u32 {
        let layers = model.layers();
        (0..self.chunks)
            .map(|c| {
                let from = (self.first + c * self.stride).min(layers);
                model.count(kind, from, (from + self.len).min(layers))
            })
            .sum()
    }
}

/// The memory of the stage that needs most, the first of equals.
pub(crate) fn worst(capacity: Bytes, stages: impl Iterator<Item = (u32, MemoryLedger)>) -> Memory {
    let mut worst = Memory { ledger: MemoryLedger::EMPTY, worst_stage: 0, capacity };
    let mut most = f64::NEG_INFINITY;
    for (worst_stage, ledger) in stages {
        let total = ledger.total();
        if total > most {
            most = total;
            worst = Memory { ledger, worst_stage, capacity };
        }
    }
    worst
}
