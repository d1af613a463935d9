# Sixty-one layers on four stages, the last one short.
export GPUS=8
torchrun --nproc_per_node $GPUS --nnodes 8 pretrain_gpt.py --pipeline-model-parallel-size 4 \
  --decoder-first-pipeline-num-layers 15 --decoder-last-pipeline-num-layers 14 \
  --expert-model-parallel-size 16 --expert-tensor-parallel-size 1 --num-layers 61 --hidden-size 7168 \
  --num-attention-heads 128 --multi-latent-attention --num-experts 256 --moe-router-topk 8 --moe-ffn-hidden-size 2048 \
  --ffn-hidden-size 18432 --disable-bias-linear --recompute-granularity selective --recompute-modules mla_up_proj mlp \
  --seq-length 4096 --max-position-embeddings 4096 --micro-batch-size 1 --global-batch-size 512 --bf16
