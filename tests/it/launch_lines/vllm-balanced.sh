vllm serve deepseek-ai/DeepSeek-R1 --tensor_parallel_size 1 -dp 16 --enable-expert-parallel --enable-eplb \
  --eplb-config '{"num_redundant_experts": 32}' -dcp 1 --nnodes 2 --node-rank 0
