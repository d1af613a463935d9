//! Snapshots of what people see. Belongs here: one per file of `configs/jobs`, and the words of help and refusals.
//!
//! Review: `INSTA_UPDATE=always cargo test golden`, then read the diff. Times, prices and memory are left out, so that a
//! recalibration changes a snapshot only where it changes a plan.

use crate::tool::{Ran, run, say};
use serde_json::Value;
use std::fmt::Write as _;

/// Rules that measure: how many they refuse changes with every recalibration.
const MEASURED: [&str; 4] = ["memory", "kv-capacity", "ttft", "tpot"];

/// Heading, legality, funnel and plans of a job file.
fn summary(name: &str) -> String {
    let path = format!("configs/jobs/{name}.json");
    let table: Ran = say(&format!("plan --job {path} --quiet --top 5"));
    let answer = say(&format!("plan --job {path} --quiet --top 5 --format json")).json();
    let mut out = format!("$ meshwright plan --job {path} --top 5\nexit {}\n", table.code.expect("an exit code"));
    assert_eq!(table.stderr, "");
    for line in table.stdout.lines().take_while(|line| !line.is_empty()) {
        let _ = writeln!(out, "{line}");
    }
    let searched = &answer["searched"];
    let _ = writeln!(
        out,
        "\n{} factorisations, {} meshes, {} plans",
        searched["factorisations"], searched["meshes"], searched["plans"]
    );
    for layer in ["meshes", "plans"] {
        for tally in answer["refused"][layer].as_array().expect("a list") {
            let rule = tally["rule"].as_str().expect("a rule");
            if MEASURED.contains(&rule) {
                let _ = writeln!(out, "{layer}: {rule} refuses some");
                continue;
            }
            let near = &tally["nearest"];
            let _ = writeln!(
                out,
                "{layer}: {rule} refuses {}; nearest: {}: {} ({})",
                tally["refused"],
                word(&near["plan"]),
                word(&near["message"]),
                word(&near["hint"])
            );
        }
    }
    for row in answer["results"].as_array().expect("a list") {
        let _ = writeln!(out, "{}: {}: {}", row["rank"], word(&row["plan"]["text"]), word(&row["plan"]["formula"]));
    }
    out
}

fn word(value: &Value) -> &str {
    value.as_str().expect("a text")
}

macro_rules! jobs {
    ($($name:ident $file:literal,)*) => {
        $(
            #[test]
            fn $name() {
                insta::assert_snapshot!($file, summary($file));
            }
        )*

        const JOBS: &[&str] = &[$($file),*];
    };
}

jobs! {
    pretrain_qwen3_30b_a3b "pretrain-qwen3-30b-a3b",
    pretrain_llama_3_70b_megatron "pretrain-llama-3-70b-megatron",
    serve_deepseek_v3 "serve-deepseek-v3",
    three_gpus_mixtral "three-gpus-mixtral",
    one_gpu_gpt_oss_120b "one-gpu-gpt-oss-120b",
    nothing_fits_deepseek_v3 "nothing-fits-deepseek-v3",
}

#[test]
fn every_job_file_has_a_snapshot() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/jobs");
    let mut found: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|f| f.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    found.sort();
    let mut listed: Vec<&str> = JOBS.to_vec();
    listed.sort_unstable();
    assert_eq!(found, listed);
}

#[test]
fn refusals_read_well() {
    let mut out = String::new();
    for args in [
        &["plan"][..],
        &["plan", "--model", "qwen3-30b-a3b"],
        &["plan", "--model", "qwen3-30b-a4b", "--cluster", "16xH100"],
        &["plan", "--model", "qwen3-30b-a3b", "--cluster", "16xH1000"],
        &["plan", "--model", "qwen3-30b-a3b", "--cluster", "0xH100"],
        &["plan", "--model", "qwen3-30b-a3b", "--cluster", "16xH100", "--tp", "0"],
        &["plan", "--model", "qwen3-30b-a3b", "--cluster", "16xH100", "--tp", "8..=1"],
        &["plan", "--model", "qwen3-30b-a3b", "--cluster", "16xH100", "--objective", "speed"],
        &["plan", "--model", "qwen3-30b-a3b", "--cluster", "16xH100", "--framework", "megatorn"],
        &["plan", "--model", "qwen3-30b-a3b", "--cluster", "16xH100", "--framework", "vllm", "--train"],
        &["plan", "--model", "qwen3-30b-a3b", "--cluster", "16xH100", "--precision", "fp7"],
        &["plan", "--model", "qwen3-30b-a3b", "--cluster", "16xH100", "--format", "xml"],
        &["plan", "--model", "qwen3-30b-a3b", "--cluster", "16xH100", "--top", "0"],
        &["plan", "--model", "qwen3-30b-a3b", "--cluster", "16xH100", "--threads", "0"],
        &["plan", "--modle", "qwen3-30b-a3b"],
        &["plan", "--serve", "--seq-len", "4096", "--model", "gpt2", "--cluster", "1xH100"],
        &["estimate", "--model", "llama-3-8b", "--cluster", "8xH100"],
        &["estimate", "--model", "llama-3-8b", "--cluster", "8xH100", "tp2 pp2 dpp2"],
        &["estimate", "--model", "llama-3-8b", "--cluster", "8xH100", "tp0"],
        &["estimate", "--model", "llama-3-8b", "--cluster", "8xH100", "tp2 tp4"],
        &["estimate", "--model", "llama-3-8b", "--cluster", "8xH100", ""],
        &["compare", "--model", "llama-3-8b", "--cluster", "8xH100"],
        &["list", "modles"],
        &["plann"],
        &[],
    ] {
        let ran = run(args);
        let _ = writeln!(out, "$ meshwright {}\n{}", args.join(" "), ran.refusal());
    }
    insta::assert_snapshot!("refusals", out);
}
