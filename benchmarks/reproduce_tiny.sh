#!/usr/bin/env bash
# A table's script from beginning to end on a CPU, with the tiny student and few steps, to see that it
# works: the figures say nothing of the paper's.
#
#   METHODS="own" bash examples/run_t3s_tiny_cpu.sh      # once: data and student, as a folder
#   bash benchmarks/reproduce_tiny.sh 1                  # 4 to 9 minutes on one core
#
# Tables 1, 3, 7, 8 and 19; 4 with DATA of two teachers, 9 with OTHER, the t3s/ folder of another run on
# DATA. RUN, STEPS, PROMPTS: as below. Two at once need a MASTER_PORT each.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
TABLE=${1:?which table}
RUN=${RUN:-$ROOT/runs/tiny}              # of examples/run_t3s_tiny_cpu.sh
export PYTHON=${PYTHON:-$ROOT/.venv/bin/python} PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
export HF_MODEL=${HF_MODEL:-$RUN/student_hf} DATA=${DATA:-$RUN/data/train.jsonl}
export OUT=${OUT:-$RUN/table_$TABLE}
export RUN_SCRIPT=$ROOT/examples/run_t3s.sh DEVICE=cpu NNODES=1 NPROC_PER_NODE=1 TP=1 CP=1
export SEQ_LENGTH=112 STEPS=${STEPS:-10} PROMPTS=${PROMPTS:-40} LR=${LR:-5e-4} VERIFIER=reasoning-gym
export SELECTORS=${SELECTORS:-"2 4"} EXTRA_ARGS="--t3s-max-new-tokens 90 ${EXTRA_ARGS:-}"

[ -e "$HF_MODEL/config.json" ] || {
    echo "$(basename "$0"): $HF_MODEL: no student; METHODS=own bash examples/run_t3s_tiny_cpu.sh makes it" >&2
    exit 2
}
mkdir -p "$OUT"
table() { bash "$ROOT/examples/reproduce/table_$TABLE.sh"; }
[ "${DRY_RUN:-0}" != 1 ] || { table; exit; }

# Fine-tunes; then a server of one student at a time answers some of the held-out prompts.
URL="" table
source "$ROOT/examples/lib/serve.sh"
head -n "$PROMPTS" "$RUN/data/heldout.jsonl" >"$OUT/heldout.jsonl"
t3s_serve "$OUT/server.log"
export URL=$SERVER_URL RELOAD=model SUITE=$OUT/heldout.jsonl
export EVALUATE_ARGS="--samples 1 --verifier reasoning-gym --max-tokens 90 --probes 1 --workers 1"
table
