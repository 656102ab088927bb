# Sourced by the shapes of Qwen3-8B, 32B and 235B-A22B: what their config.json files have in common.
QWEN3_ARGS=(
    --group-query-attention
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
