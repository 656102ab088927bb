# Sourced. Qwen3-235B-A22B, model shape only.
# Facts: https://huggingface.co/Qwen/Qwen3-235B-A22B/blob/main/config.json
MODEL_ARGS=(
    --num-layers 94
    --hidden-size 4096
    --ffn-hidden-size 12288
    --num-attention-heads 64
    --group-query-attention
    --num-query-groups 4
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
    --num-experts 128
    --moe-router-topk 8
    --moe-ffn-hidden-size 1536
    # No auxiliary loss: what is learned is the per-token loss of the paper and nothing else.
    --moe-router-load-balancing-type none
    # Own lengths need a dispatcher that takes uneven numbers of tokens.
    --moe-token-dispatcher-type alltoall
    # The choice of experts is sensitive to rounding.
    --moe-router-dtype fp32
)
