#!/usr/bin/env bash
# Overhead of T3S beside plain Megatron training: bash benchmarks/overhead.sh
#
# On a CPU a 10M-parameter model, one thread. With DEVICE=cuda a model of 1B parameters in bfloat16
# with Transformer Engine and the distributed optimizer. Writes $RESULT; method: overhead.py.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
DEVICE=${DEVICE:-cpu}
NPROC=${NPROC:-1}
STEPS=${STEPS:-40}                    # pairs in each phase
WORK=${WORK:-$ROOT/runs/benchmark}
DATA=${DATA:-$WORK/data}              # train.jsonl and tokenizer/; made where it is missing
export RESULT=${RESULT:-$WORK/overhead-$DEVICE.json}
source "$ROOT/examples/lib/python.sh"
source "$ROOT/examples/lib/cpu.sh"
[ -n "${PYTHON:-}" ] || t3s_python "$ROOT"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} CUDA_DEVICE_MAX_CONNECTIONS=1 PYTHONWARNINGS=ignore
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$WORK" "$(dirname "$RESULT")"

ARGS=(
    --qk-layernorm --normalization RMSNorm --swiglu --disable-bias-linear
    --position-embedding-type rope --untie-embeddings-and-output-weights
    --tokenizer-type HuggingFaceTokenizer --tokenizer-model "$DATA/tokenizer"
    --calculate-per-token-loss --num-workers 0 --eval-iters 0 --log-interval 10
    --lr 1e-5 --lr-decay-style constant --train-iters "$STEPS"
    --t3s --t3s-method keep-top-delta --t3s-mask-share 0.5    # of a random model every token rises
    --t3s-simple --t3s-simple-step "$STEPS" --t3s-profile-iters "$STEPS"
    --t3s-dir "$WORK/t3s" --t3s-data "$DATA/train.jsonl" --t3s-arrangement padded
)
if [ "$DEVICE" = cpu ]; then
    ARGS+=(
        --num-layers 6 --hidden-size 384 --ffn-hidden-size 1024 --num-attention-heads 6
        --seq-length 112 --max-position-embeddings 112 --make-vocab-size-divisible-by 4
        --micro-batch-size 4 --global-batch-size 8
        "${CPU_ARGS[@]}"
    )
else
    ARGS+=(
        --num-layers 8 --hidden-size 2048 --ffn-hidden-size 6144 --num-attention-heads 16
        --group-query-attention --num-query-groups 8 --kv-channels 128
        --seq-length 4096 --max-position-embeddings 4096 --make-vocab-size-divisible-by 151936
        --micro-batch-size 1 --global-batch-size 8 --bf16
        --use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather
    )
    "$PYTHON" -c 'import fused_weight_gradient_mlp_cuda' 2>/dev/null \
        || ARGS+=(--no-gradient-accumulation-fusion)
fi

if [ ! -e "$DATA/train.jsonl" ]; then
    "$PYTHON" "$ROOT/examples/tiny/make_data.py" --out "$DATA" --pretrain-samples 500
fi
"$PYTHON" -m torch.distributed.run --standalone --nproc-per-node "$NPROC" \
    "$ROOT/benchmarks/overhead.py" "${ARGS[@]}" "$@" >"$WORK/overhead.log" 2>&1 || {
    tail -n 40 "$WORK/overhead.log" >&2
    exit 1
}
cat "$RESULT"
