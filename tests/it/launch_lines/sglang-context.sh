python -m sglang.launch_server --model-path Qwen/Qwen3-30B-A3B --tp-size 8 --attn-cp-size 2 --moe-dp-size 2 --ep-size 4
