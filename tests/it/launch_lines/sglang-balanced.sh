#!/bin/bash
TP=8
srun -N 1 python -m sglang.launch_server --model-path deepseek-ai/DeepSeek-V3 --tp-size=$TP --enable-eplb --ep-size ${TP} \
  --ep-num-redundant-experts 32
