//! Launch scripts and configurations of the frameworks, read back into a plan.
//!
//! Reads what people have: a Megatron script with its arrays and variables, a `vllm serve` inside `docker run`, a DeepSpeed
//! JSON, Bridge overrides. Nothing is run or fetched.

mod flags;
mod keys;
mod serve;
mod shell;
#[cfg(test)]
mod tests;
mod train;
mod typos;

use crate::framework::Framework;
use crate::job::{GradDtype, KvFormat, Precision};
use crate::plan::{Draft, Knobs};
use flags::Flags;
use shell::{Script, Word};
use std::fmt;

/// Why a script cannot be read: one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandError {
    /// The line, counted from 1; 0 when it is about the whole text.
    pub line: usize,
    /// The flag or key; empty when it is about the whole text.
    pub flag: String,
    /// What stood there.
    pub value: String,
    /// What is allowed.
    pub allowed: String,
}

impl CommandError {
    fn new(line: usize, flag: &str, value: &str, allowed: impl Into<String>) -> Self {
        Self { line, flag: short(flag), value: short(value), allowed: allowed.into() }
    }
}

/// Words out of a broken script can be long, and hold line ends.
fn short(text: &str) -> String {
    let clean = |c: char| if c.is_control() { ' ' } else { c };
    let mut out: String = text.chars().map(clean).take(60).collect();
    if text.chars().nth(60).is_some() {
        out.push_str("...");
    }
    out
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            return f.write_str(&self.allowed);
        }
        write!(f, "line {}: {}: `{}` is not allowed: {}", self.line, self.flag, self.value, self.allowed)
    }
}

impl std::error::Error for CommandError {}

/// What a training script says of the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrainHints {
    /// Tokens of a sequence.
    pub seq_len: Option<u32>,
    /// Sequences of a step.
    pub global_batch: Option<u32>,
    /// GEMM format.
    pub precision: Option<Precision>,
    /// Gradient format.
    pub grad_dtype: Option<GradDtype>,
    /// Layers of a pipeline stage, where the number of chunks follows from the model (torchtitan).
    pub layers_per_stage: Option<u32>,
    /// Layers that the first and the last stage hold less than the others (torchtitan).
    pub less_layers: (Option<u32>, Option<u32>),
    /// Micro-batches that a rank adds up (DeepSpeed).
    pub accumulation: Option<u32>,
    /// Parts beside the layers that are counted as layers: embedding, output (Megatron).
    pub counted: u32,
    /// Whether a layout of the stages is written out, which is not read.
    pub layout: bool,
}

/// What a serving command says of the requests.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ServeHints {
    /// Tokens a request may have.
    pub max_model_len: Option<u32>,
    /// Requests in flight on one engine (vLLM: on one data parallel rank of it).
    pub max_num_seqs: Option<u32>,
    /// Share of the GPU's memory.
    pub memory_fraction: Option<f64>,
    /// KV cache format.
    pub kv_cache: Option<KvFormat>,
    /// Tokens that the model's own predictor drafts in a step.
    pub mtp: Option<u32>,
}

/// What a script says of the model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelHints {
    /// Its name or path.
    pub name: Option<String>,
    /// Layers.
    pub layers: Option<u32>,
    /// Width of the residual stream.
    pub hidden: Option<u32>,
    /// Query heads.
    pub heads: Option<u32>,
    /// KV heads.
    pub kv_heads: Option<u32>,
    /// Dense FFN width.
    pub ffn: Option<u32>,
    /// Routed experts.
    pub experts: Option<u32>,
    /// Experts of a token.
    pub top_k: Option<u32>,
    /// Width of an expert.
    pub expert_ffn: Option<u32>,
    /// Vocabulary.
    pub vocab: Option<u32>,
    /// Longest sequence.
    pub max_positions: Option<u32>,
    /// Width of a head, when it is not the quotient.
    pub head_dim: Option<u32>,
    /// Width of all shared experts together.
    pub shared_ffn: Option<u32>,
    /// Latent attention's KV rank, when attention is latent.
    pub kv_lora: Option<u32>,
    /// Which layers have experts, as Megatron writes it.
    pub moe_layers: Option<String>,
    /// Linear layers with biases, experts among them.
    pub bias: bool,
    /// Gated MLPs.
    pub gated: bool,
}

/// A launch script, read.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadCommand {
    /// The framework it starts.
    pub framework: Framework,
    /// The plan in the framework's own names; what the script leaves out stays out.
    pub draft: Draft,
    /// Ranks it starts, when it says so.
    pub world: Option<u64>,
    /// Nodes, when it says so.
    pub nodes: Option<u32>,
    /// GPUs of a node, when it says so.
    pub gpus_per_node: Option<u32>,
    /// The training step.
    pub train: TrainHints,
    /// The requests.
    pub serve: ServeHints,
    /// The model.
    pub model: ModelHints,
    /// What could not be carried over.
    pub notes: Vec<String>,
    /// A file beside the script that holds options.
    pub options: Option<String>,
}

impl ReadCommand {
    fn new(framework: Framework) -> Self {
        Self {
            framework,
            draft: Draft { convention: framework.convention(), knobs: Knobs::default(), ..Draft::default() },
            world: None,
            nodes: None,
            gpus_per_node: None,
            train: TrainHints::default(),
            serve: ServeHints::default(),
            model: ModelHints::default(),
            notes: Vec::new(),
            options: None,
        }
    }

    fn set_world(&mut self) {
        let (nodes, gpus) = (self.nodes.map(u64::from), self.gpus_per_node.map(u64::from));
        // What the launcher starts is surer than what a batch implies.
        self.world = nodes.zip(gpus).map(|(nodes, gpus)| nodes * gpus).or(self.world);
    }
}

/// Texts larger than this are not launch scripts.
const MOST_BYTES: usize = 1 << 22;

/// Reads a launch script, a command line or a configuration.
///
/// # Errors
/// When no framework is recognised, or a flag's value is not allowed.
pub fn read(text: &str) -> Result<ReadCommand, CommandError> {
    if text.len() > MOST_BYTES {
        return Err(CommandError::new(0, "", "", "the text is larger than 4 MiB: not a launch script"));
    }
    if text.trim_start().starts_with('{') {
        return train::deepspeed_json(text);
    }
    let mut script = shell::parse(text);
    unwrap_quoted(&mut script);
    let framework = recognise(&script, text).ok_or_else(|| {
        let all: Vec<&str> = Framework::ALL.iter().map(|f| f.title()).collect();
        let known = format!("no launch command of {} is in this text", all.join(", "));
        CommandError::new(0, "", "", known)
    })?;
    let source = Source::new(&script, text, framework);
    typos::refuse(&source, framework)?;
    let mut out = match framework {
        Framework::Megatron => train::megatron(&source),
        Framework::Bridge => train::bridge(&source),
        Framework::Torchtitan => train::torchtitan(&source),
        Framework::Deepspeed => train::deepspeed(&source),
        Framework::Vllm => serve::vllm(&source),
        Framework::Sglang => serve::sglang(&source),
        Framework::Trtllm => serve::trtllm(&source),
    }?;
    out.options = source.options_file();
    Ok(out)
}

/// The commands of one framework in a script, and the rest of it.
struct Source<'a> {
    text: &'a str,
    script: &'a Script,
    commands: Vec<&'a [Word]>,
    flags: Flags,
}

impl<'a> Source<'a> {
    fn new(script: &'a Script, text: &'a str, framework: Framework) -> Self {
        let commands: Vec<&[Word]> =
            script.commands.iter().map(Vec::as_slice).filter(|words| classify(words) == Some(framework)).collect();
        let mut flags = Flags::default();
        for words in &commands {
            flags.add(words);
        }
        // A file that is only sourced defines arrays of flags and starts nothing.
        if commands.is_empty() {
            for words in script.variables.values() {
                flags.add(words);
            }
        }
        Self { text, script, commands, flags }
    }

    /// A number that a variable of the script holds.
    fn variable(&self, names: &[&str]) -> Option<u32> {
        names.iter().find_map(|name| match self.script.variables.get(*name)?.as_slice() {
            [word] => word.text.parse().ok().filter(|n| (1..=flags::MOST_DEGREE).contains(n)),
            _ => None,
        })
    }

    /// Nodes and GPUs a node, from the launcher's flags, Slurm's and the script's variables.
    fn place(&self, out: &mut ReadCommand) {
        out.nodes = self
            .flags
            .maybe(&["--nnodes", "--num-nodes", "--nodes", "-N"])
            .or_else(|| self.slurm("--nodes").or_else(|| self.slurm("-N")))
            .or_else(|| self.variable(&["NNODES", "NUM_NODES", "SLURM_NNODES"]));
        out.gpus_per_node = self
            .flags
            .maybe(&["--nproc-per-node", "--gpus-per-node", "--num-gpus", "--ntasks-per-node"])
            .or_else(|| self.slurm("--gpus-per-node").or_else(|| self.slurm("--gres")))
            .or_else(|| self.slurm("--ntasks-per-node").filter(|n| *n > 1))
            .or_else(|| self.variable(&["GPUS_PER_NODE", "NPROC_PER_NODE", "NUM_GPUS", "NGPU"]));
        // Launchers that are told of no nodes start one.
        let spread = ["srun", "SLURM", "mpirun", "hostfile", "nnodes", "num_nodes", "NNODES"];
        if out.nodes.is_none() && out.gpus_per_node.is_some() && !spread.iter().any(|word| self.text.contains(word)) {
            out.nodes = Some(1);
        }
        out.world = self.variable(&["WORLD_SIZE"]).map(u64::from).or(out.world);
        out.set_world();
    }

    /// Files that a command takes its options from: `--config parallel.yaml`.
    fn options_file(&self) -> Option<String> {
        const NAMES: [&str; 6] = [
            "--config",
            "--extra-llm-api-options",
            "--deepspeed-config",
            "--deepspeed",
            "--job.config-file",
            "--config-file",
        ];
        let name = self.flags.words(&NAMES).find(|word| {
            let ending = word.rsplit_once('.').map(|(_, e)| e);
            matches!(ending, Some("json" | "yaml" | "yml" | "toml"))
        })?;
        (!name.contains(['$', '/', '\\'])).then(|| name.to_owned())
    }

    /// A number from `#SBATCH` lines: `--nodes=2`, `-N 2`, `--gres=gpu:8`.
    fn slurm(&self, option: &str) -> Option<u32> {
        self.text.lines().filter_map(|line| line.trim().strip_prefix("#SBATCH")).find_map(|rest| {
            let value = rest.trim().strip_prefix(option)?.trim_start_matches(['=', ' ']);
            let value = value.split_whitespace().next()?.rsplit(':').next()?;
            value.parse().ok().filter(|n| (1..=flags::MOST_DEGREE).contains(n))
        })
    }

    /// Servers the script starts: commands that are not followers of another node.
    fn servers(&self) -> u32 {
        let leads = self.commands.iter().filter(|words| {
            let mut flags = Flags::default();
            flags.add(words);
            let rank = flags.list(&["--node-rank"]).and_then(|v| v.first()).map_or("0", String::as_str);
            let follows = rank.parse::<u32>().is_ok_and(|rank| rank > 0);
            !follows && !flags.has(&["--headless"])
        });
        u32::try_from(leads.count()).unwrap_or(1).max(1)
    }

    /// The word after one that ends so, if it is no flag.
    fn after(&self, name: &str) -> Option<String> {
        self.commands.iter().find_map(|words| {
            let at = words.iter().position(|w| base(&w.text) == name)?;
            let next = words.get(at + 1)?;
            let next = if next.text == "serve" { words.get(at + 2)? } else { next };
            (!next.text.starts_with('-')).then(|| next.text.clone())
        })
    }
}

/// A program's name without its folder.
fn base(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// Puts commands that stand in quotes (`bash -c "..."`) beside the others.
fn unwrap_quoted(script: &mut Script) {
    const STARTERS: [&str; 6] = ["serve", "torchrun", "launch_server", "pretrain", "deepspeed", "torchtitan"];
    let mut inner = Vec::new();
    for words in &mut script.commands {
        let mut kept = Vec::with_capacity(words.len());
        for word in words.drain(..) {
            let nested = word.text.contains(char::is_whitespace) && STARTERS.iter().any(|s| word.text.contains(s));
            if nested && !word.text.trim_start().starts_with('{') {
                for mut command in shell::parse(&word.text).commands {
                    for w in &mut command {
                        w.line += word.line - 1;
                    }
                    inner.push(command);
                }
            } else {
                kept.push(word);
            }
        }
        *words = kept;
    }
    script.commands.extend(inner);
}

/// The framework a command starts.
fn classify(words: &[Word]) -> Option<Framework> {
    let name = |name: &str| words.iter().any(|w| base(&w.text) == name);
    let pair =
        |first: &str, second: &str| words.windows(2).any(|two| base(&two[0].text) == first && two[1].text == second);
    let holds = |text: &str| words.iter().any(|w| w.text.contains(text));
    let mut flags = Flags::default();
    flags.add(words);
    if name("trtllm-serve") {
        Some(Framework::Trtllm)
    } else if pair("vllm", "serve") || holds("vllm.entrypoints") {
        Some(Framework::Vllm)
    } else if holds("sglang.launch_server") || pair("sglang", "serve") {
        Some(Framework::Sglang)
    } else if name("torchtitan.train") || name("run_train.sh") || flags.has_prefix("--parallelism.") {
        Some(Framework::Torchtitan)
    } else if name("run_recipe.py")
        || name("train.sh") && words.iter().any(|w| w.text.starts_with("model."))
        || words.iter().any(|w| w.text.starts_with("model.tensor_model_parallel_size="))
    {
        Some(Framework::Bridge)
    } else if name("deepspeed") || flags.has(&["--deepspeed", "--deepspeed-config"]) {
        Some(Framework::Deepspeed)
    } else if flags.has(&MEGATRON) || words.iter().any(|w| is_pretrain(base(&w.text))) {
        Some(Framework::Megatron)
    } else {
        None
    }
}

/// Flags that only Megatron's family has.
const MEGATRON: [&str; 4] = [
    "--tensor-model-parallel-size",
    "--pipeline-model-parallel-size",
    "--expert-model-parallel-size",
    "--context-parallel-size",
];

fn is_pretrain(name: &str) -> bool {
    name.starts_with("pretrain_") && name.ends_with(".py")
}

fn recognise(script: &Script, text: &str) -> Option<Framework> {
    let ranked = |words: &[Word]| classify(words);
    let commands = script.commands.iter().filter_map(|words| ranked(words)).collect::<Vec<_>>();
    if let Some(first) = commands.first() {
        return Some(*first);
    }
    if let Some(framework) = script.variables.values().find_map(|words| ranked(words)) {
        return Some(framework);
    }
    // Configurations without a command.
    let keys: [(&str, Framework); 7] = [
        ("tensor_model_parallel_size", Framework::Bridge),
        ("pipeline_model_parallel_size", Framework::Bridge),
        ("expert_model_parallel_size", Framework::Bridge),
        ("tensor_parallel_degree", Framework::Torchtitan),
        ("data_parallel_shard_degree", Framework::Torchtitan),
        ("tensor_parallel_size", Framework::Trtllm),
        ("pipeline_parallel_size", Framework::Trtllm),
    ];
    let found = keys.into_iter().find(|(key, _)| keys::mentions(text, key));
    found.map(|(_, framework)| framework)
}
