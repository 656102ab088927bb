# Sourced. Qwen3-32B, model shape only. Facts: https://huggingface.co/Qwen/Qwen3-32B/blob/main/config.json
source "$(dirname "${BASH_SOURCE[0]}")/qwen3.sh"
MODEL_ARGS=(
    "${QWEN3_ARGS[@]}"
    --num-layers 64
    --hidden-size 5120
    --ffn-hidden-size 25600
    --num-attention-heads 64
    --num-query-groups 8
)
