//! The training frameworks' scripts.

use super::flags::{Flags, MOST_DEGREE, MOST_SIZE, number};
use super::keys::Keys;
use super::{CommandError, ModelHints, ReadCommand, Source};
use crate::framework::Framework;
use crate::job::{GradDtype, Precision};
use crate::plan::{Knobs, Module, Recompute, Schedule, Toggle};
use serde_json::Value;

pub(super) fn megatron(source: &Source<'_>) -> Result<ReadCommand, CommandError> {
    let f = &source.flags;
    let mut out = ReadCommand::new(Framework::Megatron);
    out.draft.cp = f.degree(&["--context-parallel-size"])?;
    out.draft.ep = f.degree(&["--expert-model-parallel-size"])?;
    out.draft.etp = f.degree(&["--expert-tensor-parallel-size"])?;
    out.draft.sequence_parallel = Some(f.has(&["--sequence-parallel"]));
    shared_arguments(f, &mut out)?;
    let k = &mut out.draft.knobs;
    k.first_stage_layers = f.degree(&["--decoder-first-pipeline-num-layers"])?.unwrap_or(0);
    k.last_stage_layers = f.degree(&["--decoder-last-pipeline-num-layers"])?.unwrap_or(0);
    k.zero = sharding(f)?;
    k.recompute = recompute(f)?;
    if f.has(&["--optimizer-cpu-offload"]) {
        k.optimizer_offload = percent(f.share(&["--optimizer-offload-fraction"])?.unwrap_or(1.0));
    }
    k.tp_overlap = on(f.has(&["--tp-comm-overlap"]));
    k.dp_overlap = on(f.has(&["--overlap-grad-reduce"]));
    k.ep_overlap = on(f.has(&["--overlap-moe-expert-parallel-comm"]));
    if f.has(&["--no-overlap-p2p-communication"]) {
        k.pp_overlap = Toggle::Off;
    }
    out.train.precision = precision(f)?;
    let in_bf16 = f.has(&["--grad-reduce-in-bf16"]);
    out.train.grad_dtype = Some(if in_bf16 { GradDtype::Bf16 } else { GradDtype::Fp32 });
    interleaving(f, &mut out)?;
    if f.has(&["--pipeline-model-parallel-layout"]) {
        out.notes.push(
            "--pipeline-model-parallel-layout is not read: that its stages hold every layer is not checked".into(),
        );
        out.train.layout = true;
    }
    let counted = ["--account-for-embedding-in-pipeline-split", "--account-for-loss-in-pipeline-split"];
    out.train.counted = counted.into_iter().map(|flag| u32::from(f.has(&[flag]))).sum();
    if f.has(&["--use-tp-pp-dp-mapping"]) {
        out.notes.push("--use-tp-pp-dp-mapping is not read: ranks are taken in the default order".into());
    }
    if f.has(&["--rampup-batch-size"]) {
        out.notes.push("--rampup-batch-size is not read: the batch is the final one".into());
    }
    source.place(&mut out);
    Ok(out)
}

/// Arguments that Megatron-LM and Megatron-DeepSpeed share.
fn shared_arguments(f: &Flags, out: &mut ReadCommand) -> Result<(), CommandError> {
    out.draft.tp = f.degree(&["--tensor-model-parallel-size"])?;
    out.draft.pp = f.degree(&["--pipeline-model-parallel-size"])?;
    out.draft.knobs.micro_batch = f.size(&["--micro-batch-size"])?.unwrap_or(1);
    out.train.global_batch = f.size(&["--global-batch-size"])?;
    out.train.seq_len = f.size(&["--seq-length", "--encoder-seq-length"])?;
    out.model = ModelHints {
        name: None,
        layers: f.size(&["--num-layers", "--encoder-num-layers"])?,
        hidden: f.size(&["--hidden-size"])?,
        heads: f.size(&["--num-attention-heads"])?,
        // Megatron reads the number only with its switch.
        kv_heads: if f.has(&["--group-query-attention"]) {
            f.size(&["--num-query-groups"])?
        } else {
            f.size(&["--num-key-value-heads"])?
        },
        ffn: f.size(&["--ffn-hidden-size"])?,
        experts: f.size(&["--num-experts"])?,
        top_k: f.size(&["--moe-router-topk", "--topk"])?,
        expert_ffn: f.size(&["--moe-ffn-hidden-size"])?,
        vocab: f.size(&["--vocab-size", "--padded-vocab-size"])?,
        max_positions: f.size(&["--max-position-embeddings"])?,
        head_dim: f.size(&["--kv-channels"])?,
        shared_ffn: f.size(&["--moe-shared-expert-intermediate-size"])?,
        kv_lora: if f.has(&["--multi-latent-attention"]) { f.size(&["--kv-lora-rank"])?.or(Some(512)) } else { None },
        moe_layers: f.text(&["--moe-layer-freq"])?.map(str::to_owned),
        bias: !f.has(&["--disable-bias-linear"]),
        gated: f.has(&["--swiglu"]),
    };
    Ok(())
}

fn interleaving(f: &Flags, out: &mut ReadCommand) -> Result<(), CommandError> {
    let chunks = f.degree(&["--num-virtual-stages-per-pipeline-rank"])?;
    let names = ["--num-layers-per-virtual-pipeline-stage"];
    let per_chunk = f.degree(&names)?;
    out.draft.knobs.vpp = match (chunks, per_chunk, out.model.layers) {
        (Some(chunks), _, _) => chunks,
        (None, Some(each), Some(layers)) => {
            let stage = layers / out.draft.pp.unwrap_or(1);
            if each > stage || !stage.is_multiple_of(each) {
                let (line, flag) = f.place(&names);
                let allowed = format!("a divisor of the {stage} layers of a stage");
                return Err(CommandError::new(line, &flag, &each.to_string(), allowed));
            }
            stage / each
        }
        (None, Some(_), None) => {
            out.notes.push("layers per virtual stage without --num-layers: interleaving is not read".into());
            1
        }
        (None, None, _) => 1,
    };
    Ok(())
}

fn sharding(f: &Flags) -> Result<u8, CommandError> {
    if f.has(&["--use-torch-fsdp2"]) {
        return Ok(3);
    }
    if f.has(&["--use-megatron-fsdp", "--use-custom-fsdp"]) {
        let stages = [("no_shard", 0), ("optim", 1), ("optim_grads", 2), ("optim_grads_params", 3)];
        return Ok(f.choice(&["--data-parallel-sharding-strategy"], &stages)?.unwrap_or(0));
    }
    Ok(u8::from(f.has(&["--use-distributed-optimizer"])))
}

fn recompute(f: &Flags) -> Result<Recompute, CommandError> {
    let words = [("full", Recompute::Full), ("selective", Recompute::SELECTIVE)];
    let names = ["--recompute-modules"];
    match f.choice(&["--recompute-granularity"], &words)? {
        None if f.has(&["--recompute-activations"]) => Ok(Recompute::SELECTIVE),
        None => Ok(Recompute::None),
        Some(Recompute::Full) => {
            let layers = f.number(&["--recompute-num-layers"], 1, MOST_LAYERS)?;
            let block = f.choice(&["--recompute-method"], &[("uniform", false), ("block", true)])?;
            Ok(whole_layers(block, layers))
        }
        Some(_) => match f.list(&names) {
            None => Ok(Recompute::SELECTIVE),
            Some(modules) => {
                let (line, flag) = f.place(&names);
                set_of(modules.iter().map(String::as_str), line, &flag)
            }
        },
    }
}

/// More layers than any stage has.
const MOST_LAYERS: u32 = 10_000;

/// Whole layers as Megatron says them: `uniform` with one checkpoint for so many layers, `block` with so many layers of a stage.
fn whole_layers(block: Option<bool>, layers: Option<u32>) -> Recompute {
    let layers = layers.unwrap_or(1).min(MOST_LAYERS) as u16;
    match (block, layers) {
        (Some(true), _) => Recompute::Block(layers),
        (_, 1) => Recompute::Full,
        _ => Recompute::Uniform(layers),
    }
}

fn set_of<'a>(names: impl Iterator<Item = &'a str>, line: usize, flag: &str) -> Result<Recompute, CommandError> {
    let mut set = 0;
    for name in names {
        let Some(module) = Module::ALL.iter().find(|m| m.name() == name) else {
            let all: Vec<&str> = Module::ALL.iter().map(|m| m.name()).collect();
            return Err(CommandError::new(line, flag, name, all.join(", ")));
        };
        set |= 1 << *module as u8;
    }
    if set == 0 {
        return Err(CommandError::new(line, flag, "", "one module or more"));
    }
    Ok(Recompute::Modules(set))
}

fn precision(f: &Flags) -> Result<Option<Precision>, CommandError> {
    if f.has(&["--fp4-format"]) {
        return Ok(Some(Precision::Nvfp4));
    }
    if f.has(&["--fp8-format"]) {
        let micro = f.text(&["--fp8-recipe"])? == Some("mxfp8");
        return Ok(Some(if micro { Precision::Mxfp8 } else { Precision::Fp8 }));
    }
    let names = [("--bf16", Precision::Bf16), ("--fp16", Precision::Fp16)];
    Ok(names.into_iter().find(|(flag, _)| f.has(&[flag])).map(|(_, precision)| precision))
}

fn on(set: bool) -> Toggle {
    if set { Toggle::On } else { Toggle::Default }
}

fn percent(share: f64) -> u8 {
    (share * 100.0).round() as u8
}

pub(super) fn bridge(source: &Source<'_>) -> Result<ReadCommand, CommandError> {
    let f = &source.flags;
    let keys = Keys::scan(source.text, source.script);
    let mut out = ReadCommand::new(Framework::Bridge);
    let both = |flags: &[&str], key: &str, most: u32| -> Result<Option<u32>, CommandError> {
        let (flag, set) = (f.number(flags, 1, most)?, keys.size(key)?);
        match (flag, set) {
            (Some(a), Some(b)) if a != b => {
                let (line, name) = f.place(flags);
                let allowed = format!("the same as {key} in line {}, which is {b}", keys.line(key));
                Err(CommandError::new(line, &name, &a.to_string(), allowed))
            }
            (flag, set) => Ok(flag.or(set)),
        }
    };
    let d = &mut out.draft;
    d.tp = both(&["-tp", "--tensor-model-parallel-size"], "tensor_model_parallel_size", MOST_DEGREE)?;
    d.pp = both(&["-pp", "--pipeline-model-parallel-size"], "pipeline_model_parallel_size", MOST_DEGREE)?;
    d.cp = both(&["-cp", "--context-parallel-size"], "context_parallel_size", MOST_DEGREE)?;
    d.ep = both(&["-ep", "--expert-model-parallel-size"], "expert_model_parallel_size", MOST_DEGREE)?;
    d.etp = both(&["-etp", "--expert-tensor-parallel-size"], "expert_tensor_parallel_size", MOST_DEGREE)?;
    d.sequence_parallel = keys.switch("sequence_parallel")?;
    let k = &mut d.knobs;
    let chunks = "virtual_pipeline_model_parallel_size";
    k.vpp = both(&["-vp", "--virtual-pipeline-model-parallel-size"], chunks, MOST_DEGREE)?.unwrap_or(1);
    k.micro_batch = both(&["-mb", "--micro-batch-size"], "micro_batch_size", MOST_SIZE)?.unwrap_or(1);
    bridge_knobs(&keys, k)?;
    out.train.global_batch = both(&["-gb", "--global-batch-size"], "global_batch_size", MOST_SIZE)?;
    out.train.seq_len = both(&["-sl", "--seq-length"], "seq_length", MOST_SIZE)?;
    out.train.precision = keys.text("mixed_precision")?.and_then(|recipe| {
        let kinds = [
            ("mxfp8", Precision::Mxfp8),
            ("fp8", Precision::Fp8),
            ("fp4", Precision::Nvfp4),
            ("fp16", Precision::Fp16),
            ("bf16", Precision::Bf16),
        ];
        kinds.into_iter().find(|(word, _)| recipe.contains(word)).map(|(_, precision)| precision)
    });
    out.train.grad_dtype =
        keys.switch("grad_reduce_in_fp32")?.map(|full| if full { GradDtype::Fp32 } else { GradDtype::Bf16 });
    out.model = ModelHints {
        name: f
            .text(&["--recipe"])?
            .filter(|r| !r.contains('$'))
            .or_else(|| recipe_name(source.text))
            .map(str::to_owned),
        layers: keys.size("num_layers")?,
        hidden: keys.size("hidden_size")?,
        heads: keys.size("num_attention_heads")?,
        kv_heads: keys.size("num_query_groups")?,
        ffn: keys.size("ffn_hidden_size")?,
        experts: keys.size("num_moe_experts")?,
        top_k: keys.size("moe_router_topk")?,
        expert_ffn: keys.size("moe_ffn_hidden_size")?,
        vocab: keys.size("vocab_size")?,
        max_positions: None,
        head_dim: keys.size("kv_channels")?,
        shared_ffn: keys.size("moe_shared_expert_intermediate_size")?,
        kv_lora: keys.size("kv_lora_rank")?,
        moe_layers: None,
        bias: keys.switch("add_bias_linear")?.unwrap_or(false),
        gated: keys.switch("gated_linear_unit")?.unwrap_or(true),
    };
    source.place(&mut out);
    Ok(out)
}

/// The recipe that a Python file calls: `qwen3_30b_a3b_pretrain_config`.
fn recipe_name(text: &str) -> Option<&str> {
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.find(|word| word.ends_with("_pretrain_config"))
}

fn bridge_knobs(keys: &Keys, k: &mut Knobs) -> Result<(), CommandError> {
    k.first_stage_layers = keys.degree("num_layers_in_first_pipeline_stage")?.unwrap_or(0);
    k.last_stage_layers = keys.degree("num_layers_in_last_pipeline_stage")?.unwrap_or(0);
    let strategy = keys.text("data_parallel_sharding_strategy")?;
    k.zero = match (keys.switch("use_megatron_fsdp")?, strategy) {
        (Some(true), Some("optim_grads")) => 2,
        (Some(true), Some("optim")) => 1,
        (Some(true), Some("no_shard")) => 0,
        (Some(true), _) => 3,
        _ => u8::from(keys.switch("use_distributed_optimizer")?.unwrap_or(true)),
    };
    let granularity = "recompute_granularity";
    k.recompute = match keys.text(granularity)? {
        None => Recompute::None,
        Some("full") => {
            let method = keys.text("recompute_method")?;
            whole_layers(method.map(|m| m == "block"), keys.degree("recompute_num_layers")?)
        }
        Some("selective") => match keys.text("recompute_modules")? {
            None => Recompute::SELECTIVE,
            Some(list) => {
                let names = list.split(',').filter(|name| !name.is_empty());
                set_of(names, keys.line("recompute_modules"), "recompute_modules")?
            }
        },
        Some(other) => {
            return Err(CommandError::new(keys.line(granularity), granularity, other, "full, selective or None"));
        }
    };
    if keys.switch("optimizer_cpu_offload")? == Some(true) {
        k.optimizer_offload = percent(keys.share("optimizer_offload_fraction")?.unwrap_or(1.0));
    }
    let toggle = |key: &str| -> Result<Toggle, CommandError> {
        Ok(keys.switch(key)?.map_or(Toggle::Default, |set| if set { Toggle::On } else { Toggle::Off }))
    };
    k.tp_overlap = toggle("tp_comm_overlap")?;
    k.dp_overlap = toggle("overlap_grad_reduce")?;
    k.ep_overlap = toggle("overlap_moe_expert_parallel_comm")?;
    k.pp_overlap = toggle("overlap_p2p_comm")?;
    Ok(())
}

/// A torchtitan setting: a flag, or a line of its TOML or Python configuration.
struct Titan<'a> {
    flags: &'a Flags,
    keys: Keys,
}

impl Titan<'_> {
    fn number(&self, section: &str, key: &str) -> Result<Option<u32>, CommandError> {
        let name = format!("--{section}.{key}").replace('_', "-");
        match self.flags.text(&[&name])? {
            Some("-1") => Ok(None),
            Some(_) => self.flags.size(&[&name]),
            None => self.keys.size(key),
        }
    }

    /// A number that may be 0.
    fn count(&self, section: &str, key: &str) -> Result<Option<u32>, CommandError> {
        let name = format!("--{section}.{key}").replace('_', "-");
        match self.flags.number(&[&name], 0, MOST_DEGREE)? {
            Some(n) => Ok(Some(n)),
            None if self.keys.text(key)? == Some("0") => Ok(Some(0)),
            None => self.keys.degree(key),
        }
    }

    fn word(&self, section: &str, key: &str) -> Result<Option<&str>, CommandError> {
        let name = format!("--{section}.{key}").replace('_', "-");
        Ok(self.flags.text(&[&name])?.or(self.keys.text(key)?))
    }
}

pub(super) fn torchtitan(source: &Source<'_>) -> Result<ReadCommand, CommandError> {
    let f = &source.flags;
    // A command's own words hold `=` too, and its flags have been read already.
    let keys = if source.commands.is_empty() { Keys::scan(source.text, source.script) } else { Keys::default() };
    let t = Titan { flags: f, keys };
    let mut out = ReadCommand::new(Framework::Torchtitan);
    let d = &mut out.draft;
    d.tp = t.number("parallelism", "tensor_parallel_degree")?;
    d.pp = t.number("parallelism", "pipeline_parallel_degree")?;
    d.cp = t.number("parallelism", "context_parallel_degree")?;
    d.ep = t.number("parallelism", "expert_parallel_degree")?;
    d.dp_replicate = t.number("parallelism", "data_parallel_replicate_degree")?;
    d.dp_shard = t.number("parallelism", "data_parallel_shard_degree")?;
    d.knobs.dp_replicate = d.dp_replicate.unwrap_or(1);
    let off = ["--parallelism.no-enable-sequence-parallel", "--parallelism.disable-sequence-parallel"];
    d.sequence_parallel = f.has(&off).then_some(false);
    let k = &mut d.knobs;
    k.zero = match t.word("parallelism", "fsdp_reshard_after_forward")? {
        Some("never") => 2,
        Some("always") => 3,
        // The default keeps parameters gathered when a pipeline would gather them for every micro-batch.
        _ if d.pp.unwrap_or(1) > 1 => 2,
        _ => 3,
    };
    // Newer releases take a subcommand, older ones a flag; both start from selective.
    let words = source.commands.iter().flat_map(|words| words.iter());
    // A configuration has other keys of that name, so a disagreement is no error.
    let names = ["activation_checkpoint:", "activation-checkpoint:"];
    let chosen = words.filter_map(|w| names.iter().find_map(|n| w.text.strip_prefix(n))).next_back();
    k.recompute = match chosen.or(t.word("activation_checkpoint", "mode").ok().flatten()) {
        Some("full") => Recompute::Full,
        Some("none") => Recompute::None,
        _ => Recompute::SELECTIVE,
    };
    if f.has(&["--training.enable-cpu-offload"]) {
        k.optimizer_offload = 100;
    }
    k.tp_overlap = on(f.has(&["--parallelism.enable-async-tensor-parallel"]));
    titan_batch(&t, &mut out)?;
    titan_schedule(&t, &mut out)?;
    out.model.name = f.text(&["--config"])?.or(f.text(&["--module"])?).filter(|n| !n.contains('$')).map(str::to_owned);
    source.place(&mut out);
    Ok(out)
}

/// The released version counts sequences, the main branch tokens.
fn titan_batch(t: &Titan<'_>, out: &mut ReadCommand) -> Result<(), CommandError> {
    let pipeline = out.draft.pp.unwrap_or(1) > 1;
    let k = &mut out.draft.knobs;
    let length = t.number("training", "max_context_length")?;
    out.train.seq_len = t.number("training", "seq_len")?.or(length);
    if let Some(local) = t.number("training", "local_batch_size")?.or(t.number("training", "batch_size")?) {
        out.train.global_batch = t.number("training", "global_batch_size")?;
        k.micro_batch = local;
        if pipeline {
            k.micro_batch = t.number("parallelism", "pipeline_parallel_microbatch_size")?.unwrap_or(1);
            k.pp_microbatches = local / k.micro_batch;
        }
        return Ok(());
    }
    k.pp_microbatches = t.number("parallelism", "num_pp_microbatches")?.filter(|_| pipeline).unwrap_or(0);
    let Some(sequence) = out.train.seq_len else { return Ok(()) };
    if let Some(tokens) = t.number("training", "num_tokens_per_microbatch_per_dp_rank")? {
        k.micro_batch = (tokens / sequence).max(1);
    }
    if let Some(tokens) = t.number("training", "num_tokens_per_train_step")? {
        out.train.global_batch = Some((tokens / sequence).max(1));
    }
    Ok(())
}

fn titan_schedule(t: &Titan<'_>, out: &mut ReadCommand) -> Result<(), CommandError> {
    out.train.layers_per_stage = t.number("parallelism", "pipeline_parallel_layers_per_stage")?;
    out.train.less_layers = (
        t.count("parallelism", "pipeline_parallel_first_stage_less_layers")?,
        t.count("parallelism", "pipeline_parallel_last_stage_less_layers")?,
    );
    if out.draft.pp.unwrap_or(1) == 1 {
        return Ok(());
    }
    let k = &mut out.draft.knobs;
    let schedule = t.word("parallelism", "pipeline_parallel_schedule")?.unwrap_or("1F1B");
    let (kind, chunks) = match schedule.to_ascii_lowercase().as_str() {
        "1f1b" => (Schedule::OneFOneB, 1),
        "gpipe" => (Schedule::Gpipe, 1),
        "interleaved1f1b" => (Schedule::OneFOneB, 2),
        "interleavedzerobubble" | "zbvzerobubble" => (Schedule::ZbH1, 2),
        "dualpipev" => (Schedule::DualPipe, 2),
        _ => {
            let (line, flag) = t.flags.place(&["--parallelism.pipeline-parallel-schedule"]);
            let known = "1F1B, GPipe, Interleaved1F1B, InterleavedZeroBubble, ZBVZeroBubble, DualPipeV";
            return Err(CommandError::new(line.max(1), &flag, schedule, known));
        }
    };
    k.schedule = kind;
    k.vpp = chunks;
    if kind == Schedule::ZbH1 || kind == Schedule::DualPipe {
        out.notes.push(format!("{schedule} is read as the nearest schedule known here, {}", kind.name()));
    }
    if chunks > 1 && out.train.layers_per_stage.is_some() {
        out.notes.push("the number of chunks follows from layers per stage and the model's layers; read as 2".into());
    }
    Ok(())
}

pub(super) fn deepspeed(source: &Source<'_>) -> Result<ReadCommand, CommandError> {
    let f = &source.flags;
    // A configuration written by the script itself is part of it.
    let mut out = match embedded(source) {
        Some(json) => deepspeed_json(&json)?,
        None => ReadCommand::new(Framework::Deepspeed),
    };
    let config = out.clone();
    shared_arguments(f, &mut out)?;
    out.draft.tp = out.draft.tp.or(config.draft.tp);
    out.draft.ep = f.degree(&["--moe-expert-parallel-size", "--ep-world-size", "--ep-size"])?.or(config.draft.ep);
    // Megatron-DeepSpeed builds its linear layers with biases that its rules do not ask about.
    out.model.bias = false;
    out.train.global_batch = out.train.global_batch.or(config.train.global_batch);
    let k = &mut out.draft.knobs;
    if !f.has(&["--micro-batch-size"]) {
        k.micro_batch = config.draft.knobs.micro_batch;
    }
    k.zero = match f.number(&["--zero-stage"], 0, 3)? {
        Some(stage) => u8::try_from(stage).unwrap_or(0),
        None => config.draft.knobs.zero,
    };
    if f.has(&["--checkpoint-activations", "--gradient-checkpointing", "--deepspeed-activation-checkpointing"]) {
        k.recompute = Recompute::Full;
    }
    out.train.precision = precision(f)?.or(config.train.precision);
    source.place(&mut out);
    Ok(out)
}

/// The JSON a script writes into a file: from a line that opens it to the bracket that closes it.
fn embedded(source: &Source<'_>) -> Option<String> {
    let mut depth = 0_i32;
    let mut json = String::new();
    for line in source.text.lines() {
        if depth == 0 && json.is_empty() && line.trim_start().starts_with('{') {
            depth = 0;
        } else if depth == 0 {
            continue;
        }
        for c in line.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
        }
        json.push_str(line);
        json.push('\n');
        if depth <= 0 {
            break;
        }
    }
    for (name, words) in source.script.variables.iter().rev() {
        if let [word] = words.as_slice() {
            json = json.replace(&format!("${{{name}}}"), &word.text).replace(&format!("${name}"), &word.text);
        }
    }
    serde_json::from_str::<Value>(&json).is_ok().then_some(json)
}

/// Reads a DeepSpeed configuration.
pub(super) fn deepspeed_json(text: &str) -> Result<ReadCommand, CommandError> {
    let root: Value = serde_json::from_str(text)
        .map_err(|e| CommandError::new(e.line().max(1), "JSON", "", format!("a JSON object ({e})")))?;
    const OURS: [&str; 6] = [
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "zero_optimization",
        "tensor_parallel",
        "expert_parallel",
        "gradient_accumulation_steps",
    ];
    if !OURS.iter().any(|key| root.get(key).is_some()) {
        let allowed = format!("a DeepSpeed configuration has one of {}; this JSON has none", OURS.join(", "));
        return Err(CommandError::new(0, "", "", allowed));
    }
    let json = Json { text, root: &root };
    if let Value::Object(map) = &root {
        super::typos::refuse_json(map.keys(), |key| json.line(key))?;
    }
    let mut out = ReadCommand::new(Framework::Deepspeed);
    out.train.global_batch = json.number("train_batch_size", 1)?;
    let d = &mut out.draft;
    d.tp = json.number("tensor_parallel.autotp_size", 1)?.or(json.number("tensor_parallel.tp.tp_size", 1)?);
    d.ep = json.number("expert_parallel.autoep_size", 1)?;
    if d.ep.is_some() {
        d.etp = json.number("expert_parallel.expert_tensor_parallel_size", 1)?.or(Some(1));
    }
    d.dp = json.number("data_parallel_size", 1)?;
    d.cp = json.number("sequence_parallel_size", 1)?.filter(|n| *n > 1);
    let k = &mut d.knobs;
    k.micro_batch = json.number("train_micro_batch_size_per_gpu", 1)?.unwrap_or(1);
    let stage = "zero_optimization.stage";
    k.zero = match json.number(stage, 0)? {
        None => 0,
        Some(n @ 0..=3) => u8::try_from(n).unwrap_or(0),
        Some(n) => return Err(CommandError::new(json.line(stage), stage, &n.to_string(), "0, 1, 2 or 3")),
    };
    let offload = json.at("zero_optimization.offload_optimizer");
    if offload.and_then(|o| o.get("device")).and_then(Value::as_str).is_some_and(|device| device != "none") {
        let ratio = offload.and_then(|o| o.get("ratio")).and_then(Value::as_f64).unwrap_or(1.0);
        if !(0.0..=1.0).contains(&ratio) {
            let line = json.line("zero_optimization.offload_optimizer.ratio");
            return Err(CommandError::new(line, "ratio", &ratio.to_string(), "a share from 0 to 1"));
        }
        k.optimizer_offload = percent(ratio);
    }
    let enabled = |key: &str| json.at(key).and_then(|f| f.get("enabled")).and_then(Value::as_bool) == Some(true);
    let formats = [("bf16", Precision::Bf16), ("bfloat16", Precision::Bf16), ("fp16", Precision::Fp16)];
    out.train.precision = formats.into_iter().find(|(key, _)| enabled(key)).map(|(_, precision)| precision);
    out.train.accumulation = json.number("gradient_accumulation_steps", 1)?;
    if let (Some(batch), Some(steps)) = (out.train.global_batch, out.train.accumulation) {
        // train_batch_size = micro * accumulation * data parallel ranks.
        let step = u64::from(out.draft.knobs.micro_batch) * u64::from(steps);
        let ranks = u64::from(batch) / step;
        if ranks > 0 && u64::from(batch).is_multiple_of(step) {
            out.world = Some(ranks.saturating_mul(u64::from(out.draft.tp.unwrap_or(1))));
        }
    }
    Ok(out)
}

struct Json<'a> {
    text: &'a str,
    root: &'a Value,
}

impl Json<'_> {
    fn at(&self, path: &str) -> Option<&Value> {
        path.split('.').try_fold(self.root, |value, key| value.get(key))
    }

    fn line(&self, path: &str) -> usize {
        let key = format!("\"{}\"", path.rsplit('.').next().unwrap_or(path));
        self.text.lines().position(|line| line.contains(&key)).map_or(1, |line| line + 1)
    }

    fn number(&self, path: &str, least: u32) -> Result<Option<u32>, CommandError> {
        match self.at(path) {
            None | Some(Value::Null) => Ok(None),
            // Hugging Face fills these in by itself.
            Some(Value::String(word)) if word == "auto" => Ok(None),
            Some(value) => {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                number(self.line(path), path, &text, least, MOST_SIZE).map(Some)
            }
        }
    }
}
