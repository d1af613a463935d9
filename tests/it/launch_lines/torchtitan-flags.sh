#!/usr/bin/bash
torchrun --nnodes 2 --nproc_per_node 8 --rdzv_backend c10d -m torchtitan.train --module qwen3 --config big \
  --parallelism.tensor_parallel_degree 2 --parallelism.data-parallel-shard-degree=-1 \
  --parallelism.expert_parallel_degree 4 --training.local_batch_size 2 --training.seq_len 4096 \
  activation_checkpoint:full
