//! Time of collectives: which links a group's ranks share, and an alpha-beta model on each tier.
//!
//! A group whose ranks all lie in one scale-up domain runs on NVLink (or PCIe). A wider one runs hierarchically: inside each
//! domain, then between domains over the NICs, every member of the node with its own share of them, then inside again.

use crate::cluster::{Cluster, Collective, CollectiveFit};
use crate::mesh::Group;
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

/// What each doubling of the domains beyond two adds to the time of the bytes: paths that collide in the spine. Fitted to step
/// times; the means of nanotron's published sweeps (85 of 188 GB/s at their best on 16 nodes) fall faster still.
const CONTENTION: f64 = 0.16;

/// Time a ring needs per further domain.
const HOP: f64 = 1e-6;

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
/// across:          inside(near) on bytes + alpha_net + bytes/near f(nodes) / (nic share) [all-reduce: both halves inside]
/// ```
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
            let crowd = 1.0 + CONTENTION * (doublings(far) - 1.0);
            let nic = cluster.nic_share().get() * NIC_SHARE / crowd;
            let start = network_alpha(cluster, kind, far);
            match kind {
                Collective::AllReduce => {
                    let between = start + bytes / near * kind.factor(far) / nic;
                    inside(Collective::ReduceScatter, placed.near, bytes)
                        + between
                        + inside(Collective::AllGather, placed.near, bytes)
                }
                Collective::AllGather | Collective::ReduceScatter => {
                    start + bytes / near * kind.factor(far) / nic + inside(kind, placed.near, bytes)
                }
                Collective::AllToAll => {
                    let n = f64::from(placed.size);
                    let outside = bytes * (n - near) / n / nic;
                    let within = if placed.near > 1 {
                        let bus = fit(cluster, kind, placed.near);
                        bytes * (near - 1.0) / n / bus.bus.get()
                    } else {
                        0.0
                    };
                    start + outside.max(within)
                }
                Collective::SendRecv => cluster.network.latency.get() + 12e-6 + bytes / nic,
            }
        }
    };
    Seconds::new(seconds)
}

/// Fixed time of a collective between `far` domains: two nodes' small all-reduces take 60 to 90 us end to end, about 10 us more
/// for each doubling and 1 us for each domain of a ring. Half of it for one-directional collectives.
fn network_alpha(cluster: &Cluster, kind: Collective, far: u32) -> f64 {
    let both = cluster.network.latency.get() * 8.0 + 10e-6 * doublings(far) + HOP * f64::from(far) + 10e-6;
    match kind {
        Collective::AllReduce => both,
        Collective::AllGather | Collective::ReduceScatter | Collective::AllToAll | Collective::SendRecv => both / 2.0,
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
pub fn small_all_reduce(cluster: &Cluster, placed: Placed, bytes: f64) -> Seconds {
    let nccl = collective(cluster, placed, Collective::AllReduce, bytes);
    if placed.tier == Tier::Network || placed.size <= 1 {
        return nccl;
    }
    let custom = cluster.gpu.efficiency.custom_all_reduce.iter().find(|f| f.ranks == placed.size);
    match custom {
        None => nccl,
        Some(f) => {
            let own = f.alpha + Seconds::new(bytes * Collective::AllReduce.factor(placed.size) / f.bus.get());
            own.min(nccl)
        }
    }
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
