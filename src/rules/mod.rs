//! Which plans can work: every rule as data, with an id, what it asks, and its numbers when it refuses.
//!
//! Rules come in three layers of rising cost. [`resolve`] turns what somebody wrote ([`Draft`]) into a mesh or says which
//! product does not come out; [`check_mesh`] looks at degrees against the model and the cluster; [`check_plan`] looks at knobs
//! (batch, interleaving, stages) on top. Memory is a rule too, but `estimate` is the one who can tell.

mod case;
mod deepspeed;
#[cfg(test)]
mod facts;
mod grid;
mod knobs;
mod megatron;
mod sglang;
mod shape;
mod sources;
#[cfg(test)]
mod tests;
mod torchtitan;
mod trtllm;
mod vllm;
mod warnings;

pub use grid::{Resolution, resolve};
pub use sources::Source;
pub use warnings::{Warning, warnings};

use case::{Case, Flow};

use crate::framework::Framework;
use crate::job::Job;
use crate::mesh::{Mesh, divisors};
use crate::plan::{Draft, Plan, Toggle};
use std::fmt;
use std::ops::ControlFlow;

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident $id:literal $kind:ident $what:literal $by:literal;)*) => {
        /// Every rule.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $($(#[$doc])* $name,)*
        }

        impl Rule {
            /// Every rule, in the order they are applied.
            pub const ALL: [Self; [$(Self::$name),*].len()] = [$(Self::$name),*];

            /// The id in outputs.
            #[must_use]
            pub const fn id(self) -> &'static str {
                match self {
                    $(Self::$name => $id,)*
                }
            }

            /// What the rule asks: a sentence with `{have}` and `{need}` for the two numbers of a refusal.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self {
                    $(Self::$name => $what,)*
                }
            }

            /// How the two numbers relate, which is also how legal values are found.
            #[must_use]
            pub const fn kind(self) -> Kind {
                match self {
                    $(Self::$name => Kind::$kind,)*
                }
            }

            /// The knob or degree to change.
            #[must_use]
            pub const fn changes(self) -> &'static str {
                match self {
                    $(Self::$name => $by,)*
                }
            }
        }
    };
}

/// How the numbers of a refusal relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `need` must divide `have`.
    Divides,
    /// `need` must divide `have` or be a multiple of it.
    DividesOrMultiple,
    /// `need` must not exceed `have`.
    AtMost,
    /// `need` must equal `have`.
    Equals,
    /// A condition; the numbers are context.
    Holds,
}

rules! {
    /// The degrees multiply to more or less than the GPUs there are.
    World "world" Equals "the degrees multiply to {need} GPUs, and there are {have}" "tp, ep, pp or dp";
    /// The dense grid does not divide the world.
    DenseGrid "dense-grid" Divides "the {have} GPUs are not a multiple of TP*CP*PP = {need}" "tp, cp or pp";
    /// The expert grid does not divide the world.
    ExpertGrid "expert-grid" Divides "the {have} GPUs are not a multiple of ETP*EP*PP = {need}" "ep, etp or pp";
    /// EP does not fit into the ranks it borrows.
    ExpertFold "expert-fold" Divides "the {have} ranks that experts may be spread over are not a multiple of EP = {need}" "ep";
    /// Expert TP times EP does not make the stage.
    ExpertSplit "expert-split" Equals "expert TP times EP is {need}, and must be the {have} ranks of a stage" "ep";
    /// The framework has no way to say this mesh.
    NotExpressible "not-expressible" Holds "the framework cannot say this mesh (EP {need} of {have} ranks)" "ep";
    /// EP without experts.
    NoExperts "no-experts" AtMost "the model has no routed experts, so EP must be 1, and it is {need}" "ep";
    /// EP does not divide the experts.
    Experts "experts" Divides "the {have} experts are not a multiple of EP = {need}" "ep";
    /// TP does not divide the query heads.
    Heads "heads" Divides "the {have} attention heads are not a multiple of TP = {need}" "tp";
    /// TP neither divides the KV heads nor is a multiple of them.
    KvHeads "kv-heads" DividesOrMultiple "the {have} KV heads neither divide nor are a multiple of TP = {need}" "tp";
    /// TP does not divide the KV heads of a framework that does not replicate them.
    KvHeadsWhole "kv-heads-whole" Divides "the {have} KV heads are not a multiple of TP = {need}, and are not replicated here" "tp";
    /// TP does not divide the heads of linear-attention layers.
    LinearHeads "linear-heads" Divides "the {have} heads of the linear layers are not a multiple of TP = {need}" "tp";
    /// TP does not divide the dense FFN.
    Ffn "ffn" Divides "the dense FFN width {have} is not a multiple of TP = {need}" "tp";
    /// TP does not divide the shared experts.
    SharedFfn "shared-ffn" Divides "the shared experts' width {have} is not a multiple of TP = {need}" "tp";
    /// ETP does not divide the expert FFN.
    ExpertFfn "expert-ffn" Divides "the expert FFN width {have} is not a multiple of expert TP = {need}" "etp";
    /// Experts with biases.
    ExpertBias "expert-bias" Holds "experts with biases are not cut, and expert TP is {need}" "etp";
    /// More cuts of an expert than experts.
    ExpertTpExperts "expert-tp-experts" AtMost "expert TP = {need} exceeds the {have} experts" "ep";
    /// A dense shard is not a whole number of quantisation blocks.
    QuantBlock "quant-block" Divides "a dense shard of width {have} is not a multiple of the quantisation block of {need}" "tp";
    /// An expert shard is not a whole number of quantisation blocks.
    ExpertQuantBlock "expert-quant-block" Divides "an expert shard of width {have} is not a multiple of the quantisation block of {need}" "etp, or ep instead";
    /// The hardware lacks the number format.
    Format "format" Holds "the GPU has no tensor cores for this number format" "precision";
    /// More stages than layers.
    Stages "stages" AtMost "{need} pipeline chunks cannot share {have} layers" "pp";
    /// The framework wants equal stages.
    Layers "layers" Divides "the {have} layers are not a multiple of the {need} stages or chunks" "pp, vpp, or first_stage_layers and last_stage_layers";
    /// Stage sizes do not add up to the model.
    StageSizes "stage-sizes" Equals "the stages hold {need} layers, and the model has {have}" "first_stage_layers and last_stage_layers";
    /// Explicit stages that interleaving cannot cut into chunks.
    StageChunks "stage-chunks" Divides "a stage of {have} layers does not make {need} equal chunks" "vpp";
    /// Interleaving without a pipeline.
    Interleave "interleave" Holds "vpp {need} needs a pipeline, of more than 2 stages without p2p overlap, and pp is {have}" "vpp";
    /// No interleaved schedule.
    NoInterleaving "no-interleaving" AtMost "there is no interleaved schedule here, and vpp is {need}" "vpp";
    /// The batch does not split over the data-parallel ranks.
    Batch "batch" Divides "the global batch of {have} sequences is not a multiple of micro-batch times DP = {need}" "micro_batch or dp";
    /// Interleaving asks for a multiple of PP micro-batches.
    MicroBatches "micro-batches" Divides "the {have} micro-batches of a rank are not a multiple of PP = {need}, as interleaving asks" "micro_batch or vpp";
    /// Fewer micro-batches than the schedule asks.
    FewMicroBatches "few-micro-batches" AtMost "the schedule needs {need} micro-batches, and there are {have}" "micro_batch or pp";
    /// The sequence does not split for context parallelism.
    SequenceCp "sequence-cp" Divides "the sequence of {have} tokens is not a multiple of 2*CP = {need}" "cp";
    /// The sequence does not split for sequence parallelism.
    SequenceTp "sequence-tp" Divides "the {have} tokens of a CP rank are not a multiple of TP = {need}, as sequence parallelism asks" "tp";
    /// The tokens of a micro-batch do not split for both.
    Tokens "tokens" Divides "the {have} tokens of a micro-batch are not a multiple of TP times 2*CP = {need}" "tp or cp";
    /// MoE with TP needs sequence parallelism.
    MoeSequenceParallel "moe-sequence-parallel" Holds "experts with TP = {need} need sequence parallelism" "sequence_parallel";
    /// Hidden size and heads.
    HiddenHeads "hidden-heads" Divides "the hidden size {have} is not a multiple of the {need} heads, and no head size is given" "heads";
    /// Sequence longer than the positions.
    Positions "positions" AtMost "the sequence of {need} tokens is longer than the model's {have} positions" "seq_len";
    /// ZeRO stage that does not go with a pipeline or experts.
    Zero "zero" Holds "ZeRO-{need} does not go with a pipeline of {have} stages here" "zero";
    /// EP overlap needs experts spread, and interleaving with a pipeline.
    EpOverlap "ep-overlap" Holds "EP overlap needs EP > 1, and vpp > 1 when pp > 1 (ep {need}, pp {have})" "ep_overlap";
    /// Two-batch overlap with nothing to hide.
    TwoBatch "two-batch-overlap" Holds "two-batch overlap hides the exchange between attention ranks and their experts: it needs EP > 1 and attention DP > 1 (ep {need}, attention dp {have})" "ep_overlap";
    /// Two-batch overlap in an engine that has none.
    NoTwoBatch "no-two-batch-overlap" AtMost "this engine has no two-batch overlap: vLLM and SGLang have ({need} asked, {have} there)" "ep_overlap";
    /// TP overlap without sequence parallelism.
    TpOverlap "tp-overlap" Holds "TP overlap needs sequence parallelism over TP > 1, and TP is {need}" "tp_overlap";
    /// Context parallelism that does not go with the rest.
    ContextParallel "context-parallel" Divides "context parallel degree {need} does not go with {have}" "cp";
    /// Decode context parallelism.
    DecodeContext "decode-context" Divides "decode context parallelism of {need} does not divide {have}" "dcp";
    /// Decode context parallelism beyond the copies of a KV head.
    DecodeContextKv "decode-context-kv" AtMost "decode context parallelism of {need} exceeds the {have} copies that TP makes of a KV head" "dcp";
    /// The load balancer's experts.
    Balancer "balancer" Divides "the {have} experts with redundant ones are not a multiple of EP = {need}" "redundant_experts";
    /// Load balancer without expert parallelism.
    BalancerEp "balancer-ep" Holds "the expert load balancer needs expert parallelism over more than one rank" "eplb";
    /// Redundant experts without a balancer.
    RedundantExperts "redundant-experts" Holds "{need} redundant experts need the expert load balancer" "eplb";
    /// The attention DP does not divide TP.
    AttentionDp "attention-dp" Divides "the TP size {have} is not a multiple of attention DP = {need}" "attn_dp";
    /// MoE DP.
    MoeDp "moe-dp" Divides "the TP size {have} is not a multiple of EP times MoE DP = {need}" "moe_dp";
    /// MoE DP beside a pipeline.
    MoeDpPipeline "moe-dp-pipeline" Holds "MoE DP of {have} does not go with a pipeline of {need} stages" "pp";
    /// Ranks do not spread evenly over nodes.
    Nodes "nodes" Divides "{have} ranks or nodes do not spread over {need} evenly" "tp, pp or dp";
    /// Data-parallel ranks that take parts of several nodes.
    DataNodes "data-nodes" Divides "{have} nodes do not spread over {need} groups of data-parallel ranks evenly" "tp, pp or dp";
    /// Replicas in one launch over several nodes.
    ReplicaNodes "replica-nodes" Holds "{need} replicas cannot be launched together over {have} nodes" "dp";
    /// Replicas beside attention DP.
    ReplicaAttentionDp "replica-attention-dp" Holds "{need} replicas cannot be launched together with attention DP of {have}" "dp";
    /// Data parallelism that does not suit the framework.
    DataParallel "data-parallel" Divides "{have} ranks are not a multiple of the replicated data parallel degree {need}" "dp_replicate";
    /// Tied embeddings on different stages.
    TiedEmbeddings "tied-embeddings" Holds "tied embeddings do not go with a pipeline of {need} stages here" "pp";
    /// One request fits nowhere.
    KvCapacity "kv-capacity" AtMost "a request needs {need} KV tokens, and a replica holds {have}" "memory_fraction, kv_cache or more GPUs";
    /// Out of memory.
    Memory "memory" AtMost "a GPU needs {need} bytes, and has {have}" "recompute, micro_batch, zero, number formats or more GPUs";
    /// Misses the target of the first token.
    Ttft "ttft" AtMost "the first token comes after {need} s, and the target is {have} s" "concurrency";
    /// Misses the target of the next tokens.
    Tpot "tpot" AtMost "a token takes {need} s, and the target is {have} s" "concurrency";
    /// More requests come than are answered.
    Rate "rate" AtMost "{need} requests/s come, and the plan answers {have} at most" "more GPUs or replicas";
}

/// A plan that cannot work: the rule and its two numbers. Data, no words: [`fmt::Display`] has them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rejection {
    /// The rule.
    pub rule: Rule,
    /// What the plan asks for.
    pub need: f64,
    /// What there is.
    pub have: f64,
}

impl Rejection {
    /// From whole numbers.
    #[must_use]
    pub fn new(rule: Rule, have: impl Into<u64>, need: impl Into<u64>) -> Self {
        Self { rule, have: have.into() as f64, need: need.into() as f64 }
    }

    /// How far the miss is, as a factor of at least 1: the smaller, the nearer.
    #[must_use]
    pub fn miss(&self) -> f64 {
        let (low, high) = (self.need.min(self.have), self.need.max(self.have));
        if low > 0.0 { high / low } else { f64::INFINITY }
    }

    /// The legal values next to what was asked for: at most one below and one above.
    #[must_use]
    pub fn nearest(&self) -> Vec<u64> {
        // A shard's width and a block say nothing of the degrees that cut the whole width well.
        if matches!(self.rule, Rule::QuantBlock | Rule::ExpertQuantBlock) {
            return Vec::new();
        }
        let whole = |v: f64| (v.is_finite() && (1.0..=1e12).contains(&v)).then_some(v as u64);
        let (Some(have), Some(need)) = (whole(self.have), whole(self.need)) else { return Vec::new() };
        let legal = match self.rule.kind() {
            Kind::Divides => divisors(have),
            Kind::DividesOrMultiple => {
                let mut all = divisors(have);
                all.extend((2..=64).map(|k| have * k));
                all
            }
            Kind::AtMost | Kind::Equals | Kind::Holds => return Vec::new(),
        };
        let below = legal.iter().copied().filter(|v| *v < need).max();
        let above = legal.iter().copied().filter(|v| *v > need).min();
        below.into_iter().chain(above).collect()
    }

    /// The nearest legal values in words, or the knob to change.
    #[must_use]
    pub fn hint(&self) -> String {
        let values: Vec<String> = self.nearest().iter().map(u64::to_string).collect();
        let single = !self.rule.changes().contains([',', ' ']);
        if self.rule == Rule::NoExperts {
            "ep 1".to_owned()
        } else if values.is_empty() || !single {
            format!("change {}", self.rule.changes())
        } else {
            format!("{} {}", self.rule.changes(), values.join(" or "))
        }
    }
}

/// A number without a needless fraction.
struct Plain(f64);

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.fract() == 0.0 && self.0.abs() < 1e15 {
            write!(f, "{:.0}", self.0)
        } else {
            write!(f, "{:.3}", self.0)
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (have, need) = if self.rule == Rule::Memory {
            let size = |v: f64| crate::units::Bytes::new(v).to_string();
            let (have, need) = (size(self.have), size(self.need));
            // Two figures that round to the same text say nothing: then the bytes.
            if have == need { (format!("{:.0} B", self.have), format!("{:.0} B", self.need)) } else { (have, need) }
        } else {
            (Plain(self.have).to_string(), Plain(self.need).to_string())
        };
        let sentence = self.rule.sentence().replace("{have}", &have).replace("{need}", &need);
        f.write_str(&sentence.replace(" bytes", ""))
    }
}

/// Where refusals go: every rule a plan breaks, or just the first.
pub trait Sink {
    /// Takes a refusal; `false` says that no more are wanted.
    fn refuse(&mut self, rejection: Rejection) -> bool;
}

impl Sink for Vec<Rejection> {
    fn refuse(&mut self, rejection: Rejection) -> bool {
        if !self.contains(&rejection) {
            self.push(rejection);
        }
        true
    }
}

impl Sink for Option<Rejection> {
    fn refuse(&mut self, rejection: Rejection) -> bool {
        if self.is_none() {
            *self = Some(rejection);
        }
        false
    }
}

/// Leaves the check when the sink wants no more.
macro_rules! ask {
    ($out:expr, $holds:expr, $rule:ident, $have:expr, $need:expr) => {
        if !($holds) && !$out.refuse($crate::rules::Rejection::new($crate::rules::Rule::$rule, $have, $need)) {
            return std::ops::ControlFlow::Break(());
        }
    };
}
pub(crate) use ask;

/// The rules on degrees: the model's shape, the number format, and what the framework's own code asks.
///
/// Takes the whole plan because some frameworks' rules on degrees read a knob (balancer, decode CP); nothing that a search
/// varies inside one mesh is looked at. Allocates nothing unless the sink does.
pub fn check_mesh(job: &Job, framework: Option<Framework>, plan: &Plan, out: &mut impl Sink) {
    let _stopped = mesh_rules(framework, &Case::of(job, plan), out);
}

/// The rules on knobs: batch, micro-batches, interleaving, stages.
pub fn check_plan(job: &Job, framework: Option<Framework>, plan: &Plan, out: &mut impl Sink) {
    let _stopped = knob_rules(framework, &Case::of(job, plan), out);
}

/// What a framework's launch lets through and its model's constructors refuse: not part of the verdict, but a search
/// proposes no such plan. [`warnings()`] tells of it.
pub fn check_build(job: &Job, framework: Option<Framework>, plan: &Plan, out: &mut impl Sink) {
    if framework == Some(Framework::Sglang) {
        let _stopped = sglang::check_build(&Case::of(job, plan), out);
    }
}

fn mesh_rules(framework: Option<Framework>, c: &Case<'_>, out: &mut impl Sink) -> Flow {
    match framework {
        None => shape::generic(c, out),
        Some(Framework::Megatron | Framework::Bridge) => megatron::check_mesh(c, out),
        Some(Framework::Torchtitan) => torchtitan::check_mesh(c, out),
        Some(Framework::Deepspeed) => deepspeed::check_mesh(c, out),
        Some(Framework::Vllm) => vllm::check_mesh(c, out),
        Some(Framework::Sglang) => sglang::check_mesh(c, out),
        Some(Framework::Trtllm) => trtllm::check_mesh(c, out),
    }
}

fn knob_rules(framework: Option<Framework>, c: &Case<'_>, out: &mut impl Sink) -> Flow {
    match framework {
        None => knobs::generic(c, out),
        Some(Framework::Megatron | Framework::Bridge) => megatron::check_knobs(c, out),
        Some(Framework::Torchtitan) => torchtitan::check_knobs(c, out),
        Some(Framework::Deepspeed) => deepspeed::check_knobs(c, out),
        Some(Framework::Vllm | Framework::Sglang | Framework::Trtllm) => {
            ask!(out, c.knobs.vpp <= 1, NoInterleaving, 1_u64, c.knobs.vpp);
            knobs::two_batches(c, out)?;
            if framework == Some(Framework::Trtllm) {
                ask!(out, c.knobs.ep_overlap != Toggle::On, NoTwoBatch, 0_u64, 1_u64);
            }
            knobs::stage_sizes(c, out)?;
            ControlFlow::Continue(())
        }
    }
}

/// Every rule a plan breaks, memory aside.
#[must_use]
pub fn broken(job: &Job, framework: Option<Framework>, plan: &Plan) -> Vec<Rejection> {
    let mut out = Vec::new();
    check_mesh(job, framework, plan, &mut out);
    check_plan(job, framework, plan, &mut out);
    out
}

/// The whole verdict on a draft, memory aside: its grids, and every rule it breaks, also those that can be told while the grids
/// do not exist. Without a framework the rules are those of the shapes, on the grids of the draft's convention.
#[must_use]
pub fn judge(job: &Job, framework: Option<Framework>, draft: &Draft) -> Resolution {
    let grid::Read { mut resolution, degrees, knobs } = grid::read(job, draft);
    // A grid that does not come out has a batch and a stage of its own making: only what was written is looked at.
    let case = match &resolution.plan {
        Some(plan) if resolution.rejections.is_empty() => Case::of(job, plan),
        Some(_) | None => Case::new(job, &knobs, degrees),
    };
    let _all = mesh_rules(framework, &case, &mut resolution.rejections);
    let _all = knob_rules(framework, &case, &mut resolution.rejections);
    resolution
}

/// The micro-batches of a data-parallel rank, when the batch splits.
#[must_use]
pub fn micro_batches(job: &Job, mesh: &Mesh, micro_batch: u32) -> Option<u32> {
    let batch = job.train()?.global_batch;
    let step = micro_batch.checked_mul(mesh.dp_attention())?;
    (step > 0 && batch.is_multiple_of(step) && batch >= step).then(|| batch / step)
}
