#!/usr/bin/env bash
# The paper's analyses on the tiny example, over three sets of 200 teacher traces and one student:
#     bash benchmarks/tiny_analyses.sh      (about an hour on one core)
# Writes runs/tiny-analyses/, and from it docs/tiny_analyses.png, docs/tiny_sketches.png and the table of
# benchmarks/results/tiny_analyses.md. What is finished is not run again.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
OUT=${OUT:-$ROOT/runs/tiny-analyses}
SEEDS=${SEEDS:-"0 1 2"}
STUDENT=${STUDENT:-$OUT/student}
PARTS=${PARTS:-"t3s trajectory masks transfer"}
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
SUBSETS="anchor-easy anchor-hard other-easy other-hard"

source "$ROOT/examples/lib/cpu.sh"
source "$ROOT/examples/models/tiny.sh"
export OMP_NUM_THREADS=1 CUDA_DEVICE_MAX_CONNECTIONS=1 PYTHONWARNINGS=ignore PYTHONPATH=$ROOT
mkdir -p "$OUT"

# launch SEED NAME module arguments...: into OUT/seed-SEED/NAME, unless that is finished.
launch() {
    local seed=$1 name=$2 module=$3 folder=$OUT/seed-$1
    shift 3
    local done=$folder/$name/done
    [ ! -e "$done" ] || return 0
    echo "seed $seed: $name"
    rm -rf "${folder:?}/$name"
    mkdir -p "$folder/$name"
    "$PYTHON" -m torch.distributed.run --standalone --nproc-per-node 1 -m "$module" \
        "${MODEL_ARGS[@]}" "${CPU_ARGS[@]}" \
        --tokenizer-type HuggingFaceTokenizer --tokenizer-model "$OUT/data-$seed/tokenizer" \
        --seq-length 112 --micro-batch-size 64 --global-batch-size 64 --calculate-per-token-loss \
        --num-workers 0 --eval-iters 0 --log-interval 1 "$@" >"$folder/$name.log" 2>&1
    touch "$done"
}

# train SEED NAME module arguments...: fine-tuning from the student.
train() {
    local seed=$1 name=$2 module=$3
    shift 3
    launch "$seed" "$name" "$module" --pretrained-checkpoint "$STUDENT" \
        --lr 5e-4 --lr-decay-style constant --weight-decay 0 --adam-beta2 0.999 \
        --seed "$(( 1234 + seed ))" --t3s --t3s-dir "$OUT/seed-$seed/$name/t3s" \
        --t3s-data "$OUT/data-$seed/train.jsonl" --t3s-verifier reasoning-gym \
        --t3s-max-new-tokens 90 --t3s-temperature 0.6 "$@"
}

data() {
    [ -e "$OUT/data-$1/train.jsonl" ] \
        || "$PYTHON" "$ROOT/examples/tiny/make_data.py" --out "$OUT/data-$1" --seed "$1"
}

analyse() {
    local seed=$1
    shift
    "$PYTHON" -m t3s_megatron.cli analyse "$@" --to "$OUT/seed-$seed/analyses" >/dev/null
}

t3s_part() {
    # 20 steps of the targeted phase are enough for Figure 4b.
    train "$1" t3s t3s_megatron.pretrain --t3s-method t3s --t3s-patience 6 --train-iters 20 \
        --t3s-targeted-accuracy-interval 2
    for name in drops base-confidence shares trends; do
        analyse "$1" "$name" "$OUT/seed-$1/t3s/t3s"
    done
}

trajectory_part() {
    local seen=$OUT/seed-$1/trajectory/seen
    train "$1" trajectory t3s_megatron.analysis.trajectory --t3s-method sft --train-iters 12 \
        --t3s-accuracy-interval 0 --analyse-groups "$OUT/seed-$1/t3s/t3s" --analyse-output "$seen" \
        --analyse gradients one-step sketches --analyse-interval 2 --analyse-samples 64
    for name in confidence gradients one-step sketches; do analyse "$1" "$name" "$seen"; done
}

masks_part() {
    local selection
    for method in mask-top-confidence mask-bottom-confidence; do
        selection=$OUT/seed-$1/$method.safetensors
        [ -e "$selection" ] || "$PYTHON" -m t3s_megatron.cli selection from-stores \
            "$OUT/seed-$1/t3s/t3s" --method "$method" --to "$selection" >/dev/null
        train "$1" "$method" t3s_megatron.pretrain --t3s-method "$method" --train-iters 14 \
            --t3s-selection-load "$selection" --t3s-accuracy-interval 2
    done
}

transfer_part() {
    local folders=() subset
    "$PYTHON" -m t3s_megatron.cli analyse subsets "$OUT/seed-$1/t3s/t3s" \
        --to "$OUT/seed-$1/subsets" >/dev/null
    for subset in $SUBSETS; do
        train "$1" "$subset" t3s_megatron.analysis.trajectory --t3s-method t3s --train-iters 20 \
            --t3s-selection-load "$OUT/seed-$1/subsets/$subset.safetensors" \
            --t3s-accuracy-interval 0 --analyse-groups "$OUT/seed-$1/t3s/t3s" \
            --analyse-output "$OUT/seed-$1/$subset/seen" --analyse-interval 1000
        folders+=("$OUT/seed-$1/$subset/seen")
    done
    analyse "$1" transfer "${folders[@]}"
}

if [ ! -e "$STUDENT/latest_checkpointed_iteration.txt" ]; then
    data 0
    launch 0 student t3s_megatron.pretrain --t3s-data "$OUT/data-0/pretrain.jsonl" \
        --train-iters 700 --lr 2e-3 --min-lr 1e-4 --lr-warmup-iters 50 --lr-decay-style cosine \
        --adam-beta2 0.98 --weight-decay 0.05 --save "$STUDENT" --save-interval 700 \
        --no-save-optim --no-save-rng
fi
for part in $PARTS; do
    for seed in $SEEDS; do
        data "$seed"
        "${part}_part" "$seed"
    done
done
"$PYTHON" "$ROOT/benchmarks/tiny_analyses.py" "$OUT" --pictures "$ROOT/docs"
