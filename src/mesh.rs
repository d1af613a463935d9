//! Degrees of parallelism and what they multiply to.
//!
//! A mixture-of-experts model has two grids on the same GPUs: attention and dense layers are cut by TP, CP and PP and
//! replicated by data parallelism; experts are cut by EP and expert-TP, PP, and replicated by expert data parallelism.
//!
//! ```text
//! world = TP * CP * PP * DPa        (attention side)
//! world = ETP * EP * PP * EDP       (expert side)
//! ```
//!
//! [`Mesh`] stores both; a [`Convention`] is a way of naming them.

use std::fmt;

/// The axes of parallelism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Axis {
    /// Tensor parallelism of attention and dense layers.
    Tp,
    /// Context parallelism.
    Cp,
    /// Expert parallelism.
    Ep,
    /// Tensor parallelism of routed experts.
    Etp,
    /// Pipeline parallelism.
    Pp,
    /// Data parallelism.
    Dp,
}

impl Axis {
    /// Every axis.
    pub const ALL: [Self; 6] = [Self::Tp, Self::Cp, Self::Ep, Self::Etp, Self::Pp, Self::Dp];

    /// The name in flags, files and outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tp => "tp",
            Self::Cp => "cp",
            Self::Ep => "ep",
            Self::Etp => "etp",
            Self::Pp => "pp",
            Self::Dp => "dp",
        }
    }

    /// What it is, for help texts.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Tp => "tensor parallel degree of attention and dense layers",
            Self::Cp => "context parallel degree",
            Self::Ep => "expert parallel degree",
            Self::Etp => "tensor parallel degree of the routed experts",
            Self::Pp => "pipeline parallel degree",
            Self::Dp => "data parallel degree of the convention in force",
        }
    }
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Both grids of a plan. Made by [`Mesh::new`] only, so the two always multiply to the same world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mesh {
    tp: u32,
    cp: u32,
    pp: u32,
    dp: u32,
    ep: u32,
    etp: u32,
    edp: u32,
}

impl Mesh {
    /// From the attention grid (`tp`, `cp`, `pp`, `dp`) and the expert grid (`ep`, `etp`); EDP is what is left.
    ///
    /// `None` when a degree is zero, the product overflows `u32`, or the expert grid does not divide the world.
    ///
    /// ```
    /// # use meshwright::mesh::Mesh;
    /// let mesh = Mesh::new(2, 1, 2, 4, 4, 2).expect("2 x 2 x 4 = 16 = 2 x 4 x 2");
    /// assert_eq!((mesh.world(), mesh.edp()), (16, 1));
    /// assert!(Mesh::new(2, 1, 2, 4, 3, 1).is_none());
    /// ```
    #[must_use]
    pub fn new(tp: u32, cp: u32, pp: u32, dp: u32, ep: u32, etp: u32) -> Option<Self> {
        let world = tp.checked_mul(cp)?.checked_mul(pp)?.checked_mul(dp)?;
        let cut = ep.checked_mul(etp)?.checked_mul(pp)?;
        if world == 0 || cut == 0 || !world.is_multiple_of(cut) {
            return None;
        }
        Some(Self { tp, cp, pp, dp, ep, etp, edp: world / cut })
    }

    /// The product convention's reading: `world = tp * cp * ep * pp * dp`, experts cut by TP too.
    #[must_use]
    pub fn product(tp: u32, cp: u32, ep: u32, pp: u32, dp: u32) -> Option<Self> {
        Self::new(tp, cp, pp, ep.checked_mul(dp)?, ep, tp)
    }

    /// Tensor parallel degree.
    #[must_use]
    pub const fn tp(&self) -> u32 {
        self.tp
    }

    /// Context parallel degree.
    #[must_use]
    pub const fn cp(&self) -> u32 {
        self.cp
    }

    /// Pipeline parallel degree.
    #[must_use]
    pub const fn pp(&self) -> u32 {
        self.pp
    }

    /// Data parallel degree of attention and dense layers.
    #[must_use]
    pub const fn dp_attention(&self) -> u32 {
        self.dp
    }

    /// Expert parallel degree.
    #[must_use]
    pub const fn ep(&self) -> u32 {
        self.ep
    }

    /// Tensor parallel degree of the routed experts.
    #[must_use]
    pub const fn etp(&self) -> u32 {
        self.etp
    }

    /// Data parallel degree of the routed experts.
    #[must_use]
    pub const fn edp(&self) -> u32 {
        self.edp
    }

    /// All GPUs.
    #[must_use]
    pub const fn world(&self) -> u32 {
        self.tp * self.cp * self.pp * self.dp
    }

    /// The DP of the product convention, when the mesh has a product form (ETP = TP and EP divides DPa).
    #[must_use]
    pub const fn product_dp(&self) -> Option<u32> {
        if self.etp == self.tp && self.dp.is_multiple_of(self.ep) { Some(self.dp / self.ep) } else { None }
    }
}

/// Ways of naming the two grids; see `docs/MODEL.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Convention {
    /// `world = TP*EP*PP*DP`: EP is a factor of its own (what planners on paper use).
    #[default]
    Product,
    /// Megatron-Core: EP folded over TP*CP*DP; ETP unset means ETP = TP.
    Megatron,
    /// Megatron Bridge: the same, but ETP unset means 1 when EP > 1.
    Bridge,
    /// torchtitan: `dp_replicate*dp_shard*cp*tp*pp = world`; EP borrows from `dp_shard*cp*tp`.
    Torchtitan,
    /// DeepSpeed: `DP = world/(TP*PP)`, EP inside DP, experts cut by TP.
    Deepspeed,
    /// vLLM: `TP*PP*DP` GPUs a replica; EP is a switch.
    Vllm,
    /// SGLang: `tp` is the world of a stage; attention DP and EP divide it.
    Sglang,
    /// TensorRT-LLM: `moe_tp*moe_ep = tp`; attention is TP or DP.
    Trtllm,
}

impl Convention {
    /// Every convention.
    pub const ALL: [Self; 8] = [
        Self::Product,
        Self::Megatron,
        Self::Bridge,
        Self::Torchtitan,
        Self::Deepspeed,
        Self::Vllm,
        Self::Sglang,
        Self::Trtllm,
    ];

    /// The name in flags and files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Product => "product",
            Self::Megatron => "megatron",
            Self::Bridge => "bridge",
            Self::Torchtitan => "torchtitan",
            Self::Deepspeed => "deepspeed",
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::Trtllm => "trtllm",
        }
    }

    /// Its identity, in symbols.
    #[must_use]
    pub const fn identity(self) -> &'static str {
        match self {
            Self::Product => "world = TP*EP*PP*DP",
            Self::Megatron => "TP*CP*PP divides world; ETP*EP*PP divides world; ETP unset = TP",
            Self::Bridge => "TP*CP*PP divides world; ETP*EP*PP divides world; ETP unset = 1 when EP > 1",
            Self::Torchtitan => "DP_REPLICATE*DP_SHARD*CP*TP*PP = world; EP divides DP_SHARD*CP*TP",
            Self::Deepspeed => "TP*PP divides world; EP divides DP = world/(TP*PP)",
            Self::Vllm => "TP*PP*DP = GPUs of a replica; EP off, or EP = TP*DP",
            Self::Sglang => "TP_SIZE*PP*DP_SIZE = world; EP and ATTN_DP divide TP_SIZE",
            Self::Trtllm => "TP*PP*CP = world; MOE_TP*MOE_EP = TP",
        }
    }

    /// The DP degree this convention would print for a mesh; the product falls back to the attention side when the mesh has
    /// no product form.
    #[must_use]
    pub fn dp(self, mesh: &Mesh) -> u32 {
        match self {
            Self::Product => mesh.product_dp().unwrap_or(mesh.dp),
            Self::Megatron
            | Self::Bridge
            | Self::Torchtitan
            | Self::Deepspeed
            | Self::Vllm
            | Self::Sglang
            | Self::Trtllm => mesh.dp,
        }
    }

    /// The identities of a mesh with their numbers: `TP*EP*PP*DP = 2*4*2*1 = 16`, then the two grids where they say more.
    #[must_use]
    pub fn formula(self, mesh: &Mesh) -> String {
        let dense = || {
            let terms = [("TP", mesh.tp), ("CP", mesh.cp), ("PP", mesh.pp), ("DP", mesh.dp)];
            product_text(&terms[..], &["CP"])
        };
        let expert = || {
            let terms = [("ETP", mesh.etp), ("EP", mesh.ep), ("PP", mesh.pp), ("EDP", mesh.edp)];
            product_text(&terms[..], &[])
        };
        match (self, mesh.product_dp()) {
            (Self::Product, Some(dp)) => {
                let terms = [("TP", mesh.tp), ("CP", mesh.cp), ("EP", mesh.ep), ("PP", mesh.pp), ("DP", dp)];
                product_text(&terms[..], &["CP"])
            }
            _ if mesh.ep == 1 && mesh.etp == mesh.tp => dense(),
            _ => format!("{}, {}", dense(), expert()),
        }
    }
}

impl fmt::Display for Convention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `TP*EP = 2*4 = 8`; names in `optional` are left out while their degree is 1.
#[must_use]
pub fn product_text(terms: &[(&str, u32)], optional: &[&str]) -> String {
    let shown: Vec<&(&str, u32)> = terms.iter().filter(|(n, d)| *d != 1 || !optional.contains(n)).collect();
    let names: Vec<&str> = shown.iter().map(|(n, _)| *n).collect();
    let degrees: Vec<String> = shown.iter().map(|(_, d)| d.to_string()).collect();
    let product: u64 = shown.iter().fold(1_u64, |p, (_, d)| p.saturating_mul(u64::from(*d)));
    format!("{} = {} = {product}", names.join("*"), degrees.join("*"))
}

/// All divisors of `n`, ascending.
#[must_use]
pub fn divisors(n: u64) -> Vec<u64> {
    if n == 0 {
        return Vec::new();
    }
    let mut low = Vec::new();
    let mut high = Vec::new();
    let mut d = 1;
    while d * d <= n {
        if n.is_multiple_of(d) {
            low.push(d);
            if d != n / d {
                high.push(n / d);
            }
        }
        d += 1;
    }
    low.extend(high.into_iter().rev());
    low
}

/// Ranks that talk together: up to two nested strides, the inner one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Ranks and distance between neighbours of the inner level.
    pub inner: (u32, u32),
    /// Of the outer level; `(1, _)` when there is none.
    pub outer: (u32, u32),
}

impl Group {
    /// A group of one stride.
    #[must_use]
    pub const fn strided(size: u32, stride: u32) -> Self {
        Self { inner: (size, stride), outer: (1, 1) }
    }

    /// Ranks in the group.
    #[must_use]
    pub const fn size(&self) -> u32 {
        self.inner.0 * self.outer.0
    }

    /// The distance between its nearest ranks.
    #[must_use]
    pub const fn stride(&self) -> u32 {
        self.inner.1
    }

    /// How many of its ranks share a block of `span` consecutive GPUs (a node, a domain).
    #[must_use]
    pub fn members_within(&self, span: u32) -> u32 {
        let level = |(size, stride): (u32, u32)| size.min((span / stride.max(1)).max(1));
        level(self.inner) * level(self.outer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missions_plan_needs_thirty_two() {
        let mesh = Mesh::product(2, 1, 4, 2, 2).expect("factors that divide");
        assert_eq!(Convention::Product.formula(&mesh), "TP*EP*PP*DP = 2*4*2*2 = 32");
        assert_eq!((mesh.dp_attention(), mesh.edp()), (8, 2));
    }

    #[test]
    fn members_of_a_node() {
        assert_eq!(Group::strided(8, 1).members_within(8), 8);
        assert_eq!(Group::strided(8, 4).members_within(8), 2);
        assert_eq!(Group::strided(8, 16).members_within(8), 1);
        assert_eq!(Group { inner: (2, 1), outer: (4, 4) }.members_within(8), 4);
    }

    #[test]
    fn divisors_ascend() {
        assert_eq!(divisors(12), [1, 2, 3, 4, 6, 12]);
        assert_eq!(divisors(1), [1]);
    }
}
