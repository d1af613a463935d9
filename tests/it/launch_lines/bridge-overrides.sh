#!/bin/bash
# Hydra-style overrides; the pipeline is not interleaved.
torchrun --nproc_per_node=8 --nnodes=4 run_recipe.py --recipe llama3_70b_pretrain_config \
  model.tensor_model_parallel_size=4 model.pipeline_model_parallel_size=4 \
  model.context_parallel_size=2 model.virtual_pipeline_model_parallel_size=null \
  model.sequence_parallel=true train.global_batch_size=128 train.micro_batch_size=1
