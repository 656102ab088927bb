# Sourced. The tiny student: 0.6M parameters, Qwen3's architecture. Model shape only.
MODEL_ARGS=(
    --num-layers 3
    --hidden-size 128
    --ffn-hidden-size 320
    --num-attention-heads 4
    --qk-layernorm
    --normalization RMSNorm
    --swiglu
    --disable-bias-linear
    --position-embedding-type rope
    --untie-embeddings-and-output-weights
    --max-position-embeddings 160
    --init-method-std 0.06
    --attention-dropout 0
    --hidden-dropout 0
    # 68 tokens: a divisor of 68 keeps the vocabulary unpadded, and so equal, at TP 1, 2 and 4.
    --make-vocab-size-divisible-by 17
)
