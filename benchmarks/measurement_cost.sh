#!/usr/bin/env bash
# What the plan says of generation against what a run of the tiny example did:
#     bash benchmarks/measurement_cost.sh      (a few minutes on 2 cores; RUN as in the example)
# Writes benchmarks/results/measurement_cost.md.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export RUN=${RUN:-$ROOT/runs/tiny} METHODS=t3s
EXAMPLE=$ROOT/examples/run_t3s_tiny_cpu.sh
COMPARE=("$ROOT/.venv/bin/python" "$ROOT/benchmarks/measurement_cost.py" "$RUN/t3s/t3s/summary.json")

[ -e "$RUN/t3s/t3s/summary.json" ] || bash "$EXAMPLE"
for name in data length; do
    options="--generation-rate $("${COMPARE[@]}" rate) --json $RUN/plan-$name.json"
    [ "$name" = data ] || options+=" --mean-answer-tokens $("${COMPARE[@]}" length)"
    DRY_RUN=1 PLAN_ARGS=$options bash "$EXAMPLE" >"$RUN/plan-$name.txt"
done
"${COMPARE[@]}" "$RUN/plan-data.json" "$RUN/plan-length.json" \
    >"$ROOT/benchmarks/results/measurement_cost.md"
