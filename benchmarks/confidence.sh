#!/usr/bin/env bash
# Where the falling tokens turn, over three students, sets of traces and learning rates:
#     bash benchmarks/confidence.sh      (about an hour on 2 cores)
# Writes runs/confidence/ and prints the tables of benchmarks/results/confidence.md.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
OUT=${OUT:-$ROOT/runs/confidence}
STUDENTS=${STUDENTS:-"0:700 1:450 2:450"}   # number (also of its seed) and steps of pre-training
# student, traces (also the run's seed), learning rate, steps of SFT
RUNS=${RUNS:-"0:0:5e-4:25 0:1:5e-4:16 0:2:5e-4:12 1:0:5e-4:12 1:1:5e-4:12 2:0:5e-4:12 2:1:5e-4:12
              0:0:2e-4:22 1:0:2e-4:22 2:0:2e-4:22"}
# trajectory, and the theta_b that targeted training is tried with
TRAINED=${TRAINED:-"st0-seed0-lr5e-4:2,3,4,5,6,8,10,15 st1-seed0-lr5e-4:3,10 st2-seed0-lr5e-4:3,10"}
SAMPLES=${SAMPLES:-2}                       # answers a prompt for each accuracy

source "$ROOT/examples/lib/python.sh"
source "$ROOT/examples/lib/cpu.sh"
source "$ROOT/examples/models/tiny.sh"
t3s_python "$ROOT"
export OMP_NUM_THREADS=1 CUDA_DEVICE_MAX_CONNECTIONS=1 PYTHONWARNINGS=ignore PYTHONPATH=$ROOT
mkdir -p "$OUT/runs"

# launch LOG SEED_OF_DATA module arguments...
launch() {
    local log=$1 data=$OUT/data-$2
    shift 2
    [ -e "$data/train.jsonl" ] \
        || "$PYTHON" "$ROOT/examples/tiny/make_data.py" --out "$data" --seed "${data##*-}"
    "$PYTHON" -m torch.distributed.run --standalone --nproc-per-node 1 "$@" \
        "${MODEL_ARGS[@]}" "${CPU_ARGS[@]}" \
        --tokenizer-type HuggingFaceTokenizer --tokenizer-model "$data/tokenizer" \
        --seq-length 112 --micro-batch-size 64 --global-batch-size 64 --calculate-per-token-loss \
        --num-workers 0 --eval-iters 0 --log-interval 1 >"$log" 2>&1
}

# trajectory STUDENT SEED LR STEPS GRID: SFT for STEPS (0: the one that is there), then T3S from GRID
trajectory() {
    local out=$OUT/runs/st$1-seed$2-lr$3 data=$OUT/data-$2
    echo "st$1-seed$2-lr$3: $4 steps, theta_b ${5:-none}"
    TRAJECTORY=$out.npz PROFILE=$4 GRID=$5 launch "$out-$4.log" "$2" "$ROOT/benchmarks/confidence_job.py" \
        --pretrained-checkpoint "$OUT/student-$1" --train-iters 50 --lr "$3" \
        --lr-decay-style constant --weight-decay 0 --adam-beta2 0.999 --seed "$(( 1234 + $2 ))" \
        --t3s --t3s-method sft --t3s-dir "$out" --t3s-data "$data/train.jsonl" \
        --t3s-heldout-data "$data/heldout.jsonl" --t3s-verifier reasoning-gym \
        --t3s-max-new-tokens 90 --t3s-temperature 0.6 --t3s-accuracy-samples "$SAMPLES" \
        --t3s-report-temperatures 0 0.6 1 --t3s-report-samples 2 --t3s-generation-batch-size 800
}

for student in $STUDENTS; do
    IFS=: read -r number steps <<<"$student"
    [ -e "$OUT/student-$number/latest_checkpointed_iteration.txt" ] && continue
    echo "student $number: $steps steps"
    launch "$OUT/student-$number.log" 0 -m t3s_megatron.pretrain \
        --t3s-data "$OUT/data-0/pretrain.jsonl" --train-iters "$steps" --lr 2e-3 --min-lr 1e-4 \
        --lr-warmup-iters 50 --lr-decay-style cosine --adam-beta2 0.98 --weight-decay 0.05 \
        --save "$OUT/student-$number" --save-interval "$steps" --no-save-optim --no-save-rng \
        --seed "$(( 1234 + number ))"
done
for run in $RUNS; do
    IFS=: read -r student seed lr steps <<<"$run"
    [ -e "$OUT/runs/st$student-seed$seed-lr$lr.npz" ] || trajectory "$student" "$seed" "$lr" "$steps" ""
done
for trained in $TRAINED; do
    IFS=: read -r name grid <<<"$trained"
    [ -e "$OUT/runs/$name.json" ] && continue
    [[ $name =~ ^st(.+)-seed(.+)-lr(.+)$ ]]
    trajectory "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}" "${BASH_REMATCH[3]}" 0 "${grid//,/ }"
done
"$PYTHON" "$ROOT/benchmarks/confidence.py" "$OUT/runs"
