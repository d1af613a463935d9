from megatron.bridge.recipes.qwen import qwen3_30b_a3b_pretrain_config

cfg = qwen3_30b_a3b_pretrain_config()
cfg.model.tensor_model_parallel_size = 2  # inside NVLink
cfg.model.pipeline_model_parallel_size = 4
cfg.model.virtual_pipeline_model_parallel_size = 3
cfg.model.expert_model_parallel_size = 8
cfg.model.sequence_parallel = True
cfg.model.num_layers = 48
cfg.train.micro_batch_size = 2
cfg.train.global_batch_size = 512
