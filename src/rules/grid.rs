//! From what somebody wrote to the two grids, in each convention's own reading.

use super::{Rejection, Rule};
use crate::job::Job;
use crate::mesh::{Convention, Mesh};
use crate::plan::{Draft, Plan};

/// What came of a draft: the plan when its grids exist, and every rule of the grids it breaks.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolution {
    /// The plan, when both grids exist. It may still use fewer GPUs than there are.
    pub plan: Option<Plan>,
    /// Products that do not come out.
    pub rejections: Vec<Rejection>,
    /// GPUs the plan needs as written.
    pub needed: u64,
    /// The formula with its numbers.
    pub formula: String,
}

/// Reads a draft in its convention against the job's GPUs.
///
/// Sizes left out: a training plan fills them with what is left of the cluster (Megatron's and torchtitan's DP); ETP unset
/// means TP in Megatron, 1 in Megatron Bridge when EP > 1; every other degree left out is 1.
#[must_use]
pub fn resolve(job: &Job, draft: &Draft) -> Resolution {
    let world = job.gpus();
    let mut rejections = Vec::new();
    let tp = draft.tp.unwrap_or(1);
    let pp = draft.pp.unwrap_or(1);
    let cp = draft.cp.unwrap_or(1);
    let moe = job.model.moe().is_some();
    let product = |degrees: &[u32]| degrees.iter().fold(1_u64, |p, d| p.saturating_mul(u64::from(*d)));
    let mut knobs = draft.knobs;
    knobs.sequence_parallel = draft.sequence_parallel.unwrap_or(true) && tp > 1;
    let needed;
    let mesh = match draft.convention {
        Convention::Product => {
            let (ep, dp) = (draft.ep.unwrap_or(1), draft.dp.unwrap_or(1));
            needed = product(&[tp, cp, ep, pp, dp]);
            if needed != u64::from(world) {
                rejections.push(Rejection::new(Rule::World, world, needed));
            }
            match draft.etp {
                // A product plan cuts experts by TP; another ETP is a folded plan in product's words.
                Some(etp) if etp != tp => ep.checked_mul(dp).and_then(|d| Mesh::new(tp, cp, pp, d, ep, etp)),
                _ => Mesh::product(tp, cp, ep, pp, dp),
            }
        }
        Convention::Megatron | Convention::Bridge => {
            let ep = draft.ep.unwrap_or(1);
            let unset = if draft.convention == Convention::Bridge && ep > 1 { 1 } else { tp };
            let etp = draft.etp.unwrap_or(unset);
            let dense = product(&[tp, cp, pp]);
            let expert = product(&[etp, ep, pp]);
            needed = match draft.dp {
                Some(dp) => dense.saturating_mul(u64::from(dp)),
                None => smallest(dense, expert, pp, u64::from(world)),
            };
            if !u64::from(world).is_multiple_of(dense) {
                rejections.push(Rejection::new(Rule::DenseGrid, world, dense));
            }
            if !u64::from(world).is_multiple_of(expert) {
                rejections.push(Rejection::new(Rule::ExpertGrid, world, expert));
            }
            if draft.dp.is_some() && needed != u64::from(world) {
                rejections.push(Rejection::new(Rule::World, world, needed));
            }
            u32::try_from(u64::from(world) / dense.max(1)).ok().and_then(|dp| Mesh::new(tp, cp, pp, dp, ep, etp))
        }
        Convention::Torchtitan => {
            let ep = draft.ep.unwrap_or(1);
            let replicate = draft.dp_replicate.unwrap_or(1);
            let cut = product(&[replicate, cp, tp, pp]);
            let wanted = draft.dp_shard.or(draft.dp.map(|dp| dp / replicate.max(1)));
            let shard = wanted.map_or_else(|| (u64::from(world) / cut.max(1)).max(1), u64::from);
            needed = cut.saturating_mul(shard);
            if needed != u64::from(world) {
                rejections.push(Rejection::new(Rule::World, world, needed));
            }
            let borrowed = shard.saturating_mul(product(&[cp, tp]));
            if !borrowed.is_multiple_of(u64::from(ep)) {
                rejections.push(Rejection::new(Rule::ExpertFold, borrowed, ep));
            }
            knobs.dp_replicate = replicate;
            let etp = if ep > 1 || moe { 1 } else { tp };
            u32::try_from(shard.saturating_mul(u64::from(replicate)))
                .ok()
                .and_then(|dp| Mesh::new(tp, cp, pp, dp, ep, etp))
        }
        Convention::Deepspeed => {
            let ep = draft.ep.unwrap_or(1);
            let dense = product(&[tp, pp]);
            needed = match draft.dp {
                Some(dp) => dense.saturating_mul(u64::from(dp)),
                None => u64::from(world).max(dense),
            };
            if !u64::from(world).is_multiple_of(dense) {
                rejections.push(Rejection::new(Rule::DenseGrid, world, dense));
            }
            let dp = u64::from(world) / dense.max(1);
            if !dp.is_multiple_of(u64::from(ep)) {
                rejections.push(Rejection::new(Rule::ExpertFold, dp, ep));
            }
            if draft.dp.is_some() && needed != u64::from(world) {
                rejections.push(Rejection::new(Rule::World, world, needed));
            }
            u32::try_from(dp).ok().and_then(|dp| Mesh::new(tp, 1, pp, dp, ep, tp))
        }
        Convention::Vllm => {
            let dp = draft.dp.unwrap_or(1);
            let pcp = draft.pcp.unwrap_or(1);
            let stage = product(&[tp, pcp, dp]);
            let engine = stage.saturating_mul(u64::from(pp));
            needed = engine.saturating_mul(u64::from(knobs.replicas));
            let on = draft.expert_parallel.unwrap_or_else(|| draft.ep.is_some_and(|ep| ep > 1));
            if let Some(ep) = draft.ep
                && ep > 1
                && u64::from(ep) != stage
            {
                rejections.push(Rejection::new(Rule::NotExpressible, stage, ep));
            }
            if on && !moe {
                rejections.push(Rejection::new(Rule::NoExperts, 1_u64, stage));
            }
            let all = u32::try_from(stage).ok();
            let copies = dp.checked_mul(knobs.replicas);
            all.zip(copies).and_then(|(all, copies)| match (moe, on) {
                (true, true) => Mesh::new(tp, pcp, pp, copies, all, 1),
                (true, false) => Mesh::new(tp, pcp, pp, copies, 1, all),
                (false, _) => Mesh::new(tp, pcp, pp, copies, 1, tp),
            })
        }
        Convention::Sglang => {
            let (dp, attn_dp) = (draft.dp.unwrap_or(1), draft.attn_dp.unwrap_or(1));
            let attn_cp = draft.pcp.unwrap_or(1);
            let moe_dp = knobs.moe_dp;
            // DeepEP and its kin spread the experts over the whole TP size.
            let ep = if knobs.a2a && moe { tp } else { draft.ep.unwrap_or(1) };
            knobs.replicas = knobs.replicas.saturating_mul(dp);
            needed = product(&[tp, pp, knobs.replicas]);
            let attention = product(&[attn_dp, attn_cp]);
            if !u64::from(tp).is_multiple_of(attention) {
                rejections.push(Rejection::new(Rule::AttentionDp, tp, attention));
            }
            let experts = product(&[ep, moe_dp]);
            if !u64::from(tp).is_multiple_of(experts) {
                rejections.push(Rejection::new(Rule::MoeDp, tp, experts));
            }
            let attn_tp = (u64::from(tp) / attention.max(1)).max(1) as u32;
            let moe_tp = (u64::from(tp) / experts.max(1)).max(1) as u32;
            let copies = attn_dp.checked_mul(knobs.replicas);
            copies.and_then(|copies| {
                if rejections.is_empty() {
                    Mesh::new(attn_tp, attn_cp, pp, copies, ep, if moe { moe_tp } else { attn_tp })
                } else {
                    None
                }
            })
        }
        Convention::Trtllm => {
            let moe_ep = draft.moe_ep.or(draft.ep);
            let (moe_tp, moe_ep) = match (draft.moe_tp, moe_ep) {
                (Some(t), Some(e)) => (t, e),
                (Some(t), None) => (t, (tp / t.max(1)).max(1)),
                (None, Some(e)) => ((tp / e.max(1)).max(1), e),
                (None, None) => (tp, 1),
            };
            if product(&[moe_tp, moe_ep]) != u64::from(tp) {
                rejections.push(Rejection::new(Rule::ExpertSplit, tp, product(&[moe_tp, moe_ep])));
            }
            needed = product(&[tp, pp, cp, knobs.replicas]);
            let attention_dp = draft.attention_dp.unwrap_or(false);
            let (attn_tp, attn_dp) = if attention_dp { (1, tp) } else { (tp, 1) };
            let copies = attn_dp.checked_mul(knobs.replicas);
            copies.and_then(|copies| {
                if moe {
                    Mesh::new(attn_tp, cp, pp, copies, moe_ep, moe_tp)
                } else {
                    Mesh::new(attn_tp, cp, pp, copies, 1, attn_tp)
                }
            })
        }
    };
    if draft.convention != Convention::Product && job.serve().is_some() && needed > u64::from(world) {
        rejections.push(Rejection::new(Rule::World, world, needed));
    }
    if draft.convention == Convention::Product && job.serve().is_some() {
        knobs.replicas = draft.dp.unwrap_or(1);
    }
    let formula = mesh.map_or_else(|| written(draft), |mesh| draft.convention.formula(&mesh));
    Resolution { plan: mesh.map(|mesh| Plan { mesh, knobs }), rejections, needed, formula }
}

/// The smallest multiple of both grids that holds the plan: `pp * lcm(tp*cp, etp*ep)`, or the world when it already does.
fn smallest(dense: u64, expert: u64, pp: u32, world: u64) -> u64 {
    let pp = u64::from(pp.max(1));
    let (a, b) = ((dense / pp).max(1), (expert / pp).max(1));
    let least = (a / gcd(a, b)).saturating_mul(b).saturating_mul(pp);
    if world.is_multiple_of(least) { world } else { least }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The formula of a draft whose grids do not come out.
fn written(draft: &Draft) -> String {
    let one = |degree: Option<u32>| degree.unwrap_or(1);
    let terms = [("TP", one(draft.tp)), ("CP", one(draft.cp)), ("PP", one(draft.pp)), ("EP", one(draft.ep))];
    crate::mesh::product_text(&terms, &["CP", "EP"])
}
