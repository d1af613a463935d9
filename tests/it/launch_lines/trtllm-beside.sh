#!/bin/bash
# The degrees are in the file beside this script.
trtllm-serve Qwen/Qwen3-30B-A3B --backend pytorch --config trtllm.yaml --port 8000
