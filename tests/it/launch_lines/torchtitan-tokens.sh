torchrun --nproc_per_node 8 -m torchtitan.train --parallelism.pipeline_parallel_degree 2 \
  --parallelism.num_pp_microbatches 8 --training.max_context_length 4096 \
  --training.num_tokens_per_microbatch_per_dp_rank 8192 --training.num_tokens_per_train_step 1048576 \
  --parallelism.pipeline_parallel_schedule Interleaved1F1B
