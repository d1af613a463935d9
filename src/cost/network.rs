//! Time of collectives: which links a group's ranks share, and an alpha-beta model on each tier.
//!
//! A group whose ranks all lie in one scale-up domain runs on NVLink (or PCIe). A wider one runs hierarchically: inside each
//! domain and between domains over the NICs as one pipeline, the members of a node sharing out its NICs.

use crate::cluster::{Cluster, Collective, CollectiveFit, KernelMaker};
use crate::mesh::Group;
use crate::model::Moe;
use crate::units::Seconds;

/// The widest link a group's traffic has to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// A group of one: nothing is sent.
    Local,
    /// Inside one scale-up domain and one node.
    ScaleUp,
    /// Inside one scale-up domain that spans nodes.
    Domain,
    /// Over the network.
    Network,
}

impl Tier {
    /// The name in outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::ScaleUp => "scale-up",
            Self::Domain => "domain",
            Self::Network => "network",
        }
    }
}

/// Share of a NIC's rate that large messages reach between two domains: 46.5 of 50 GB/s in low-latency dispatch, 35 to 46 in
/// collectives.
const NIC_SHARE: f64 = 0.85;

/// What each doubling of the domains beyond two adds to the time of the bytes when eight ranks of a domain take part: paths that
/// collide in the spine. Fitted to step times; the means of nanotron's published sweeps (85 of 188 GB/s at their best on 16 nodes)
/// fall faster still.
const CONTENTION: f64 = 0.2;

/// Time of the bytes between `far` domains over that between two. A group of one rank per domain stays on one rail, whose switches
/// join the nodes without the spine: on 16 nodes of nanotron's cluster such groups still reach 28 to 42 of 50 GB/s.
fn crowd(far: u32, near: u32) -> f64 {
    let rails = if near <= 1 { 0.0 } else { (doublings(near) / 3.0).min(1.0) };
    1.0 + CONTENTION * (doublings(far) - 1.0) * rails
}

/// NICs that a group with `members` in each domain drives, `members` to the power 3/4: its channels do not fill all rails. On 16
/// nodes of nanotron's cluster groups of one member reach 28 to 42 GB/s each, groups of eight about 100.
fn rails(members: f64) -> f64 {
    (members * members.sqrt()).sqrt()
}

/// Time a tree needs per further domain.
const HOP: f64 = 1e-6;

/// Time a ring needs per further domain: one hop over the network and those between the domain's own ranks. The best of nanotron's
/// published gathers grow by 10 us for each rank, their means by 35.
const RING_HOP: f64 = 20e-6;

/// Where a group's ranks lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placed {
    /// Ranks.
    pub size: u32,
    /// Ranks that share a domain.
    pub near: u32,
    /// The widest tier.
    pub tier: Tier,
}

/// Places a group on a cluster.
#[must_use]
pub fn place(cluster: &Cluster, group: Group) -> Placed {
    let size = group.size();
    let near = group.members_within(cluster.domain()).min(size);
    let tier = if size <= 1 {
        Tier::Local
    } else if near < size {
        Tier::Network
    } else if group.members_within(cluster.gpus_per_node) < size {
        Tier::Domain
    } else {
        Tier::ScaleUp
    };
    Placed { size, near, tier }
}

/// Seconds of one collective over `bytes` (the whole buffer: the reduced tensor, the gathered result, or what one rank sends
/// to all others).
///
/// ```text
/// inside a domain: alpha(n) + bytes f(n) / bus(n)
/// across:          alpha_net(domains) + max(inside(near), bytes f(n) / rails)
///                  rails = near^3/4 nic share / crowd; n: domains for trees, ranks for rings
/// ```
/// Inside and across run as one pipeline, so the slower sets the pace.
/// Source: NCCL's performance notes for `f`; alpha and bus are fitted per GPU to measured NCCL tables.
#[must_use]
pub fn collective(cluster: &Cluster, placed: Placed, kind: Collective, bytes: f64) -> Seconds {
    if placed.size <= 1 || bytes <= 0.0 {
        return Seconds::ZERO;
    }
    let inside = |op: Collective, ranks: u32, bytes: f64| inside_domain(cluster, op, ranks, bytes);
    let seconds = match placed.tier {
        Tier::Local => 0.0,
        Tier::ScaleUp | Tier::Domain => inside(kind, placed.size, bytes),
        Tier::Network => {
            let far = placed.size.div_ceil(placed.near).max(2);
            let near = f64::from(placed.near);
            let nic = cluster.nic_share().get() * NIC_SHARE / crowd(far, placed.near);
            let start = network_alpha(cluster, kind, far);
            match kind {
                Collective::AllReduce | Collective::AllGather | Collective::ReduceScatter => {
                    // Trees cross the network once per domain, rings carry every rank's share through every domain.
                    let ranks = if kind == Collective::AllReduce { far } else { placed.size };
                    let between = bytes * kind.factor(ranks) / (rails(near) * nic);
                    start + between.max(inside(kind, placed.near, bytes))
                }
                Collective::AllToAll => {
                    let n = f64::from(placed.size);
                    let outside = bytes * (n - near) / n / nic;
                    start + outside.max(scatter_inside(cluster, placed.near, bytes * near / n))
                }
                Collective::SendRecv => cluster.network.latency.get() + 12e-6 + bytes / nic,
            }
        }
    };
    Seconds::new(seconds)
}

/// Seconds of `bytes` that each of a domain's ranks spreads over all of them.
fn scatter_inside(cluster: &Cluster, near: u32, bytes: f64) -> f64 {
    if near <= 1 {
        return 0.0;
    }
    let ranks = f64::from(near);
    bytes * (ranks - 1.0) / ranks / fit(cluster, Collective::AllToAll, near).bus.get()
}

/// Seconds of a training step's exchange of `bytes` with experts, of which one copy of a token goes to each domain that holds one of
/// its experts, and is copied on inside it: `d (1 - (1 - 1/d)^k)` of `k` copies cross, of `d` domains that routing limited to groups of
/// experts may reach.
///
/// Source: `DeepEP`'s normal kernels and NVIDIA's `HybridEP`.
#[must_use]
pub fn one_copy_exchange(cluster: &Cluster, placed: Placed, bytes: f64, moe: &Moe) -> Seconds {
    let whole = collective(cluster, placed, Collective::AllToAll, bytes);
    if placed.tier != Tier::Network || bytes <= 0.0 {
        return whole;
    }
    let far = placed.size.div_ceil(placed.near).max(2);
    let domains = f64::from(if moe.groups > 1 { far.min(moe.top_groups.max(1)) } else { far });
    let missed: f64 = (0..moe.top_k).map(|_| 1.0 - 1.0 / domains).product();
    let share = domains * (1.0 - missed) / f64::from(moe.top_k.max(1));
    let crossed = collective(cluster, placed, Collective::AllToAll, bytes * share.min(1.0));
    let inside = Seconds::new(scatter_inside(cluster, placed.near, bytes));
    whole.min(crossed.max(inside))
}

/// Fixed time of a collective between `far` domains: two nodes' small all-reduces take 60 to 90 us end to end, about 10 us more
/// for each doubling (they run as trees). Half of it for one-directional collectives; gathers and scatters run as rings, which
/// pass every domain in turn.
fn network_alpha(cluster: &Cluster, kind: Collective, far: u32) -> f64 {
    let both = cluster.network.latency.get() * 8.0 + 10e-6 * doublings(far) + HOP * f64::from(far) + 10e-6;
    match kind {
        Collective::AllReduce => both,
        Collective::AllGather | Collective::ReduceScatter => both / 2.0 + RING_HOP * f64::from(far),
        Collective::AllToAll | Collective::SendRecv => both / 2.0,
    }
}

/// Seconds that each further piece adds when a collective's bytes go out in pieces: its fixed time.
#[must_use]
pub fn fixed(cluster: &Cluster, placed: Placed, kind: Collective) -> Seconds {
    match placed.tier {
        Tier::Local => Seconds::ZERO,
        Tier::ScaleUp | Tier::Domain => fit(cluster, kind, placed.size).alpha,
        Tier::Network => Seconds::new(network_alpha(cluster, kind, placed.size.div_ceil(placed.near).max(2))),
    }
}

/// Doublings that reach a number of domains.
fn doublings(far: u32) -> f64 {
    f64::from(far.max(2).checked_next_power_of_two().map_or(32, u32::ilog2))
}

/// A collective inside one domain.
fn inside_domain(cluster: &Cluster, kind: Collective, ranks: u32, bytes: f64) -> f64 {
    if ranks <= 1 {
        return 0.0;
    }
    if kind == Collective::SendRecv {
        // Measured: 5 us and 78 % of the link between two GPUs of a node.
        return 5e-6 + bytes / (0.78 * cluster.scale_up.bandwidth.get());
    }
    let fit = fit(cluster, kind, ranks);
    fit.alpha.get() + bytes * kind.factor(ranks) / fit.bus.get()
}

/// The measured curve for a number of ranks: the nearest measured count, its fixed time grown by 1 us for each rank beyond; a GPU
/// without measurements gets 70 % of its link.
fn fit(cluster: &Cluster, kind: Collective, ranks: u32) -> CollectiveFit {
    let table = match kind {
        Collective::AllReduce | Collective::AllGather | Collective::ReduceScatter | Collective::AllToAll => {
            &cluster.gpu.efficiency.collectives[kind as usize]
        }
        Collective::SendRecv => return unmeasured(cluster, ranks),
    };
    // A cluster may override the GPU's own links: then the fit scales with the datasheet rate.
    let scale = cluster.scale_up.bandwidth / cluster.gpu.scale_up.bandwidth;
    let nearest = table.iter().filter(|f| f.ranks <= ranks).max_by_key(|f| f.ranks);
    match nearest.or_else(|| table.iter().min_by_key(|f| f.ranks)) {
        None => unmeasured(cluster, ranks),
        Some(f) => {
            let beyond = f64::from(ranks.saturating_sub(f.ranks));
            CollectiveFit { ranks, alpha: f.alpha + Seconds::new(1e-6 * beyond.min(64.0)), bus: f.bus * scale }
        }
    }
}

fn unmeasured(cluster: &Cluster, ranks: u32) -> CollectiveFit {
    CollectiveFit {
        ranks,
        alpha: Seconds::new(10e-6 + 1e-6 * f64::from(ranks.min(64))),
        bus: cluster.scale_up.bandwidth * 0.7,
    }
}

/// An all-reduce of a serving step: inside a domain the engine's own kernel where it is faster than NCCL.
#[must_use]
pub fn small_all_reduce(cluster: &Cluster, placed: Placed, maker: KernelMaker, bytes: f64) -> Seconds {
    let nccl = collective(cluster, placed, Collective::AllReduce, bytes);
    if placed.tier == Tier::Network || placed.size <= 1 {
        return nccl;
    }
    cluster.gpu.efficiency.small_reduce(maker, placed.size).map_or(nccl, |own| {
        let direct = own.t0 + Seconds::new(bytes / own.direct.get());
        let two = own.two_step_t0 + Seconds::new(bytes * Collective::AllReduce.factor(placed.size) / own.bus.get());
        direct.min(two).min(nccl)
    })
}

/// The two ways of an expert exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exchange {
    /// Tokens to their experts.
    Dispatch,
    /// Results back.
    Combine,
}

/// Low-latency dispatch or combine of decode over `nodes` domains: `t0(nodes) + bytes (1 - 1/nodes) / (93 % of the NIC)`; inside one
/// domain all bytes cross NVLink.
///
/// Source: fit to measured `DeepEP` tables of 1, 2, 4 and 8 nodes of 8 H100 (7,168 wide, top 8): mean error 2.5, 2.2, 1.4 and 1.5 %
/// of a dispatch, 4.1, 3.7, 1.8 and 1.4 % of a combine.
#[must_use]
pub fn low_latency_exchange(cluster: &Cluster, placed: Placed, way: Exchange, bytes: f64) -> Seconds {
    if placed.size <= 1 {
        return Seconds::ZERO;
    }
    let domains = placed.size.div_ceil(placed.near);
    let t0 = match (way, domains) {
        (Exchange::Dispatch, 1) => 14.7e-6,
        (Exchange::Dispatch, 2) => 20.2e-6,
        (Exchange::Dispatch, 3 | 4) => 25.7e-6,
        (Exchange::Dispatch, _) => 27.8e-6,
        (Exchange::Combine, 1) => 11.2e-6,
        (Exchange::Combine, 2) => 24.9e-6,
        (Exchange::Combine, _) => 26.0e-6,
    };
    let time = if domains <= 1 {
        // 285 and 239 of 450 GB/s on H100.
        let share = if way == Exchange::Dispatch { 0.63 } else { 0.53 };
        bytes / (cluster.scale_up.bandwidth.get() * share)
    } else {
        bytes * (1.0 - 1.0 / f64::from(domains)) / (cluster.nic_share().get() * 0.94)
    };
    Seconds::new(t0 + time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog;

    /// Bus bandwidths of 256 MB between nodes of 8 H100 with one 400 Gb/s EFA link each, published for nanotron's cluster as a band
    /// over many sets of nodes: all-reduce and all-gather on 2, 4, 8, 16 nodes.
    #[test]
    fn published_sweeps_stay_in_their_bands() {
        let facts = [
            (2, Collective::AllReduce, 302.0, 436.0),
            (4, Collective::AllReduce, 44.0, 219.0),
            (8, Collective::AllReduce, 41.0, 193.0),
            (16, Collective::AllReduce, 31.0, 188.0),
            (2, Collective::AllGather, 147.0, 226.0),
            (4, Collective::AllGather, 41.0, 229.0),
            (8, Collective::AllGather, 47.0, 178.0),
            (16, Collective::AllGather, 24.0, 127.0),
        ];
        for (nodes, kind, lower, upper) in facts {
            let cluster = catalog::cluster(&format!("{}xh100", 8 * nodes)).expect("a built-in GPU in a readable shape");
            let placed = Placed { size: 8 * nodes, near: 8, tier: Tier::Network };
            let bytes = 256e6;
            let bus = bytes * kind.factor(placed.size) / collective(&cluster, placed, kind, bytes).get() / 1e9;
            assert!((lower..upper).contains(&bus), "{nodes} nodes, {kind:?}: {bus:.0} GB/s of {lower} to {upper}");
        }
    }
}
