//! What a written plan says of itself, before anybody checks it.

/// One statement of a document, and where it stood.
#[derive(Debug, Clone, PartialEq)]
pub struct Said<T> {
    /// The value as the document means it, in base units.
    pub value: T,
    /// Line of the document, from 1; 0 when unknown.
    pub line: u32,
    /// The words it was read from, trimmed, at most 120 characters.
    pub text: String,
}

impl<T> Said<T> {
    /// A statement with its place.
    pub fn new(value: T, line: u32, text: impl Into<String>) -> Self {
        Self { value, line, text: text.into() }
    }
}

/// A product of axes that the document equates with a number of GPUs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Formula {
    /// The axes in the order written, lower case (`pp`, `tp`, `dp`); empty when only numbers are multiplied.
    pub axes: Vec<String>,
    /// The numbers multiplied, in the order written; empty when none are given.
    pub factors: Vec<u64>,
    /// What the document says the product is.
    pub result: Option<u64>,
}

/// The same thing said twice with different values.
#[derive(Debug, Clone, PartialEq)]
pub struct Contradiction {
    /// Which claim: `tp`, `available_gpus`, ...
    pub key: &'static str,
    /// What was said first; this is the value in [`Claims`].
    pub first: Said<u64>,
    /// What was said later.
    pub second: Said<u64>,
}

/// Everything that a document claims about one plan. `None` is "it does not say".
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Claims {
    /// Tensor parallel degree.
    pub tp: Option<Said<u64>>,
    /// Expert parallel degree.
    pub ep: Option<Said<u64>>,
    /// Pipeline parallel degree.
    pub pp: Option<Said<u64>>,
    /// Data parallel degree, in whatever convention the document uses.
    pub dp: Option<Said<u64>>,
    /// Context parallel degree.
    pub cp: Option<Said<u64>>,
    /// Tensor parallel degree inside an expert.
    pub etp: Option<Said<u64>>,
    /// Data parallel degree of the experts.
    pub edp: Option<Said<u64>>,
    /// Virtual pipeline stages per rank.
    pub vpp: Option<Said<u64>>,
    /// Sequences per microbatch.
    pub micro_batch: Option<Said<u64>>,
    /// Sequences per optimizer step.
    pub global_batch: Option<Said<u64>>,
    /// Tokens per sequence.
    pub seq_len: Option<Said<u64>>,
    /// GPUs that the cluster has ("for 16 GPUs").
    pub available_gpus: Option<Said<u64>>,
    /// Nodes of the cluster.
    pub nodes: Option<Said<u64>>,
    /// GPUs in one node.
    pub gpus_per_node: Option<Said<u64>>,
    /// GPUs that the plan says it takes ("Total GPUs required = 8").
    pub required_gpus: Option<Said<u64>>,
    /// The formula for the GPUs; the one that names them when there are several.
    pub formula: Option<Said<Formula>>,
    /// Every formula, in the order written.
    pub formulas: Vec<Said<Formula>>,
    /// Routed experts of the model.
    pub experts: Option<Said<u64>>,
    /// Experts held by one GPU.
    pub experts_per_gpu: Option<Said<f64>>,
    /// Bytes that one GPU is said to use.
    pub memory_per_gpu: Option<Said<f64>>,
    /// Bytes that one GPU is said to have.
    pub memory_capacity: Option<Said<f64>>,
    /// Used memory over capacity as a fraction, exactly as written: "51562500000.0%" is 515625000.0.
    pub utilization: Option<Said<f64>>,
    /// Name of the model.
    pub model: Option<Said<String>>,
    /// Name of the GPU as written.
    pub gpu: Option<Said<String>>,
    /// Framework, by its short lower-case name where known.
    pub framework: Option<Said<String>>,
    /// Convention of counting GPUs, lower case.
    pub convention: Option<Said<String>>,
    /// Counts said twice with different values, in the order found.
    pub contradictions: Vec<Contradiction>,
    /// JSON or YAML keys that look like plan keys but are none, with the key probably meant.
    pub unknown: Vec<String>,
}

impl Claims {
    /// Whether the document names a degree or a formula of degrees: the least that makes it a plan.
    pub fn names_a_plan(&self) -> bool {
        let degrees = [&self.tp, &self.ep, &self.pp, &self.dp, &self.cp, &self.etp, &self.edp];
        degrees.iter().any(|degree| degree.is_some()) || self.formulas.iter().any(|f| !f.value.axes.is_empty())
    }
}
