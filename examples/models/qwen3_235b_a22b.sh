# Sourced. Qwen3-235B-A22B, model shape only.
# Facts: https://huggingface.co/Qwen/Qwen3-235B-A22B/blob/main/config.json
source "$(dirname "${BASH_SOURCE[0]}")/qwen3.sh"
MODEL_ARGS=(
    "${QWEN3_ARGS[@]}"
    --num-layers 94
    --hidden-size 4096
    --ffn-hidden-size 12288
    --num-attention-heads 64
    --num-query-groups 4
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
