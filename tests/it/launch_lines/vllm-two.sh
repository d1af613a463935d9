CUDA_VISIBLE_DEVICES=0,1 vllm serve Qwen/Qwen3-8B -tp 2 --port 8000 &
CUDA_VISIBLE_DEVICES=2,3 vllm serve Qwen/Qwen3-8B -tp 2 --port 8001 &
wait
