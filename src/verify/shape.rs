//! What the model says to a plan: experts, shapes, memory. Without a model only the experts' number is known, if that.

use super::reading::Sizes;
use super::{Facts, Finding, Jobs, gigabytes};
use crate::estimate;
use crate::framework::Framework;
use crate::job::Job;
use crate::mesh::{Convention, divisors};
use crate::plan::{Draft, Recompute};
use crate::rules::{self, Rejection, Rule};

/// The same numbers in another convention's names.
pub(super) fn said_in(convention: Convention, draft: &Draft) -> Draft {
    if draft.convention == convention {
        return *draft;
    }
    let s = Sizes::of(draft);
    let narrow = |degree: u64| u32::try_from(degree).unwrap_or(u32::MAX);
    let etp = s.etp.map(narrow);
    let cp = Some(narrow(s.cp)).filter(|_| draft.cp.or(draft.pcp).is_some());
    let engine = matches!(convention, Convention::Vllm | Convention::Sglang);
    let mut out = Draft {
        convention,
        tp: draft.tp,
        pp: draft.pp,
        cp: if engine { None } else { cp },
        pcp: if engine { cp } else { None },
        ep: Some(narrow(s.ep)).filter(|ep| *ep > 1 || draft.ep.is_some()),
        dp: s.dp.map(narrow),
        sequence_parallel: draft.sequence_parallel,
        knobs: draft.knobs,
        ..Draft::default()
    };
    if convention == Convention::Trtllm {
        // Copies are launched one by one, and experts have their own names.
        (out.moe_tp, out.moe_ep, out.ep) = (etp, out.ep, None);
        out.knobs.replicas = narrow(s.replicas.saturating_mul(s.dp.unwrap_or(1)));
        out.dp = None;
    } else {
        out.etp = etp;
    }
    out
}

/// The job that a convention's framework would run.
fn job_of<'a>(jobs: &Jobs<'a>, convention: Convention) -> Option<&'a Job> {
    match Framework::of(convention) {
        Some(framework) if framework.serves() => jobs.serve,
        Some(_) => jobs.train,
        None => jobs.train.or(jobs.serve),
    }
}

/// Whether every EP rank holds the same number of experts, where the framework asks it.
pub(super) fn experts(facts: &Facts<'_>, convention: Convention, draft: &Draft) -> Vec<Finding> {
    let Some(experts) = facts.experts else { return Vec::new() };
    // An all-to-all backend of SGLang spreads experts over the whole TP size, whatever EP says.
    let spread = convention == Convention::Sglang && draft.knobs.a2a;
    let ep = if spread { u64::from(draft.tp.unwrap_or(1)) } else { Sizes::of(draft).ep };
    let framework = Framework::of(convention);
    let asked = Rule::Experts.asked_by().iter().copied().find(|s| s.framework == framework);
    if ep <= 1 || experts.is_multiple_of(ep) || asked.is_none() || experts == 0 {
        return Vec::new();
    }
    let legal = divisors(experts);
    let below = legal.iter().copied().filter(|d| *d < ep).max();
    let above = legal.iter().copied().filter(|d| *d > ep).min();
    let near: Vec<String> = below.into_iter().chain(above).map(|d| d.to_string()).collect();
    let near = near.join(" or ");
    let message = format!("the {experts} experts are not a multiple of EP = {ep}; EP {near} divides them");
    let finding = Finding { asked_by: asked, ..Finding::violation(Rule::Experts.id(), message) };
    vec![finding.with(ep, experts).fixed_by(format!("EP {near}"))]
}

/// Whether a refusal says something that the reading of the numbers has not said, about things that are known.
fn counts(jobs: &Jobs<'_>, rule: Rule) -> bool {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a new rule is one more that is asked")]
    match rule {
        Rule::World
        | Rule::DenseGrid
        | Rule::ExpertGrid
        | Rule::ExpertFold
        | Rule::ExpertSplit
        | Rule::Experts
        | Rule::AttentionDp => false,
        Rule::Batch | Rule::MicroBatches | Rule::FewMicroBatches => jobs.batch,
        Rule::SequenceCp | Rule::SequenceTp | Rule::Tokens | Rule::Positions => jobs.sequence,
        Rule::Format => jobs.hardware,
        Rule::Nodes | Rule::DataNodes | Rule::ReplicaNodes => jobs.nodes,
        _ => true,
    }
}

fn finding(rejection: &Rejection, framework: Option<Framework>) -> Finding {
    let hint = rejection.hint();
    let asked_by = rejection.rule.asked_by().iter().copied().find(|s| s.framework == framework);
    let words = Finding::violation(rejection.rule.id(), format!("{rejection} ({hint})"));
    let unit = if rejection.rule == Rule::Memory { "B" } else { "" };
    Finding { asked_by, ..words }.amounts(rejection.need, rejection.have, unit).fixed_by(hint)
}

/// What Megatron can count as layers beside the layers: embedding, output, multi-token prediction.
///
/// A document seldom says how its stages are laid out, so one whose stages come out that way is told so, not refused.
fn even_when_counted(job: &Job, rejection: &Rejection) -> Option<u64> {
    let stages = rejection.need as u64;
    if rejection.rule != Rule::Layers || stages == 0 {
        return None;
    }
    let (layers, mtp) = (u64::from(job.model.layers()), u64::from(job.model.spec().mtp));
    [layers + 1, layers + 2, layers + 2 + mtp].into_iter().find(|all| all.is_multiple_of(stages))
}

/// What the model's shape refuses.
pub(super) fn shapes(facts: &Facts<'_>, convention: Convention, draft: &Draft) -> Vec<Finding> {
    let Some((jobs, job)) = facts.jobs.and_then(|jobs| Some((jobs, job_of(&jobs, convention)?))) else {
        return Vec::new();
    };
    let framework = Framework::of(convention);
    let draft = said_in(convention, draft);
    let resolution = rules::judge(job, framework, &draft);
    let mut seen = Vec::new();
    for rejection in &resolution.rejections {
        // The reading has worded what it refused itself.
        let own = rejection.rule == Rule::NotExpressible && resolution.plan.is_none();
        let ep_is_worded = rejection.rule == Rule::NotExpressible && convention == Convention::Vllm;
        let stages = !jobs.exact && even_when_counted(job, rejection).is_some();
        if counts(&jobs, rejection.rule) && !own && !ep_is_worded && !stages {
            seen.push(finding(rejection, framework));
        }
    }
    seen
}

/// The memory of the worst GPU, as little and as much as the plan can mean, and what there is.
pub(super) fn memory_range(facts: &Facts<'_>, convention: Convention, draft: &Draft) -> Option<(f64, f64, f64)> {
    let jobs = facts.jobs.filter(|jobs| jobs.memory)?;
    let job = job_of(&jobs, convention)?;
    let mut draft = said_in(convention, draft);
    let plan = rules::resolve(job, &draft).plan?;
    let written = estimate::memory(job, convention, &plan);
    let most = written.ledger.total();
    draft.knobs.recompute = Recompute::Full;
    let lean = rules::resolve(job, &draft).plan.map_or(written, |plan| estimate::memory(job, convention, &plan));
    let least = if job.train().is_some() { lean.ledger.total() } else { most };
    Some((least, most, written.capacity.get()))
}

/// Whether it fits. Knobs that nobody wrote are taken in the plan's favour.
pub(super) fn memory(facts: &Facts<'_>, convention: Convention, draft: &Draft) -> Vec<Finding> {
    let Some(jobs) = facts.jobs.filter(|jobs| jobs.memory) else { return Vec::new() };
    let framework = Framework::of(convention);
    if jobs.exact {
        let Some(job) = job_of(&jobs, convention) else { return Vec::new() };
        let draft = said_in(convention, draft);
        let Some(estimate) = estimate::assess(job, framework, &draft).estimate else { return Vec::new() };
        return estimate::verdict(job, &estimate).iter().map(|r| finding(r, framework)).collect();
    }
    let Some((least, _, capacity)) = memory_range(facts, convention, draft) else { return Vec::new() };
    if least <= capacity {
        return Vec::new();
    }
    let how = if job_of(&jobs, convention).is_some_and(|j| j.train().is_some()) {
        "even with full recomputation "
    } else {
        ""
    };
    let (need, have) = (gigabytes(least), gigabytes(capacity));
    let message = format!("{how}the fullest GPU needs {need} by this program's estimate, and has {have}");
    vec![Finding::violation(Rule::Memory.id(), message).amounts(capacity, least, "B")]
}

/// What a plan that holds should still be told.
pub(super) fn remarks(facts: &Facts<'_>, convention: Convention, draft: &Draft) -> Vec<Finding> {
    let Some(jobs) = facts.jobs else { return Vec::new() };
    let Some(job) = job_of(&jobs, convention) else { return Vec::new() };
    let draft = said_in(convention, draft);
    let framework = Framework::of(convention);
    let mut out: Vec<Finding> = Vec::new();
    if !jobs.exact {
        for rejection in &rules::judge(job, framework, &draft).rejections {
            if let Some(all) = even_when_counted(job, rejection) {
                let message =
                    format!("{rejection}: it takes embedding and output counted as layers ({all}), or a layout");
                out.push(Finding::note("layers", message).amounts(rejection.need, rejection.have, ""));
            }
        }
    }
    let Some(plan) = rules::resolve(job, &draft).plan else { return out };
    let warnings = rules::warnings(job, framework, &plan, Some(&draft));
    out.extend(warnings.iter().map(|warning| Finding::note("remark", warning.to_string())));
    if let Some((least, most, capacity)) = memory_range(facts, convention, &draft)
        && !jobs.exact
    {
        let (need, have) = (gigabytes(most), gigabytes(capacity));
        let lean = if least < most { format!(", {} with full recomputation", gigabytes(least)) } else { String::new() };
        let message = format!("this program's estimate is {need} on the fullest GPU{lean}; it has {have}");
        out.push(Finding::note("memory-estimate", message).amounts(capacity, most, "B"));
    }
    out
}
