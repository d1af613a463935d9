#!/bin/sh
docker run --gpus all img bash -c 'deepspeed --num_gpus 4 pretrain.py --zero-stage 2 --deepspeed'
