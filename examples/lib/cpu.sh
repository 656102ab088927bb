# Sourced. What Megatron needs on a CPU: gloo, and none of the fused CUDA kernels.
CPU_ARGS=(
    --t3s-device cpu --transformer-impl local --distributed-backend gloo --attention-backend unfused
    --no-gradient-accumulation-fusion --no-persist-layer-norm --no-masked-softmax-fusion
    --no-bias-swiglu-fusion --no-bias-gelu-fusion --no-rope-fusion --no-bias-dropout-fusion
)
