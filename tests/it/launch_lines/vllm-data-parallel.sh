#!/bin/bash
# node 0
vllm serve deepseek-ai/DeepSeek-V3 --data-parallel-size 8 --data-parallel-size-local 4 --tensor-parallel-size 2 --enable-expert-parallel
# node 1
vllm serve deepseek-ai/DeepSeek-V3 --data-parallel-size 8 --data-parallel-size-local 4 --tensor-parallel-size 2 --enable-expert-parallel --headless --data-parallel-start-rank 4
