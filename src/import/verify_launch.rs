//! Launch scripts and configurations as plans to check: which files are some, and what they say of model, GPUs and workload.

use super::command::{self, CommandError, ReadCommand};
use super::document;
use super::verify::{Given, assumed, bytes_of, stand_in};
use super::verify_model::{self, Shape};
use crate::catalog;
use crate::cluster::Cluster;
use crate::error::{Error, Result};
use crate::framework::Framework;
use crate::job::{Job, Workload};
use crate::plan::Draft;
use crate::verify::{self, Facts, Finding, Jobs, Spare, Verdict};
use serde_json::Value;
use std::fs::File;
use std::path::Path;

/// Words that start a framework on a line.
const STARTERS: [&str; 12] = [
    "vllm serve",
    "vllm.entrypoints",
    "sglang.launch_server",
    "sglang serve",
    "trtllm-serve",
    "torchtitan.train",
    "run_train.sh",
    "run_recipe.py",
    "--parallelism.",
    "-model-parallel-size",
    "deepspeed ",
    "pretrain_",
];

/// A file read as a launch, if it is one.
///
/// A document may mention a command: it stays a document as long as its own words name a plan, or the command names no degree.
pub(super) fn read(name: &str, bytes: &[u8]) -> Result<Option<ReadCommand>> {
    let Ok(text) = std::str::from_utf8(bytes) else { return Ok(None) };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let Some((text, surely)) = source(name, text) else { return Ok(None) };
    let (text, merged) = with_options(name, text);
    let read = match command::read(&text) {
        Ok(mut read) => {
            if let Some(file) = read.options.take().filter(|_| !merged) {
                read.notes.push(format!("the options in {file} are not read: only the command's own count"));
            }
            read
        }
        // Nothing of a framework is in it.
        Err(CommandError { line: 0, .. }) => return Ok(None),
        Err(e) => return Err(Error::invalid(name, format!("line {}: {}", e.line, e.flag), e.value, e.allowed)),
    };
    Ok((surely || has_degree(&read.draft)).then_some(read))
}

/// The script with the file of options beside it that it names, and whether there was one.
fn with_options(name: &str, text: String) -> (String, bool) {
    let Ok(first) = command::read(&text) else { return (text, false) };
    // The other engines' files repeat their flags, and are not followed.
    let follows = matches!(first.framework, Framework::Trtllm | Framework::Deepspeed | Framework::Torchtitan);
    let folder = Path::new(name).parent().filter(|_| follows && Path::new(name).is_file());
    let (Some(folder), Some(file)) = (folder, first.options) else { return (text, false) };
    // What the script writes itself is in its text already.
    if text.contains(&format!("> {file}")) {
        return (text, true);
    }
    let path = folder.join(file);
    let shown = path.display().to_string();
    let read = File::open(&path).ok().and_then(|file| bytes_of(&shown, file).ok());
    match read.and_then(|bytes| String::from_utf8(bytes).ok()) {
        Some(options) => (format!("{text}\n{options}"), true),
        None => (text, false),
    }
}

fn has_degree(d: &Draft) -> bool {
    let degrees =
        [d.tp, d.cp, d.pp, d.ep, d.etp, d.dp, d.dp_replicate, d.dp_shard, d.attn_dp, d.pcp, d.moe_tp, d.moe_ep];
    degrees.iter().any(Option::is_some) || d.expert_parallel == Some(true)
}

/// The part of a file that is a script or a configuration, and whether nothing else can be meant.
fn source(name: &str, text: &str) -> Option<(String, bool)> {
    let ending = name.rsplit_once('.').map(|(_, e)| e.to_ascii_lowercase()).unwrap_or_default();
    if let Some(ours) = our_json(text) {
        return Some((ours, true));
    }
    let starts = || STARTERS.iter().any(|s| text.contains(s));
    let all = |surely| Some((text.to_owned(), surely));
    match ending.as_str() {
        "json" => deepspeed(text).then(|| (text.to_owned(), true)),
        "yaml" | "yml" if configured(text) => all(true),
        "yaml" | "yml" => None,
        "toml" | "py" if configured(text) => all(true),
        "sh" | "bash" | "slurm" | "sbatch" => all(true),
        "md" | "markdown" => fenced(text),
        _ if text.starts_with("#!") => all(true),
        _ if text.trim_start().starts_with(['{', '[']) => deepspeed(text).then(|| (text.to_owned(), true)),
        _ if starts() => mixed(text),
        _ if configured(text) => all(true),
        _ => None,
    }
}

/// The commands and files of a launch that this program printed as JSON.
fn our_json(text: &str) -> Option<String> {
    let Ok(Value::Object(root)) = serde_json::from_str::<Value>(text) else { return None };
    let (Some(Value::Array(commands)), Some(Value::Array(files))) = (root.get("commands"), root.get("files")) else {
        return None;
    };
    let texts = commands.iter().chain(files).filter_map(|item| item.get("text")?.as_str());
    Some(texts.map(|text| format!("{}\n\n", text.trim_end())).collect())
}

/// Whether a JSON is a DeepSpeed configuration, and not a plan in words of ours.
fn deepspeed(text: &str) -> bool {
    let Ok(Value::Object(root)) = serde_json::from_str::<Value>(text) else { return false };
    let nested = |key: &str| root.get(key).is_some_and(Value::is_object);
    nested("zero_optimization")
        || root.contains_key("train_micro_batch_size_per_gpu")
        || root.contains_key("train_batch_size")
        || root.get("tensor_parallel").is_some_and(|t| t.get("autotp_size").is_some() || t.get("tp").is_some())
        || root.get("expert_parallel").is_some_and(|t| t.get("autoep_size").is_some())
}

/// Whether a text without a command is a framework's configuration: keys that only such a file has, and none that only a
/// document about a plan has.
fn configured(text: &str) -> bool {
    const OTHERS: [&str; 7] =
        ["framework", "total_gpus", "gpus", "num_gpus", "available_gpus", "convention", "world_size"];
    const TRTLLM: [&str; 8] = [
        "enable_attention_dp",
        "moe_expert_parallel_size",
        "moe_tensor_parallel_size",
        "moe_config",
        "kv_cache_config",
        "cuda_graph_config",
        "enable_chunked_prefill",
        "attn_backend",
    ];
    const MCORE: [&str; 3] =
        ["tensor_model_parallel_size", "pipeline_model_parallel_size", "expert_model_parallel_size"];
    let line_starts = |word: &str| {
        text.lines().any(|line| line.trim_start().strip_prefix(word).is_some_and(|rest| rest.starts_with([':', '='])))
    };
    if OTHERS.into_iter().any(line_starts) {
        return false;
    }
    let assigned =
        |key: &str| text.match_indices(key).any(|(at, _)| text[at + key.len()..].trim_start().starts_with('='));
    let titan = text.lines().any(|line| line.trim() == "[parallelism]") || assigned("data_parallel_shard_degree");
    let sections = text.lines().any(|line| line.trim_end() == "model:");
    titan
        || MCORE.into_iter().any(|key| assigned(key) || (sections && text.contains(key)))
        || (text.contains("_parallel_size") && TRTLLM.into_iter().any(line_starts))
}

/// The fenced blocks of a document that start something, unless its prose names a plan itself. Lines keep their numbers.
fn fenced(text: &str) -> Option<(String, bool)> {
    let (mut code, mut prose) = (String::new(), String::new());
    let mut inside = false;
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        let kept = if fence { "" } else { line };
        code.push_str(if inside { kept } else { "" });
        prose.push_str(if inside { "" } else { kept });
        inside ^= fence;
        code.push('\n');
        prose.push('\n');
    }
    let starts = STARTERS.iter().any(|s| code.contains(s)) || configured(&code);
    (starts && document::read("prose.md", prose.as_bytes()).is_err()).then_some((code, false))
}

/// A text with a command in it: a script as a whole, or a document around it.
fn mixed(text: &str) -> Option<(String, bool)> {
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.iter().position(|line| STARTERS.iter().any(|s| line.contains(s)))?;
    // Flags of one command go on over the lines that end in a backslash.
    let first = (0..first).rev().take_while(|i| lines[*i].trim_end().ends_with('\\')).last().unwrap_or(first);
    let mut open = 0_i32;
    let script = lines[..first].iter().all(|line| shell_like(line, &mut open));
    if script {
        return Some((text.to_owned(), true));
    }
    let length = lines[first..].iter().take_while(|line| line.trim_end().ends_with('\\')).count();
    let last = (first + length).min(lines.len() - 1);
    let prose: Vec<&str> = lines[..first].iter().chain(&lines[last + 1..]).copied().collect();
    if document::read("prose.txt", prose.join("\n").as_bytes()).is_ok() {
        return None;
    }
    let command = lines[first..=last].join("\n").replace('`', " ");
    Some(("\n".repeat(first) + &command, false))
}

/// Whether a line before the first command is a shell's: a comment, an assignment, an array, a usual program.
fn shell_like(line: &str, open: &mut i32) -> bool {
    const PROGRAMS: [&str; 22] = [
        "export", "cd", "set", "source", "cat", "mkdir", "module", "ulimit", "if", "then", "else", "fi", "for", "done",
        "srun", "docker", "torchrun", "python", "python3", "echo", "unset", "}",
    ];
    let inside = *open > 0;
    let count = |c: char| i32::try_from(line.matches(c).count()).unwrap_or(0);
    let line = line.trim();
    let assigns = line.split_once('=').is_some_and(|(name, _)| {
        let name = name.strip_suffix('+').unwrap_or(name);
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    });
    if (assigns && line.contains("=(")) || inside {
        *open = (*open + count('(') - count(')')).max(0);
    }
    let first = line.split_whitespace().next().unwrap_or_default();
    inside || line.is_empty() || line.starts_with('#') || assigns || PROGRAMS.contains(&first) || line.ends_with('\\')
}

/// The verdict on what a launch starts.
pub(super) fn check(read: &ReadCommand, given: &Given) -> Verdict {
    let mut findings: Vec<Finding> = read.notes.iter().map(|note| Finding::note("reading", note.clone())).collect();
    let mut draft = read.draft;
    let serves = read.framework.serves();
    let shape = verify_model::shape(read, given, &mut findings);
    stages_of_layers(read, &shape, &mut draft);
    let starts = read.nodes.is_some() && read.gpus_per_node.is_some();
    let available = match (given.gpus, read.world) {
        (Some(there), Some(world)) if starts && !serves && there != world => {
            let message = format!("the script starts {world} ranks, and there are {there} GPUs");
            let found =
                if world > there { Finding::violation("world", message) } else { Finding::note("idle", message) };
            findings.push(Finding { claimed: Some(world as f64), actual: Some(there as f64), ..found });
            Some(world)
        }
        (there, world) => there.or(world),
    };
    // Without a number of GPUs the smallest that the numbers ask for stands in, and is not asked about.
    let gpus = available.unwrap_or_else(|| verify::read(draft.convention, &draft, None, Spare::Fine).needed);
    let cluster = place(read, given, gpus);
    let model = match &shape {
        Shape::Known(model) | Shape::Spelled(model) | Shape::Part(model) => Some(model),
        Shape::Unknown => None,
    };
    let job = model.zip(cluster.as_ref()).and_then(|(model, cluster)| {
        let model = verify_model::as_counted(model, read, &draft);
        job(read, &model, cluster)
    });
    if let Some(model) = model {
        findings.extend(too_long(read, model.spec().max_positions));
    }
    findings.extend(accumulation(read, &draft, available));
    let hardware = given.cluster.is_some();
    let whole = matches!(shape, Shape::Known(_));
    let jobs = job.as_ref().map(|job| Jobs {
        train: Some(job).filter(|_| !serves),
        serve: Some(job).filter(|_| serves),
        batch: read.train.global_batch.is_some() && available.is_some(),
        sequence: read.train.seq_len.is_some(),
        hardware,
        nodes: hardware || starts,
        memory: hardware && whole && read.train.counted == 0,
        // An engine whose longest request is not written takes the model's, and no memory is told from a guess.
        exact: !serves || read.serve.max_model_len.is_some(),
    });
    let experts = given.experts.or_else(|| model.and_then(crate::model::Model::moe).map(|moe| u64::from(moe.experts)));
    let spare = if serves { Spare::Fine } else { Spare::Violation };
    let convention = draft.convention;
    let experts = experts.or(read.model.experts.map(u64::from));
    let facts = Facts { convention, named: true, available, experts, gpu_bytes: None, spare, jobs };
    verify::check_started(&draft, &facts, findings)
}

/// The GPUs: those of the flags, else a stand-in of the script's nodes.
fn place(read: &ReadCommand, given: &Given, gpus: u64) -> Option<Cluster> {
    let gpus = u32::try_from(gpus).ok().filter(|gpus| *gpus > 0)?;
    match &given.cluster {
        Some(cluster) if cluster.gpus() == gpus => Some(cluster.clone()),
        Some(cluster) => Some(cluster.resized(gpus)),
        None => {
            let replicas = read.draft.knobs.replicas.max(1);
            let nodes = read.nodes.and_then(|nodes| nodes.checked_mul(replicas)).zip(read.gpus_per_node);
            let nodes = nodes.filter(|(nodes, each)| nodes.checked_mul(*each) == Some(gpus));
            let spec = nodes.map(|(nodes, each)| format!("{nodes}x{each}xh100-sxm"));
            spec.and_then(|spec| catalog::cluster(&spec).ok()).or_else(|| stand_in(Some(u64::from(gpus))))
        }
    }
}

/// The workload, as far as the script says it.
fn job(read: &ReadCommand, model: &crate::model::Model, cluster: &Cluster) -> Option<Job> {
    let serves = read.framework.serves();
    let length = if serves { read.serve.max_model_len } else { read.train.seq_len };
    let mut job = assumed(model, cluster, serves, length, read.train.global_batch)?;
    match &mut job.workload {
        Workload::Train(train) => {
            train.precision = read.train.precision.unwrap_or(train.precision);
            train.grad_dtype = read.train.grad_dtype.unwrap_or(train.grad_dtype);
        }
        Workload::Serve(serve) => {
            serve.concurrency = 1;
            serve.kv_cache = read.serve.kv_cache.unwrap_or(serve.kv_cache);
            serve.memory_fraction = read.serve.memory_fraction;
            serve.mtp = read.serve.mtp.unwrap_or(0);
        }
    }
    Job::new(job.model, job.cluster, job.workload).ok()
}

/// An engine refuses requests longer than the model's positions when it starts.
fn too_long(read: &ReadCommand, positions: u32) -> Option<Finding> {
    let length = read.serve.max_model_len.filter(|length| *length > positions)?;
    let message =
        format!("requests of {length} tokens are longer than the model's {positions} positions ({positions} at most)");
    let found = match read.framework {
        Framework::Vllm | Framework::Sglang => Finding::violation("positions", message),
        Framework::Megatron | Framework::Bridge | Framework::Torchtitan | Framework::Deepspeed | Framework::Trtllm => {
            Finding::note("positions", message)
        }
    };
    let fix = Some(format!("at most {positions}"));
    Some(Finding { claimed: Some(f64::from(length)), actual: Some(f64::from(positions)), fix, ..found })
}

/// DeepSpeed's three batch numbers and the data parallel ranks must agree.
fn accumulation(read: &ReadCommand, draft: &Draft, available: Option<u64>) -> Option<Finding> {
    let (batch, steps) = (read.train.global_batch?, read.train.accumulation?);
    let cut =
        [draft.tp, draft.pp, draft.cp].into_iter().fold(1_u64, |p, n| p.saturating_mul(u64::from(n.unwrap_or(1))));
    let ranks = available?.checked_div(cut).filter(|ranks| *ranks > 0)?;
    let made = u64::from(draft.knobs.micro_batch).saturating_mul(u64::from(steps)).saturating_mul(ranks);
    if made == u64::from(batch) {
        return None;
    }
    let message = format!(
        "train_batch_size is {batch}, and micro-batch {} times {steps} accumulation steps times {ranks} data parallel ranks is {made}",
        draft.knobs.micro_batch
    );
    let fix = Some(format!("train_batch_size {made}"));
    let found = Finding::violation("batch", message);
    Some(Finding { claimed: Some(f64::from(batch)), actual: Some(made as f64), fix, ..found })
}

/// torchtitan's chunks and uneven ends follow from layers per stage, once the model is known.
fn stages_of_layers(read: &ReadCommand, shape: &Shape, draft: &mut Draft) {
    let (Some(each), Shape::Known(model)) = (read.train.layers_per_stage, shape) else { return };
    let (first, last) = read.train.less_layers;
    let less = first.unwrap_or(1) + last.unwrap_or(1);
    let stages = model.layers().saturating_add(less).div_ceil(each.max(1));
    let pp = draft.pp.unwrap_or(1).max(1);
    if stages.is_multiple_of(pp) {
        draft.knobs.vpp = (stages / pp).max(1);
    }
    let end = |less: Option<u32>| less.filter(|n| *n > 0).map_or(0, |n| each.saturating_sub(n));
    if first.is_some() || last.is_some() {
        (draft.knobs.first_stage_layers, draft.knobs.last_stage_layers) = (end(first), end(last));
    }
}
