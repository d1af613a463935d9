python3 -m sglang.launch_server --model-path deepseek-ai/DeepSeek-V3 --tp 16 --dp 16 --enable-dp-attention \
  --enable-deepep-moe --nnodes 2 --node-rank 0 --dist-init-addr 10.0.0.1:5000 --trust-remote-code
