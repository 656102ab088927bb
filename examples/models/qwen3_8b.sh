# Sourced. Qwen3-8B, model shape only. Facts: https://huggingface.co/Qwen/Qwen3-8B/blob/main/config.json
source "$(dirname "${BASH_SOURCE[0]}")/qwen3.sh"
MODEL_ARGS=(
    "${QWEN3_ARGS[@]}"
    --num-layers 36
    --hidden-size 4096
    --ffn-hidden-size 12288
    --num-attention-heads 32
    --num-query-groups 8
)
