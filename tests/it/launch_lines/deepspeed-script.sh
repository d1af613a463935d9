#!/bin/bash
ZERO=1
MP=2
cat <<EOT > ds.json
{
  "train_batch_size" : 256,
  "train_micro_batch_size_per_gpu": 4,
  "zero_optimization": { "stage": $ZERO }
}
EOT
deepspeed --num_nodes 2 --num_gpus 8 pretrain_gpt.py --tensor-model-parallel-size $MP --pipeline-model-parallel-size 2 \
  --moe-expert-parallel-size 4 --num-experts 64 --num-layers 24 --hidden-size 2048 --num-attention-heads 16 \
  --micro-batch-size 4 --global-batch-size 256 --deepspeed --deepspeed_config ds.json
