//! The built-in files against the folders and against what publishers state; cluster texts; files with mistakes.

use super::*;
use crate::cluster::{Basis, GemmKind, NetworkKind};
use crate::model::{Mixer, QuantScope, WeightFormat};
use crate::units::BytesPerSec;
use serde_json::json;
use std::fs;
use std::path::PathBuf;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(name)
}

#[test]
fn the_lists_are_the_folders() {
    for (name, list) in [("models", list::MODELS), ("gpus", list::GPUS), ("clusters", list::CLUSTERS)] {
        let mut found: Vec<String> = fs::read_dir(folder(name))
            .expect("a folder of the checkout")
            .map(|f| {
                f.expect("a readable entry")
                    .path()
                    .file_stem()
                    .expect("a file with a name")
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        found.sort();
        let listed: Vec<&str> = list.iter().map(|(name, _)| *name).collect();
        let missing: Vec<_> = found.iter().filter(|f| !listed.contains(&f.as_str())).collect();
        assert!(missing.is_empty(), "add to src/catalog/list.rs: {missing:?}");
        assert_eq!(found, listed, "the list is sorted and names files that exist");
    }
}

#[test]
fn every_model_has_the_parameters_its_publisher_states() {
    assert_eq!(models().len(), 75);
    for entry in models() {
        let (counted, stated) =
            (entry.model().params(), entry.published_params().expect("a model whose size is published"));
        let off = counted as f64 / stated as f64 - 1.0;
        assert!(off.abs() < 5e-6, "{}: {counted} against {stated}: {:+.4} %", entry.name(), off * 100.0);
        assert_eq!(entry.model().name(), entry.name());
        assert!(!entry.source().is_empty() && entry.source().iter().all(|s| !s.is_empty()), "{}", entry.name());
    }
}

#[test]
fn every_gpu_and_cluster_reads_and_names_its_sources() {
    for GpuEntry { gpu, aliases } in gpus() {
        assert!(!gpu.source.is_empty() && !gpu.efficiency.source.is_empty(), "{}", gpu.name);
        for name in aliases.iter().chain([&gpu.name]) {
            assert_eq!(super::gpu(name).expect("a built-in GPU"), *gpu, "{name}");
        }
    }
    for entry in clusters() {
        assert!(!entry.source.is_empty(), "{}", entry.cluster.name);
        for name in entry.aliases.iter().chain([&entry.cluster.name]) {
            assert_eq!(cluster(name).expect("a built-in GPU in a readable shape"), entry.cluster, "{name}");
        }
    }
}

#[test]
fn no_two_files_answer_to_one_name() {
    for list in [list::MODELS, list::GPUS, list::CLUSTERS] {
        let mut all: Vec<String> = Vec::new();
        for head in list.iter().map(|(name, text)| head(name, text)) {
            let mut own: Vec<String> = head.aliases.iter().map(|a| a.to_lowercase()).collect();
            own.push(head.name.to_owned());
            own.sort();
            own.dedup();
            all.extend(own);
        }
        all.sort();
        let twice: Vec<_> = all.windows(2).filter(|w| w[0] == w[1]).collect();
        assert!(twice.is_empty(), "{twice:?}");
    }
}

#[test]
fn a_model_answers_to_alias_case_publisher_and_bare_repository() {
    for asked in [
        "deepseek-v3",
        "DeepSeek-V3",
        " deepseek-ai/DeepSeek-V3 ",
        "DEEPSEEK-AI/deepseek-v3-0324",
        "somebody/DeepSeek-V3",
        "DeepSeek-V3-Base",
    ] {
        assert_eq!(model(asked).expect("a built-in model").name(), "deepseek-v3", "{asked}");
    }
}

#[test]
fn an_unknown_model_is_answered_with_near_names() {
    let text = model("lama-3-70b").expect_err("a refusal").to_string();
    assert!(text.contains("did you mean `llama-3-70b`"), "{text}");
    assert!(text.contains("75"), "{text}");
    let text = model("meta-lama/Llama-3-71B").expect_err("a refusal").to_string();
    assert!(text.contains("meta-llama/"), "{text}");
    for odd in ["", "/", "//", "a/b/c", "\n", "zzzzzz", "\"", "no-such.json", "./no/such/folder"] {
        let text = model(odd).expect_err("a refusal").to_string();
        assert!(!text.contains('\n'), "{text}");
    }
}

#[test]
fn the_kv_cache_of_a_token_is_known() {
    for (name, bytes) in [
        ("deepseek-v3", 70_272),
        ("qwen3-235b-a22b", 192_512),
        ("qwen3-30b-a3b", 98_304),
        ("mixtral-8x7b", 131_072),
        ("mixtral-8x22b", 229_376),
        ("llama-3-70b", 327_680),
        ("gpt-oss-120b", 73_728),
    ] {
        assert_eq!(model(name).expect("a built-in model").kv_elements_per_token() * 2, bytes, "{name}");
    }
}

#[test]
fn active_parameters_are_what_publishers_round() {
    for (name, billions) in [("qwen3-235b-a22b", 22.2), ("deepseek-v3", 37.6), ("mixtral-8x7b", 12.9)] {
        let active = model(name).expect("a built-in model").active_params() as f64 / 1e9;
        assert!((active - billions).abs() < 0.06, "{name}: {active}");
    }
}

#[test]
fn checkpoints_keep_their_format() {
    let of = |name| {
        let quant = model(name).expect("a built-in model").quant();
        (quant.format, quant.scope)
    };
    assert_eq!(of("deepseek-v3"), (WeightFormat::Fp8Block, QuantScope::Linears));
    assert_eq!(of("deepseek-v3.1-nvfp4"), (WeightFormat::Nvfp4, QuantScope::Mlps));
    assert_eq!(of("kimi-k2.5"), (WeightFormat::Int4, QuantScope::RoutedExperts));
    assert_eq!(of("gpt-oss-20b"), (WeightFormat::Mxfp4, QuantScope::RoutedExperts));
    assert_eq!(of("qwen3-8b"), (WeightFormat::Bf16, QuantScope::Linears));
}

#[test]
fn reused_indexers_hold_no_weights() {
    let model = model("glm-5.2").expect("a built-in model");
    let reused = (0..model.layers())
        .filter(|l| matches!(model.block_of(*l).mixer, Mixer::Mla(a) if a.indexer.is_some_and(|i| i.reused)))
        .count();
    assert_eq!((model.layers(), reused), (78, 57));
}

#[test]
fn counts_become_nodes() {
    let shape = |spec: &str| {
        let c = cluster(spec).expect("a built-in GPU in a readable shape");
        (c.gpu.name.clone(), c.nodes, c.gpus_per_node, c.scale_up.domain)
    };
    assert_eq!(shape("16xH100"), ("h100-sxm".into(), 2, 8, 8));
    assert_eq!(shape("16 x H100"), ("h100-sxm".into(), 2, 8, 8));
    assert_eq!(shape("2x8xH100"), ("h100-sxm".into(), 2, 8, 8));
    assert_eq!(shape("3xA100"), ("a100-sxm-80gb".into(), 1, 3, 3));
    assert_eq!(shape("12xH100"), ("h100-sxm".into(), 2, 6, 6));
    assert_eq!(shape("1xL40S"), ("l40s".into(), 1, 1, 1));
    assert_eq!(shape("18x4xGB200"), ("gb200".into(), 18, 4, 72));
    assert_eq!(shape("8xGB200"), ("gb200".into(), 2, 4, 72));
    assert_eq!(shape("8xmi300x"), ("mi300x".into(), 1, 8, 8));
    assert_eq!(shape("4xdgx-h100"), ("h100-sxm".into(), 4, 8, 8));
    assert_eq!(shape("2xgb200-nvl72"), ("gb200".into(), 36, 4, 72));
    assert_eq!(cluster("8xGB200").expect("a built-in GPU in a readable shape").domain(), 8);
}

#[test]
fn cards_without_nvlink_get_ethernet() {
    let c = cluster("16xL40S").expect("a built-in GPU in a readable shape");
    assert_eq!((c.network.kind, c.network.nics_per_node), (NetworkKind::Ethernet, 1));
    let c = cluster("16xH100").expect("a built-in GPU in a readable shape");
    assert_eq!((c.network.kind, c.network.nics_per_node), (NetworkKind::Infiniband, 8));
    assert_eq!(c.nic_share(), BytesPerSec::new(50e9));
}

#[test]
fn wrong_cluster_texts_say_what_is_allowed() {
    for (spec, part) in [
        ("16xH10", "did you mean `h100`, `h100-sxm`"),
        ("H100", "8xh100-sxm"),
        ("0xH100", "counts from 1"),
        ("99999999999999999999xH100", "counts from 1"),
        ("1000x1000x2xH100", "two counts"),
        ("1048576x8xH100", "8388608 GPUs"),
        ("2x8xdgx-h100", "one count"),
        ("-1xH100", "unknown cluster"),
        ("1.5xH100", "unknown cluster"),
        ("16", "unknown cluster"),
        ("", "unknown cluster"),
        ("x", "unknown cluster"),
        ("no-such.json", "cannot be read: no such file"),
    ] {
        let text = cluster(spec).expect_err("a refusal").to_string();
        assert!(text.contains(part) && !text.contains('\n'), "{spec}: {text}");
    }
}

#[test]
fn a_cluster_object_overrides_the_gpu() {
    let c = cluster_from_value("job", &json!({"gpu": "h100-sxm", "nodes": 2, "gpus_per_node": 8}))
        .expect("a cluster as the job file says it");
    assert_eq!(
        Cluster { name: "16xH100".into(), ..c },
        cluster("16xH100").expect("a built-in GPU in a readable shape")
    );
    let c = cluster_from_value(
        "job",
        &json!({"gpu": "h100", "nodes": 4, "network": {"bandwidth": "200 Gb/s"}, "scale_up": {"bandwidth": "225 GB/s"}, "price": "$9/h"}),
    )
    .expect("a cluster as the job file says it");
    assert_eq!((c.gpus(), c.network.kind, c.network.bandwidth), (32, NetworkKind::Infiniband, BytesPerSec::new(25e9)));
    assert_eq!(c.gpu.price.expect("a price the job says").get().to_bits(), 9.0_f64.to_bits());
    let (half, whole) =
        (c.gpu.efficiency.collectives[0][0].bus, gpu("h100").expect("a built-in GPU").efficiency.collectives[0][0].bus);
    assert_eq!(half, whole * 0.5);
}

#[test]
fn wrong_cluster_objects_name_the_key() {
    for (value, part) in [
        (json!({"gpu": "h100", "nods": 2}), "unknown key `nods`; did you mean `nodes`?"),
        (json!({"gpu": "h100", "nodes": 0}), "at `nodes`: `0`"),
        (json!({"gpu": "h100", "nodes": -1}), "at `nodes`"),
        (json!({"gpu": "h100", "nodes": 1e9}), "at `nodes`"),
        (json!({"gpu": "h100", "nodes": 1_000_000}), "8000000 GPUs"),
        (json!({"gpu": "h100", "network": {"bandwidth": 400}}), "network.bandwidth"),
        (json!({"gpu": "h100", "network": {"bandwidth": "400"}}), "network.bandwidth"),
        (json!({"gpu": "h100", "network": {"bandwidth": "0 Gb/s"}}), "more than zero"),
        (json!({"gpu": "h100", "network": {"kind": "token ring"}}), "one of infiniband, roce, ethernet, efa"),
        (json!({"gpu": "h100", "price": 2.5}), "price_per_hour"),
        (json!({"gpu": "h101"}), "did you mean `h100"),
        (json!({"nodes": 2}), "missing field `gpu`"),
        (json!([1]), "16xH100"),
    ] {
        let text = cluster_from_value("job.json", &value).expect_err("a refusal").to_string();
        assert!(text.contains(part) && !text.contains('\n'), "{value}: {text}");
    }
}

#[test]
fn borrowed_curves_are_guesses_in_proportion_to_the_links() {
    let (own, lent) = (gpu("h800").expect("a built-in GPU"), gpu("h100").expect("a built-in GPU"));
    assert_eq!((own.efficiency.basis, lent.efficiency.basis), (Basis::Assumed, Basis::Measured));
    assert_eq!(own.efficiency.gemm(GemmKind::Bf16), lent.efficiency.gemm(GemmKind::Bf16));
    assert!(own.efficiency.collectives[0][0].bus < lent.efficiency.collectives[0][0].bus);
}

#[test]
fn gpu_files_with_mistakes_name_the_key() {
    let good: Value = serde_json::from_str(&fs::read_to_string(folder("gpus/h100-sxm.json")).expect("a built-in file"))
        .expect("JSON");
    let read = |value: &Value| {
        gpu::parse("x.json", &value.to_string()).and_then(|f| f.check("x.json", &sibling)).map_err(|e| e.to_string())
    };
    assert!(read(&good).is_ok());
    for (pointer, value, part) in [
        ("/memory", json!("80"), "at `memory`: `80`"),
        ("/memory", json!(80), "at `memory`"),
        ("/peak", json!({"fp8": "1 PFLOP/s"}), "peak.bf16"),
        ("/peak/bf16", json!("0 TFLOP/s"), "peak.bf16"),
        ("/peak", json!({"fp9": "1 PFLOP/s"}), "one of fp32"),
        ("/efficiency", json!(null), "`efficiency`: is missing"),
        ("/efficiency/gemm/bf16/compute", json!(-0.5), "gemm.bf16.compute"),
        ("/efficiency/gemm/bf16/t0", json!("3"), "gemm.bf16.t0"),
        ("/efficiency/gemm/bf16/median_error", json!(7), "gemm.bf16.median_error"),
        ("/efficiency/custom_all_reduce/vllm/8/median_error", json!(-1), "custom_all_reduce.vllm.8.median_error"),
        ("/efficiency/collectives/all_reduce", json!({}), "collectives.all_reduce"),
        ("/efficiency/collectives/all_reduce", json!({"two": {}}), "all_reduce"),
        ("/scale_up/domain", json!(0), "scale_up.domain"),
        ("/gpus_per_node", json!(0), "gpus_per_node"),
        ("/architecture", json!("pascal"), "one of volta"),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).expect("a key of the file") = value.clone();
        let text = read(&bad).expect_err("a refusal");
        assert!(text.starts_with("x.json: ") && text.contains(part), "{pointer}={value}: {text}");
    }
}

#[test]
fn our_own_form_names_the_key_too() {
    let good: Value =
        serde_json::from_str(&fs::read_to_string(folder("models/qwen3-8b.json")).expect("a built-in file"))
            .expect("JSON");
    assert_eq!(
        model_from_value("m.json", &good).expect("a built-in file"),
        model("qwen3-8b").expect("a built-in model")
    );
    for (pointer, value, part) in [
        ("/hidden", json!("4096"), "at `hidden`"),
        ("/hidden", json!(0), "at `hidden`"),
        ("/hidden", json!(4294967295_u32), "at `hidden`"),
        ("/norm", json!("batch"), "at `norm`"),
        ("/layers", json!([{"pattern": [7], "repeat": 1}]), "at `layers`"),
        ("/layers", json!([{"pattern": [0], "repeat": 4294967295_u32}]), "at `layers`"),
        ("/blocks/0/mixer/kv_heads", json!(7), "at `kv_heads`"),
        ("/blocks/0/mixer/kind", json!("rnn"), "at `blocks[0].mixer.kind`"),
        ("/blocks/0/mlp", json!({"dens": {}}), "did you mean `dense`"),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).expect("a key of the file") = value.clone();
        let text = model_from_value("m.json", &bad).expect_err("a refusal").to_string();
        assert!(text.starts_with("m.json: ") && text.contains(part), "{pointer}={value}: {text}");
    }
}

#[test]
fn files_and_folders_are_read_where_they_lie() {
    let dir = std::env::temp_dir().join(format!("meshwright-catalog-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a folder that can be made");
    let config = json!({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 128, "vocab_size": 100, "max_position_embeddings": 64});
    fs::write(dir.join("config.json"), format!("\u{feff}{config}")).expect("a file that can be written");
    fs::write(
        dir.join("hf_quant_config.json"),
        r#"{"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head", "model.layers.0.self_attn.q_a_proj"]}}"#,
    )
    .expect("a file that can be written");
    let by_folder = model(&dir.display().to_string()).expect("a built-in model");
    let by_file = model(&dir.join("config.json").display().to_string()).expect("a built-in model");
    assert_eq!(by_folder, by_file);
    assert_eq!(by_folder.name(), dir.file_name().expect("a folder with a name").to_string_lossy());
    assert_eq!(by_folder.quant().scope, QuantScope::Mlps);
    for (bytes, part) in [(&b"\xff\xfe"[..], "byte 0"), (b"{", "EOF"), (b"", "EOF"), (b"{\"a\": NaN}", "line 1")] {
        fs::write(dir.join("bad.json"), bytes).expect("a file that can be written");
        let path = dir.join("bad.json").display().to_string();
        for text in
            [model(&path).expect_err("a refusal").to_string(), cluster(&path).expect_err("a refusal").to_string()]
        {
            assert!(text.contains("bad.json") && text.contains(part), "{text}");
        }
    }
    fs::remove_dir_all(&dir).expect("the folder made above");
}
