# Sourced by the scripts beside it: one table of the paper each, thin over examples/run_t3s_*.sh,
# `t3s-megatron evaluate` and `t3s-megatron analyse`. What a script trains is what the table compares;
# what is finished is not trained again, so the same command goes on where it was killed.
#
#   HF_MODEL=Qwen3-8B DATA=traces.jsonl OUT=/shared/table_3 bash examples/reproduce/table_3.sh
#   URL=http://node0:8000 EVALSCOPE=ES/bin/python ... the same command again: evaluates, and prints
#       the paper's figures beside these
#
# DRY_RUN=1 plans every run (time, memory, disk) and starts nothing. Knobs of the runs:
# examples/lib/cluster.sh; on a CPU with a tiny student: benchmarks/reproduce_tiny.sh.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
REPRODUCE=$ROOT/examples/reproduce
PYTHON=${PYTHON:-python}
RUN_SCRIPT=${RUN_SCRIPT:-$ROOT/examples/run_t3s_qwen3_8b.sh}
URL=${URL:-}                    # of a server that evaluates
RELOAD=${RELOAD:-vllm}          # how it is given each student (docs/evaluate.md)
SUITE=${SUITE:-aime}            # or a file of prompts and gold answers
EVALSCOPE=${EVALSCOPE:-}        # python of an environment with evalscope
EVALUATE_ARGS=${EVALUATE_ARGS:-}
SET=${SET:-BOBA-200}            # which column of the paper: BOBA-200 or S1K-200
TEACHER=${TEACHER:-R1}          # R1 or QWQ, where the paper's table has both

refuse() {
    echo "$(basename "$0"): $1" >&2
    exit 2
}
[ -n "${HF_MODEL:-}" ] || refuse "HF_MODEL is not set: the student's Hugging Face folder"
[ -n "${OUT:-}" ] || refuse "OUT is not set: the folder for everything that this table needs"
[ -n "${DATA:-}" ] || refuse "DATA is not set: the traces (examples/prepare_boba_200.sh makes them)"
OUT_OF_TABLE=$OUT

is_finished() {
    "$PYTHON" - "$1/t3s/summary.json" <<'LOOK' 2>/dev/null
import json, sys
sys.exit(not json.load(open(sys.argv[1]))["finished"])
LOOK
}

# train NAME [KNOB=VALUE ...]: one run into OUT/NAME.
train() {
    local name=$1
    shift
    echo "--- $name"
    if [ "${DRY_RUN:-0}" != 1 ] && is_finished "$OUT_OF_TABLE/$name"; then
        echo "  $OUT_OF_TABLE/$name is finished"
        return
    fi
    env METHODS= OUT="$OUT_OF_TABLE/$name" "$@" bash "$RUN_SCRIPT"
}

# compare "METHOD ...": these into OUT/METHOD, sharing what they have in common.
compare() {
    echo "--- $1"
    env METHODS="$1" OUT="$OUT_OF_TABLE" bash "$RUN_SCRIPT"
}

# look NAME [KNOB=VALUE ...]: a trajectory of docs/analyses.md into OUT/NAME/seen. Not gone on with:
# what a kill has left is begun again.
look() {
    local name=$1 extra=$2
    shift 2
    echo "--- $name, looked at"
    if [ "${DRY_RUN:-0}" != 1 ]; then
        if is_finished "$OUT_OF_TABLE/$name"; then
            echo "  $OUT_OF_TABLE/$name is finished"
            return
        fi
        rm -rf "${OUT_OF_TABLE:?}/$name"
        # The plan knows no arguments of a trajectory.
        extra+=" --analyse-output $OUT_OF_TABLE/$name/seen --analyse-groups $OUT_OF_TABLE/t3s/t3s"
        export MODULE=t3s_megatron.analysis.trajectory
    else
        extra=""
    fi
    env METHODS= OUT="$OUT_OF_TABLE/$name" SAVE_INTERVAL=1000000 TARGETED_INTERVAL=0 SERVE=live \
        EXTRA_ARGS="${EXTRA_ARGS:-} --t3s-accuracy-interval 0 $extra" "$@" bash "$RUN_SCRIPT"
    unset MODULE
}

# evaluate_and_show TABLE NAME ...: base and OUT/NAME/hf on SUITE, then the paper's figures beside.
evaluate_and_show() {
    local table=$1 models=() name
    shift
    for name in "$@"; do models+=(--model "$name=$OUT_OF_TABLE/$name/hf"); done
    local command=("$PYTHON" -m t3s_megatron.cli evaluate --base "$HF_MODEL" "${models[@]}"
        --url "${URL:-http://HOST:PORT}" --reload "$RELOAD" --suite "$SUITE"
        --output "$OUT_OF_TABLE/evaluation")
    [ -z "$EVALSCOPE" ] || command+=(--evalscope-python "$EVALSCOPE")
    command+=($EVALUATE_ARGS)
    if [ "${DRY_RUN:-0}" = 1 ] || [ -z "$URL" ]; then
        echo "--- evaluation: set URL to a server and give the same command again, or"
        printf '%q ' "${command[@]}"
        echo
        "$PYTHON" "$REPRODUCE/beside.py" "$table" --set "$SET" --teacher "$TEACHER"
        return
    fi
    "${command[@]}"
    "$PYTHON" "$REPRODUCE/beside.py" "$table" --set "$SET" --teacher "$TEACHER" \
        --evaluation "$OUT_OF_TABLE/evaluation/evaluation.json"
}
