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
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeshBlock<'a> {
    /// The degrees.
    pub mesh: Mesh,
    /// Knobs that no plan of the block varies.
    pub base: Knobs,
    /// Micro-batches.
    pub micro_batches: &'a [u32],
    /// Virtual chunks.
    pub vpps: &'a [u32],
    /// Recomputation.
    pub recomputes: &'a [Recompute],
    /// ZeRO stages.
    pub zeros: &'a [u8],
    /// Schedules.
    pub schedules: &'a [Schedule],
    /// Percent of the optimizer in host memory.
    pub offloads: &'a [u8],
}

impl MeshBlock<'_> {
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
        self.plan(Knobs { micro_batch, vpp, recompute, zero, schedule, optimizer_offload, ..self.base })
    }

    /// The plan of these knobs: interleaved stages are all alike, so their ends are not set apart.
    #[must_use]
    pub fn plan(&self, knobs: Knobs) -> Plan {
        let ends = if knobs.vpp > 1 { (0, 0) } else { (self.base.first_stage_layers, self.base.last_stage_layers) };
        Plan { mesh: self.mesh, knobs: Knobs { first_stage_layers: ends.0, last_stage_layers: ends.1, ..knobs } }
    }

    /// The plan that rules on degrees look at: the first.
    #[must_use]
    pub fn sample(&self) -> Plan {
        Plan { mesh: self.mesh, knobs: self.base }
    }
}

/// All plans of a job, numbered. It holds the meshes; their plans are made when they are asked for.
#[derive(Debug, Clone)]
pub struct Space {
    /// Divisor products of the budget over TP, EP, PP, DP, before any rule or pin.
    pub factorisations: u64,
    meshes: Vec<(Mesh, u32)>,
    starts: Vec<u64>,
    knobs: KnobLists,
}

impl Space {
    /// Enumerates.
    #[must_use]
    pub fn new(job: &Job, options: &SpaceOptions) -> Self {
        let world = job.gpus();
        let least = if options.use_fewer { world.div_ceil(2) } else { world };
        let mut all: Vec<(Mesh, u32)> = Vec::new();
        for gpus in counts(world, least, job.cluster.gpus_per_node) {
            let from = all.len();
            meshes(job, options, gpus, &mut all);
            all[from..].sort_unstable();
        }
        // Counts of GPUs do not share meshes, so equal ones are neighbours.
        all.dedup();
        let knobs = KnobLists::new(job, options, &all);
        let mut starts = Vec::with_capacity(all.len() + 1);
        let mut sum = 0;
        starts.push(0);
        for (mesh, replicas) in &all {
            sum += knobs.block(*mesh, *replicas).len();
            starts.push(sum);
        }
        Self { factorisations: products(u64::from(world), 4), meshes: all, starts, knobs }
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

    /// The blocks, one a mesh, in order.
    #[must_use]
    pub fn blocks(&self) -> impl ExactSizeIterator<Item = MeshBlock<'_>> {
        self.meshes.iter().map(|(mesh, replicas)| self.knobs.block(*mesh, *replicas))
    }

    /// The `i`-th block.
    ///
    /// # Panics
    /// When there are not so many.
    #[must_use]
    pub fn block(&self, i: usize) -> MeshBlock<'_> {
        let (mesh, replicas) = self.meshes[i];
        self.knobs.block(mesh, replicas)
    }

    /// The numbers of all blocks, those next to each other that differ in PP and DP alone: they have the most in common.
    #[must_use]
    pub fn alike_first(&self) -> Vec<u32> {
        let key = |at: &u32| {
            let mesh = &self.meshes[*at as usize].0;
            (mesh.tp(), mesh.cp(), mesh.ep(), mesh.etp(), *at)
        };
        let mut order: Vec<u32> = (0..self.meshes.len() as u32).collect();
        order.sort_unstable_by_key(key);
        order
    }

    /// The `i`-th plan.
    ///
    /// # Panics
    /// When `i` is not below [`Space::len`].
    #[must_use]
    pub fn get(&self, i: u64) -> Plan {
        let at = self.starts.partition_point(|start| *start <= i) - 1;
        self.block(at).get(i - self.starts[at])
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

/// The counts to plan for when some of `gpus` may idle, most first: fewer than all, at least half.
#[must_use]
pub fn fewer(gpus: u32, per_node: u32) -> Vec<u32> {
    let mut all = counts(gpus, gpus.div_ceil(2), per_node);
    all.retain(|n| *n < gpus);
    all
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
fn meshes(job: &Job, options: &SpaceOptions, gpus: u32, out: &mut Vec<(Mesh, u32)>) {
    let b = &options.bounds;
    let all = narrow_divisors(gpus);
    // What divides a part of the GPUs divides all of them.
    let d = |n: u32| all.iter().copied().filter(move |v| n.is_multiple_of(*v));
    let moe = job.model.moe().is_some();
    let serving = job.serve().is_some();
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
                    for ep in d(if moe { dp } else { 1 }) {
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
                            | Framework::Trtllm => d(stage).collect(),
                        };
                        for ep in eps {
                            keep(Mesh::new(tp, 1, pp, copies, ep, stage / ep), replicas, dp);
                        }
                    }
                }
            }
        }
    }
}

fn narrow_divisors(n: u32) -> Vec<u32> {
    divisors(u64::from(n)).into_iter().map(|v| v as u32).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The lists of knobs that blocks pick from: few, whatever the number of meshes.
#[derive(Debug, Clone)]
struct KnobLists {
    framework: Option<Framework>,
    layers: u32,
    training: bool,
    fused_kernels: Toggle,
    /// By data parallel degree of attention, ascending.
    micro_batches: Vec<(u32, Vec<u32>)>,
    /// By PP, ascending.
    vpps: Vec<(u32, Vec<u32>)>,
    recomputes: Vec<Recompute>,
    zeros: Vec<u8>,
    schedules: Vec<Schedule>,
    offloads: Vec<u8>,
}

impl KnobLists {
    fn new(job: &Job, options: &SpaceOptions, meshes: &[(Mesh, u32)]) -> Self {
        let b = &options.bounds;
        let framework = options.framework;
        let layers = job.model.layers();
        let mut lists = Self {
            framework,
            layers,
            training: false,
            fused_kernels: framework.map_or(Toggle::Default, Framework::kernels),
            micro_batches: Vec::new(),
            vpps: Vec::new(),
            recomputes: vec![Recompute::None],
            zeros: vec![1],
            schedules: vec![Schedule::OneFOneB],
            offloads: vec![0],
        };
        let Workload::Train(train) = &job.workload else { return lists };
        lists.training = true;
        lists.micro_batches = by_degree(meshes, &b.micro_batch, Mesh::dp_attention, |dp| {
            let whole = train.global_batch.is_multiple_of(dp) && train.global_batch >= dp;
            if whole { narrow_divisors(train.global_batch / dp) } else { vec![1] }
        });
        let interleaves = matches!(framework, None | Some(Framework::Megatron | Framework::Bridge));
        lists.vpps = by_degree(meshes, &b.vpp, Mesh::pp, |pp| {
            let cuts = pp > 1 && layers.is_multiple_of(pp) && interleaves;
            if cuts { narrow_divisors(layers / pp) } else { vec![1] }
        });
        lists.recomputes = if b.recompute.is_empty() { recomputes(job, framework) } else { b.recompute.clone() };
        lists.zeros.clone_from(&b.zero);
        if !b.schedule.is_empty() {
            lists.schedules.clone_from(&b.schedule);
        }
        if !b.optimizer_offload.is_empty() {
            lists.offloads.clone_from(&b.optimizer_offload);
        }
        lists
    }

    fn block(&self, mesh: Mesh, replicas: u32) -> MeshBlock<'_> {
        let mut base =
            Knobs { replicas, sequence_parallel: mesh.tp() > 1, fused_kernels: self.fused_kernels, ..Knobs::default() };
        if self.training
            && matches!(self.framework, Some(Framework::Megatron | Framework::Bridge))
            && let Some((first, last)) = uneven_ends(self.layers, mesh.pp())
        {
            (base.first_stage_layers, base.last_stage_layers) = (first, last);
        }
        MeshBlock {
            mesh,
            base,
            micro_batches: of_degree(&self.micro_batches, mesh.dp_attention()),
            vpps: of_degree(&self.vpps, mesh.pp()),
            recomputes: &self.recomputes,
            zeros: self.zeros(&mesh),
            schedules: &self.schedules,
            offloads: &self.offloads,
        }
    }

    /// ZeRO stages of a mesh: what the user named, or what the framework knows.
    fn zeros(&self, mesh: &Mesh) -> &[u8] {
        if !self.training {
            return &[1];
        }
        if !self.zeros.is_empty() {
            return &self.zeros;
        }
        // With nothing to shard over, every stage is the same plan.
        let shards = mesh.dp_attention() * mesh.cp() * mesh.edp();
        match self.framework {
            _ if shards == 1 => &[1],
            // Sharded gradients would be reduced at every micro-batch of a pipeline: nobody offers ZeRO-2 with one.
            None if mesh.pp() > 1 => &[0, 1, 3],
            Some(Framework::Deepspeed) if mesh.pp() > 1 => &[0, 1],
            None | Some(Framework::Deepspeed) => &[0, 1, 2, 3],
            Some(Framework::Megatron | Framework::Bridge) => &[0, 1],
            Some(Framework::Torchtitan) => &[3],
            Some(Framework::Vllm | Framework::Sglang | Framework::Trtllm) => &[1],
        }
    }
}

/// One list for every value of a degree that the meshes have, or the user's own list for all.
fn by_degree(
    meshes: &[(Mesh, u32)],
    own: &[u32],
    degree: fn(&Mesh) -> u32,
    list: impl Fn(u32) -> Vec<u32>,
) -> Vec<(u32, Vec<u32>)> {
    let mut degrees: Vec<u32> = meshes.iter().map(|(mesh, _)| degree(mesh)).collect();
    degrees.sort_unstable();
    degrees.dedup();
    degrees.into_iter().map(|d| (d, if own.is_empty() { list(d) } else { own.to_vec() })).collect()
}

fn of_degree(lists: &[(u32, Vec<u32>)], degree: u32) -> &[u32] {
    match lists.binary_search_by_key(&degree, |(d, _)| *d) {
        Ok(at) => &lists[at].1,
        Err(_) => &[1],
    }
}

/// What the framework can recompute, from nothing to everything.
fn recomputes(job: &Job, framework: Option<Framework>) -> Vec<Recompute> {
    let latent = if job.model.is_mla() { 1 << Module::MlaUpProj as u8 } else { 0 };
    let light = 1 << Module::CoreAttn as u8 | 1 << Module::MlpAct as u8 | 1 << Module::Layernorm as u8 | latent;
    match framework {
        // These know whole layers, or their own fixed selection, and no list of modules.
        Some(Framework::Torchtitan) => vec![Recompute::None, Recompute::SELECTIVE, Recompute::Full],
        Some(Framework::Deepspeed) => vec![Recompute::None, Recompute::Full],
        None
        | Some(Framework::Megatron | Framework::Bridge | Framework::Vllm | Framework::Sglang | Framework::Trtllm) => {
            vec![Recompute::None, Recompute::SELECTIVE, Recompute::Modules(light), Recompute::Full]
        }
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
