//! Small configs of each kind, written by hand, and configs with mistakes.

use super::{model, spec};
use crate::model::{Mixer, Model, Norm, QkNorm, Quant, QuantScope, WeightFormat};
use serde_json::{Map, Value, json};

fn with(mut base: Value, more: Value) -> Value {
    let (Value::Object(base_map), Value::Object(more)) = (&mut base, more) else { panic!("objects") };
    base_map.extend(more);
    base
}

fn dense(model_type: &str) -> Value {
    json!({"model_type": model_type, "hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 16,
        "num_key_value_heads": 4, "intermediate_size": 2816, "vocab_size": 32000, "hidden_act": "silu",
        "tie_word_embeddings": false, "max_position_embeddings": 4096})
}

fn moe(model_type: &str) -> Value {
    with(
        dense(model_type),
        json!({"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 512, "decoder_sparse_step": 1,
            "mlp_only_layers": []}),
    )
}

fn latent(model_type: &str) -> Value {
    with(
        dense(model_type),
        json!({"n_routed_experts": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 512, "n_shared_experts": 2,
            "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 4, "topk_group": 2, "topk_method": "noaux_tc",
            "q_lora_rank": 384, "kv_lora_rank": 128, "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64,
            "num_nextn_predict_layers": 1}),
    )
}

fn read(config: &Value) -> Model {
    model("config.json", "test", config, None).expect("a readable config")
}

fn quant(config: Value) -> (Option<Quant>, Vec<String>) {
    let (spec, notes) =
        spec("config.json", "test", &with(moe("qwen3_moe"), json!({"quantization_config": config})), None)
            .expect("a known format");
    (spec.quant, notes)
}

#[test]
fn a_llama_is_two_matrices_of_attention_and_three_of_mlp() {
    let m = read(&dense("llama"));
    let (h, layer) = (1024, 2 * 1024 * 1024 + 2 * 1024 * 256 + 3 * 1024 * 2816 + 2 * 1024);
    assert_eq!(m.params(), 4 * layer + 2 * 32000 * h + h);
    assert_eq!((m.assumptions.len(), m.blocks().len(), m.layers()), (0, 1, 4));
}

#[test]
fn a_minimal_moe_needs_no_head_dim() {
    let m = read(&moe("qwen3_moe"));
    let attention = m.blocks()[0].mixer.gqa().expect("attention with heads");
    assert_eq!((attention.head_dim, attention.qk_norm), (64, QkNorm::PerHead));
    assert_eq!(m.moe().map(|e| (e.experts, e.top_k, e.ffn)), Some((8, 2, 512)));
    let odd = with(moe("qwen3_moe"), json!({"hidden_size": 1000}));
    assert_eq!(read(&odd).blocks()[0].mixer.gqa().expect("attention with heads").head_dim, 62);
}

#[test]
fn gpt2_has_its_own_words_or_the_common_ones() {
    let own = read(&json!({"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024,
        "vocab_size": 50257}));
    let common = read(&json!({"model_type": "gpt2", "hidden_size": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12, "num_key_value_heads": 12, "intermediate_size": 3072, "vocab_size": 50257,
        "max_position_embeddings": 1024, "tie_word_embeddings": true}));
    assert_eq!((own.params(), common.params()), (124_439_808, 124_439_808));
    assert_eq!(own.spec().norm, Norm::Layer);
}

#[test]
fn latent_attention_is_told_by_its_rank_alone() {
    let known = read(&latent("deepseek_v3"));
    assert!(known.is_mla() && known.assumptions.is_empty());
    assert_eq!((known.spec().mtp, known.blocks().len(), known.count(0, 0, 4)), (1, 2, 1));
    let shared = known.moe().expect("a mixture of experts");
    assert_eq!((shared.shared_ffn, shared.groups, shared.top_groups, shared.router_bias), (1024, 4, 2, true));
    let mut config = latent("deepseek_v3");
    config.as_object_mut().expect("an object").remove("model_type");
    let unnamed = read(&config);
    assert!(unnamed.is_mla() && unnamed.assumptions.len() == 1);
    let direct = read(&with(latent("deepseek_v2"), json!({"q_lora_rank": null, "topk_method": "greedy"})));
    assert!(matches!(direct.blocks()[0].mixer, Mixer::Mla(a) if a.q_lora == 0));
}

#[test]
fn experts_stand_where_each_publisher_says() {
    let experts = |config: &Value| -> Vec<bool> {
        let m = read(config);
        (0..m.layers()).map(|l| m.block_of(l).mlp.moe.is_some()).collect()
    };
    assert_eq!(experts(&with(moe("qwen3_moe"), json!({"decoder_sparse_step": 2}))), [false, true, false, true]);
    assert_eq!(experts(&with(moe("qwen3_moe"), json!({"mlp_only_layers": [0, 3]}))), [false, true, true, false]);
    assert_eq!(experts(&with(latent("deepseek_v3"), json!({"first_k_dense_replace": 3}))), [false, false, false, true]);
    assert_eq!(experts(&with(latent("deepseek_v3"), json!({"moe_layer_freq": 2}))), [false, false, true, false]);
    assert_eq!(experts(&with(moe("x"), json!({"moe_layer_freq": [0, 1, 1, 0]}))), [false, true, true, false]);
    let four = with(
        dense("llama4_text"),
        json!({"num_local_experts": 4, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2,
            "intermediate_size_mlp": 4096}),
    );
    assert_eq!(experts(&four), [false, true, false, true]);
    assert_eq!(read(&four).dense_ffn(), Some(4096));
    assert_eq!(experts(&dense("qwen3")), [false; 4]);
}

#[test]
fn windows_follow_layer_types_or_the_architecture() {
    let windows = |config: &Value| -> Vec<Option<u32>> {
        let m = read(config);
        (0..m.layers()).map(|l| m.block_of(l).mixer.gqa().and_then(|a| a.window)).collect()
    };
    let types = json!({"sliding_window": 128, "num_local_experts": 4, "num_experts_per_tok": 2,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]});
    let stripes = [Some(128), None, Some(128), None];
    assert_eq!(windows(&with(dense("gpt_oss"), types)), stripes);
    let untyped = json!({"sliding_window": 128, "num_local_experts": 4, "num_experts_per_tok": 2});
    assert_eq!(windows(&with(dense("gpt_oss"), untyped)), stripes);
    assert_eq!(windows(&with(dense("mistral"), json!({"sliding_window": 1024}))), [Some(1024); 4]);
    assert_eq!(windows(&with(dense("mistral"), json!({"sliding_window": null}))), [None; 4]);
    let unused = json!({"sliding_window": 1024, "use_sliding_window": false, "max_window_layers": 2});
    assert_eq!(windows(&with(dense("qwen2"), unused)), [None; 4]);
    let chunks = json!({"num_local_experts": 4, "num_experts_per_tok": 1, "attention_chunk_size": 256});
    assert_eq!(windows(&with(dense("llama4"), chunks)), [Some(256), Some(256), Some(256), None]);
}

#[test]
fn hybrids_mix_linear_and_full_attention() {
    let linear = json!({"full_attention_interval": 4, "linear_num_key_heads": 4, "linear_num_value_heads": 8,
        "linear_key_head_dim": 32, "linear_value_head_dim": 32, "linear_conv_kernel_dim": 4, "head_dim": 64,
        "shared_expert_intermediate_size": 512});
    let m = read(&with(moe("qwen3_next"), linear));
    assert!(matches!(m.block_of(0).mixer, Mixer::DeltaNet(_)));
    assert!(
        m.block_of(3).mixer.gqa().expect("attention with heads").output_gate
            && m.moe().expect("a mixture of experts").shared_gate
    );
    let mamba = json!({"hybrid_override_pattern": "ME*-", "mamba_num_heads": 8, "mamba_head_dim": 64, "n_groups": 2,
        "ssm_state_size": 64, "conv_kernel": 4, "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1,
        "moe_intermediate_size": 256, "moe_shared_expert_intermediate_size": 512, "mlp_hidden_act": "relu2"});
    let m = read(&with(dense("nemotron_h"), mamba));
    assert_eq!(m.blocks().len(), 4);
    assert_eq!(m.moe().map(|e| (e.gated, e.shared_ffn)), Some((false, 512)));
}

#[test]
fn text_models_are_found_inside_multimodal_ones() {
    let nested = json!({"architectures": ["KimiK25ForConditionalGeneration"], "model_type": "kimi_k25",
        "vision_config": {"hidden_size": 1}, "tie_word_embeddings": false, "text_config": latent("kimi_k2")});
    let m = read(&nested);
    assert_eq!(m.params(), read(&latent("kimi_k2")).params());
    assert!(m.assumptions[0].contains("only the text model"), "{:?}", m.assumptions);
    let text =
        model("c.json", "x", &json!({"text_config": {"hidden_size": "8"}}), None).expect_err("a refusal").to_string();
    assert!(text.contains("at `text_config.hidden_size`"), "{text}");
}

#[test]
fn an_unknown_architecture_is_read_and_said() {
    let m = read(&dense("bamboo"));
    assert_eq!(m.params(), read(&dense("llama")).params());
    assert!(m.assumptions[0].starts_with("architecture `bamboo` is unknown"), "{:?}", m.assumptions);
    let plain = read(&with(dense("bamboo"), json!({"hidden_act": "gelu"})));
    assert!(plain.params() < m.params());
}

#[test]
fn weight_formats_are_recognised() {
    let told = |config| {
        let (quant, notes) = quant(config);
        assert!(notes.is_empty(), "{notes:?}");
        let quant = quant.expect("a known format");
        (quant.format, quant.scope)
    };
    let group = |weights: Value, ignore: Value| json!({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}, "ignore": ignore});
    let attention = json!(["lm_head", "re:.*self_attn.*"]);
    let kimi = json!(["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*"]);
    for (config, format, scope) in [
        (json!({"quant_method": "fp8", "weight_block_size": [128, 128]}), WeightFormat::Fp8Block, QuantScope::Linears),
        (json!({"quant_method": "fp8"}), WeightFormat::Fp8, QuantScope::Linears),
        (json!({"quant_method": "mxfp4"}), WeightFormat::Mxfp4, QuantScope::RoutedExperts),
        (json!({"quant_method": "awq", "bits": 4}), WeightFormat::Int4, QuantScope::Linears),
        (json!({"quant_method": "gptq", "bits": 8}), WeightFormat::Int8, QuantScope::Linears),
        (json!({"quant_method": "modelopt", "quant_algo": "NVFP4"}), WeightFormat::Nvfp4, QuantScope::Linears),
        (
            json!({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": attention}),
            WeightFormat::Nvfp4,
            QuantScope::Mlps,
        ),
        (group(json!({"num_bits": 4, "type": "int"}), kimi), WeightFormat::Int4, QuantScope::RoutedExperts),
        (group(json!({"num_bits": 8, "type": "float"}), attention), WeightFormat::Fp8, QuantScope::Mlps),
        (group(json!({"num_bits": 4, "type": "float"}), json!([])), WeightFormat::Nvfp4, QuantScope::Linears),
    ] {
        assert_eq!(told(config.clone()), (format, scope), "{config}");
    }
    let (none, notes) = quant(json!({"quant_method": "hqq"}));
    assert!(none.is_none() && notes[0].contains("`hqq` is unknown"), "{notes:?}");
}

/// Every key of a config replaced by every kind of nonsense: an answer or one line that names the key, never a panic.
#[test]
fn nonsense_is_refused_by_name() {
    let nonsense = [
        json!("many"),
        json!("NaN"),
        json!(-1),
        json!(0.5),
        json!(1e300),
        json!(0),
        json!(18446744073709551615_u64),
        json!(268435456),
        json!(true),
        json!([]),
        json!([[1]]),
        json!({}),
        json!(null),
    ];
    for good in [dense("llama"), moe("qwen3_moe"), latent("deepseek_v3")] {
        let keys: Vec<String> = good.as_object().expect("an object").keys().cloned().collect();
        for key in keys.iter().filter(|key| *key != "model_type") {
            for bad in &nonsense {
                let config = with(good.clone(), Value::Object(Map::from_iter([(key.clone(), bad.clone())])));
                if let Err(error) = model("c.json", "x", &config, None) {
                    let text = error.to_string();
                    assert!(text.starts_with("c.json: ") && !text.contains('\n'), "{text}");
                    let named =
                        text.contains(key.as_str()) || text.contains("parameters") || text.contains("is missing");
                    let related = ["num_attention_heads", "num_key_value_heads", "num_experts_per_tok", "head_dim"];
                    assert!(named || related.iter().any(|k| text.contains(k)), "{key}={bad}: {text}");
                }
            }
        }
    }
}

#[test]
fn needed_keys_and_wrong_types_are_named() {
    for key in ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"] {
        let mut config = dense("llama");
        config.as_object_mut().expect("an object").remove(key);
        let text = model("c.json", "x", &config, None).expect_err("a refusal").to_string();
        assert!(text.contains(&format!("c.json: at `{key}`: is missing: write a whole number from 1")), "{text}");
        let wrong = with(dense("llama"), json!({key: "4096"}));
        let text = model("c.json", "x", &wrong, None).expect_err("a refusal").to_string();
        assert!(text.contains(&format!("at `{key}`: `\"4096\"` is not allowed: a whole number")), "{text}");
    }
    for (more, part) in [
        (json!({"num_key_value_heads": 5}), "at `num_key_value_heads`: `5` is not allowed: a divisor of the 16"),
        (json!({"tie_word_embeddings": "no"}), "true or false"),
        (json!({"num_hidden_layers": 10001}), "1 to 10000 layers"),
        (json!({"layer_types": ["full_attention"]}), "a list of the 4 layers"),
        (json!({"layer_types": ["odd", "odd", "odd", "odd"]}), "full_attention, sliding_attention"),
        (json!({"layer_types": ["sliding_attention"]}), "at `sliding_window`: is missing"),
        (json!({"num_experts": 8, "moe_intermediate_size": 8}), "at `num_experts_per_tok`: is missing"),
        (json!({"num_experts": 8, "num_experts_per_tok": 9}), "at `num_experts_per_tok`: `9`"),
        (json!({"kv_lora_rank": 512}), "at `qk_nope_head_dim`: is missing"),
        (json!({"quantization_config": "fp8"}), "at `quantization_config`"),
        (json!({"quantization_config": {"quant_method": 8}}), "at `quantization_config.quant_method`"),
    ] {
        let text = model("c.json", "x", &with(dense("llama"), more), None).expect_err("a refusal").to_string();
        assert!(text.contains(part), "{text}");
    }
    for value in [json!(null), json!([]), json!("x"), json!(3), json!({}), json!({"text_config": 3})] {
        assert!(model("c.json", "x", &value, None).is_err(), "{value}");
    }
}
