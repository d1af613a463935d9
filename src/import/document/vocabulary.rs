//! The names that documents use, in one table. A new synonym is a new word here and nothing else.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::lexer::{Kind, Token};

/// What a name in a document stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Tp,
    Ep,
    Pp,
    Dp,
    /// torchtitan writes DP as two numbers; the reader multiplies them.
    DpShard,
    DpReplicate,
    Cp,
    Etp,
    Edp,
    Vpp,
    MicroBatch,
    GlobalBatch,
    SeqLen,
    AvailableGpus,
    RequiredGpus,
    Nodes,
    GpusPerNode,
    Experts,
    ExpertsPerGpu,
    MemoryPerGpu,
    MemoryCapacity,
    Utilization,
    /// vLLM's `gpu_memory_utilization`: a budget, unless it is above 1 or written in percent.
    MemoryBudget,
    Model,
    Gpu,
    Framework,
    Convention,
    /// A name that contains one of the others but means something else.
    Ignored,
}

struct Entry {
    field: Field,
    /// The name shown to people, in claims and in "did you mean".
    key: &'static str,
    /// Spellings as normalised words: see [`normal`].
    phrases: &'static [&'static str],
}

const fn entry(field: Field, key: &'static str, phrases: &'static [&'static str]) -> Entry {
    Entry { field, key, phrases }
}

#[rustfmt::skip]
const TABLE: &[Entry] = &[
    entry(Field::Tp, "tp", &["tp", "tensor parallel", "tensor model parallel", "model parallel size"]),
    entry(Field::Ep, "ep", &["ep", "expert parallel", "expert model parallel", "moe ep", "moe expert parallel", "moe expert model parallel"]),
    entry(Field::Pp, "pp", &["pp", "pipeline parallel", "pipeline model parallel", "pipeline stages", "pp stages", "pipeline depth"]),
    entry(Field::Dp, "dp", &["dp", "data parallel"]),
    entry(Field::DpShard, "dp_shard", &["dp shard", "data parallel shard"]),
    entry(Field::DpReplicate, "dp_replicate", &["dp replicate", "data parallel replicate"]),
    entry(Field::Cp, "cp", &["cp", "context parallel"]),
    entry(Field::Etp, "etp", &["etp", "expert tp", "expert tensor parallel", "expert tensor model parallel", "moe tp", "moe tensor parallel"]),
    entry(Field::Edp, "edp", &["edp", "expert dp", "expert data parallel", "moe dp", "moe data parallel"]),
    entry(Field::Vpp, "vpp", &["vpp", "virtual pp", "virtual pipeline", "virtual pipeline parallel", "virtual pipeline model parallel", "num virtual stages per pipeline rank", "virtual stages"]),
    entry(Field::MicroBatch, "micro_batch", &["mbs", "mb", "micro batch", "microbatch", "micro batch size per gpu", "micro batch per gpu", "train micro batch size per gpu"]),
    entry(Field::GlobalBatch, "global_batch", &["gbs", "global batch", "train batch size", "global train batch"]),
    entry(Field::SeqLen, "seq_len", &["seq len", "seq length", "seqlen", "sequence len", "sequence length", "context length", "max model len", "max seq len", "max sequence length", "max seq length", "seq"]),
    entry(Field::AvailableGpus, "available_gpus", &["gpu", "available gpu", "gpu available", "total gpu", "gpu total", "num gpu", "n gpu", "ngpu", "number of gpu", "total number of gpu", "gpu count", "world size", "total available gpu", "available total gpu", "gpu in total", "total gpu available", "num gpu available", "gpu budget"]),
    entry(Field::RequiredGpus, "required_gpus", &["required gpu", "gpu required", "total gpu required", "total required gpu", "gpu needed", "needed gpu", "total gpu needed", "required number of gpu", "number of gpu required", "number of gpu needed", "num gpu required", "total number of gpu required", "minimum gpu", "min gpu", "gpu used", "total gpu used", "required world size"]),
    entry(Field::Nodes, "nodes", &["node", "nnode", "num node", "n node", "number of node", "node count", "total node"]),
    entry(Field::GpusPerNode, "gpus_per_node", &["gpu per node", "nproc per node", "num gpu per node", "number of gpu per node", "n gpu per node", "ngpu per node", "gpu in each node"]),
    entry(Field::Experts, "experts", &["expert", "num expert", "number of expert", "n routed expert", "num routed expert", "routed expert", "total expert", "num moe expert", "moe expert", "num local expert", "expert total", "expert count", "total number of expert"]),
    entry(Field::ExpertsPerGpu, "experts_per_gpu", &["expert per gpu", "expert per rank", "num expert per gpu", "local expert per gpu", "expert on each gpu", "local expert", "number of expert per gpu"]),
    entry(Field::MemoryPerGpu, "memory_per_gpu", &["memory", "memory per gpu", "memory used", "used memory", "estimated memory", "estimated memory per gpu", "memory estimate", "peak memory", "peak memory per gpu", "memory usage", "memory usage per gpu", "memory use", "memory required", "required memory", "memory required per gpu", "memory needed", "memory footprint", "memory footprint per gpu", "per gpu memory", "per gpu memory usage", "total memory per gpu", "memory used per gpu", "gpu memory used", "gpu memory usage", "memory requirement", "memory requirement per gpu", "memory consumption", "total memory", "estimated memory usage", "estimated peak memory", "estimated gpu memory", "memory total"]),
    entry(Field::MemoryCapacity, "memory_capacity", &["gpu memory", "memory capacity", "gpu memory capacity", "memory available", "available memory", "available memory per gpu", "capacity", "capacity per gpu", "vram", "hbm", "hbm capacity", "memory limit", "gpu vram", "gpu hbm", "memory size", "gpu memory size", "hbm per gpu", "vram per gpu", "memory capacity per gpu", "gpu memory limit", "gpu capacity"]),
    entry(Field::Utilization, "memory_utilization", &["utilization", "memory utilization", "hbm utilization", "vram utilization", "memory utilization per gpu", "utilization per gpu", "memory used fraction"]),
    entry(Field::MemoryBudget, "gpu_memory_utilization", &["gpu memory utilization"]),
    entry(Field::Model, "model", &["model", "model name", "model id", "model path", "model name or path"]),
    entry(Field::Gpu, "gpu", &["gpu type", "gpu model", "gpu name"]),
    entry(Field::Framework, "framework", &["framework", "engine", "inference engine", "training framework", "serving framework"]),
    entry(Field::Convention, "convention", &["convention", "space"]),
    entry(Field::Ignored, "", &[
        "attn dp", "attention dp", "dp attention", "attn tp", "attention tp", "attn cp", "attention cp", "moe dense tp", "dcp", "pcp",
        "decode context parallel", "prefill context parallel", "dp rank", "tp rank", "pp rank", "ep rank", "cp rank", "pipeline stage", "pp stage", "pipeline rank",
        "data parallel rank", "tensor parallel rank", "pipeline parallel rank", "expert parallel rank", "data parallel backend", "data parallel rpc port",
        "sequence parallel", "expert per token", "expert per tok", "num expert per tok", "num expert per token", "expert per node", "expert per layer",
        "active expert", "activated expert", "shared expert", "n shared expert", "num shared expert", "redundant expert", "num redundant expert",
        "sm utilization", "compute utilization", "flop utilization", "flops utilization", "model flops utilization", "network utilization",
        "bandwidth utilization", "memory bandwidth utilization", "memory bandwidth", "gpu memory bandwidth", "gpu hour", "model parallel",
        "node rank", "cpu memory", "host memory", "system memory", "cpu per node", "gpu per replica", "num layer per virtual pipeline stage", "number of parameters",
        "gpu idle", "idle gpu", "unused gpu", "data parallel size local", "data parallel start rank", "master port",
    ]),
];

/// Words around a name that do not change it: `tensor_parallel` = `tensor_parallel_size`.
const FILLERS: &[&str] = &[
    "size",
    "sizes",
    "degree",
    "dim",
    "dimension",
    "factor",
    "width",
    "level",
    "value",
    "world",
    "ways",
    "replicas",
    "ranks",
    "shards",
    "groups",
    "count",
    "num",
    "number",
    "of",
    "the",
    "n",
];

/// Frameworks as documents spell them, longest spelling first, and the short name we use.
const FRAMEWORKS: &[(&str, &str)] = &[
    ("megatron-bridge", "megatron-bridge"),
    ("megatron bridge", "megatron-bridge"),
    ("megatron-core", "megatron"),
    ("megatron core", "megatron"),
    ("megatron-lm", "megatron"),
    ("megatron lm", "megatron"),
    ("megatron", "megatron"),
    ("torchtitan", "torchtitan"),
    ("deepspeed", "deepspeed"),
    ("tensorrt-llm", "trtllm"),
    ("tensorrt llm", "trtllm"),
    ("trt-llm", "trtllm"),
    ("trtllm", "trtllm"),
    ("sglang", "sglang"),
    ("vllm", "vllm"),
    ("nemo", "nemo"),
];

/// Model families: a word that starts so and goes on with a digit, a dash or nothing is a model's name.
const FAMILIES: &[&str] = &[
    "gpt",
    "llama",
    "qwen",
    "mixtral",
    "mistral",
    "deepseek",
    "glm",
    "kimi",
    "gemma",
    "falcon",
    "nemotron",
    "grok",
    "dbrx",
    "minimax",
    "olmo",
    "olmoe",
    "bloom",
    "palm",
    "codellama",
    "moonlight",
    "ernie",
    "hunyuan",
    "jamba",
    "phi",
    "meta-llama",
];

/// GPU names, lower case; a trailing `s` and `-80G`, `-SXM` and the like may follow.
const GPUS: &[&str] = &[
    "h100", "h200", "h800", "h20", "gh200", "a100", "a800", "a40", "a30", "a10", "a10g", "a6000", "l4", "l20", "l40",
    "l40s", "b100", "b200", "b300", "gb200", "gb300", "v100", "p100", "t4", "mi210", "mi250", "mi250x", "mi300",
    "mi300a", "mi300x", "mi325x", "mi350x", "mi355x", "rtx4090", "rtx3090", "rtx5090", "gaudi2", "gaudi3",
];

type Phrases = BTreeMap<&'static str, Vec<(Vec<&'static str>, Field)>>;

/// The table by first word, longest phrase first, so that a lookup is one step per token.
static PHRASES: LazyLock<Phrases> = LazyLock::new(|| {
    let mut map = Phrases::new();
    for entry in TABLE {
        for phrase in entry.phrases {
            let words: Vec<_> = phrase.split(' ').collect();
            if let Some(first) = words.first() {
                map.entry(first).or_default().push((words, entry.field));
            }
        }
    }
    for list in map.values_mut() {
        list.sort_by_key(|(words, _)| std::cmp::Reverse(words.len()));
    }
    map
});

impl Field {
    /// The name shown to people.
    pub(super) fn key(self) -> &'static str {
        TABLE.iter().find(|e| e.field == self).map_or("", |e| e.key)
    }

    /// Whether it is a parallel degree, which must be at least 1.
    pub(super) fn is_degree(self) -> bool {
        use Field::{Cp, Dp, DpReplicate, DpShard, Edp, Ep, Etp, Pp, Tp, Vpp};
        matches!(self, Tp | Ep | Pp | Dp | DpShard | DpReplicate | Cp | Etp | Edp | Vpp)
    }

    /// Whether it counts whole things.
    pub(super) fn is_count(self) -> bool {
        use Field::{AvailableGpus, Experts, GlobalBatch, GpusPerNode, MicroBatch, Nodes, RequiredGpus, SeqLen};
        self.is_degree()
            || matches!(
                self,
                MicroBatch | GlobalBatch | SeqLen | AvailableGpus | RequiredGpus | Nodes | GpusPerNode | Experts
            )
    }
}

/// A word in the form that the table uses: singular nouns, one spelling.
pub(super) fn normal(word: &str) -> &str {
    match word {
        "parallelism" | "parallelization" | "parallelisation" | "parallelized" | "parallelised" => "parallel",
        "gpus" | "device" | "devices" | "accelerator" | "accelerators" | "card" | "cards" => "gpu",
        "nodes" | "server" | "servers" | "host" | "hosts" | "machine" | "machines" => "node",
        "nnodes" => "nnode",
        "ngpus" => "ngpu",
        "experts" => "expert",
        "utilisation" | "util" | "utilised" | "utilized" => "utilization",
        "mem" => "memory",
        "hours" => "hour",
        "tokens" => "token",
        other => other,
    }
}

/// Whether a word merely fills the space between a name and its value.
pub(super) fn is_filler(word: &str) -> bool {
    FILLERS.contains(&word)
}

/// The longest name that starts at a token, and how many tokens it takes.
pub(super) fn name_at(tokens: &[Token], at: usize) -> Option<(Field, usize)> {
    let first = tokens.get(at).filter(|t| t.kind == Kind::Word)?;
    let list = PHRASES.get(first.norm())?;
    list.iter()
        .find(|(words, _)| {
            words
                .iter()
                .enumerate()
                .all(|(n, word)| tokens.get(at + n).is_some_and(|t| t.kind == Kind::Word && t.norm() == *word))
        })
        .map(|(words, field)| (*field, words.len()))
}

/// The field that a list of words names as a whole, with and without fillers.
pub(super) fn name_of(words: &[&str]) -> Option<Field> {
    let exact = |words: &[&str]| {
        let list = PHRASES.get(*words.first()?)?;
        list.iter().find(|(phrase, _)| phrase == words).map(|(_, field)| *field)
    };
    let normal: Vec<&str> = words.iter().map(|w| normal(w)).collect();
    let bare: Vec<&str> = normal.iter().copied().filter(|w| !is_filler(w)).collect();
    exact(&normal).or_else(|| exact(&bare))
}

/// The field of a bare stem ("tensor", "pipeline"), for places where parallelism is the topic.
pub(super) fn stem(word: &str) -> Option<Field> {
    match normal(word) {
        "tensor" => Some(Field::Tp),
        "expert" => Some(Field::Ep),
        "pipeline" => Some(Field::Pp),
        "data" => Some(Field::Dp),
        "context" => Some(Field::Cp),
        _ => None,
    }
}

/// Whether a short name may have its number glued on, as in `tp2`.
pub(super) fn takes_glued_number(word: &str) -> bool {
    is_axis_word(word) || matches!(word, "mb" | "mbs" | "gbs" | "seq")
}

/// Whether a word is the abbreviation of an axis.
pub(super) fn is_axis_word(word: &str) -> bool {
    axis_word(word).is_some()
}

/// The axis that an abbreviation stands for.
pub(super) fn axis_word(word: &str) -> Option<Field> {
    [
        ("tp", Field::Tp),
        ("ep", Field::Ep),
        ("pp", Field::Pp),
        ("dp", Field::Dp),
        ("cp", Field::Cp),
        ("etp", Field::Etp),
        ("edp", Field::Edp),
        ("vpp", Field::Vpp),
    ]
    .into_iter()
    .find(|(name, _)| *name == word)
    .map(|(_, field)| field)
}

/// The framework whose name starts a lower-case text: bytes taken and short name.
pub(super) fn framework_at(text: &str) -> Option<(usize, &'static str)> {
    FRAMEWORKS.iter().find_map(|(spelling, short)| {
        let rest = text.strip_prefix(spelling)?;
        let ends = !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        ends.then_some((spelling.len(), *short))
    })
}

/// Whether a lower-case word names a GPU, a plural `s` allowed.
pub(super) fn is_gpu(word: &str) -> bool {
    GPUS.contains(&word) || word.strip_suffix('s').is_some_and(|w| GPUS.contains(&w))
}

/// Whether a lower-case word names a model: a family, then a digit, a dash or the end.
pub(super) fn is_model(word: &str) -> bool {
    let name = word.rsplit('/').next().unwrap_or(word);
    FAMILIES.iter().any(|family| {
        name.strip_prefix(family)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(|c: char| c.is_ascii_digit() || c == '-'))
    })
}

/// Bytes of a unit of memory, exactly as written: GB and GiB are kept apart.
pub(super) fn unit_bytes(unit: &str) -> Option<f64> {
    const KIB: f64 = 1024.0;
    // "Gb" is a gigabit; everything else is read without regard to case.
    if unit.len() == 2 && unit.ends_with('b') && unit.starts_with(|c: char| c.is_uppercase()) {
        return None;
    }
    Some(match unit.to_ascii_lowercase().as_str() {
        "byte" | "bytes" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" | "gigabytes" => 1e9,
        "tb" | "terabytes" => 1e12,
        "kib" => KIB,
        "mib" => KIB.powi(2),
        "gib" => KIB.powi(3),
        "tib" => KIB.powi(4),
        _ => return None,
    })
}

/// Every full spelling of a plan key, for comparison with a mistyped one.
static SPELLINGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let claims = TABLE.iter().filter(|e| e.field != Field::Ignored);
    let phrases = claims.flat_map(|e| e.phrases.iter()).filter(|p| p.len() > 4);
    phrases
        .flat_map(|phrase| {
            let spelling = phrase.replace(' ', "_").replace("gpu", "gpus");
            ["", "_size", "_degree"].map(|suffix| format!("{spelling}{suffix}"))
        })
        .collect()
});

/// The plan key that a mistyped key probably means, if it is close to one.
pub(super) fn did_you_mean(key: &str) -> Option<&'static str> {
    let key = key.to_ascii_lowercase().replace(['-', ' '], "_");
    if key.len() < 5 {
        return None; // every two-letter word is near "tp"
    }
    let allowed = if key.len() < 8 { 1 } else { 2 };
    SPELLINGS
        .iter()
        .filter(|spelling| spelling.len().abs_diff(key.len()) <= allowed)
        .map(|spelling| (strsim::levenshtein(&key, spelling), spelling.as_str()))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, spelling)| spelling)
}
