//! The serving engines' commands.

use super::flags::{MOST_SIZE, number};
use super::keys::Keys;
use super::{CommandError, ReadCommand, Source};
use crate::framework::Framework;
use crate::job::{KvFormat, MOST_MTP};
use crate::plan::Toggle;

const KV: [(&str, Option<KvFormat>); 9] = [
    ("auto", None),
    ("bf16", Some(KvFormat::Bf16)),
    ("bfloat16", Some(KvFormat::Bf16)),
    ("float16", Some(KvFormat::Bf16)),
    ("fp8", Some(KvFormat::Fp8)),
    ("fp8_e4m3", Some(KvFormat::Fp8)),
    ("fp8_e5m2", Some(KvFormat::Fp8)),
    ("fp8_inc", Some(KvFormat::Fp8)),
    ("fp8_ds_mla", Some(KvFormat::Fp8)),
];

pub(super) fn vllm(source: &Source<'_>) -> Result<ReadCommand, CommandError> {
    let f = &source.flags;
    let mut out = ReadCommand::new(Framework::Vllm);
    let d = &mut out.draft;
    d.tp = f.degree(&["-tp", "--tensor-parallel-size"])?;
    d.pp = f.degree(&["-pp", "--pipeline-parallel-size"])?;
    d.dp = f.degree(&["-dp", "--data-parallel-size"])?;
    d.pcp = f.degree(&["-pcp", "--prefill-context-parallel-size"])?;
    d.expert_parallel = Some(f.has(&["--enable-expert-parallel", "-ep"]));
    let k = &mut d.knobs;
    k.dcp = f.degree(&["-dcp", "--decode-context-parallel-size"])?.unwrap_or(1);
    k.eplb = f.has(&["--enable-eplb"]);
    k.ep_overlap = two_batches(f.has(&["--enable-dbo"]));
    k.redundant_experts = redundant(source)?;
    k.replicas = source.servers();
    let local = f.degree(&["-dpl", "--data-parallel-size-local"])?;
    out.nodes = f.maybe(&["--nnodes"]);
    if let (None, Some(dp), Some(local)) = (out.nodes, out.draft.dp, local) {
        out.nodes = Some(dp.div_ceil(local));
    }
    out.model.name = f.text(&["--model"])?.map(str::to_owned).or_else(|| source.after("vllm"));
    out.serve.max_model_len = length(source, &["--max-model-len"])?;
    out.serve.max_num_seqs = f.size(&["--max-num-seqs"])?;
    out.serve.memory_fraction = f.share(&["--gpu-memory-utilization"])?;
    out.serve.kv_cache = f.choice(&["--kv-cache-dtype"], &KV)?.flatten();
    drafted(source, &mut out)?;
    served(&mut out);
    Ok(out)
}

/// `--speculative-config '{"method": "mtp", "num_speculative_tokens": 3}'`, or its keys as flags.
fn drafted(source: &Source<'_>, out: &mut ReadCommand) -> Result<(), CommandError> {
    let f = &source.flags;
    let tokens = f.number(&["--speculative-config.num-speculative-tokens"], 0, MOST_MTP)?;
    let method = f.text(&["--speculative-config.method"])?;
    let Some(text) = f.text(&["--speculative-config"])? else {
        match method {
            Some(method) if method.contains("mtp") => out.serve.mtp = Some(tokens.unwrap_or(1)),
            Some(method) => out.notes.push(other_drafts(method)),
            None if tokens.is_some() => out.notes.push(other_drafts("a draft model")),
            None => {}
        }
        return Ok(());
    };
    let (line, flag) = f.place(&["--speculative-config"]);
    let allowed = || {
        let example = "{\"method\":\"mtp\",\"num_speculative_tokens\":1}";
        CommandError::new(line, &flag, text, format!("a JSON object such as {example}, with up to {MOST_MTP} tokens"))
    };
    let value: serde_json::Value = serde_json::from_str(text).map_err(|_| allowed())?;
    let value = value.as_object().ok_or_else(allowed)?;
    let method = value.get("method").and_then(serde_json::Value::as_str).unwrap_or("a draft model");
    if !method.contains("mtp") {
        out.notes.push(other_drafts(method));
        return Ok(());
    }
    let tokens = match value.get("num_speculative_tokens") {
        None => 1,
        Some(n) => n.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= MOST_MTP).ok_or_else(allowed)?,
    };
    out.serve.mtp = Some(tokens);
    Ok(())
}

/// What is said of drafts that do not come from the model's own predictor.
fn other_drafts(method: &str) -> String {
    format!("speculative tokens of {method} are not counted: neither its memory nor its speed")
}

const fn two_batches(switched_on: bool) -> Toggle {
    if switched_on { Toggle::On } else { Toggle::Default }
}

/// `--max-model-len` may be `32k` or `32K`, or `auto`.
fn length(source: &Source<'_>, names: &[&str]) -> Result<Option<u32>, CommandError> {
    let Some(value) = source.flags.text(names)? else { return Ok(None) };
    if matches!(value, "auto" | "-1") {
        return Ok(None);
    }
    let (line, flag) = source.flags.place(names);
    let (digits, scale) = match value.char_indices().last() {
        Some((at, 'k')) => (&value[..at], 1000),
        Some((at, 'K')) => (&value[..at], 1024),
        _ => (value, 1),
    };
    number(line, &flag, digits, 1, MOST_SIZE / scale).map(|n| Some(n * scale))
}

fn redundant(source: &Source<'_>) -> Result<u32, CommandError> {
    let f = &source.flags;
    let plain = ["--num-redundant-experts", "--eplb-config.num-redundant-experts"];
    if let Some(count) = f.number(&plain, 0, MOST_SIZE)? {
        return Ok(count);
    }
    let Some(text) = f.text(&["--eplb-config"])? else { return Ok(0) };
    let (line, flag) = f.place(&["--eplb-config"]);
    let wrong = || CommandError::new(line, &flag, text, "a JSON object such as {\"num_redundant_experts\":4}");
    let value: serde_json::Value = serde_json::from_str(text).map_err(|_| wrong())?;
    match value.get("num_redundant_experts") {
        None => Ok(0),
        Some(count) => count.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= MOST_SIZE).ok_or_else(wrong),
    }
}

pub(super) fn sglang(source: &Source<'_>) -> Result<ReadCommand, CommandError> {
    let f = &source.flags;
    let mut out = ReadCommand::new(Framework::Sglang);
    let d = &mut out.draft;
    d.tp = f.degree(&["--tp-size", "--tensor-parallel-size", "--tp"])?;
    d.pp = f.degree(&["--pp-size", "--pipeline-parallel-size", "--pp"])?;
    let dp_names = ["--dp-size", "--data-parallel-size", "--dp"];
    d.dp = f.degree(&dp_names)?;
    d.attn_dp = f.degree(&["--attn-dp-size", "--attention-data-parallel-size"])?;
    if f.has(&["--enable-dp-attention"]) {
        // The older spelling of attention DP: the replicas' flag with a switch.
        if let (Some(dp), Some(attn)) = (d.dp, d.attn_dp)
            && dp != attn
        {
            let (line, flag) = f.place(&dp_names);
            let allowed = format!("with --enable-dp-attention the same as --attn-dp-size {attn}, or left out");
            return Err(CommandError::new(line, &flag, &dp.to_string(), allowed));
        }
        d.attn_dp = d.attn_dp.or(d.dp.take());
        d.dp = None;
        out.notes.push("--dp-size with --enable-dp-attention is --attn-dp-size in newer releases".into());
    }
    let d = &mut out.draft;
    d.pcp = f.degree(&["--attn-cp-size", "--attention-context-parallel-size"])?;
    d.ep = f.degree(&["--ep-size", "--expert-parallel-size", "--ep"])?;
    if d.ep.is_none() && f.has(&["--enable-ep-moe", "--enable-deepep-moe"]) {
        d.ep = d.tp;
    }
    let k = &mut d.knobs;
    k.moe_dp = f.degree(&["--moe-dp-size", "--moe-data-parallel-size"])?.unwrap_or(1);
    k.a2a = f.has(&["--enable-deepep-moe"]) || f.text(&["--moe-a2a-backend"])?.is_some_and(|b| b != "none");
    k.dcp = f.degree(&["--dcp-size", "--decode-context-parallel-size"])?.unwrap_or(1);
    k.eplb = f.has(&["--enable-eplb"]);
    k.ep_overlap = two_batches(f.has(&["--enable-two-batch-overlap"]));
    k.redundant_experts = f.number(&["--ep-num-redundant-experts"], 0, MOST_SIZE)?.unwrap_or(0);
    k.replicas = source.servers();
    out.nodes = f.maybe(&["--nnodes"]);
    out.model.name = f.text(&["--model-path", "--model"])?.map(str::to_owned);
    out.serve.max_model_len = f.size(&["--context-length"])?;
    out.serve.max_num_seqs = f.size(&["--max-running-requests"])?;
    out.serve.memory_fraction = f.share(&["--mem-fraction-static"])?;
    out.serve.kv_cache = f.choice(&["--kv-cache-dtype"], &KV)?.flatten();
    // A draft model of another path is somebody's own; without one the model's predictor drafts.
    match f.text(&["--speculative-algorithm"])? {
        Some("EAGLE" | "NEXTN") if f.text(&["--speculative-draft-model-path", "--speculative-draft"])?.is_none() => {
            out.serve.mtp = f.number(&["--speculative-num-steps"], 0, MOST_MTP)?;
            if out.serve.mtp.is_none() {
                out.notes.push("the engine chooses how many tokens it drafts: none are counted".into());
            }
        }
        Some(other) => out.notes.push(other_drafts(other)),
        None => {}
    }
    served(&mut out);
    Ok(out)
}

pub(super) fn trtllm(source: &Source<'_>) -> Result<ReadCommand, CommandError> {
    let f = &source.flags;
    let keys = Keys::scan(source.text, source.script);
    let mut out = ReadCommand::new(Framework::Trtllm);
    let degree = |names: &[&str], key: &str| -> Result<Option<u32>, CommandError> {
        let (flag, set) = (f.degree(names)?, keys.degree(key)?);
        if let (Some(flag), Some(set)) = (flag, set)
            && flag != set
        {
            let (line, name) = f.place(names);
            let allowed = format!("the same as {key} in line {}, which is {set}", keys.line(key));
            return Err(CommandError::new(line, &name, &flag.to_string(), allowed));
        }
        Ok(set.or(flag))
    };
    let d = &mut out.draft;
    d.tp = degree(&["--tp-size", "--tensor-parallel-size"], "tensor_parallel_size")?;
    d.pp = degree(&["--pp-size", "--pipeline-parallel-size"], "pipeline_parallel_size")?;
    d.cp = degree(&["--cp-size", "--context-parallel-size"], "context_parallel_size")?;
    d.moe_ep = degree(&["--ep-size", "--moe-expert-parallel-size"], "moe_expert_parallel_size")?;
    d.moe_tp = degree(&["--moe-tensor-parallel-size"], "moe_tensor_parallel_size")?;
    d.attention_dp = keys.switch("enable_attention_dp")?.or(f.has(&["--enable-attention-dp"]).then_some(true));
    d.knobs.replicas = source.servers();
    out.gpus_per_node = degree(&["--gpus-per-node", "--ntasks-per-node"], "gpus_per_node")?;
    out.nodes = f.maybe(&["-N", "--nodes"]).or_else(|| source.slurm("--nodes"));
    out.model.name = f.text(&["--model"])?.map(str::to_owned).or_else(|| source.after("trtllm-serve"));
    out.serve.max_model_len = keys.size("max_seq_len")?.or(f.size(&["--max-seq-len"])?);
    out.serve.max_num_seqs = keys.size("max_batch_size")?.or(f.size(&["--max-batch-size"])?);
    let memory = f.share(&["--kv-cache-free-gpu-memory-fraction", "--free-gpu-memory-fraction"])?;
    out.serve.memory_fraction = keys.share("free_gpu_memory_fraction")?.or(memory);
    match keys.text("decoding_type")? {
        Some("MTP") => out.serve.mtp = Some(keys.number("num_nextn_predict_layers", 0, MOST_MTP)?.unwrap_or(1)),
        Some(other) => out.notes.push(other_drafts(other)),
        None => {}
    }
    let dtype = keys.text("dtype").ok().flatten();
    out.serve.kv_cache = dtype.and_then(|word| KV.iter().find(|(name, _)| *name == word)).and_then(|(_, kv)| *kv);
    served(&mut out);
    Ok(out)
}

/// The ranks that a serving draft itself needs; nodes may follow.
fn served(out: &mut ReadCommand) {
    let d = &out.draft;
    let degrees = [d.tp, d.pp, if out.framework == Framework::Trtllm { d.cp } else { d.dp }];
    let mut world: u64 = degrees.into_iter().map(|n| u64::from(n.unwrap_or(1))).fold(1, u64::saturating_mul);
    if out.framework == Framework::Vllm {
        world = world.saturating_mul(u64::from(d.pcp.unwrap_or(1)));
    }
    // The nodes of a command are those of one replica.
    if out.gpus_per_node.is_none() {
        let share = out.nodes.filter(|n| world.is_multiple_of(u64::from(*n))).map(|n| world / u64::from(n));
        out.gpus_per_node = share.and_then(|n| u32::try_from(n).ok());
    }
    out.world = Some(world.saturating_mul(u64::from(d.knobs.replicas)));
}
