cat > extra.yml <<EOF
pipeline_parallel_size: 2
enable_attention_dp: false
EOF
trtllm-serve serve Qwen/Qwen3-8B --tp_size 4 --extra_llm_api_options extra.yml
