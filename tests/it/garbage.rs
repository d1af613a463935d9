//! Mutated input. Belongs here: files and command lines that a machine broke, always the same way.
//!
//! Whatever is still sound gives 0 or 1; the rest gives 2 and one line that names the place. Never a panic, never a signal.

use crate::tool::{Ran, Scratch, run};
use serde_json::{Map, Value, json};

/// Knuth's linear congruential generator: the same mutations on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % below as u64).expect("below a usize")
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.roll(from.len())]
    }
}

/// A sound answer, or a refusal that says where.
fn check(ran: &Ran, input: &str, places: &[&str]) -> bool {
    match ran.code {
        Some(0 | 1) => {
            assert!(!ran.stdout.is_empty(), "a result: {input}\n{}", ran.stderr);
            false
        }
        Some(2) => {
            let line = ran.refusal();
            assert!(line.starts_with("error: ") && line.chars().count() < 600, "{input}\n{line}");
            assert!(places.iter().any(|p| line.contains(p)), "names the place: {input}\n{line}");
            true
        }
        other => panic!("exit {other:?} from {input}\n{}", ran.stderr),
    }
}

fn config() -> Value {
    json!({
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "hidden_size": 7168, "num_hidden_layers": 61,
        "num_attention_heads": 128, "num_key_value_heads": 128, "vocab_size": 129_280, "max_position_embeddings": 163_840,
        "intermediate_size": 18_432, "moe_intermediate_size": 2048, "n_routed_experts": 256, "num_experts_per_tok": 8,
        "n_shared_experts": 1, "first_k_dense_replace": 3, "moe_layer_freq": 1, "n_group": 8, "topk_group": 4,
        "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "tie_word_embeddings": false, "num_nextn_predict_layers": 1, "hidden_act": "silu", "torch_dtype": "bfloat16",
        "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
    })
}

fn other_config() -> Value {
    json!({
        "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "hidden_size": 2880, "num_hidden_layers": 4,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 201_088,
        "max_position_embeddings": 131_072, "intermediate_size": 2880, "num_local_experts": 32, "num_experts_per_tok": 4,
        "sliding_window": 128, "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        "attention_bias": true, "tie_word_embeddings": false, "hidden_act": "silu",
        "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}
    })
}

fn job() -> Value {
    json!({
        "id": "x", "model": "llama-3-8b", "cluster": {"gpu": "h100-sxm", "nodes": 2, "gpus_per_node": 8,
            "network": {"kind": "infiniband", "bandwidth": "400 Gb/s", "nics_per_node": 8, "latency": "5 us"},
            "scale_up": {"kind": "nvlink", "bandwidth": "450 GB/s", "domain": 8}},
        "train": {"seq_len": 4096, "global_batch": 512, "precision": "bf16", "optimizer": "adam", "grad_dtype": "fp32", "moe_balance": 1.0},
        "convention": "product", "gpu_price": "$2.50/h",
        "plan": {"tp": 2, "ep": 1, "pp": 2, "dp": 4, "micro_batch": 1, "vpp": 1, "recompute": "selective", "zero": 1,
            "optimizer_offload": 0.5, "sequence_parallel": true, "schedule": "1f1b", "tp_overlap": true}
    })
}

/// A value that does not belong.
fn strange(dice: &mut Dice) -> Value {
    let all = [
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(-9_223_372_036_854_775_808_i64),
        json!(1),
        json!(3),
        json!(7),
        json!(4_294_967_295_u32),
        json!(4_294_967_296_u64),
        json!(18_446_744_073_709_551_615_u64),
        json!(1e308),
        json!(1e-308),
        json!(2.5),
        json!(268_435_456),
        json!(1_048_576),
        json!(""),
        json!("NaN"),
        json!("8"),
        json!("\u{0}\n\u{1b}[31m"),
        json!("\u{1f600}".repeat(300)),
        json!([]),
        json!([1, "2", null]),
        json!({}),
        json!({"a": {"b": [1]}}),
        json!("infinity"),
        json!("-5 GB/s"),
        json!("1e400 GB/s"),
        json!("0 GB/s"),
    ];
    all[dice.roll(all.len())].clone()
}

/// A random object inside a value, itself included.
fn somewhere<'a>(dice: &mut Dice, value: &'a mut Value) -> &'a mut Map<String, Value> {
    let map = value.as_object_mut().expect("an object");
    let inner: Vec<String> = map.iter().filter(|(_, v)| v.is_object()).map(|(k, _)| k.clone()).collect();
    if inner.is_empty() || dice.roll(2) == 0 {
        return map;
    }
    let key = inner[dice.roll(inner.len())].clone();
    somewhere(dice, map.get_mut(&key).expect("just found"))
}

/// The bytes of a value that was broken in one to three places.
fn broken(dice: &mut Dice, mut value: Value) -> Vec<u8> {
    for _ in 0..=dice.roll(3) {
        let wrong = strange(dice);
        let how = dice.roll(4);
        let map = somewhere(dice, &mut value);
        let keys: Vec<String> = map.keys().cloned().collect();
        if keys.is_empty() {
            continue;
        }
        let key = keys[dice.roll(keys.len())].clone();
        match how {
            0 => drop(map.remove(&key)),
            1 => drop(map.insert(format!("{key}x"), wrong)),
            _ => drop(map.insert(key, wrong)),
        }
    }
    let mut bytes = value.to_string().into_bytes();
    match dice.roll(12) {
        0 => bytes.truncate(dice.roll(bytes.len() + 1)),
        1 => {
            let at = dice.roll(bytes.len());
            bytes[at] = 0xff;
        }
        2 => {
            let at = dice.roll(bytes.len());
            bytes[at] = b"{}[]\",:x\x00"[dice.roll(9)];
        }
        3 => {
            // What no JSON number can be, and a Python writer writes.
            let text = String::from_utf8(bytes).expect("JSON is text");
            bytes = text.replacen(['1', '2', '4', '8'], "NaN", 1).into_bytes();
        }
        4 => bytes = "[".repeat(100_000).into_bytes(),
        _ => {}
    }
    bytes
}

#[test]
fn broken_configs_are_refused_with_their_place() {
    let here = Scratch::new();
    let mut dice = Dice(1);
    let mut refused = 0;
    for i in 0..160 {
        let base = if i % 2 == 0 { config() } else { other_config() };
        let file = here.file(&format!("{i}.json"), broken(&mut dice, base));
        let ran = run(&["estimate", "--quiet", "--model", &file, "--cluster", "16xH200", "--serve", "tp8 dp2"]);
        let text = std::fs::read(&file).expect("just written");
        let head = String::from_utf8_lossy(&text[..text.len().min(2000)]).into_owned();
        refused += u32::from(check(&ran, &head, &[&file, "flags: at `"]));
    }
    assert!((40..160).contains(&refused), "{refused} of 160 refused");
}

#[test]
fn broken_job_files_are_refused_with_their_place() {
    let here = Scratch::new();
    let mut dice = Dice(2);
    let mut refused = 0;
    for i in 0..120 {
        let bytes = broken(&mut dice, job());
        let file = here.file(&format!("{i}.json"), &bytes);
        let ran = run(&["estimate", "--quiet", "--job", &file]);
        let head = String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]).into_owned();
        refused +=
            u32::from(check(&ran, &head, &[&file, "unknown ", "flags: at `", "plan: ", "cluster: ", "cluster`"]));
    }
    assert!((60..120).contains(&refused), "{refused} of 120 refused");
}

#[test]
fn broken_lines_of_a_batch_leave_the_rest_alone() {
    let mut dice = Dice(3);
    let good = job().to_string();
    let mut lines: Vec<Vec<u8>> = Vec::new();
    for _ in 0..60 {
        let mut line = broken(&mut dice, job());
        line.retain(|b| *b != b'\n');
        line.truncate(20_000);
        lines.push(String::from_utf8_lossy(&line).into_owned().into_bytes());
        lines.push(good.clone().into_bytes());
    }
    lines.retain(|line| !line.is_empty());
    let ran = crate::tool::run_with(&["estimate", "--quiet", "--batch", "-"], &lines.join(&b'\n'));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let answers: Vec<Value> = ran.stdout.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!(answers.len(), lines.len());
    let (mut sound, mut wrong) = (0, 0);
    for (line, answer) in lines.iter().zip(&answers) {
        if line == good.as_bytes() {
            assert_eq!(answer["verdict"], "fits", "{answer}");
            sound += 1;
        } else if answer.get("error").is_some() {
            crate::schema::check("error.json", answer);
            wrong += 1;
        } else {
            crate::schema::check("result.json", answer);
        }
    }
    assert!(sound == 60 && wrong > 20, "{sound} sound, {wrong} wrong");
}

#[test]
fn broken_command_lines_are_refused_with_their_flag() {
    let mut dice = Dice(4);
    let mut refused = 0;
    for _ in 0..160 {
        let command = dice.pick(&["plan", "estimate", "compare", "what-if", "explain", "launch", "list"]);
        let mut args: Vec<&str> = vec![command];
        if command == "list" {
            args.push(dice.pick(&["models", "gpus", "rules", "nothing", ""]));
        } else {
            args.extend(["--model", dice.pick(&["llama-3-8b", "gpt2", "mixtral-8x7b", "llama-3-8", "", "/", "."])]);
            args.extend([
                "--cluster",
                dice.pick(&["8xH100", "2x4xA100", "0xH100", "8x", "x", "99999999999xH100", "8xH100x", "-1xH100"]),
            ]);
        }
        if ["estimate", "compare", "explain", "launch"].contains(&command) {
            args.push(dice.pick(&[
                "tp2 dp4",
                "tp2 pp2 dp2",
                "tp3",
                "tp-2",
                "tp99999999999",
                "xyz",
                "",
                "tp2 zero=9",
                "\u{1f600}",
                "dp8 recompute=",
            ]));
        }
        for _ in 0..dice.roll(4) {
            let flag = dice.pick(&[
                "--tp",
                "--pp",
                "--seq-len",
                "--global-batch",
                "--isl",
                "--rate",
                "--percentile",
                "--mtp",
                "--replicas",
                "--concurrency",
                "--top",
                "--threads",
                "--format",
                "--gpu-price",
                "--weights",
                "--memory-fraction",
                "--moe-balance",
                "--serve",
                "--train",
                "--gpus",
                "--network",
                "--objective",
                "--use-fewer",
                "--what",
                "-x",
                "--",
                "--optimizer-offload",
                "--job",
                "--batch",
                "--output",
            ]);
            args.push(flag);
            if !["--serve", "--train", "--use-fewer", "--"].contains(&flag) && dice.roll(5) > 0 {
                args.push(dice.pick(&[
                    "1",
                    "2,4",
                    "1..=8",
                    "8..1",
                    "0",
                    "-1",
                    "4294967296",
                    "NaN",
                    "inf",
                    "1e999",
                    "",
                    "json",
                    "bf16",
                    "fp8",
                    "$2",
                    "0.9",
                    "100 Gb/s",
                    "throughput",
                    "nowhere/at/all",
                    "1..=1048576",
                    "\u{202e}",
                ]));
            }
        }
        // A file of its own for each run would only litter the repository.
        if let Some(at) = args.iter().position(|a| *a == "--output") {
            args.truncate(at);
        }
        let ran = run(&args);
        let places = ["`", "--", "cannot be read", "possible values", "missing", "plan", "flags", "argument '-"];
        let empty_is_fine = matches!(ran.code, Some(0 | 1)) && ran.stdout.is_empty();
        if empty_is_fine {
            assert!(!ran.stderr.is_empty() || command == "launch", "a result or a reason: {args:?}");
            continue;
        }
        refused += u32::from(check(&ran, &format!("{args:?}"), &places));
    }
    assert!((60..160).contains(&refused), "{refused} of 160 refused");
}
