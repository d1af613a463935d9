//! Facts that others published, retyped. Belongs here: numbers with a source outside this project, and what we say to them.
//!
//! Counts and verdicts are exact; bytes and tokens have the tolerance of the story they come from.

use crate::tool::{Ran, run, say};
use meshwright::catalog;
use meshwright::model::Model;
use serde_json::Value;

fn near(got: f64, want: f64, share: f64, what: &str) {
    let off = got / want - 1.0;
    assert!(
        off.abs() <= share,
        "{what}: {got} is {:+.2}% off {want}, and {:.1}% is allowed",
        off * 100.0,
        share * 100.0
    );
}

/// What a table of model shapes says of one model.
struct Shape {
    model: &'static str,
    billions: f64,
    active: f64,
    routed: f64,
    kv_bytes: u64,
    layers: u32,
    heads: u32,
    kv_heads: Option<u32>,
    /// Experts, experts of a token, inner width.
    experts: Option<(u32, u32, u32)>,
}

/// `users.md`, section 9: configs of the publishers, counted by hand.
const SHAPES: [Shape; 7] = [
    Shape {
        model: "deepseek-v3",
        billions: 671.03,
        active: 37.55,
        routed: 653.91,
        kv_bytes: 70_272,
        layers: 61,
        heads: 128,
        kv_heads: None,
        experts: Some((256, 8, 2048)),
    },
    Shape {
        model: "qwen3-235b-a22b",
        billions: 235.09,
        active: 22.19,
        routed: 227.10,
        kv_bytes: 192_512,
        layers: 94,
        heads: 64,
        kv_heads: Some(4),
        experts: Some((128, 8, 1536)),
    },
    Shape {
        model: "qwen3-30b-a3b",
        billions: 30.53,
        active: 3.35,
        routed: 28.99,
        kv_bytes: 98_304,
        layers: 48,
        heads: 32,
        kv_heads: Some(4),
        experts: Some((128, 8, 768)),
    },
    Shape {
        model: "mixtral-8x7b",
        billions: 46.70,
        active: 12.88,
        routed: 45.10,
        kv_bytes: 131_072,
        layers: 32,
        heads: 32,
        kv_heads: Some(8),
        experts: Some((8, 2, 14336)),
    },
    Shape {
        model: "mixtral-8x22b",
        billions: 140.63,
        active: 39.16,
        routed: 135.29,
        kv_bytes: 229_376,
        layers: 56,
        heads: 48,
        kv_heads: Some(8),
        experts: Some((8, 2, 16384)),
    },
    Shape {
        model: "llama-3-70b",
        billions: 70.55,
        active: 70.55,
        routed: 0.0,
        kv_bytes: 327_680,
        layers: 80,
        heads: 64,
        kv_heads: Some(8),
        experts: None,
    },
    Shape {
        model: "gpt-oss-120b",
        billions: 116.83,
        active: 5.71,
        routed: 114.70,
        kv_bytes: 73_728,
        layers: 36,
        heads: 64,
        kv_heads: Some(8),
        experts: Some((128, 4, 2880)),
    },
];

#[test]
fn models_have_the_shapes_their_publishers_state() {
    let listed = say("list models --format json").json();
    for s in &SHAPES {
        let model: Model = catalog::model(s.model).unwrap();
        let of = |items: &Value| items.as_array().unwrap().iter().find(|m| m["name"] == s.model).cloned();
        let line = of(&listed["items"]).expect("listed");
        // The table rounds to 10 million.
        for (key, want) in [("params", s.billions), ("active_params", s.active), ("routed_params", s.routed)] {
            let got = line[key].as_f64().unwrap() / 1e9;
            assert!((got - want).abs() < 0.011, "{}: {key} {got} against {want}", s.model);
        }
        assert_eq!(line["kv_bytes_per_token"], s.kv_bytes, "{}", s.model);
        assert_eq!((model.layers(), model.heads(), model.kv_heads()), (s.layers, s.heads, s.kv_heads), "{}", s.model);
        assert_eq!(model.moe().map(|m| (m.experts, m.top_k, m.ffn)), s.experts, "{}", s.model);
    }
}

fn estimate(flags: &str, plan: &str) -> Value {
    let mut args: Vec<&str> = vec!["estimate", "--format", "json", "--quiet"];
    args.extend(flags.split(' '));
    args.push(plan);
    let ran: Ran = run(&args);
    let value = ran.json();
    assert_eq!(ran.code, Some(i32::from(value["verdict"] != "fits")), "{}", ran.stderr);
    value
}

fn term(r: &Value, key: &str) -> f64 {
    r["memory"]["terms_bytes"][key].as_f64().unwrap()
}

/// Weights, gradients and optimizer, in GB.
fn states(r: &Value) -> f64 {
    (term(r, "weights") + term(r, "gradients") + term(r, "optimizer")) / 1e9
}

fn rules(r: &Value) -> Vec<&str> {
    r["rejections"].as_array().unwrap().iter().map(|x| x["rule"].as_str().unwrap()).collect()
}

const US1: &str = "--model qwen3-30b-a3b --cluster 2x8xH100 --seq-len 4096 --global-batch 512 --framework megatron";

/// Megatron-Bridge's recipe for Qwen3-30B-A3B.
#[test]
fn us1_the_vendors_plan_is_valid_and_holds_its_states() {
    let r = estimate(US1, "tp1 pp2 ep8 mb1");
    assert_eq!((&r["verdict"], &r["plan"]["dp"], &r["plan"]["edp"]), (&"fits".into(), &8.into(), &1.into()));
    assert_eq!(r["plan"]["formula"], "TP*PP*DP = 1*2*8 = 16, ETP*EP*PP*EDP = 1*8*2*1 = 16");
    near(states(&r), 38.4, 0.03, "model states, GB");
    let ep: Vec<&Value> = r["communication"].as_array().unwrap().iter().filter(|c| c["group"] == "ep").collect();
    assert!(!ep.is_empty() && ep.iter().all(|c| c["crosses_network"] == false && c["members_per_node"] == 8), "{ep:?}");
}

/// A user's plan: tight with fp32 gradients, easy with bf16, never a flat refusal.
#[test]
fn us1_the_users_plan_depends_on_the_gradients() {
    let plain = estimate(US1, "tp1 pp2 ep2 mb1");
    near(states(&plain), 71.0, 0.03, "model states with fp32 gradients, GB");
    let full = estimate(US1, "tp1 pp2 ep2 mb1 recompute=full");
    assert_eq!(full["verdict"], "fits", "{:?}", full["rejections"]);
    for r in plain["rejections"].as_array().unwrap() {
        assert_eq!(r["rule"], "memory", "its degrees are legal");
        assert!(r["nearest"].as_str().unwrap().contains("recompute"), "the way out is named: {r}");
    }
    let half = estimate(&format!("{US1} --grad-dtype bf16"), "tp1 pp2 ep2 mb1");
    near(states(&half), 55.0, 0.03, "model states with bf16 gradients, GB");
    assert_eq!(half["verdict"], "fits");
}

#[test]
fn us1_five_rows_that_stand_and_no_expert_group_over_the_network_first() {
    let ran = say(&format!("plan {US1} --top 5 --format json --quiet"));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let plan = ran.json();
    assert_eq!(plan["searched"]["factorisations"], 35);
    let rows = plan["results"].as_array().unwrap();
    let texts: std::collections::BTreeSet<&str> = rows.iter().map(|r| r["plan"]["text"].as_str().unwrap()).collect();
    assert_eq!(texts.len(), 5, "five distinct plans");
    for r in rows {
        assert_eq!((&r["plan"]["gpus"], &r["plan"]["idle_gpus"]), (&16.into(), &0.into()));
        assert!(r["plan"]["dp"].is_u64() && r["plan"]["edp"].is_u64() && r["why"].is_string());
    }
    assert!(!rows[0]["over_network"].as_array().unwrap().contains(&"ep".into()), "EP inside a node wins");
    // What is printed holds when it is pasted back.
    for text in texts {
        assert_eq!(estimate(US1, text)["verdict"], "fits", "{text}");
    }
    // EP within a node against EP over two, all else equal.
    let within = estimate(US1, "tp1 pp1 ep8 mb1 recompute=full");
    let across = estimate(US1, "tp1 pp1 ep16 mb1 recompute=full");
    let step = |r: &Value| r["train"]["step_time_s"].as_f64().unwrap();
    assert!(step(&within) < step(&across), "{} against {}", step(&within), step(&across));
}

const US3: &str = "--model deepseek-v3 --serve --cluster";

/// The checkpoint is 672.9 GB without its prediction layer.
#[test]
fn us3_deepseek_v3_does_not_fit_eight_h100() {
    let model = catalog::model("deepseek-v3").unwrap();
    near(model.params() as f64, 671.0e9, 0.001, "parameters");
    near(model.weight_bytes(model.quant()), 672.9e9, 0.01, "fp8 weights");
    let r = estimate(&format!("{US3} 8xH100"), "tp8");
    assert_eq!(rules(&r), ["memory"]);
    near(term(&r, "weights"), 84.1e9, 0.02, "weights of a GPU");
    near(r["memory"]["capacity_bytes"].as_f64().unwrap(), 77.0e9, 0.01, "0.90 of what the driver reports");
    let said = say(&format!("plan {US3} 8xH100"));
    assert_eq!(said.code, Some(1));
    for word in ["no plan fits", "nearest", "weights", "try", "16 GPUs"] {
        assert!(said.stdout.contains(word), "`{word}` in:\n{}", said.stdout);
    }
}

#[test]
fn us3_five_h200_have_the_memory_and_not_the_heads() {
    let r = estimate(&format!("{US3} 5xH200"), "tp5");
    assert!(rules(&r).contains(&"heads"), "128 heads over 5: {:?}", rules(&r));
    let r = estimate(&format!("{US3} 5xH200"), "ep5");
    assert!(rules(&r).contains(&"experts"), "256 experts over 5: {:?}", rules(&r));
    let refusal = &r["rejections"][0];
    assert_eq!((&refusal["have"], &refusal["need"]), (&256.0.into(), &5.0.into()));
}

#[test]
fn us3_eight_h200_serve_it() {
    let r = estimate(&format!("{US3} 8xH200"), "tp8");
    assert_eq!(r["verdict"], "fits");
    assert!(r["serve"]["kv_capacity_tokens"].as_f64().unwrap() > 100_000.0, "{}", r["serve"]);
}

const US4: &str = "--model deepseek-v3 --serve --framework vllm --memory-fraction 0.9 --cluster";

/// Bytes that every TP rank holds whole, over all layers: latent down-projections in the block format, norms and routers in 16
/// bits.
fn replicated_bytes() -> f64 {
    let model = catalog::model("deepseek-v3").unwrap();
    (0..model.layers())
        .map(|layer| {
            let p = model.block_params(model.block_of(layer));
            p.attention_replicated as f64 * model.quant().attention().bytes() + (p.norms + p.router) as f64 * 2.0
        })
        .sum()
}

/// GB of weights a GPU, KV tokens in all; vllm#17041.
///
/// The story divides every tensor by the GPUs. Engines do not cut all of them: without the copies, and on the mean stage, the
/// weights are the story's within its 1 %. With them a GPU holds 2.5 % more under TP 16, and up to 4.3 % on the fuller of two
/// stages: that is what has to fit, so it is what is printed.
#[test]
fn us4_weights_and_kv_tokens_of_three_layouts() {
    for (plan, tp, weights, tokens) in
        [("tp16", 16.0, 42.1, 355e3), ("tp8 pp2", 8.0, 42.1, 710e3), ("tp1 dp16 ep=true", 1.0, 59.8, 1.63e6)]
    {
        let r = estimate(&format!("{US4} 16xH100"), plan);
        assert_eq!(r["verdict"], "fits", "{plan}");
        let stages = r["memory"]["stages"].as_array().unwrap();
        let held: f64 = stages.iter().map(|s| s["terms_bytes"]["weights"].as_f64().unwrap()).sum();
        let cut = (held - replicated_bytes() * (1.0 - 1.0 / tp)) / stages.len() as f64;
        near(cut / 1e9, weights, 0.01, &format!("weights of a GPU if every tensor were cut, {plan}"));
        let printed = term(&r, "weights") / 1e9;
        assert!((weights * 0.99..weights * 1.045).contains(&printed), "{plan}: {printed}");
        // The story takes 80e9 bytes and 5 GB beside the weights; we take the driver's and our own list.
        near(r["serve"]["kv_capacity_tokens"].as_f64().unwrap(), tokens, 0.10, &format!("KV tokens, {plan}"));
    }
}

#[test]
fn us4_collectives_of_a_decode_step() {
    let of = |plan: &str| -> Vec<(String, f64, bool)> {
        let r = estimate(&format!("{US4} 16xH100"), plan);
        let all = r["communication"].as_array().unwrap();
        all.iter()
            .map(|c| {
                let word = format!("{} {}", c["group"].as_str().unwrap(), c["collective"].as_str().unwrap());
                (word, c["calls_per_step"].as_f64().unwrap(), c["crosses_network"].as_bool().unwrap())
            })
            .collect()
    };
    assert_eq!(of("tp16"), [("tp all_reduce".to_owned(), 122.0, true)]);
    let piped = of("tp8 pp2");
    assert_eq!(piped[0], ("tp all_reduce".to_owned(), 122.0, false));
    assert_eq!(piped[1], ("pp send_recv".to_owned(), 1.0, true));
    let experts: f64 = of("tp1 dp16 ep=true").iter().filter(|c| c.0.starts_with("ep")).map(|c| c.1).sum();
    assert_eq!(experts.to_bits(), 116.0_f64.to_bits(), "58 dispatches and 58 combines");
}

#[test]
fn us4_stages_copies_and_the_block_rule() {
    let r = estimate(&format!("{US4} 16xH100"), "tp8 pp2");
    let mut stages: Vec<u64> =
        r["plan"]["stage_layers"].as_array().unwrap().iter().map(|s| s.as_u64().unwrap()).collect();
    stages.sort_unstable();
    assert_eq!(stages, [30, 31]);
    let said = say(&format!("compare {US4} 16xH100 tp16 tp8xpp2 dp16+ep16"));
    assert_eq!(said.code, Some(0), "{}{}", said.stdout, said.stderr);
    assert!(said.stdout.contains("not cut by TP"), "KV is copied, not cut: {}", said.stdout);
    let wide = estimate(&format!("{US4} 32xH100"), "tp32");
    let shard = wide["rejections"].as_array().unwrap().iter().find(|x| x["rule"] == "quant-block").unwrap();
    assert_eq!((&shard["have"], &shard["need"]), (&576.0.into(), &128.0.into()), "18432 / 32 in blocks of 128");
}

/// Qwen3-235B-A22B-FP8 on eight H100: vllm#17569; the 30B: 768 of an expert.
#[test]
fn us5_quantisation_blocks_decide() {
    let verdict = |model: &str, plan: &str| {
        let r = estimate(&format!("--model {model} --serve --framework vllm --cluster 8xH100"), plan);
        rules(&r).into_iter().filter(|r| r.contains("block")).map(str::to_owned).collect::<Vec<String>>()
    };
    let big = "qwen3-235b-a22b-fp8";
    assert_eq!(verdict(big, "tp8"), ["expert-quant-block"], "1536 / 8 = 192");
    assert_eq!(verdict(big, "tp8 ep=true"), Vec::<String>::new());
    assert_eq!(verdict(big, "tp4 dp2 ep=true"), Vec::<String>::new());
    let small = "qwen3-30b-a3b-fp8";
    for (cluster, refused) in [(2, false), (4, true), (8, true)] {
        let flags = format!("--model {small} --serve --framework vllm --cluster {cluster}xH100");
        let r = estimate(&flags, &format!("tp{cluster}"));
        assert_eq!(rules(&r).contains(&"expert-quant-block"), refused, "768 / {cluster}: {:?}", rules(&r));
    }
}

/// Mixed-precision Adam keeps 18 bytes a parameter with fp32 gradients, 16 with bf16 (ZeRO paper, Megatron-LM).
#[test]
fn adam_keeps_eighteen_bytes_a_parameter() {
    for (grad, bytes) in [("fp32", 18.0), ("bf16", 16.0)] {
        let r = estimate(
            &format!("--model llama-3-8b --cluster 1xB300 --global-batch 8 --grad-dtype {grad}"),
            "tp1 mb1 recompute=full",
        );
        near(states(&r) * 1e9, 8_030_261_248.0 * bytes, 0.001, "model states");
    }
}

/// "Never `fits` with less than 5% headroom without a warning": the allocator's mood decides there.
#[test]
fn us3_a_tight_fit_comes_with_a_warning() {
    let flags = "--model qwen3.5-35b-a3b --cluster 8xH100";
    let rows = say(&format!("plan {flags} --top 30 --variants 5 --quiet --format json")).json();
    let mut tight = 0;
    for row in rows["results"].as_array().unwrap() {
        if row["memory"]["utilization"].as_f64().unwrap() <= 0.95 {
            continue;
        }
        tight += 1;
        let r = estimate(flags, row["plan"]["text"].as_str().unwrap());
        let said = r["warnings"].as_array().unwrap();
        let warned = said.iter().any(|w| w.as_str().is_some_and(|w| w.contains("memory") || w.contains("headroom")));
        assert!(warned, "{} of memory, and no warning: {said:?}", r["memory"]["utilization"]);
    }
    assert!(tight > 0, "no tight plan to look at");
}

const US8: &str = "--model llama-3-70b --serve --cluster 16xL40S --weights";

/// Weights by format and TP on 48 GB cards; the layouts that PCIe and slow Ethernet favour.
#[test]
fn us8_llama_on_pcie() {
    let r = estimate(&format!("{US8} bf16"), "tp2 dp8");
    assert!(rules(&r).contains(&"memory"), "{:?}", rules(&r));
    near(term(&r, "weights"), 70.6e9, 0.01, "bf16 weights at TP2");
    let r = estimate(&format!("{US8} bf16"), "tp4 dp4");
    assert_eq!(r["verdict"], "fits");
    near(term(&r, "weights"), 35.3e9, 0.01, "bf16 weights at TP4");
    let model = catalog::model("llama-3-70b").unwrap();
    near(model.weight_bytes(model.quant()), 141.1e9, 0.01, "bf16 weights");
    let replicas = estimate(&format!("{US8} fp8"), "tp2 dp8");
    assert_eq!(replicas["verdict"], "fits");
    near(term(&replicas, "weights"), 35.3e9, 0.03, "fp8 weights at TP2, embedding and head in 16 bits");

    let found = say(&format!("plan {US8} fp8 --top 100 --quiet --format json")).json();
    let place = |plan: &str| {
        let at = found["results"]
            .as_array()
            .unwrap()
            .iter()
            .position(|row| row["plan"]["text"].as_str().unwrap().starts_with(plan));
        at.unwrap_or(usize::MAX)
    };
    let whole = place("tp16 ep1 pp1 dp1");
    assert!(place("tp4 ep1 pp1 dp4") < whole && place("tp2 ep1 pp1 dp8") < whole, "replicas beat one instance");
    assert!(
        place("tp1 ep1 pp8 dp2").min(place("tp2 ep1 pp4 dp2")) < place("tp8 ep1 pp1 dp2"),
        "pipelines beat TP8 on PCIe"
    );
}
