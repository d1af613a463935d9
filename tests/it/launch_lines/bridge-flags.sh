#!/bin/bash
torchrun --nproc_per_node 8 --nnodes 2 scripts/training/run_recipe.py --recipe qwen3_30b_a3b_pretrain_config \
  -tp 2 -pp 2 -ep 4 -gb 128 -mb 1 -sl 4096 model.sequence_parallel=true
