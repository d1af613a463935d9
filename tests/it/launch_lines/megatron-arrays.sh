#!/bin/bash
# A mixture of experts on sixteen GPUs, options in arrays.
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
    --num-layers 24 --hidden-size 3072 --ffn-hidden-size 8192
    --num-attention-heads 24
    --group-query-attention
    --num-query-groups 8
    --num-experts 16 --moe-router-topk=2
    --disable-bias-linear --swiglu
    --seq-length 8192
    --max-position-embeddings 8192
)
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
