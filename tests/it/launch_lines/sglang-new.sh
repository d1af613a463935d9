sglang serve --model-path Qwen/Qwen3-235B-A22B --tp-size 8 --pp-size 2 --attn-dp-size 4 --ep-size 4 --moe-a2a-backend none
