//! What a plan that holds should still be told: nothing here refuses.

use super::{Rejection, check_build};
use crate::framework::{Framework, GroupKind, group, stage_layers};
use crate::job::Job;
use crate::mesh::Convention;
use crate::plan::{Draft, Plan};
use std::fmt;

/// A remark on a plan. Data, no words: [`fmt::Display`] has them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Warning {
    /// Each KV head lies on several TP ranks.
    KvReplicated {
        /// KV heads.
        heads: u32,
        /// TP degree.
        tp: u32,
    },
    /// The latent KV cache lies whole on every TP rank.
    LatentReplicated {
        /// TP degree.
        tp: u32,
    },
    /// Sequence parallelism was asked for and does nothing.
    SequenceParallelDropped,
    /// Pipeline stages differ.
    UnevenStages {
        /// Layers of the smallest.
        fewest: u32,
        /// Layers of the largest.
        most: u32,
    },
    /// Expert TP was left out and became more than 1.
    ExpertTpDefaulted {
        /// What it became.
        etp: u32,
        /// Who decided.
        convention: Convention,
    },
    /// A TP group leaves the scale-up domain.
    TpAcross {
        /// TP degree.
        tp: u32,
        /// Its ranks within one domain.
        within: u32,
    },
    /// An expert group leaves the scale-up domain.
    EpAcross {
        /// EP degree.
        ep: u32,
        /// Its ranks within one domain.
        within: u32,
    },
    /// Some ranks hold one expert more.
    UnevenExperts {
        /// Experts.
        experts: u32,
        /// EP degree.
        ep: u32,
    },
    /// GPUs without work.
    IdleGpus {
        /// GPUs of the plan.
        used: u32,
        /// GPUs of the cluster.
        have: u32,
    },
    /// The launch takes an EP that leaves ranks without experts.
    RanksWithoutExperts {
        /// EP as written.
        ep: u32,
        /// Ranks of a stage.
        ranks: u32,
    },
    /// The launch takes it, and the model's constructors then refuse.
    FailsAtBuild(Rejection),
}

impl Warning {
    /// The id in outputs.
    #[must_use]
    pub const fn id(&self) -> &'static str {
        match self {
            Self::KvReplicated { .. } => "kv-replicated",
            Self::LatentReplicated { .. } => "latent-replicated",
            Self::SequenceParallelDropped => "sequence-parallel-dropped",
            Self::UnevenStages { .. } => "uneven-stages",
            Self::ExpertTpDefaulted { .. } => "expert-tp-defaulted",
            Self::TpAcross { .. } => "tp-across",
            Self::EpAcross { .. } => "ep-across",
            Self::UnevenExperts { .. } => "uneven-experts",
            Self::IdleGpus { .. } => "idle-gpus",
            Self::RanksWithoutExperts { .. } => "ranks-without-experts",
            Self::FailsAtBuild(_) => "fails-at-build",
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::KvReplicated { heads, tp } => {
                let factor = f64::from(tp) / f64::from(heads.max(1));
                write!(f, "TP {tp} keeps {factor} copies of each of the {heads} KV heads, ")?;
                write!(f, "so the KV cache holds 1/{factor} of the tokens it could")
            }
            Self::LatentReplicated { tp } => {
                write!(
                    f,
                    "the latent KV cache is not cut by TP: all {tp} ranks keep the same tokens (attention DP would not)"
                )
            }
            Self::SequenceParallelDropped => f.write_str("sequence parallelism does nothing at TP 1 and is dropped"),
            Self::UnevenStages { fewest, most } => {
                write!(f, "pipeline stages hold {fewest} to {most} layers, and the largest sets the pace")
            }
            Self::ExpertTpDefaulted { etp, convention } => {
                write!(f, "expert TP is not given, and {convention} takes it to be {etp}; write etp to be sure")
            }
            Self::TpAcross { tp, within } => {
                write!(
                    f,
                    "a TP group of {tp} has {within} ranks in a scale-up domain: the rest is reached over the network"
                )
            }
            Self::EpAcross { ep, within } => {
                write!(
                    f,
                    "an EP group of {ep} has {within} ranks in a scale-up domain: the rest is reached over the network"
                )
            }
            Self::UnevenExperts { experts, ep } => {
                let (each, more) = (experts / ep.max(1), experts % ep.max(1));
                write!(f, "{experts} experts over EP {ep}: {more} ranks hold {} and the others {each}", each + 1)
            }
            Self::IdleGpus { used, have } => write!(f, "{} of the {have} GPUs have no work", have.saturating_sub(used)),
            Self::RanksWithoutExperts { ep, ranks } => {
                write!(
                    f,
                    "EP {ep} does not divide the {ranks} ranks of a stage: the launch takes it, some ranks get no experts"
                )
            }
            Self::FailsAtBuild(rejection) => {
                write!(f, "the launch takes it, and building the model then fails: {rejection}")
            }
        }
    }
}

/// Every remark on a plan; the draft, when there is one, tells what was asked for and what was filled in.
#[must_use]
pub fn warnings(job: &Job, framework: Option<Framework>, plan: &Plan, draft: Option<&Draft>) -> Vec<Warning> {
    let mut out = Vec::new();
    let (mesh, knobs) = (&plan.mesh, &plan.knobs);
    let tp = mesh.tp();
    // Groups lie as the framework lays them; without one, as the draft's convention does.
    let drafted = draft.map_or(Convention::Product, |d| d.convention);
    let convention = framework.map_or(drafted, Framework::convention);
    if let Some(kv) = job.model.kv_heads().filter(|kv| tp > *kv) {
        out.push(Warning::KvReplicated { heads: kv, tp });
    }
    if job.serve().is_some() && job.model.is_mla() && tp > 1 {
        out.push(Warning::LatentReplicated { tp });
    }
    if draft.is_some_and(|d| d.sequence_parallel == Some(true)) && tp == 1 && job.train().is_some() {
        out.push(Warning::SequenceParallelDropped);
    }
    if mesh.pp() > 1 && mesh.pp() <= job.model.layers() {
        let (first, last) = (knobs.first_stage_layers, knobs.last_stage_layers);
        let stages = stage_layers(convention, job.model.layers(), mesh.pp(), first, last);
        let (fewest, most) = (stages.iter().copied().min(), stages.iter().copied().max());
        if let (Some(fewest), Some(most)) = (fewest, most)
            && fewest < most
        {
            out.push(Warning::UnevenStages { fewest, most });
        }
    }
    let moe = job.model.moe();
    if let (Some(_), Some(draft)) = (moe, draft)
        && matches!(draft.convention, Convention::Megatron | Convention::Bridge)
        && draft.etp.is_none()
        && mesh.etp() > 1
    {
        out.push(Warning::ExpertTpDefaulted { etp: mesh.etp(), convention: draft.convention });
    }
    let domain = job.cluster.domain();
    let within = |kind| group(convention, mesh, knobs.replicas, kind).members_within(domain);
    if within(GroupKind::Tp) < tp {
        out.push(Warning::TpAcross { tp, within: within(GroupKind::Tp) });
    }
    if mesh.ep() > 1 && within(GroupKind::Ep) < mesh.ep() {
        out.push(Warning::EpAcross { ep: mesh.ep(), within: within(GroupKind::Ep) });
    }
    if let Some(moe) = moe
        && framework == Some(Framework::Vllm)
        && !knobs.eplb
        && !moe.experts.is_multiple_of(mesh.ep())
    {
        out.push(Warning::UnevenExperts { experts: moe.experts, ep: mesh.ep() });
    }
    if mesh.world() < job.gpus() {
        out.push(Warning::IdleGpus { used: mesh.world(), have: job.gpus() });
    }
    if let (Some(_), Some(draft)) = (moe, draft)
        && let (Convention::Sglang, Some(ep), false) = (draft.convention, draft.ep, knobs.a2a)
        && ep != mesh.ep()
    {
        out.push(Warning::RanksWithoutExperts { ep, ranks: draft.tp.unwrap_or(1) });
    }
    let mut built = Vec::new();
    check_build(job, framework, plan, &mut built);
    out.extend(built.into_iter().map(Warning::FailsAtBuild));
    out
}
