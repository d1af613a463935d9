#!/usr/bin/env bash
# Long sequences: context parallelism over four nodes of eight.
torchrun --nproc-per-node=8 --nnodes=4 --node-rank=$RANK --rdzv-endpoint=$HEAD:29500 \
  pretrain_gpt.py \
  --tensor-model-parallel-size 4 --context-parallel-size 4 --pipeline-model-parallel-size 2 --sequence-parallel \
  --num-layers 32 --hidden-size 4096 --ffn-hidden-size 14336 --num-attention-heads 32 \
  --group-query-attention --num-query-groups 8 --swiglu --disable-bias-linear \
  --seq-length 131072 --max-position-embeddings 131072 \
  --micro-batch-size 1 --global-batch-size 16 --bf16 --use-distributed-optimizer
