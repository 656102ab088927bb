#!/usr/bin/env bash
# The whole method on a CPU, from a clean clone: bash examples/run_t3s_tiny_cpu.sh
#
# Installs the project, makes the data, pre-trains a tiny student (kept and reused), then runs T3S
# (profile, bottleneck, snapshot, rewind, targeted training) and RRT from it, and prints a table.
# METHODS="sft t3s own" compares T3S with plain fine-tuning and with fine-tuning on the student's
# own verified answers; what the runs have in common is computed once (examples/lib/compare.sh).
# Every knob is an environment variable:
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
RUN=${RUN:-$ROOT/runs/tiny}           # everything this script writes
STUDENT=${STUDENT:-$RUN/student}      # pre-trained when it is not there, else reused
NPROC=${NPROC:-$(( $(nproc) < 2 ? 1 : 2 ))}
TP=${TP:-1}                           # tensor parallel size; NPROC / (TP * PP) is data parallel
PP=${PP:-1}                           # pipeline parallel size
SEED=${SEED:-0}                       # of the 200 teacher traces and of the run
METHODS=${METHODS:-"t3s rrt"}         # any of --t3s-method, and own
STUDENT_STEPS=${STUDENT_STEPS:-700}
STEPS=${STEPS:-50}                    # the paper's budget
BATCH=${BATCH:-64}                    # the paper's batch size
LR=${LR:-5e-4}
GENERATION=${GENERATION:-live}        # server: a `transformers serve` answers, started and ended here
PORT=${PORT:-8199}                    # where it listens
RESUME=${RESUME:-0}                   # 1: go on where an interrupted run has left off
EXTRA_ARGS=${EXTRA_ARGS:-}            # appended to the T3S runs
DATA_ARGS=${DATA_ARGS:-}              # of examples/tiny/make_data.py
DRY_RUN=${DRY_RUN:-0}                 # 1: plan the runs (t3s-megatron plan), start none
PLAN_ARGS=${PLAN_ARGS:-}              # options of the plan

source "$ROOT/examples/lib/checks.sh"
source "$ROOT/examples/lib/compare.sh"
source "$ROOT/examples/lib/guarded.sh"
t3s_check_knobs
source "$ROOT/examples/lib/python.sh"
source "$ROOT/examples/lib/cpu.sh"
source "$ROOT/examples/lib/serve.sh"
source "$ROOT/examples/models/tiny.sh"
t3s_python "$ROOT"
t3s_check_methods

if (( NPROC % (TP * PP) )); then
    echo "NPROC=$NPROC is not a multiple of TP*PP=$(( TP * PP ))" >&2
    exit 2
fi
DP=$(( NPROC / (TP * PP) ))
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} CUDA_DEVICE_MAX_CONNECTIONS=1 PYTHONWARNINGS=ignore

# What every run here has in common.
COMMON_ARGS=(
    "${CPU_ARGS[@]}"
    --tensor-model-parallel-size "$TP" --pipeline-model-parallel-size "$PP"
    --tokenizer-type HuggingFaceTokenizer --tokenizer-model "$RUN/data/tokenizer"
    --seq-length 112 --micro-batch-size $(( BATCH / DP / PP )) --global-batch-size "$BATCH"
    --calculate-per-token-loss --num-workers 0 --eval-iters 0 --log-interval 1
)

# launch NAME arguments...: full log to $RUN/NAME.log, what a person can follow to the screen.
launch() {
    local name=$1 status=0
    shift
    if [ "$DRY_RUN" = 1 ]; then
        "$PYTHON" -m t3s_megatron.cli plan --world-size "$NPROC" $PLAN_ARGS -- \
            "${MODEL_ARGS[@]}" "${COMMON_ARGS[@]}" "$@"
        return
    fi
    mkdir -p "$RUN"
    "$PYTHON" -m torch.distributed.run --standalone --nproc-per-node "$NPROC" \
        -m t3s_megatron.pretrain "${MODEL_ARGS[@]}" "${COMMON_ARGS[@]}" "$@" 2>&1 \
        | tee "$RUN/$name.log" | awk -v name="$name" '
            /^\[t3s\]/ { sub(/^\[t3s\] /, ""); print "  " name ": " $0; fflush() }
            match($0, /iteration +[0-9]+\/ +[0-9]+/) {
                step = substr($0, RSTART + 9, RLENGTH - 9); gsub(/ /, "", step); split(step, n, "/")
                if (name == "student" && (n[1] % 50 == 0 || n[1] == 1) \
                    && match($0, /lm loss: [0-9.E+-]+/))
                    { print "  " name ": step " step ", " substr($0, RSTART, RLENGTH); fflush() }
            }
            /t3s-megatron: error/ { print; fflush() }' || status=$?
    if [ "$status" -ne 0 ]; then
        echo "$name failed; the end of $RUN/$name.log:" >&2
        tail -n 30 "$RUN/$name.log" >&2
        exit "$status"
    fi
}

echo "1. data: $RUN/data"
if [ "$(cat "$RUN/data/seed" 2>/dev/null)" != "$SEED" ]; then
    "$PYTHON" "$ROOT/examples/tiny/make_data.py" --out "$RUN/data" --seed "$SEED" $DATA_ARGS
    echo "$SEED" >"$RUN/data/seed"
fi

echo "2. student: $STUDENT"
if [ ! -e "$STUDENT/latest_checkpointed_iteration.txt" ]; then
    launch student --t3s-data "$RUN/data/pretrain.jsonl" --train-iters "$STUDENT_STEPS" \
        --lr 2e-3 --min-lr 1e-4 --lr-warmup-iters 50 --lr-decay-style cosine \
        --adam-beta2 0.98 --weight-decay 0.05 \
        --save "$STUDENT" --save-interval "$STUDENT_STEPS" --no-save-optim --no-save-rng
else
    echo "  kept from an earlier run"
fi

# Of the measurements: at the paper's temperature; a server of one answer at a time is asked less, and
# greedily, so that its answers are those of the live weights.
MEASURE_ARGS=(
    --t3s-temperature 0.6 --t3s-targeted-accuracy-interval 2
    --t3s-report-temperatures 0 0.6 1 --t3s-report-samples 4
)
if [ "$GENERATION" = server ]; then
    t3s_serve "$RUN/server.log"
    echo "   server: $SERVER_URL"
    MEASURE_ARGS=(
        --t3s-generation server --t3s-server-url "$SERVER_URL"
        --t3s-temperature 0 --t3s-accuracy-prompts 50 --t3s-targeted-accuracy-interval 10
        --t3s-report-temperatures 0
    )
fi

# t3s_one NAME METHOD DATA arguments...: starts from the student, or goes on from the last checkpoint
# of its own when there is one.
t3s_one() {
    local name=$1 method=$2 data=${3:-$RUN/data/train.jsonl}
    shift 3
    launch "$name" --pretrained-checkpoint "$STUDENT" \
        --load "$RUN/$name/checkpoints" --save "$RUN/$name/checkpoints" --save-interval 10 \
        --tensorboard-dir "$RUN/$name/tensorboard" \
        --train-iters "$STEPS" --lr "$LR" --lr-decay-style constant --weight-decay 0 \
        --adam-beta2 0.999 --seed "$(( 1234 + SEED ))" \
        --t3s --t3s-method "$method" --t3s-dir "$RUN/$name/t3s" \
        --t3s-data "$data" --t3s-heldout-data "$RUN/data/heldout.jsonl" \
        --t3s-verifier reasoning-gym --t3s-max-new-tokens 90 \
        --t3s-patience 6 "${MEASURE_ARGS[@]}" $EXTRA_ARGS "$@"
}

# The student's own verified answers, through a server of theta_0 that is started and ended here.
t3s_own_data() {
    local own="$RUN/own/data" served="$RUN/student_hf"
    if [ "$DRY_RUN" = 1 ] || [ -e "$own/train.jsonl" ]; then
        [ "$DRY_RUN" = 1 ] || echo "$own/train.jsonl"
        return
    fi
    {
        mkdir -p "$own" || return
        [ -e "$served/config.json" ] || "$PYTHON" -m torch.distributed.run --standalone \
            --nproc-per-node "$NPROC" -m t3s_megatron.convert "${MODEL_ARGS[@]}" \
            "${COMMON_ARGS[@]}" --load "$STUDENT" --t3s-hf-export "$served" >"$own/convert.log" 2>&1 || return
        [ -n "${SERVER_URL:-}" ] || t3s_serve "$RUN/server.log" || return
        PYTHON=$PYTHON DATA="$RUN/data/train.jsonl" URL=$SERVER_URL MODEL=$served OUT=$own \
            SAMPLES=1 MAX_TOKENS=90 SEED=$SEED VERIFIER=reasoning-gym \
            GENERATE_ARGS="--concurrency 1" bash "$ROOT/examples/prepare_own.sh" || return
    } >&2
    echo "$own/train.jsonl"
}

if [ "$RESUME" != 1 ] && [ "$DRY_RUN" != 1 ]; then
    for method in $METHODS; do rm -rf "${RUN:?}/$method"; done
fi
NUMBER=3 REPORT_ARGS="--picture $RUN/accuracy.png" t3s_compare "$RUN"
