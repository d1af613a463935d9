//! Which plans exist: every factorisation of the GPUs over the axes, times the knobs, numbered and without repeats.
//!
//! Nothing is left out here because it is illegal; rules refuse later and keep count. Only what a user pinned, and what would
//! repeat another plan under another name, is not enumerated.

use crate::framework::Framework;
use crate::job::{Job, Workload};
use crate::mesh::{Convention, Mesh, divisors};
use crate::plan::{Knobs, Module, Plan, Recompute, Schedule, Toggle};

/// Which pairs of grids are enumerated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Scope {
    /// Products TP*EP*PP*DP.
    #[default]
    Product,
    /// Every pair of grids: TP*CP*PP*DP and ETP*EP*PP*EDP.
    Folded,
}

/// What the user pinned or bounded; empty lists mean "every value".
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bounds {
    /// TP.
    pub tp: Vec<u32>,
    /// CP.
    pub cp: Vec<u32>,
    /// EP.
    pub ep: Vec<u32>,
    /// ETP.
    pub etp: Vec<u32>,
    /// PP.
    pub pp: Vec<u32>,
    /// DP of the convention in force.
    pub dp: Vec<u32>,
    /// Serving replicas.
    pub replicas: Vec<u32>,
    /// Micro-batch.
    pub micro_batch: Vec<u32>,
    /// Virtual chunks.
    pub vpp: Vec<u32>,
    /// Recomputation.
    pub recompute: Vec<Recompute>,
    /// ZeRO stages.
    pub zero: Vec<u8>,
    /// Schedules; only 1F1B unless named.
    pub schedule: Vec<Schedule>,
    /// Percent of the optimizer in host memory; only 0 unless named.
    pub optimizer_offload: Vec<u8>,
}

/// What to enumerate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SpaceOptions {
    /// Which grids.
    pub scope: Scope,
    /// Only what this framework can say, in its own convention.
    pub framework: Option<Framework>,
    /// Plans on fewer GPUs too, down to half of them.
    pub use_fewer: bool,
    /// Pins and bounds.
    pub bounds: Bounds,
}

impl SpaceOptions {
    /// The convention in force: the framework's; without one, product's names for products and Megatron's, which can say both
    /// grids, for folded plans.
    #[must_use]
    pub fn convention(&self) -> Convention {
        match (self.framework, self.scope) {
            (Some(framework), _) => framework.convention(),
            (None, Scope::Product) => Convention::Product,
            (None, Scope::Folded) => Convention::Megatron,
        }
    }
}

/// One mesh and the lists of knobs that go with it.
#[derive(Debug, Clone, PartialEq)]
pub struct MeshBlock {
    /// The degrees.
    pub mesh: Mesh,
    base: Knobs,
    micro_batches: Vec<u32>,
    vpps: Vec<u32>,
    recomputes: Vec<Recompute>,
    zeros: Vec<u8>,
    schedules: Vec<Schedule>,
    offloads: Vec<u8>,
}

impl MeshBlock {
    /// How many plans it holds.
    #[must_use]
    pub fn len(&self) -> u64 {
        [
            self.micro_batches.len(),
            self.vpps.len(),
            self.recomputes.len(),
            self.zeros.len(),
            self.schedules.len(),
            self.offloads.len(),
        ]
        .iter()
        .map(|n| *n as u64)
        .product()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `i`-th plan, micro-batch varying slowest.
    #[must_use]
    pub fn get(&self, i: u64) -> Plan {
        let mut rest = i as usize;
        let mut pick = |len: usize| {
            let at = rest % len;
            rest /= len;
            at
        };
        let optimizer_offload = self.offloads[pick(self.offloads.len())];
        let schedule = self.schedules[pick(self.schedules.len())];
        let zero = self.zeros[pick(self.zeros.len())];
        let recompute = self.recomputes[pick(self.recomputes.len())];
        let vpp = self.vpps[pick(self.vpps.len())];
        let micro_batch = self.micro_batches[pick(self.micro_batches.len())];
        let knobs = Knobs { micro_batch, vpp, recompute, zero, schedule, optimizer_offload, ..self.base };
        let ends = if vpp > 1 { (0, 0) } else { (self.base.first_stage_layers, self.base.last_stage_layers) };
        Plan { mesh: self.mesh, knobs: Knobs { first_stage_layers: ends.0, last_stage_layers: ends.1, ..knobs } }
    }

    /// The plan that rules on degrees look at: the first.
    #[must_use]
    pub fn sample(&self) -> Plan {
        Plan { mesh: self.mesh, knobs: self.base }
    }
}

/// All plans of a job.
#[derive(Debug, Clone)]
pub struct Space {
    /// Meshes with their knobs, in order.
    pub blocks: Vec<MeshBlock>,
    /// Divisor products of the budget over TP, EP, PP, DP, before any rule or pin.
    pub factorisations: u64,
    starts: Vec<u64>,
}

impl Space {
    /// Enumerates.
    #[must_use]
    pub fn new(job: &Job, options: &SpaceOptions) -> Self {
        let world = job.gpus();
        let least = if options.use_fewer { world.div_ceil(2) } else { world };
        let mut blocks: Vec<MeshBlock> = Vec::new();
        for gpus in counts(world, least, job.cluster.gpus_per_node) {
            let mut meshes = meshes(job, options, gpus);
            meshes.sort_unstable();
            meshes.dedup();
            blocks.extend(meshes.into_iter().map(|(mesh, replicas)| block(job, options, mesh, replicas)));
        }
        let mut starts = vec![0];
        let mut sum = 0;
        for block in &blocks {
            sum += block.len();
            starts.push(sum);
        }
        Self { blocks, factorisations: products(u64::from(world), 4), starts }
    }

    /// How many plans there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The `i`-th plan.
    ///
    /// # Panics
    /// When `i` is not below [`Space::len`].
    #[must_use]
    pub fn get(&self, i: u64) -> Plan {
        let at = self.starts.partition_point(|start| *start <= i) - 1;
        self.blocks[at].get(i - self.starts[at])
    }
}

/// Most GPU counts that are planned for when fewer may be used.
const MOST_COUNTS: usize = 64;

/// The GPU counts to plan for, most first: every one of a small cluster, whole nodes of a large one, at most [`MOST_COUNTS`].
fn counts(world: u32, least: u32, per_node: u32) -> Vec<u32> {
    let all = (least..=world).rev();
    if (world - least) as usize <= MOST_COUNTS {
        return all.collect();
    }
    all.filter(|n| *n == world || n.is_multiple_of(per_node)).take(MOST_COUNTS).collect()
}

/// Ordered ways to write `n` as a product of `factors` numbers: for each prime power `p^k`, `C(k + factors - 1, factors - 1)`.
///
/// ```
/// # use meshwright::space::products;
/// assert_eq!([products(16, 4), products(96, 4), products(1024, 4)], [35, 224, 286]);
/// ```
#[must_use]
pub fn products(n: u64, factors: u64) -> u64 {
    if n == 0 {
        return 0;
    }
    let choose = |k: u64| (1..factors).fold(1, |c, i| c * (k + i) / i);
    let (mut rest, mut count, mut p) = (n, 1, 2);
    while p * p <= rest {
        let mut k = 0;
        while rest.is_multiple_of(p) {
            rest /= p;
            k += 1;
        }
        count *= choose(k);
        p += 1;
    }
    if rest > 1 { count * choose(1) } else { count }
}

fn allowed(list: &[u32], value: u32) -> bool {
    list.is_empty() || list.contains(&value)
}

/// Every mesh of `gpus` GPUs, with its serving replicas.
fn meshes(job: &Job, options: &SpaceOptions, gpus: u32) -> Vec<(Mesh, u32)> {
    let b = &options.bounds;
    let d = |n: u32| divisors(u64::from(n)).into_iter().map(|v| v as u32).collect::<Vec<u32>>();
    let moe = job.model.moe().is_some();
    let serving = job.serve().is_some();
    let mut out = Vec::new();
    let mut keep = |mesh: Option<Mesh>, replicas: u32, dp: u32| {
        if let Some(mesh) = mesh
            && allowed(&b.tp, mesh.tp())
            && allowed(&b.cp, mesh.cp())
            && allowed(&b.pp, mesh.pp())
            && allowed(&b.ep, mesh.ep())
            && allowed(&b.etp, mesh.etp())
            && allowed(&b.dp, dp)
            && allowed(&b.replicas, replicas)
        {
            out.push((mesh, replicas));
        }
    };
    match options.framework {
        None if options.scope == Scope::Product => {
            // The product has no CP of its own; a pinned one is one factor more.
            let cps = if b.cp.is_empty() { vec![1] } else { b.cp.clone() };
            for cp in cps {
                if cp == 0 || !gpus.is_multiple_of(cp) {
                    continue;
                }
                for tp in d(gpus / cp) {
                    for ep in d(gpus / cp / tp) {
                        for pp in d(gpus / cp / tp / ep) {
                            let dp = gpus / cp / tp / ep / pp;
                            let replicas = if serving { dp } else { 1 };
                            keep(Mesh::product(tp, cp, ep, pp, dp), replicas, dp);
                        }
                    }
                }
            }
        }
        None | Some(Framework::Megatron | Framework::Bridge | Framework::Torchtitan) => {
            let titan = options.framework == Some(Framework::Torchtitan);
            for tp in d(gpus) {
                for cp in d(gpus / tp) {
                    if serving && cp > 1 {
                        continue;
                    }
                    for pp in d(gpus / tp / cp) {
                        let dp = gpus / tp / cp / pp;
                        if !moe {
                            let replicas = if serving { dp } else { 1 };
                            keep(Mesh::new(tp, cp, pp, dp, 1, tp), replicas, dp);
                            continue;
                        }
                        for ep in d(gpus / pp) {
                            for etp in d(gpus / pp / ep) {
                                if titan && etp > 1 {
                                    continue;
                                }
                                let mesh = Mesh::new(tp, cp, pp, dp, ep, etp);
                                // Expert data parallel copies that attention is not split over are whole replicas.
                                let replicas = if serving { mesh.map_or(1, |m| gcd(m.edp(), dp)) } else { 1 };
                                keep(mesh, replicas, dp);
                            }
                        }
                    }
                }
            }
        }
        Some(Framework::Deepspeed) => {
            for tp in d(gpus) {
                for pp in d(gpus / tp) {
                    let dp = gpus / tp / pp;
                    for ep in if moe { d(dp) } else { vec![1] } {
                        keep(Mesh::new(tp, 1, pp, dp, ep, tp), 1, dp);
                    }
                }
            }
        }
        Some(framework @ (Framework::Vllm | Framework::Sglang | Framework::Trtllm)) => {
            for replicas in d(gpus) {
                for pp in d(gpus / replicas) {
                    let stage = gpus / replicas / pp;
                    for tp in d(stage) {
                        let dp = stage / tp;
                        if !moe && dp > 1 {
                            continue;
                        }
                        let copies = dp * replicas;
                        if !moe {
                            keep(Mesh::new(tp, 1, pp, copies, 1, tp), replicas, dp);
                            continue;
                        }
                        let eps = match framework {
                            Framework::Vllm if stage > 1 => vec![1, stage],
                            Framework::Vllm => vec![1],
                            // TensorRT-LLM's attention is all TP or all data parallel.
                            Framework::Trtllm if dp > 1 && tp > 1 => Vec::new(),
                            Framework::Megatron
                            | Framework::Bridge
                            | Framework::Torchtitan
                            | Framework::Deepspeed
                            | Framework::Sglang
                            | Framework::Trtllm => d(stage),
                        };
                        for ep in eps {
                            keep(Mesh::new(tp, 1, pp, copies, ep, stage / ep), replicas, dp);
                        }
                    }
                }
            }
        }
    }
    out
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn block(job: &Job, options: &SpaceOptions, mesh: Mesh, replicas: u32) -> MeshBlock {
    let b = &options.bounds;
    let framework = options.framework;
    let fused_kernels = framework.map_or(Toggle::Default, Framework::kernels);
    let mut base = Knobs { replicas, sequence_parallel: mesh.tp() > 1, fused_kernels, ..Knobs::default() };
    let Workload::Train(train) = &job.workload else {
        return MeshBlock {
            mesh,
            base,
            micro_batches: vec![1],
            vpps: vec![1],
            recomputes: vec![Recompute::None],
            zeros: vec![1],
            schedules: vec![Schedule::OneFOneB],
            offloads: vec![0],
        };
    };
    let layers = job.model.layers();
    if matches!(framework, Some(Framework::Megatron | Framework::Bridge))
        && let Some((first, last)) = uneven_ends(layers, mesh.pp())
    {
        (base.first_stage_layers, base.last_stage_layers) = (first, last);
    }
    let own_or = |list: &[u32], default: Vec<u32>| if list.is_empty() { default } else { list.to_vec() };
    let per_rank = train.global_batch / mesh.dp_attention().max(1);
    let splits = train.global_batch.is_multiple_of(mesh.dp_attention());
    let batches = if splits && per_rank > 0 {
        divisors(u64::from(per_rank)).into_iter().map(|v| v as u32).collect()
    } else {
        vec![1]
    };
    let interleaves = matches!(framework, None | Some(Framework::Megatron | Framework::Bridge));
    let chunks = if mesh.pp() > 1 && layers.is_multiple_of(mesh.pp()) && interleaves {
        divisors(u64::from(layers / mesh.pp())).into_iter().map(|v| v as u32).collect()
    } else {
        vec![1]
    };
    let latent = if job.model.is_mla() { 1 << Module::MlaUpProj as u8 } else { 0 };
    let light = 1 << Module::CoreAttn as u8 | 1 << Module::MlpAct as u8 | 1 << Module::Layernorm as u8 | latent;
    let recomputes = if b.recompute.is_empty() {
        match framework {
            // These know whole layers, or their own fixed selection, and no list of modules.
            Some(Framework::Torchtitan) => vec![Recompute::None, Recompute::SELECTIVE, Recompute::Full],
            Some(Framework::Deepspeed) => vec![Recompute::None, Recompute::Full],
            None
            | Some(Framework::Megatron | Framework::Bridge | Framework::Vllm | Framework::Sglang | Framework::Trtllm) =>
            {
                vec![Recompute::None, Recompute::SELECTIVE, Recompute::Modules(light), Recompute::Full]
            }
        }
    } else {
        b.recompute.clone()
    };
    let zeros = if b.zero.is_empty() {
        // With nothing to shard over, every stage is the same plan.
        let shards = mesh.dp_attention() * mesh.cp() * mesh.edp();
        match framework {
            _ if shards == 1 => vec![1],
            // Sharded gradients would be reduced at every micro-batch of a pipeline: nobody offers ZeRO-2 with one.
            None if mesh.pp() > 1 => vec![0, 1, 3],
            Some(Framework::Deepspeed) if mesh.pp() > 1 => vec![0, 1],
            None | Some(Framework::Deepspeed) => vec![0, 1, 2, 3],
            Some(Framework::Megatron | Framework::Bridge) => vec![0, 1],
            Some(Framework::Torchtitan) => vec![3],
            Some(Framework::Vllm | Framework::Sglang | Framework::Trtllm) => vec![1],
        }
    } else {
        b.zero.clone()
    };
    MeshBlock {
        mesh,
        base,
        micro_batches: own_or(&b.micro_batch, batches),
        vpps: own_or(&b.vpp, chunks),
        recomputes,
        zeros,
        schedules: if b.schedule.is_empty() { vec![Schedule::OneFOneB] } else { b.schedule.clone() },
        offloads: if b.optimizer_offload.is_empty() { vec![0] } else { b.optimizer_offload.clone() },
    }
}

/// First and last stage for Megatron when the layers do not divide: the middle stages get the rounded-up share, the ends, which
/// also hold embedding and head, what is left.
fn uneven_ends(layers: u32, pp: u32) -> Option<(u32, u32)> {
    if pp < 2 || layers.is_multiple_of(pp) {
        return None;
    }
    let try_middle = |middle: u32| {
        let rest = layers.checked_sub(middle * (pp - 2))?;
        (rest >= 2).then_some((rest.div_ceil(2), rest / 2))
    };
    try_middle(layers.div_ceil(pp)).or_else(|| try_middle(layers / pp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uneven_ends_cover_the_layers() {
        assert_eq!(uneven_ends(61, 4), Some((15, 14)));
        assert_eq!(uneven_ends(61, 2), Some((31, 30)));
        assert_eq!(uneven_ends(94, 8), Some((11, 11)));
        assert_eq!(uneven_ends(64, 8), None);
        for layers in 2..130 {
            for pp in 2..=layers {
                if let Some((first, last)) = uneven_ends(layers, pp) {
                    let middle = layers - first - last;
                    assert!(pp == 2 && middle == 0 || middle % (pp - 2) == 0, "{layers} {pp}");
                }
            }
        }
    }
}
