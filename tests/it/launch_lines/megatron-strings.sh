#!/bin/bash
# A dense model with interleaving, options in strings.
DIST="--nproc_per_node 8 --nnodes 1 --master_port 6000"
GPT_ARGS="
    --tensor-model-parallel-size 4 \
    --pipeline-model-parallel-size=2
    --num-layers 32 --hidden-size 4096 --num-attention-heads 32
    --num-layers-per-virtual-pipeline-stage 4
    --seq-length 2048 --max-position-embeddings 2048
    --micro-batch-size 2 --global-batch-size 64 --fp16
"
torchrun $DIST pretrain_gpt.py $GPT_ARGS --recompute-activations
