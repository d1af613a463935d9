//! The JSON of every answer against the schemas of `tests/it/schema`. Belongs here: what a program may rely on in form.
//!
//! The validator knows the keywords the schemas use and refuses to pass over one it does not know.

use crate::tool::{Scratch, run, run_with, say};
use serde_json::{Map, Value};
use std::fs;
use std::path::{Path, PathBuf};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/schema")
}

fn load(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(folder().join(name)).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Where `value` departs from `schema`, as lines; `root` is the document that `#/...` points into.
fn departs(at: &str, value: &Value, schema: &Value, root: &Value, out: &mut Vec<String>) {
    let Value::Object(keys) = schema else {
        if *schema != Value::Bool(true) {
            out.push(format!("{at}: nothing is allowed here"));
        }
        return;
    };
    for (key, want) in keys {
        let mut refuse = |why: String| out.push(format!("{at}: {why}"));
        match key.as_str() {
            "$schema" | "title" | "description" | "$defs" => {}
            "$ref" => {
                let target = want.as_str().expect("a text");
                match target.strip_prefix('#') {
                    Some(pointer) => departs(at, value, root.pointer(pointer).expect("a place"), root, out),
                    None => {
                        let other = load(target);
                        departs(at, value, &other, &other, out);
                    }
                }
            }
            "type" => {
                let names: Vec<&str> = want.as_array().map_or_else(
                    || vec![want.as_str().expect("a type")],
                    |list| list.iter().map(|t| t.as_str().expect("a type")).collect(),
                );
                if !names.iter().any(|name| is(value, name)) {
                    refuse(format!("{value} is no {}", names.join(" or ")));
                }
            }
            "const" if value != want => refuse(format!("{value} is not {want}")),
            "enum" if !want.as_array().expect("a list").contains(value) => refuse(format!("{value} is none of {want}")),
            "const" | "enum" => {}
            "required" => {
                for name in want.as_array().expect("a list").iter().map(|n| n.as_str().expect("a key")) {
                    if value.as_object().is_some_and(|map| !map.contains_key(name)) {
                        refuse(format!("`{name}` is missing"));
                    }
                }
            }
            "properties" => {
                for (name, inner) in want.as_object().expect("an object") {
                    if let Some(found) = value.get(name) {
                        departs(&format!("{at}/{name}"), found, inner, root, out);
                    }
                }
            }
            "additionalProperties" => {
                let known = keys.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
                for (name, found) in value.as_object().unwrap_or(&Map::new()) {
                    if !known.contains_key(name) {
                        departs(&format!("{at}/{name}"), found, want, root, out);
                    }
                }
            }
            "items" => {
                for (i, found) in value.as_array().into_iter().flatten().enumerate() {
                    departs(&format!("{at}/{i}"), found, want, root, out);
                }
            }
            "minItems" | "maxItems" | "minLength" => {
                let (len, text) = (value.as_array().map(Vec::len), value.as_str().map(str::len));
                let len = if key == "minLength" { text } else { len };
                let bound = usize::try_from(want.as_u64().expect("a length")).expect("small");
                if len.is_some_and(|n| if key == "maxItems" { n > bound } else { n < bound }) {
                    refuse(format!("{key} is {bound}"));
                }
            }
            "minimum" | "maximum" | "exclusiveMinimum" => {
                let bound = want.as_f64().expect("a number");
                let holds = |n: f64| match key.as_str() {
                    "minimum" => n >= bound,
                    "maximum" => n <= bound,
                    _ => n > bound,
                };
                if value.as_f64().is_some_and(|n| !holds(n)) {
                    refuse(format!("{value}, and the {key} is {bound}"));
                }
            }
            "allOf" => want.as_array().expect("a list").iter().for_each(|s| departs(at, value, s, root, out)),
            "oneOf" => {
                let all = want.as_array().expect("a list");
                let fit = all.iter().filter(|s| fits(value, s, root)).count();
                if fit != 1 {
                    refuse(format!("fits {fit} of {} forms, not one", all.len()));
                }
            }
            "not" if fits(value, want, root) => refuse(format!("must not be {want}")),
            "not" => {}
            other => panic!("the validator does not know `{other}`"),
        }
    }
}

fn fits(value: &Value, schema: &Value, root: &Value) -> bool {
    let mut out = Vec::new();
    departs("", value, schema, root, &mut out);
    out.is_empty()
}

fn is(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        other => panic!("`{other}` is no type of JSON Schema"),
    }
}

/// Fails with every departure.
pub(crate) fn check(schema: &str, value: &Value) {
    let root = load(schema);
    let mut out = Vec::new();
    departs("", value, &root, &root, &mut out);
    assert!(out.is_empty(), "{schema}:\n{}\n{value:#}", out.join("\n"));
}

#[test]
fn the_validator_sees_what_is_wrong() {
    let good = serde_json::json!({"schema": 1, "error": "e"});
    check("error.json", &good);
    for bad in [
        serde_json::json!({"schema": 2, "error": "e"}),
        serde_json::json!({"schema": 1}),
        serde_json::json!({"schema": 1, "error": ""}),
        serde_json::json!({"schema": 1, "error": 3}),
        serde_json::json!({"schema": 1, "error": "e", "more": 1}),
    ] {
        assert!(!fits(&bad, &load("error.json"), &load("error.json")), "{bad}");
    }
    let result = load("result.json");
    let half = serde_json::json!({"schema": 1, "plan": {"convention": "product", "gpus": 1, "formula": "f"}, "verdict": "fits",
        "rejections": [], "basis": {"memory": "exact", "time": "exact"}});
    assert!(!fits(&half, &result, &result), "what fits has its memory");
}

#[test]
fn answers_of_plan_have_their_form() {
    for line in [
        "--model qwen3-30b-a3b --cluster 16xH100",
        "--model mixtral-8x7b --cluster 3xA100 --serve",
        "--model deepseek-v3 --cluster 8xH100 --serve",
        "--model llama-3-8b --cluster 8xH100 --framework megatron",
        "--model deepseek-v3 --cluster 16xH200 --framework sglang",
        "--model llama-3-8b --cluster 4xL40S --framework torchtitan --use-fewer",
    ] {
        let ran = say(&format!("plan {line} --quiet --top 5 --format json"));
        let value = ran.json();
        check("plan.json", &value);
        let found = !value["results"].as_array().unwrap().is_empty();
        assert_eq!(ran.code, Some(i32::from(!found)), "{line}");
        let rows = say(&format!("plan {line} --quiet --top 5 --format jsonl")).stdout;
        for row in rows.lines() {
            check("result.json", &serde_json::from_str(row).unwrap());
        }
        assert_eq!(rows.lines().count(), value["results"].as_array().unwrap().len());
    }
}

#[test]
fn answers_of_estimate_have_their_form() {
    for (line, plan) in [
        ("--model qwen3-30b-a3b --cluster 16xH100", "tp2 ep4 pp2 dp1 mb1 recompute=full"),
        ("--model qwen3-30b-a3b --cluster 16xH100", "tp2 ep4 pp2 dp2"),
        ("--model qwen3-30b-a3b --cluster 16xH100", "tp3 ep5 pp7 dp1000 vpp4"),
        ("--model qwen3-30b-a3b --cluster 16xH100 --framework megatron", "tp3 ep5 pp2"),
        ("--model deepseek-v3 --cluster 16xH200 --framework vllm", "tp8 dp2 ep=true"),
        ("--model deepseek-v3 --cluster 16xH200 --framework trtllm", "tp16 moe_tp=3 moe_ep=5"),
        ("--model gpt-oss-120b --cluster 1xL40S --serve", "tp1"),
    ] {
        let mut args = vec!["estimate", "--format", "json", "--quiet"];
        args.extend(line.split(' '));
        args.push(plan);
        check("result.json", &run(&args).json());
    }
}

#[test]
fn lines_of_a_batch_have_their_form() {
    let jobs = r#"{"id":"a","model":"llama-3-8b","cluster":"8xH100","train":{},"plan":"tp2 pp1 dp4"}
{"id":"b","model":"llama-3-8b","cluster":"8xH100","train":{},"plan":"tp2 pp1 dp5"}
{"id":"c","model":"nobody","cluster":"8xH100","train":{},"plan":"tp2"}
"#;
    let ran = run_with(&["estimate", "--batch", "-"], jobs.as_bytes());
    let lines: Vec<Value> = ran.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    check("result.json", &lines[0]);
    check("result.json", &lines[1]);
    check("error.json", &lines[2]);
}

/// The document of US2: an expert axis that its formula forgets, and a percentage of bytes over gigabytes.
pub(crate) const DOCUMENT: &str = "\
# Plan

Cluster: 16 GPUs, 80 GB each. Model: 64 experts.

Strategy: TP 2, EP 4, PP 2, DP 2

Total GPUs required = PP x TP x DP = 2 x 2 x 2 = 8
Memory per GPU: 41.25 GB of 80 GB (memory utilisation 51562500000.0%)
";

#[test]
fn answers_of_verify_have_their_form() {
    let here = Scratch::new();
    let file = here.file("plan.md", DOCUMENT);
    let ran = run(&["verify", "--format", "json", &file]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let value = ran.json();
    check("verify.json", &value);
    assert_eq!((&value["gpus"]["available"], &value["gpus"]["needed"]), (&16.into(), &32.into()));
    assert_eq!(value["gpus"]["formula"], "TP*EP*PP*DP = 2*4*2*2 = 32");
    assert_eq!(value["holds"], false);
    let plans: Vec<&str> = value["fixes"].as_array().unwrap().iter().map(|f| f["plan"].as_str().unwrap()).collect();
    for fix in ["tp2 ep2 pp2 dp2", "tp1 ep4 pp2 dp2"] {
        assert!(plans.iter().any(|p| p.starts_with(fix)), "{fix} among {plans:?}");
    }
    let folder = run(&["verify", "--format", "json", &here.path("")]);
    let all = folder.json();
    all.as_array().expect("a folder gives an array").iter().for_each(|one| check("verify.json", one));
    assert_eq!(folder.code, Some(1));
}
