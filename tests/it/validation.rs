//! `validate` and the bands it gives. Belongs here: that tables, residuals and what people see of them agree.

use crate::tool::{run, say};
use meshwright::catalog;
use serde_json::Value;
use std::fs;
use std::path::Path;

#[test]
fn the_built_in_residuals_are_what_validate_writes() {
    let said = say("validate --residuals");
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/validation/residuals.json");
    let kept = fs::read_to_string(kept).expect("the file is there");
    assert_eq!(
        said.stdout, kept,
        "write it again: meshwright validate --residuals --output configs/validation/residuals.json"
    );
    assert!(catalog::residuals().contains_key("step time") && catalog::residuals().contains_key("TPOT"));
    // A narrower kind rests on fewer runs than the one it falls back to.
    let rows = |kind: &str| catalog::residuals().get(kind).map_or(0, |r| r.rows);
    assert!(rows("step time, dense, one node, 16 bits") <= rows("step time, dense, one node"));
    assert!(rows("step time, one node") + rows("step time, several nodes") <= rows("step time"));
}

#[test]
fn error_tables_go_by_source_gpu_precision_nodes_and_model() {
    let said = say("validate --format json").json();
    let summary = said["summary"].as_array().expect("summaries");
    let of = |by: &str| summary.iter().filter(|s| s["by"] == by).count();
    for (by, least) in [("source", 12), ("gpu", 8), ("precision", 6), ("nodes", 6), ("model", 6)] {
        assert!(of(by) >= least, "{by}: {}", of(by));
    }
    let total = |by: &str| -> u64 {
        let of = summary.iter().filter(|s| s["by"] == by);
        of.map(|s| s["rows"].as_u64().expect("a count")).sum()
    };
    let rows = said["rows"].as_array().expect("rows").len() as u64;
    for by in ["source", "gpu", "precision", "nodes", "model"] {
        assert_eq!(total(by), rows, "every figure is in one line of each table");
    }
    let number = |v: &Value| v.as_f64().expect("a number");
    for s in summary {
        let (median, p90, worst) = (number(&s["median_error"]), number(&s["p90_error"]), number(&s["worst_error"]));
        assert!(median <= p90 && p90 <= worst, "{s}");
    }
    for o in said["order"].as_array().expect("orders") {
        assert!(o["pairs_in_order"].as_u64() <= o["pairs"].as_u64(), "{o}");
        assert!(number(&o["first_choice_loses"]) <= number(&o["first_choice_loses_at_worst"]), "{o}");
    }
}

#[test]
fn every_time_has_a_band_and_borrowed_curves_a_wider_one() {
    let band = |cluster: &str| {
        let plan = ["estimate", "--model", "llama-3-70b", "--cluster", cluster, "--format", "json", "tp4 pp4 dp4 mb1"];
        run(&plan).json()["time"]["band"]["step_time"].clone()
    };
    let (own, lent) = (band("64xH100"), band("64xMI300X"));
    let off = |v: &Value| v["off"].as_f64().expect("a number");
    assert!((off(&lent) / off(&own) - meshwright::estimate::band::BORROWED).abs() < 1e-9, "{own} {lent}");
    assert_eq!(own["curves"], "measured");
    assert_eq!(lent["curves"], "assumed from h100-sxm");
    let text = say("explain --model llama-3-8b --cluster 8xH100 --serve --framework vllm tp4,pp1,dp2,ep=false").stdout;
    assert!(text.contains("TTFT") && text.matches("+-").count() == 4, "{text}");
    let text = say("plan --model llama-3-8b --cluster 8xMI300X --top 1").stdout;
    assert!(text.contains("for curves assumed from h100-sxm"), "{text}");
}

#[test]
fn utilization_is_named_by_convention() {
    let used = |plan: &str| {
        let said = run(&["estimate", "--model", "llama-3-8b", "--cluster", "8xH100", "--format", "json", plan]).json();
        let train = said["train"].clone();
        let get = |key: &str| train["utilization"][key].as_f64().expect("a share");
        assert!((train["mfu"].as_f64().expect("a share") - get("mfu_causal")).abs() < 1e-12);
        ["mfu_causal", "mfu_full_attention", "hfu_causal", "hfu_full_attention"].map(get)
    };
    let [causal, full, hardware, hardware_full] = used("tp1 pp1 dp8 mb1 zero=3");
    assert!(causal < full && (causal - hardware).abs() < 1e-12 && (full - hardware_full).abs() < 1e-12);
    let [causal, full, hardware, hardware_full] = used("tp1 pp1 dp8 mb1 zero=3 recompute=full");
    // One forward pass in four more, but for the head.
    assert!(hardware / causal > 1.28 && hardware / causal < 4.0 / 3.0, "{}", hardware / causal);
    assert!(hardware_full > full && hardware_full > hardware);
}

#[test]
fn a_file_of_rows_is_read_and_refused_by_name() {
    let scratch = crate::tool::Scratch::new();
    let row = r#"{"notes": ["mine"], "sources": {"log": "a log"}, "rows": [{"id": "mine/1", "source": "log line 7", "step_time_s": STEP,
        "job": {"model": "llama-3-8b", "cluster": "8xH100", "train": {"seq_len": 4096, "global_batch": 64}, "plan": "tp2 pp1 dp4 mb1"}}]}"#;
    let good = scratch.file("good.json", row.replace("STEP", "4.2"));
    let said = run(&["validate", "--data", &good, "--rows"]);
    assert!(said.stdout.contains("mine/1") && said.stdout.contains("a log, line 7"), "{}", said.stdout);
    let bad = scratch.file("bad.json", row.replace("STEP", "0"));
    let said = run(&["validate", "--data", &bad]);
    let line = said.refusal();
    assert!(line.contains("bad.json: mine/1") && line.contains("step_time_s") && line.contains("above 0"), "{line}");
}
