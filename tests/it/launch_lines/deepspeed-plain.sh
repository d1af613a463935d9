deepspeed --num_nodes=1 --num_gpus=8 train.py --deepspeed deepspeed.json --model_name_or_path some/model
