#!/bin/bash
NGPU=8 CONFIG_FILE=./models/llama3/train_configs/llama3_8b.toml ./run_train.sh --parallelism.context_parallel_degree 8 --parallelism.data_parallel_shard_degree 1
