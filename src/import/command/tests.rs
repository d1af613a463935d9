//! Scripts as people write them (our own, modelled on public documentation), what is refused, and garbage.

use super::*;
use crate::launch::tests::Dice;
use crate::plan::{Recompute, Schedule, Toggle};

/// Degrees as (tp, pp, cp, ep, etp).
type Five = (Option<u32>, Option<u32>, Option<u32>, Option<u32>, Option<u32>);

fn five(read: &ReadCommand) -> Five {
    let d = &read.draft;
    (d.tp, d.pp, d.cp, d.ep, d.etp)
}

const MEGATRON_ARRAYS: &str = r#"#!/bin/bash
# Sixteen experts on two machines.
export CUDA_DEVICE_MAX_CONNECTIONS=1
GPUS_PER_NODE=8
NNODES=${SLURM_NNODES:-2}
TP=2; PP=2
EP=${EP:-4}

DISTRIBUTED_ARGS=(
    --nproc_per_node $GPUS_PER_NODE
    --nnodes $NNODES
    --node_rank ${RANK}
    --master_addr $HEAD   # set by the scheduler
)
MODEL_ARGS=(
    --num-layers 24 --hidden-size 3072
    --num-attention-heads 24
    --group-query-attention
    --num-query-groups 8
    --num-experts 16 --moe-router-topk=2
    --seq-length 8192
    --max-position-embeddings 8192
)
MODEL_ARGS+=(--moe-layer-freq "([0]*1+[1]*23)")
TRAIN_ARGS=(--micro-batch-size 1 --global-batch-size $((8 * 16)) --bf16 --overlap-grad-reduce)
PARALLEL_ARGS=(
    --tensor-model-parallel-size ${TP}
    --pipeline-model-parallel-size ${PP}
    --expert-model-parallel-size ${EP}
    --sequence-parallel --use-distributed-optimizer
)
torchrun ${DISTRIBUTED_ARGS[@]} pretrain_gpt.py \
    ${MODEL_ARGS[@]} "${TRAIN_ARGS[@]}" \
    ${PARALLEL_ARGS[@]} 2>&1 | tee log.txt
"#;

#[test]
fn megatron_with_arrays_and_variables() {
    let out = read(MEGATRON_ARRAYS).expect("a readable launch text");
    assert_eq!(out.framework, Framework::Megatron);
    assert_eq!(five(&out), (Some(2), Some(2), None, Some(4), None));
    assert_eq!((out.nodes, out.gpus_per_node, out.world), (Some(2), Some(8), Some(16)));
    assert_eq!((out.train.seq_len, out.train.global_batch), (Some(8192), Some(128)));
    assert_eq!((out.model.layers, out.model.kv_heads, out.model.experts), (Some(24), Some(8), Some(16)));
    assert_eq!((out.draft.sequence_parallel, out.draft.knobs.zero), (Some(true), 1));
    assert_eq!(out.draft.knobs.dp_overlap, Toggle::On);
}

#[test]
fn megatron_as_people_write_it() {
    // Strings of options.
    let text = "GPT_ARGS=\"\n  --tensor-model-parallel-size 4 \\\n  --pipeline-model-parallel-size=2\n  --num-layers 32 \
                --num-layers-per-virtual-pipeline-stage 4\n\"\nDIST=\"--nproc_per_node 8 --nnodes 1\"\n\
                torchrun $DIST pretrain_gpt.py $GPT_ARGS --recompute-activations --fp16\n";
    let out = read(text).expect("a readable launch text");
    assert_eq!(five(&out), (Some(4), Some(2), None, None, None));
    assert_eq!((out.draft.knobs.vpp, out.draft.knobs.recompute), (4, Recompute::SELECTIVE));
    assert_eq!((out.draft.knobs.zero, out.draft.sequence_parallel, out.world), (0, Some(false), Some(8)));
    // Slurm and a container.
    let text = "#SBATCH -N 4\n#SBATCH --gres=gpu:8\nsrun --container-image=img.sqsh bash -c \"python -u pretrain_gpt.py \
                --tensor-model-parallel-size 8 --expert-model-parallel-size 8 --expert-tensor-parallel-size 1\"\n";
    let out = read(text).expect("a readable launch text");
    assert_eq!(five(&out), (Some(8), None, None, Some(8), Some(1)));
    assert_eq!(out.world, Some(32));
    // A file of arrays that others source.
    let out =
        read("MP=(\n --context-parallel-size 2\n --tensor-model-parallel-size 2\n)\n").expect("a readable launch text");
    assert_eq!(five(&out), (Some(2), None, Some(2), None, None));
    // Uneven stages and Megatron's own FSDP words.
    let text = "torchrun pretrain_gpt.py --pipeline-model-parallel-size 4 --decoder-first-pipeline-num-layers 14 \
                --decoder-last-pipeline-num-layers 15 --recompute-granularity selective --recompute-modules mla_up_proj mlp";
    let knobs = read(text).expect("a readable launch text").draft.knobs;
    assert_eq!((knobs.first_stage_layers, knobs.last_stage_layers), (14, 15));
    assert_eq!(knobs.recompute.to_string(), "mla_up_proj+mlp");
}

#[test]
fn bridge_as_people_write_it() {
    let flags = "torchrun --nproc_per_node 8 --nnodes 2 scripts/training/run_recipe.py --recipe qwen3_30b -tp 2 -pp 2 -ep 4 \
                 -gb 128 -mb 1 -sl 4096 model.sequence_parallel=true";
    let out = read(flags).expect("a readable launch text");
    assert_eq!((out.framework, five(&out)), (Framework::Bridge, (Some(2), Some(2), None, Some(4), None)));
    assert_eq!((out.world, out.train.seq_len), (Some(16), Some(4096)));
    let overrides = "python run_recipe.py model.tensor_model_parallel_size=4 model.expert_tensor_parallel_size=1 \\\n\
                     model.expert_model_parallel_size=8 train.global_batch_size=256 model.virtual_pipeline_model_parallel_size=null";
    assert_eq!(five(&read(overrides).expect("a readable launch text")), (Some(4), None, None, Some(8), Some(1)));
    let python = "from bridge import recipe\ncfg = recipe()\ncfg.model.tensor_model_parallel_size = 2  # NVLink\n\
                  cfg.model.pipeline_model_parallel_size = 4\ncfg.model.virtual_pipeline_model_parallel_size = 3\n\
                  cfg.train.micro_batch_size = 2\n";
    let out = read(python).expect("a readable launch text");
    assert_eq!(
        (out.draft.tp, out.draft.pp, out.draft.knobs.vpp, out.draft.knobs.micro_batch),
        (Some(2), Some(4), 3, 2)
    );
    let kwargs = "provider = GPTProvider(\n    tensor_model_parallel_size=2,\n    context_parallel_size=2,\n\
                  \x20   expert_tensor_parallel_size=None, sequence_parallel=True,\n    recompute_granularity=\"full\",\n)\n";
    let out = read(kwargs).expect("a readable launch text");
    assert_eq!((five(&out), out.draft.sequence_parallel), ((Some(2), None, Some(2), None, None), Some(true)));
    assert_eq!(out.draft.knobs.recompute, Recompute::Full);
    let yaml = "model:\n  tensor_model_parallel_size: 8\n  num_layers: 61\nddp:\n  use_distributed_optimizer: false\n";
    let out = read(yaml).expect("a readable launch text");
    assert_eq!((out.draft.tp, out.model.layers, out.draft.knobs.zero), (Some(8), Some(61), 0));
}

#[test]
fn torchtitan_as_people_write_it() {
    let text = "torchrun --nnodes 2 --nproc_per_node 8 -m torchtitan.train --module qwen3 --config big \
                --parallelism.tensor_parallel_degree 2 --parallelism.data-parallel-shard-degree=-1 \
                --parallelism.expert_parallel_degree 4 --training.local_batch_size 2 --training.seq_len 4096 activation_checkpoint:full";
    let out = read(text).expect("a readable launch text");
    assert_eq!(out.draft.knobs.recompute, Recompute::Full);
    assert_eq!(
        (out.framework, out.draft.tp, out.draft.dp_shard, out.draft.ep),
        (Framework::Torchtitan, Some(2), None, Some(4))
    );
    assert_eq!((out.world, out.draft.knobs.micro_batch, out.model.name.as_deref()), (Some(16), 2, Some("big")));
    let tokens = "python -m torchtitan.train --parallelism.pipeline_parallel_degree 2 --parallelism.num_pp_microbatches 8 \
                  --training.max_context_length 4096 --training.num_tokens_per_microbatch_per_dp_rank 8192 \
                  --training.num_tokens_per_train_step 1048576 --parallelism.pipeline_parallel_schedule Interleaved1F1B";
    let out = read(tokens).expect("a readable launch text");
    assert_eq!((out.draft.knobs.micro_batch, out.draft.knobs.pp_microbatches, out.draft.knobs.vpp), (2, 8, 2));
    assert_eq!(out.train.global_batch, Some(256));
    let toml = "[parallelism]\ndata_parallel_replicate_degree = 2\ndata_parallel_shard_degree = 8 # HSDP\n\
                tensor_parallel_degree = 1\n[activation_checkpoint]\nmode = \"full\"\n";
    let out = read(toml).expect("a readable launch text");
    assert_eq!((out.draft.dp_replicate, out.draft.dp_shard), (Some(2), Some(8)));
    let env = "NGPU=8 CONFIG_FILE=x.toml ./run_train.sh --parallelism.context_parallel_degree 8";
    let out = read(env).expect("a readable launch text");
    assert_eq!((out.draft.cp, out.gpus_per_node), (Some(8), Some(8)));
    let odd =
        "./run_train.sh --parallelism.pipeline_parallel_degree 4 --parallelism.pipeline_parallel_schedule DualPipeV";
    assert_eq!(read(odd).expect("a readable launch text").draft.knobs.schedule, Schedule::DualPipe);
}

#[test]
fn deepspeed_as_people_write_it() {
    let json = "{\n \"train_batch_size\": 64,\n \"train_micro_batch_size_per_gpu\": 2,\n \"gradient_accumulation_steps\": 4,\n\
                \"bf16\": {\"enabled\": true},\n \"zero_optimization\": {\"stage\": 3, \"offload_optimizer\": {\"device\": \"cpu\"}}\n}";
    let out = read(json).expect("a readable launch text");
    assert_eq!(
        (out.framework, out.draft.knobs.zero, out.draft.knobs.optimizer_offload),
        (Framework::Deepspeed, 3, 100)
    );
    assert_eq!((out.world, out.draft.knobs.micro_batch), (Some(8), 2));
    let auto = "{\"train_batch_size\":\"auto\",\"zero_optimization\":{\"stage\":1},\"tensor_parallel\":{\"autotp_size\":2},\
                \"expert_parallel\":{\"enabled\":true,\"autoep_size\":4}}";
    let out = read(auto).expect("a readable launch text");
    assert_eq!((out.draft.tp, out.draft.ep, out.train.global_batch), (Some(2), Some(4), None));
    let script = "ZERO=1\nMP=2\ncat <<EOT > ds.json\n{\n  \"train_batch_size\" : 256,\n  \"zero_optimization\": { \"stage\": $ZERO }\n}\nEOT\n\
                  deepspeed --num_nodes 2 --num_gpus 8 pretrain_gpt.py --tensor-model-parallel-size $MP \
                  --pipeline-model-parallel-size 2 --moe-expert-parallel-size 4 --num-experts 64 --deepspeed --deepspeed_config ds.json";
    let out = read(script).expect("a readable launch text");
    assert_eq!((five(&out), out.world), ((Some(2), Some(2), None, Some(4), None), Some(16)));
    assert_eq!((out.train.global_batch, out.draft.knobs.zero), (Some(256), 1));
    let plain = "deepspeed --num_gpus=8 train.py --deepspeed ds_config.json";
    assert_eq!(read(plain).expect("a readable launch text").gpus_per_node, Some(8));
    let nested = "docker run img bash -c 'deepspeed --num_gpus 4 pretrain.py --zero-stage 2 --deepspeed'";
    assert_eq!(read(nested).expect("a readable launch text").draft.knobs.zero, 2);
}

#[test]
fn vllm_as_people_write_it() {
    let plain = "vllm serve acme/moe -tp 8 --enable-expert-parallel --max-model-len 32K --gpu-memory-utilization 0.92";
    let out = read(plain).expect("a readable launch text");
    assert_eq!((out.framework, out.draft.tp, out.draft.expert_parallel), (Framework::Vllm, Some(8), Some(true)));
    assert_eq!((out.model.name.as_deref(), out.serve.max_model_len), (Some("acme/moe"), Some(32768)));
    let docker = "docker run --gpus all --shm-size 16g -v /models:/m vllm/vllm-openai:latest \\\n  --foo\n\
                  docker exec box bash -c \"python3 -m vllm.entrypoints.openai.api_server --model acme/dense \
                  --tensor-parallel-size=4 --pipeline-parallel-size 2 --kv-cache-dtype fp8\"";
    let out = read(docker).expect("a readable launch text");
    assert_eq!((out.draft.tp, out.draft.pp, out.draft.expert_parallel), (Some(4), Some(2), Some(false)));
    assert_eq!((out.model.name.as_deref(), out.serve.kv_cache), (Some("acme/dense"), Some(KvFormat::Fp8)));
    let dp = "vllm serve m --data-parallel-size 4 --data-parallel-size-local 2 --tensor-parallel-size 2\n\
              vllm serve m --data-parallel-size 4 --data-parallel-size-local 2 --tensor-parallel-size 2 --headless --data-parallel-start-rank 2";
    let out = read(dp).expect("a readable launch text");
    assert_eq!((out.draft.dp, out.draft.knobs.replicas, out.nodes, out.world), (Some(4), 1, Some(2), Some(8)));
    let eplb = "vllm serve m --tensor_parallel_size 1 -dp 8 --enable-expert-parallel --enable-eplb \
                --eplb-config '{\"num_redundant_experts\": 32}' -dcp 1";
    let out = read(eplb).expect("a readable launch text");
    assert_eq!((out.draft.knobs.eplb, out.draft.knobs.redundant_experts, out.draft.dp), (true, 32, Some(8)));
    let two = "CUDA_VISIBLE_DEVICES=0,1 vllm serve m -tp 2 --port 8000 &\nCUDA_VISIBLE_DEVICES=2,3 vllm serve m -tp 2 --port 8001 &\nwait";
    assert_eq!(read(two).expect("a readable launch text").draft.knobs.replicas, 2);
}

#[test]
fn sglang_as_people_write_it() {
    let old = "python3 -m sglang.launch_server --model-path acme/moe --tp 16 --dp 16 --enable-dp-attention \
               --enable-deepep-moe --nnodes 2 --node-rank 0 --dist-init-addr 10.0.0.1:5000 --trust-remote-code";
    let out = read(old).expect("a readable launch text");
    assert_eq!((out.draft.tp, out.draft.dp, out.draft.attn_dp, out.draft.ep), (Some(16), None, Some(16), Some(16)));
    assert_eq!((out.draft.knobs.a2a, out.nodes, out.gpus_per_node), (true, Some(2), Some(8)));
    let new = "sglang serve --model-path m --tp-size 8 --pp-size 2 --attn-dp-size 4 --ep-size 4 --moe-a2a-backend none";
    let out = read(new).expect("a readable launch text");
    assert_eq!((out.draft.attn_dp, out.draft.ep, out.draft.knobs.a2a), (Some(4), Some(4), false));
    let replicas =
        "python -m sglang.launch_server --model m --tp 2 --dp-size 4 --mem-fraction-static 0.85 --context-length 8192";
    let out = read(replicas).expect("a readable launch text");
    assert_eq!((out.draft.dp, out.draft.attn_dp, out.world), (Some(4), None, Some(8)));
    let srun = "TP=8\nsrun -N 1 python -m sglang.launch_server --model-path m --tp-size=$TP --enable-eplb --ep-size ${TP} \\\n --ep-num-redundant-experts 32";
    let out = read(srun).expect("a readable launch text");
    assert_eq!((out.draft.ep, out.draft.knobs.eplb, out.draft.knobs.redundant_experts), (Some(8), true, 32));
    let cp = "python -m sglang.launch_server --model-path m --tp-size 8 --attn-cp-size 2 --moe-dp-size 2 --ep-size 4";
    assert_eq!(
        (
            read(cp).expect("a readable launch text").draft.pcp,
            read(cp).expect("a readable launch text").draft.knobs.moe_dp
        ),
        (Some(2), 2)
    );
}

#[test]
fn tensorrt_llm_as_people_write_it() {
    let yaml = "tensor_parallel_size: 8\nmoe_expert_parallel_size: 8\nenable_attention_dp: true\nmoe_config:\n  backend: TRTLLM\n\
                kv_cache_config:\n  dtype: fp8\n  free_gpu_memory_fraction: 0.75\n";
    let out = read(yaml).expect("a readable launch text");
    assert_eq!((out.framework, out.draft.tp, out.draft.moe_ep), (Framework::Trtllm, Some(8), Some(8)));
    assert_eq!((out.draft.attention_dp, out.serve.kv_cache), (Some(true), Some(KvFormat::Fp8)));
    let flags = "srun -N 2 --ntasks 16 --ntasks-per-node=8 --mpi=pmix bash -c \"trtllm-llmapi-launch trtllm-serve acme/moe \
                 --backend pytorch --tp_size 16 --ep_size 4 --max_batch_size 128\"";
    let out = read(flags).expect("a readable launch text");
    assert_eq!((out.draft.tp, out.draft.moe_ep, out.draft.pp), (Some(16), Some(4), None));
    assert_eq!(out.model.name.as_deref(), Some("acme/moe"));
    let both = "cat > extra.yml <<EOF\npipeline_parallel_size: 2\nenable_attention_dp: false\nEOF\n\
                trtllm-serve serve /models/dense --tp_size 4 --extra_llm_api_options extra.yml";
    let out = read(both).expect("a readable launch text");
    assert_eq!((out.draft.tp, out.draft.pp, out.world), (Some(4), Some(2), Some(8)));
    let moe = "tensor_parallel_size: 8\nmoe_tensor_parallel_size: 2\nmoe_expert_parallel_size: 4\nmax_seq_len: 8192\n";
    assert_eq!(
        (
            read(moe).expect("a readable launch text").draft.moe_tp,
            read(moe).expect("a readable launch text").serve.max_model_len
        ),
        (Some(2), Some(8192))
    );
    let error = read("trtllm-serve m --tp_size 4\ntensor_parallel_size: 8").expect_err("a refusal");
    assert!(error.to_string().contains("tensor_parallel_size"), "{error}");
}

#[test]
fn errors_name_line_flag_value_and_what_is_allowed() {
    let tp = "--tensor-model-parallel-size";
    let cases = [
        (format!("torchrun pretrain_gpt.py \\\n {tp} two"), 2, "two"),
        (format!("torchrun pretrain_gpt.py {tp} 0"), 1, "0"),
        (format!("torchrun pretrain_gpt.py {tp} 99999999999"), 1, "99999999999"),
        (format!("torchrun pretrain_gpt.py {tp} -2"), 1, "-2"),
        (format!("torchrun pretrain_gpt.py {tp} --bf16"), 1, ""),
        (format!("torchrun pretrain_gpt.py {tp}"), 1, ""),
        (format!("A=(\n {tp} 2\n)\ntorchrun pretrain_gpt.py ${{A[@]}} {tp}=4"), 4, "4"),
        (format!("torchrun pretrain_gpt.py {tp} $WHO_KNOWS"), 1, "$WHO_KNOWS"),
        ("vllm serve m -tp 2.5".to_owned(), 1, "2.5"),
        ("vllm serve m --gpu-memory-utilization 92".to_owned(), 1, "92"),
        ("{\n\"zero_optimization\": {\"stage\": 7}\n}".to_owned(), 2, "7"),
    ];
    for (text, line, value) in cases {
        let error = read(&text).expect_err("a refusal");
        assert_eq!((error.line, error.value.as_str()), (line, value), "{text}: {error}");
        assert!(!error.allowed.is_empty() && !error.to_string().contains('\n'), "{error}");
    }
    assert_eq!(
        read("torchrun pretrain_gpt.py --micro-batch-size 2 --micro-batch-size 2")
            .expect("a readable launch text")
            .draft
            .knobs
            .micro_batch,
        2
    );
    for nothing in ["", "ls -l", "{}", "[1,2]", "{\"a\":", "hello world"] {
        assert!(read(nothing).is_err(), "{nothing}");
    }
}

/// Broken scripts are refused or read, never a panic.
#[test]
fn garbage_is_survived() {
    let seeds = [
        MEGATRON_ARRAYS.to_owned(),
        "vllm serve m -tp 2 --eplb-config '{\"num_redundant_experts\": 3}' --max-model-len 32k é".to_owned(),
        "cat <<EOT\n{\n\"train_batch_size\": 8, \"zero_optimization\": {\"stage\": 1}\n}\nEOT\ndeepspeed x.py ${A[@]} $((A*2/0))".to_owned(),
        "{\"train_batch_size\": 8, \"zero_optimization\": {\"stage\": 1, \"offload_optimizer\": {\"ratio\": 0.5}}}".to_owned(),
        "tensor_parallel_size: 8\nmoe_expert_parallel_size: [4\ncfg.tensor_model_parallel_size=${X}".to_owned(),
    ];
    let pieces = [
        "'",
        "\"",
        "$",
        "${",
        "}",
        "(",
        ")",
        "\\",
        "\n",
        "=",
        "#",
        "--",
        "$((",
        "[@]",
        "é",
        "0",
        "999999999999",
        " ",
        ":",
    ];
    let mut dice = Dice::new(77);
    for round in 0..4000 {
        let mut chars: Vec<char> = seeds[round % seeds.len()].chars().collect();
        for _ in 0..=dice.below(12) {
            let at = dice.below(chars.len().max(1)).min(chars.len());
            match dice.below(3) {
                0 if at < chars.len() => {
                    chars.remove(at);
                }
                1 => chars.truncate(at.max(1)),
                _ => {
                    let piece: Vec<char> = dice.pick(&pieces).chars().collect();
                    chars.splice(at..at, piece);
                }
            }
        }
        let text: String = chars.into_iter().collect();
        if let Err(error) = read(&text) {
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}

#[test]
fn drafts_are_read_and_those_of_other_models_told() {
    let of = |flags: &str| {
        read(&format!("vllm serve deepseek-ai/DeepSeek-R1 -tp 8 {flags}\n")).map(|r| (r.serve.mtp, r.notes))
    };
    let told = |config: &str| of(&format!("--speculative-config '{config}'"));
    assert_eq!(of("").expect("a command"), (None, Vec::new()));
    assert_eq!(told(r#"{"method":"deepseek_mtp","num_speculative_tokens":2}"#).expect("a command").0, Some(2));
    assert_eq!(told(r#"{"method":"mtp"}"#).expect("a command").0, Some(1));
    for other in [r#"{"method":"ngram","num_speculative_tokens":4}"#, r#"{"model":"acme/draft-1b"}"#] {
        let (drafts, notes) = told(other).expect("a command");
        assert!(drafts.is_none() && notes[0].contains("not counted"), "{notes:?}");
    }
    for wrong in [
        "3",
        "{",
        "[]x",
        r#"{"method":"mtp","num_speculative_tokens":99}"#,
        r#"{"method":"mtp","num_speculative_tokens":-1}"#,
    ] {
        let error = told(wrong).expect_err("not drafts").to_string();
        assert!(error.contains("--speculative-config"), "{error}");
    }
    assert_eq!(
        of("--speculative-config.method mtp --speculative-config.num_speculative_tokens 2").expect("a command").0,
        Some(2)
    );
    let sglang = |flags: &str| {
        let read =
            read(&format!("python -m sglang.launch_server --model-path a/b --tp 8 {flags}\n")).expect("a command");
        (read.serve.mtp, read.notes.len())
    };
    assert_eq!(sglang("--speculative-algorithm EAGLE --speculative-num-steps 3"), (Some(3), 0));
    assert_eq!(sglang("--speculative-algorithm EAGLE"), (None, 1));
    assert_eq!(
        sglang("--speculative-algorithm EAGLE --speculative-num-steps 3 --speculative-draft-model-path x/y"),
        (None, 1)
    );
    assert_eq!(sglang("--speculative-algorithm NGRAM"), (None, 1));
    let trtllm = |kind: &str| {
        let text = format!(
            "cat > a.yml << EOF\nspeculative_config:\n  decoding_type: {kind}\n  num_nextn_predict_layers: 3\nEOF\n\
             trtllm-serve a/b --tp_size 8 --extra_llm_api_options a.yml\n"
        );
        let read = read(&text).expect("a command");
        (read.serve.mtp, read.notes.len())
    };
    assert_eq!(trtllm("MTP"), (Some(3), 0));
    assert_eq!(trtllm("Eagle"), (None, 1));
}
