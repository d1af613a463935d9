srun -N 2 --ntasks 16 --ntasks-per-node=8 --mpi=pmix bash -c "trtllm-llmapi-launch trtllm-serve deepseek-ai/DeepSeek-V3 \
  --backend pytorch --tp_size 16 --ep_size 4 --max_batch_size 128"
