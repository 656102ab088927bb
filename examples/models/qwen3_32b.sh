# Sourced. Qwen3-32B, model shape only. Facts: https://huggingface.co/Qwen/Qwen3-32B/blob/main/config.json
MODEL_ARGS=(
    --num-layers 64
    --hidden-size 5120
    --ffn-hidden-size 25600
    --num-attention-heads 64
    --group-query-attention
    --num-query-groups 8
    --kv-channels 128
    --qk-layernorm
    --normalization RMSNorm
    --norm-epsilon 1e-6
    --swiglu
    --disable-bias-linear
    --position-embedding-type rope
    --rotary-base 1000000
    --max-position-embeddings 40960
    --untie-embeddings-and-output-weights
    --attention-dropout 0
    --hidden-dropout 0
)
