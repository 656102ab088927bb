#!/usr/bin/env bash
# Every method on the tiny example, over three sets of 200 teacher traces and one student:
#     bash benchmarks/tiny_seeds.sh      (about half an hour on 2 cores)
# Writes runs/tiny-seeds/ and prints the table of benchmarks/results/tiny_seeds.md.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
OUT=${OUT:-$ROOT/runs/tiny-seeds}
SEEDS=${SEEDS:-"0 1 2"}
export METHODS=${METHODS:-"t3s rrt inverse random mask-top-confidence mask-bottom-confidence"}
export STUDENT=${STUDENT:-$OUT/student}

for seed in $SEEDS; do
    echo "=== seed $seed"
    RUN=$OUT/seed-$seed SEED=$seed bash "$ROOT/examples/run_t3s_tiny_cpu.sh"
done
"$ROOT/.venv/bin/python" "$ROOT/benchmarks/tiny_seeds.py" "$OUT"
