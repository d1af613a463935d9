//! Who asks each rule, and where in their code.

use super::Rule;
use crate::framework::Framework;

/// Where a framework asks a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Who asks; `None` when the rule follows from arithmetic or from this program's own model.
    pub framework: Option<Framework>,
    /// File and line or function, in the version named. Lines drift by tens to hundreds from release to release.
    pub place: &'static str,
    /// The version it was read in.
    pub version: &'static str,
}

/// Whatever runs the plan.
const fn any(place: &'static str) -> Source {
    Source { framework: None, place, version: "any" }
}

const fn by(framework: Framework, place: &'static str) -> Source {
    Source { framework: Some(framework), place, version: framework.version() }
}

const fn megatron(place: &'static str) -> Source {
    by(Framework::Megatron, place)
}

const fn bridge(place: &'static str) -> Source {
    by(Framework::Bridge, place)
}

const fn titan(place: &'static str) -> Source {
    by(Framework::Torchtitan, place)
}

const fn deepspeed(place: &'static str) -> Source {
    by(Framework::Deepspeed, place)
}

const fn vllm(place: &'static str) -> Source {
    by(Framework::Vllm, place)
}

const fn sglang(place: &'static str) -> Source {
    by(Framework::Sglang, place)
}

const fn trtllm(place: &'static str) -> Source {
    by(Framework::Trtllm, place)
}

macro_rules! sources {
    ($($rule:ident: $($who:ident $place:literal),+;)*) => {
        impl Rule {
            /// Who asks this rule, and where in their code.
            #[must_use]
            pub const fn asked_by(self) -> &'static [Source] {
                match self {
                    $(Self::$rule => const { &[$($who($place)),+] },)*
                }
            }
        }
    };
}

sources! {
    World: any "the GPUs there are", titan "distributed/parallel_dims.py:182", vllm "config/parallel.py:1066",
        sglang "server_args.py:581", trtllm "mapping.py (world_size)";
    DenseGrid: any "the GPUs there are", megatron "training/arguments.py:432", bridge "training/config.py:1024",
        deepspeed "utils/groups.py:538";
    ExpertGrid: any "the GPUs there are", megatron "core/parallel_state.py:881",
        bridge "core/parallel_state.py:881 (through initialize.py:808)";
    ExpertFold: titan "distributed/parallel_dims.py:188 (not in the 0.3.0 wheel)", deepspeed "utils/groups.py:538",
        sglang "distributed/parallel_state.py:2881 (an index error)";
    ExpertSplit: trtllm "mapping.py (moe_tp_size * moe_ep_size)";
    NotExpressible: titan "no expert TP", deepspeed "module_inject/auto_ep_folding.py (validate_folding_global)",
        vllm "fused_moe/config.py:1106-1245 (EP is a switch)", sglang "runtime_context.py:137-157",
        trtllm "mapping.py (enable_attention_dp)";
    NoExperts: any "nothing to spread", megatron "training/arguments.py:1655, core/transformer/transformer_config.py:1596",
        bridge "core/transformer/transformer_config.py:1596", vllm "config/model.py:1500";
    Experts: any "equal shares", megatron "training/arguments.py:1658, moe_layer.py:186", bridge "moe_layer.py:186",
        titan "models/common/decoder.py:204", deepspeed "moe/layer.py:59, auto_ep_config.py:378",
        sglang "fused_moe_triton/layer.py:414 (at build, not at launch)", trtllm "fused MoE modules";
    Heads: any "whole heads", megatron "core/transformer/transformer_config.py:1446",
        bridge "core/transformer/transformer_config.py:1446", titan "models/common/decoder.py:191",
        vllm "config/model.py:1559", sglang "the models' attention (total_num_heads)", trtllm "attention module";
    KvHeads: any "whole heads or copies", megatron "core/transformer/transformer_config.py:1462, attention.py:358",
        bridge "core/transformer/transformer_config.py:1462", vllm "model_executor/layers/linear.py:1066, qwen3_moe.py:265",
        sglang "models/qwen3_moe.py:506-517";
    KvHeadsWhole: titan "models/common/decoder.py:196";
    LinearHeads: any "whole heads", megatron "core/transformer/transformer_config.py:1501 (TP times CP)",
        bridge "core/transformer/transformer_config.py:1501 (TP times CP)", titan "head placement",
        vllm "linear-attention layers", sglang "linear-attention layers", trtllm "linear-attention modules";
    Ffn: any "equal shards", megatron "core/tensor_parallel/layers.py:1038,1408 (dense layers only)",
        bridge "core/tensor_parallel/layers.py:1038,1408", vllm "model_executor/layers/linear.py:497,1708",
        sglang "layers/linear.py (at build, not at launch)", trtllm "linear modules";
    SharedFfn: any "equal shards", megatron "core/tensor_parallel/layers.py:1038", bridge "core/tensor_parallel/layers.py:1038",
        vllm "model_executor/layers/linear.py:497", sglang "layers/linear.py (at build, not at launch)",
        trtllm "linear modules";
    ExpertFfn: any "equal shards", megatron "core/tensor_parallel/layers.py:1038", bridge "core/tensor_parallel/layers.py:1038",
        vllm "fused_moe/config.py:1352", sglang "fused_moe_triton/layer.py:427", trtllm "fused MoE modules";
    ExpertBias: megatron "core/transformer/transformer_config.py:2612", bridge "core/transformer/transformer_config.py:2612";
    ExpertTpExperts: sglang "models/qwen3_moe.py:246 (at build, not at launch)";
    QuantBlock: any "a scale has one owner", vllm "quantization/utils/fp8_utils.py (validate_fp8_block_shape)",
        sglang "layers/quantization/fp8.py", trtllm "quantised linear modules";
    ExpertQuantBlock: any "a scale has one owner", vllm "quantization/fp8.py (fused MoE create_weights)",
        sglang "moe_ep_setup.py:150-172", trtllm "quantised fused MoE modules";
    Format: any "the GPU's datasheet", megatron "the GEMM library", bridge "the GEMM library", titan "the GEMM library",
        deepspeed "the GEMM library", vllm "the quantisation's least capability", sglang "the quantisation's least capability",
        trtllm "the quantisation's least architecture";
    Stages: any "a stage has a layer", megatron "training/arguments.py:968", bridge "transformer_block.py:157",
        titan "distributed/pipeline_parallel.py:394", deepspeed "runtime/pipe/module.py", vllm "distributed/utils.py:198-241",
        sglang "distributed/utils.py:110", trtllm "mapping.py (pp_layers)";
    Layers: any "the interleaved schedule", megatron "training/arguments.py:968, transformer_block.py:157,176",
        bridge "transformer_block.py:157, models/gpt_provider.py:243";
    StageSizes: any "layers add up", megatron "core/transformer/transformer_config.py:2300-2372",
        bridge "core/transformer/transformer_config.py:2300-2372", deepspeed "partition_method",
        vllm "distributed/utils.py:198 (VLLM_PP_LAYER_PARTITION)", sglang "distributed/utils.py:110 (SGLANG_PP_LAYER_PARTITION)",
        trtllm "pp_partition";
    StageChunks: any "the interleaved schedule", megatron "core/transformer/transformer_config.py:2300-2372",
        bridge "core/transformer/transformer_config.py:2300-2372";
    Interleave: any "the interleaved schedule", megatron "training/arguments.py:1002,1007",
        bridge "core/pipeline_parallel/schedules.py:1160", titan "pipeline schedules";
    NoInterleaving: deepspeed "runtime/pipe/schedule.py (one schedule)", vllm "one schedule", sglang "one schedule",
        trtllm "one schedule";
    Batch: any "whole micro-batches", megatron "training/arguments.py:715, num_microbatches_calculator.py:381",
        bridge "training/config.py:1335", titan "trainer.py:418", deepspeed "runtime/config.py:590-605";
    MicroBatches: any "the interleaved schedule", megatron "core/pipeline_parallel/schedules.py:1172",
        bridge "core/pipeline_parallel/schedules.py:1172", titan "torch/distributed/pipelining/schedules.py:4122";
    FewMicroBatches: any "the interleaved schedule", megatron "core/pipeline_parallel/schedules.py:1160",
        bridge "core/pipeline_parallel/schedules.py:1160", titan "torch/distributed/pipelining/schedules.py:1441";
    SequenceCp: any "an early and a late piece for each rank", megatron "training/arguments.py:1336",
        bridge "training/config.py:1436";
    SequenceTp: any "equal shards", megatron "core/tensor_parallel/mappings.py:72,177",
        bridge "core/tensor_parallel/mappings.py:72,177";
    Tokens: titan "trainer.py:293-305";
    MoeSequenceParallel: megatron "core/transformer/moe/moe_layer.py:636 (first step)",
        bridge "core/transformer/moe/moe_layer.py:636 (first step)";
    HiddenHeads: megatron "training/arguments.py:1332", bridge "core/transformer/transformer_config.py (head size)";
    Positions: megatron "training/arguments.py:1354", bridge "training/arguments.py:1354", titan "models/common/decoder.py:220";
    Zero: megatron "training/arguments.py:1034-1050", bridge "training/arguments.py:1034-1050",
        deepspeed "runtime/pipe/engine.py:76";
    EpOverlap: megatron "core/transformer/transformer_config.py:3000-3050",
        bridge "core/transformer/transformer_config.py:3000-3050";
    TwoBatch: any "an exchange to hide", vllm "config/vllm.py (use_ubatching asks for a DeepEP backend)",
        sglang "arg_groups/validation_hook.py (an all-to-all backend; DP attention alone serves DeepSeek-V4 only)";
    NoTwoBatch: trtllm "llmapi/llm_args.py (no such option)";
    TpOverlap: megatron "training/arguments.py:1442", bridge "training/arguments.py:1442";
    ContextParallel: deepspeed "no ring attention", sglang "arg_groups/parallel_hook.py:170-193",
        trtllm "mapping.py (moe_ep_size beside cp_size)";
    DecodeContext: vllm "config/parallel.py:598-602, config/model.py:1578-1607";
    DecodeContextKv: vllm "config/model.py:1578-1607";
    Balancer: vllm "fused_moe/layer.py:274", sglang "eplb/expert_location.py:256 (at build, not at launch)";
    BalancerEp: vllm "config/parallel.py:569", sglang "arg_groups/moe_hook.py";
    RedundantExperts: vllm "config/parallel.py:586";
    AttentionDp: sglang "arg_groups/parallel_hook.py:159-164,326";
    MoeDp: sglang "arg_groups/parallel_hook.py:170-193";
    MoeDpPipeline: sglang "arg_groups/parallel_hook.py:170-193";
    Nodes: vllm "engine/arg_utils.py:2398-2446", sglang "arg_groups/validation_hook.py:179";
    DataNodes: vllm "config/parallel.py:812-835";
    ReplicaNodes: sglang "arg_groups/validation_hook.py:199";
    ReplicaAttentionDp: sglang "arg_groups/parallel_hook.py:287";
    DataParallel: titan "distributed/parallel_dims.py:165-194";
    TiedEmbeddings: titan "models/common/decoder.py:168";
    KvCapacity: any "this program's memory model", vllm "core/kv_cache_utils.py", sglang "model_executor (token pool)",
        trtllm "KV cache manager";
    Memory: any "this program's memory model";
    Ttft: any "the job's own target";
    Tpot: any "the job's own target";
    Rate: any "the job's own load";
}
