//! What a plan sends: every collective with its volume, its group and the link it lands on. For reports; `train` and `serve`
//! price the same collectives in time.

use crate::cluster::Collective;
use crate::cost::network::{self, Placed};
use crate::cost::ops;
use crate::framework::{GroupKind, group};
use crate::job::{Job, Workload};
use crate::mesh::{Convention, Group};
use crate::model::{Mixer, QkNorm};
use crate::plan::Plan;

/// One kind of collective of one group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Traffic {
    /// Who talks.
    pub group: GroupKind,
    /// Their ranks.
    pub ranks: Group,
    /// Where they lie.
    pub placed: Placed,
    /// Members that share a node, and so its NICs.
    pub members_per_node: u32,
    /// What they do.
    pub collective: Collective,
    /// Bytes of one call: the whole buffer.
    pub bytes: f64,
    /// Calls of one rank per step (training: optimiser step; serving: decode step).
    pub calls: f64,
    /// Seconds of one call.
    pub seconds: f64,
}

/// The collectives of a plan, per optimiser step or per decode step, one rank of the first stage.
#[must_use]
pub fn traffic(job: &Job, convention: Convention, plan: &Plan) -> Vec<Traffic> {
    let mut out = Vec::new();
    match &job.workload {
        Workload::Train(_) => train(job, convention, plan, &mut out),
        Workload::Serve(_) => serve(job, convention, plan, &mut out),
    }
    out.retain(|t| t.placed.size > 1 && t.calls > 0.0);
    out
}

struct Report<'a> {
    job: &'a Job,
    convention: Convention,
    plan: &'a Plan,
    out: &'a mut Vec<Traffic>,
}

impl Report<'_> {
    fn add(&mut self, kind: GroupKind, collective: Collective, bytes: f64, calls: f64) {
        let ranks = group(self.convention, &self.plan.mesh, self.plan.knobs.replicas, kind);
        let placed = network::place(&self.job.cluster, ranks);
        let seconds = network::collective(&self.job.cluster, placed, collective, bytes).get();
        let members_per_node = ranks.members_within(self.job.cluster.gpus_per_node);
        self.out.push(Traffic { group: kind, ranks, placed, members_per_node, collective, bytes, calls, seconds });
    }

    /// Layers of a rank that a test holds for.
    fn layers(&self, holds: impl Fn(&crate::model::Block) -> bool) -> f64 {
        let model = &self.job.model;
        let span = super::StageSpan::of(self.convention, model, self.plan, 0);
        let count = |(kind, block)| if holds(block) { f64::from(span.count(model, kind)) } else { 0.0 };
        model.blocks().iter().enumerate().map(count).sum()
    }
}

fn train(job: &Job, convention: Convention, plan: &Plan, out: &mut Vec<Traffic>) {
    let Some(train) = job.train() else { return };
    let mesh = &plan.mesh;
    let knobs = &plan.knobs;
    let h = f64::from(job.model.spec().hidden);
    let t = f64::from(train.seq_len) * f64::from(knobs.micro_batch) / f64::from(mesh.cp());
    let r = if knobs.sequence_parallel { f64::from(mesh.tp()) } else { 1.0 };
    let micro = f64::from(super::train::micro_batches(train, plan));
    let mut report = Report { job, convention, plan, out };
    let mixers = report.layers(|b| !matches!(b.mixer, Mixer::None {}));
    let dense = report.layers(|b| b.mlp.dense.is_some() || b.mlp.moe.is_some_and(|m| m.shared_ffn > 0));
    let moes = report.layers(|b| b.mlp.moe.is_some());
    let passes = (mixers + dense) * micro;
    let stream = 2.0 * t * h;
    if knobs.sequence_parallel {
        report.add(GroupKind::Tp, Collective::AllGather, stream, 3.0 * passes);
        report.add(GroupKind::Tp, Collective::ReduceScatter, stream, 2.0 * passes);
    } else {
        report.add(GroupKind::Tp, Collective::AllReduce, stream, 2.0 * passes);
    }
    if let Some(moe) = job.model.moe() {
        let sent = 2.0 * f64::from(moe.top_k) * t / r * h;
        report.add(GroupKind::Ep, Collective::AllToAll, sent, 4.0 * moes * micro);
        let gathered = 2.0 * t * ops::routed_rows(moe.top_k, mesh) * h;
        report.add(GroupKind::Etp, Collective::AllGather, gathered, 2.0 * moes * micro);
        report.add(GroupKind::Etp, Collective::ReduceScatter, gathered, 2.0 * moes * micro);
    }
    report.add(GroupKind::Pp, Collective::SendRecv, stream / r, 2.0 * micro * f64::from(knobs.vpp));
    let kv = job.model.kv_heads().map_or(0.0, |g| ops::local_kv_heads(g, mesh.tp()));
    let head = job.model.blocks().iter().find_map(|b| b.mixer.gqa()).map_or(0.0, |a| f64::from(a.head_dim));
    let rounds = 3.0 * f64::from(mesh.cp() - 1) * mixers * micro;
    report.add(GroupKind::Cp, Collective::SendRecv, 4.0 * t * kv * head, rounds);
    let params = super::train::stage_params(job, convention, plan, 0);
    let grad = train.grad_dtype.bytes();
    for (kind, count) in [(GroupKind::DpCp, params.dense), (GroupKind::Edp, params.routed)] {
        if count <= 0.0 {
            continue;
        }
        match knobs.zero {
            0 => report.add(kind, Collective::AllReduce, count * grad, 1.0),
            1 | 2 => {
                let reductions = if knobs.zero == 2 { micro } else { 1.0 };
                report.add(kind, Collective::ReduceScatter, count * grad, reductions);
                report.add(kind, Collective::AllGather, count * 2.0, 1.0);
            }
            _ => {
                report.add(kind, Collective::AllGather, count * 2.0, 2.0 * micro);
                report.add(kind, Collective::ReduceScatter, count * grad, micro);
            }
        }
    }
}

fn serve(job: &Job, convention: Convention, plan: &Plan, out: &mut Vec<Traffic>) {
    let Some(serve) = job.serve() else { return };
    let serve = super::serve::settle(job, serve, convention, plan);
    let mesh = &plan.mesh;
    let replicas = plan.knobs.replicas.max(1);
    let ranks = (mesh.dp_attention() / replicas).max(1);
    let requests = f64::from(serve.concurrency.div_ceil(replicas).div_ceil(ranks).div_ceil(mesh.pp()).max(1));
    // Every request decodes a token, and the drafts that its step checks.
    let tokens = requests * f64::from(serve.mtp + 1);
    // Two-batch overlap sends each half by itself.
    let halves = if super::serve::in_two_batches(plan, tokens, false) { 2.0 } else { 1.0 };
    let h = f64::from(job.model.spec().hidden);
    let stream = 2.0 * tokens * h;
    let mut report = Report { job, convention, plan, out };
    // Counted over the whole model: a token passes through every stage.
    let all = |holds: &dyn Fn(&crate::model::Block) -> bool| {
        let model = &job.model;
        let count = |(kind, block)| if holds(block) { f64::from(model.count(kind, 0, model.layers())) } else { 0.0 };
        model.blocks().iter().enumerate().map(count).sum::<f64>()
    };
    let mixers = all(&|b| !matches!(b.mixer, Mixer::None {}));
    let dense = all(&|b| b.mlp.dense.is_some() && b.mlp.moe.is_none());
    let moes = all(&|b| b.mlp.moe.is_some());
    match job.model.moe() {
        Some(moe) if ranks > 1 => {
            report.add(GroupKind::Tp, Collective::AllReduce, stream / halves, halves * (mixers + dense));
            if mesh.ep() > 1 {
                let sent = tokens / halves / f64::from(mesh.tp()) * f64::from(moe.top_k);
                report.add(GroupKind::Ep, Collective::AllToAll, sent * (h + 4.0 * h / 128.0 + 16.0), halves * moes);
                report.add(GroupKind::Ep, Collective::AllToAll, sent * 2.0 * h, halves * moes);
            } else {
                report.add(GroupKind::Etp, Collective::AllGather, stream * f64::from(ranks), moes);
                report.add(GroupKind::Etp, Collective::ReduceScatter, stream * f64::from(ranks), moes);
            }
        }
        Some(_) | None => report.add(GroupKind::Tp, Collective::AllReduce, stream, mixers + dense + moes),
    }
    // A norm over all heads sums squares of queries and of keys, 32 bits each.
    let wide = all(&|b| matches!(b.mixer, Mixer::Gqa(a) if a.qk_norm == QkNorm::Full));
    if wide > 0.0 {
        report.add(GroupKind::Tp, Collective::AllReduce, 8.0 * tokens, wide);
    }
    report.add(GroupKind::Pp, Collective::SendRecv, stream, f64::from(mesh.pp() - 1));
}
