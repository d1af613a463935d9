docker run --gpus all --shm-size 16g -v /models:/m -d --name box vllm/vllm-openai:latest sleep 1d
docker exec box bash -c "python3 -m vllm.entrypoints.openai.api_server --model meta-llama/Meta-Llama-3.1-70B \
  --tensor-parallel-size=4 --pipeline-parallel-size 2 --kv-cache-dtype fp8"
