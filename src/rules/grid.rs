//! From what somebody wrote to the two grids, in each convention's own reading.

use super::case::Degrees;
use super::{Rejection, Rule};
use crate::job::Job;
use crate::mesh::{Convention, Mesh};
use crate::plan::{Draft, Knobs, Plan, Toggle};

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
    read(job, draft).resolution
}

/// A draft as read: the resolution, and what is left to check when there is no plan.
pub(super) struct Read {
    pub(super) resolution: Resolution,
    pub(super) degrees: Degrees,
    pub(super) knobs: Knobs,
}

/// One convention's reading of a draft.
struct Reading {
    degrees: Degrees,
    mesh: Option<Mesh>,
    needed: u64,
}

/// [`resolve`], with the degrees kept.
pub(super) fn read(job: &Job, draft: &Draft) -> Read {
    let world = job.gpus();
    let mut knobs = draft.knobs;
    knobs.sequence_parallel_said = draft.sequence_parallel == Some(true) && draft.tp.unwrap_or(1) > 1;
    knobs.sequence_parallel = draft.sequence_parallel.unwrap_or(true) && draft.tp.unwrap_or(1) > 1;
    let mut rejections = Vec::new();
    let refuse = &mut rejections;
    let reading = match draft.convention {
        Convention::Product => product(job, draft, &mut knobs, refuse),
        Convention::Megatron | Convention::Bridge => megatron(job, draft, refuse),
        Convention::Torchtitan => torchtitan(job, draft, &mut knobs, refuse),
        Convention::Deepspeed => deepspeed(job, draft, refuse),
        Convention::Vllm => vllm(job, draft, &knobs, refuse),
        Convention::Sglang => sglang(job, draft, &mut knobs, refuse),
        Convention::Trtllm => trtllm(job, draft, &knobs, refuse),
    };
    let Reading { degrees, mesh, needed } = reading;
    if draft.convention != Convention::Product && job.serve().is_some() && needed > u64::from(world) {
        rejections.push(Rejection::new(Rule::World, world, needed));
    }
    let formula = mesh.map_or_else(|| written(draft), |mesh| draft.convention.formula(&mesh));
    let plan = mesh.map(|mesh| Plan { mesh, knobs });
    Read { resolution: Resolution { plan, rejections, needed, formula }, degrees, knobs }
}

/// A product that cannot overflow; such a plan is refused for its size.
fn times(degrees: &[u32]) -> u64 {
    degrees.iter().fold(1_u64, |p, d| p.saturating_mul(u64::from(*d)))
}

/// Back to a degree; what does not fit is larger than any cluster.
fn degree(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// The grids of degrees whose products were found to hold.
fn grids(d: Degrees) -> Option<Mesh> {
    Mesh::new(d.tp, d.cp, d.pp, d.dp, d.ep, d.etp)
}

/// `tp`, `cp` and `pp`, 1 where left out.
fn cuts(draft: &Draft) -> (u32, u32, u32) {
    (draft.tp.unwrap_or(1), draft.cp.unwrap_or(1), draft.pp.unwrap_or(1))
}

fn product(job: &Job, draft: &Draft, knobs: &mut Knobs, out: &mut Vec<Rejection>) -> Reading {
    let (tp, cp, pp) = cuts(draft);
    let (ep, dp) = (draft.ep.unwrap_or(1), draft.dp.unwrap_or(1));
    let needed = times(&[tp, cp, ep, pp, dp]);
    if needed != u64::from(job.gpus()) {
        out.push(Rejection::new(Rule::World, job.gpus(), needed));
    }
    if job.serve().is_some() {
        knobs.replicas = dp;
    }
    // A product plan cuts experts by TP; another ETP is a folded plan in product's words.
    let etp = draft.etp.unwrap_or(tp);
    let degrees = Degrees { tp, cp, pp, dp: degree(times(&[ep, dp])), ep, etp };
    let mesh = grids(degrees);
    let expert = times(&[ep, etp, pp]);
    if mesh.is_none() && !needed.is_multiple_of(expert) {
        out.push(Rejection::new(Rule::ExpertGrid, needed, expert));
    }
    Reading { degrees, mesh, needed }
}

/// Source: `megatron/training/arguments.py` (world), `megatron/core/parallel_state.py` (both grids).
fn megatron(job: &Job, draft: &Draft, out: &mut Vec<Rejection>) -> Reading {
    let world = job.gpus();
    let (tp, cp, pp) = cuts(draft);
    let ep = draft.ep.unwrap_or(1);
    let unset = if draft.convention == Convention::Bridge && ep > 1 { 1 } else { tp };
    let etp = draft.etp.unwrap_or(unset);
    let dense = times(&[tp, cp, pp]);
    let expert = times(&[etp, ep, pp]);
    let needed = match draft.dp {
        Some(dp) => dense.saturating_mul(u64::from(dp)),
        None => smallest(dense, expert, pp, u64::from(world)),
    };
    let (whole_dense, whole_expert) = (u64::from(world).is_multiple_of(dense), u64::from(world).is_multiple_of(expert));
    if !whole_dense {
        out.push(Rejection::new(Rule::DenseGrid, world, dense));
    }
    if !whole_expert {
        out.push(Rejection::new(Rule::ExpertGrid, world, expert));
    }
    if draft.dp.is_some() && needed != u64::from(world) {
        out.push(Rejection::new(Rule::World, world, needed));
    }
    let dp = if whole_dense { degree(u64::from(world) / dense) } else { 0 };
    let degrees = Degrees { tp, cp, pp, dp, ep, etp };
    Reading { degrees, mesh: grids(degrees), needed }
}

/// Source: `torchtitan/distributed/parallel_dims.py`.
fn torchtitan(job: &Job, draft: &Draft, knobs: &mut Knobs, out: &mut Vec<Rejection>) -> Reading {
    let world = u64::from(job.gpus());
    let (tp, cp, pp) = cuts(draft);
    let ep = draft.ep.unwrap_or(1);
    let replicate = draft.dp_replicate.unwrap_or(1);
    let cut = times(&[replicate, cp, tp, pp]);
    if let (Some(dp), None) = (draft.dp, draft.dp_shard)
        && !dp.is_multiple_of(replicate)
    {
        out.push(Rejection::new(Rule::DataParallel, dp, replicate));
    }
    let wanted = draft.dp_shard.or(draft.dp.map(|dp| dp / replicate.max(1)));
    let shard = wanted.map_or_else(|| (world / cut.max(1)).max(1), u64::from);
    let needed = cut.saturating_mul(shard);
    let borrowed = shard.saturating_mul(times(&[cp, tp]));
    if needed != world {
        out.push(Rejection::new(Rule::World, world, needed));
    }
    if !borrowed.is_multiple_of(u64::from(ep)) {
        out.push(Rejection::new(Rule::ExpertFold, borrowed, ep));
    }
    knobs.dp_replicate = replicate;
    let etp = if job.model.moe().is_some() { 1 } else { tp };
    let dp = degree(shard.saturating_mul(u64::from(replicate)));
    let whole = Degrees { tp, cp, pp, dp, ep, etp };
    let known = needed == world;
    Reading { degrees: Degrees { dp: if known { dp } else { 0 }, ..whole }, mesh: grids(whole), needed }
}

/// Source: `deepspeed/runtime/pipe/topology.py`, `deepspeed/utils/groups.py`, `module_inject/auto_ep_folding.py`.
fn deepspeed(job: &Job, draft: &Draft, out: &mut Vec<Rejection>) -> Reading {
    let world = u64::from(job.gpus());
    let (tp, cp, pp) = cuts(draft);
    let ep = draft.ep.unwrap_or(1);
    // The classic layer cuts experts by TP and spreads them over DP; AutoEP leaves them whole and spreads them over the stage.
    let etp = draft.etp.unwrap_or(tp);
    let whole = etp == 1 && ep > 1;
    let dense = times(&[tp, cp, pp]);
    let needed = draft.dp.map_or(world.max(dense), |dp| dense.saturating_mul(u64::from(dp)));
    let dp = world / dense.max(1);
    let lent = if whole { dp.saturating_mul(times(&[tp, cp])) } else { dp };
    if !world.is_multiple_of(dense) {
        out.push(Rejection::new(Rule::DenseGrid, world, dense));
    } else if !lent.is_multiple_of(u64::from(ep)) {
        out.push(Rejection::new(Rule::ExpertFold, lent, ep));
    }
    if draft.dp.is_some() && needed != world {
        out.push(Rejection::new(Rule::World, world, needed));
    }
    let dp = if out.is_empty() { degree(dp) } else { 0 };
    let degrees = Degrees { tp, cp, pp, dp, ep, etp };
    Reading { degrees, mesh: grids(degrees), needed }
}

/// Source: `vllm/config/parallel.py`, `fused_moe/config.py`.
fn vllm(job: &Job, draft: &Draft, knobs: &Knobs, out: &mut Vec<Rejection>) -> Reading {
    let (tp, _, pp) = cuts(draft);
    let (dp, pcp) = (draft.dp.unwrap_or(1), draft.pcp.unwrap_or(1));
    let stage = times(&[tp, pcp, dp]);
    let needed = times(&[pp, knobs.replicas]).saturating_mul(stage);
    let moe = job.model.moe().is_some();
    let on = draft.expert_parallel.unwrap_or_else(|| draft.ep.is_some_and(|ep| ep > 1));
    if let Some(ep) = draft.ep
        && ep > 1
        && u64::from(ep) != stage
    {
        out.push(Rejection::new(Rule::NotExpressible, stage, ep));
    }
    if on && !moe {
        out.push(Rejection::new(Rule::NoExperts, 1_u64, stage));
    }
    let (ep, etp) = match (moe, on) {
        (true, true) => (degree(stage), 1),
        (true, false) => (1, degree(stage)),
        (false, _) => (1, tp),
    };
    let copies = degree(times(&[dp, knobs.replicas]));
    let degrees = Degrees { tp, cp: pcp, pp, dp: copies, ep, etp };
    Reading { degrees, mesh: grids(degrees), needed }
}

/// Source: `sglang/srt/arg_groups/{parallel_hook,validation_hook,overrides}.py`, `distributed/parallel_state.py`.
fn sglang(job: &Job, draft: &Draft, knobs: &mut Knobs, out: &mut Vec<Rejection>) -> Reading {
    let (tp, _, pp) = cuts(draft);
    let (dp, attn_dp) = (draft.dp.unwrap_or(1), draft.attn_dp.unwrap_or(1));
    let (attn_cp, moe_dp) = (draft.pcp.unwrap_or(1), knobs.moe_dp);
    let moe = job.model.moe();
    // Two-batch overlap hides DeepEP's exchange.
    knobs.a2a |= knobs.ep_overlap == Toggle::On && moe.is_some();
    // DeepEP and its kin spread the experts over the whole TP size, whatever EP says.
    let asked = if knobs.a2a && moe.is_some() { tp } else { draft.ep.unwrap_or(1) }.max(1);
    knobs.replicas = knobs.replicas.saturating_mul(dp);
    let needed = times(&[tp, pp, knobs.replicas]);
    let launch_nodes = times(&[tp, pp, dp]).div_ceil(u64::from(job.cluster.gpus_per_node.max(1)));
    if dp > 1 && launch_nodes > 1 {
        out.push(Rejection::new(Rule::ReplicaNodes, launch_nodes, dp));
    }
    if dp > 1 && attn_dp > 1 {
        out.push(Rejection::new(Rule::ReplicaAttentionDp, attn_dp, dp));
    }
    let attention = times(&[attn_dp, attn_cp]);
    let whole_attention = u64::from(tp).is_multiple_of(attention);
    if !whole_attention {
        out.push(Rejection::new(Rule::AttentionDp, tp, attention));
    }
    // An EP that does not divide the TP size passes, and leaves ranks without experts; a larger one has no groups at all.
    if asked > tp {
        out.push(Rejection::new(Rule::ExpertFold, tp, asked));
    }
    let spread = tp / moe_dp.max(1);
    if !tp.is_multiple_of(moe_dp) || (moe_dp > 1 && asked > 1 && times(&[asked, moe_dp]) != u64::from(tp)) {
        out.push(Rejection::new(Rule::MoeDp, tp, times(&[asked, moe_dp])));
    }
    let ep = match moe {
        Some(moe) if asked < tp && !spread.is_multiple_of(asked) => {
            let cut = spread / asked;
            if cut > 0 && !moe.ffn.is_multiple_of(cut) {
                out.push(Rejection::new(Rule::ExpertFfn, moe.ffn, cut));
            }
            tiling(spread, asked, moe.ffn)
        }
        Some(_) | None => asked,
    };
    let attn_tp = degree(u64::from(tp) / attention.max(1)).max(1);
    let etp = if moe.is_some() { (spread / ep).max(1) } else { attn_tp };
    let copies = degree(times(&[attn_dp, knobs.replicas]));
    let whole = Degrees { tp: attn_tp, cp: attn_cp, pp, dp: copies, ep, etp };
    // Heads cannot be asked of an attention TP that does not exist: each rank as a replica asks nothing of them.
    let alone = Degrees { tp: 1, cp: 1, dp: degree(times(&[tp, knobs.replicas])), ..whole };
    let degrees = if whole_attention { whole } else { alone };
    let mesh = if out.is_empty() { grids(whole) } else { None };
    Reading { degrees, mesh, needed }
}

/// The next EP that tiles the ranks and cuts the experts whole: what stands for one that SGLang lets through untiled.
fn tiling(ranks: u32, ep: u32, ffn: u32) -> u32 {
    (ep..=ranks).find(|e| ranks.is_multiple_of(*e) && ffn.is_multiple_of(ranks / e)).unwrap_or(ranks)
}

/// Source: `tensorrt_llm/mapping.py`, `llmapi/llm_args.py`.
fn trtllm(job: &Job, draft: &Draft, knobs: &Knobs, out: &mut Vec<Rejection>) -> Reading {
    let (tp, cp, pp) = cuts(draft);
    let moe = job.model.moe().is_some();
    let (moe_tp, moe_ep) = match (draft.moe_tp, draft.moe_ep.or(draft.ep)) {
        (Some(t), Some(e)) => (t, e),
        (Some(t), None) => (t, (tp / t.max(1)).max(1)),
        (None, Some(e)) => ((tp / e.max(1)).max(1), e),
        (None, None) => (tp, 1),
    };
    let experts = times(&[moe_tp, moe_ep]);
    // Helix spreads experts over the ranks of a sequence too.
    if experts != u64::from(tp) && experts != times(&[tp, cp]) {
        out.push(Rejection::new(Rule::ExpertSplit, tp, experts));
    }
    let needed = times(&[tp, pp, cp, knobs.replicas]);
    let (attn_tp, attn_dp) = if draft.attention_dp.unwrap_or(false) { (1, tp) } else { (tp, 1) };
    let (ep, etp) = if moe { (moe_ep, moe_tp) } else { (moe_ep, attn_tp) };
    let degrees = Degrees { tp: attn_tp, cp, pp, dp: degree(times(&[attn_dp, knobs.replicas])), ep, etp };
    let mesh = if out.is_empty() { grids(degrees) } else { None };
    Reading { degrees, mesh, needed }
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
