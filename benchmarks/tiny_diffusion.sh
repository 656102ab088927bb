#!/usr/bin/env bash
# Table 11's sweep of tau on the tiny example: sft, random, and t3s at several thresholds, over three
# sets of 200 teacher traces, each with a selector's run of its own, and one converted student:
#     bash benchmarks/tiny_diffusion.sh
# The same command goes on where it was ended: what is finished is kept. Writes runs/tiny-diffusion/
# and prints the table of benchmarks/results/tiny_diffusion.md of what there is.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
OUT=${OUT:-$ROOT/runs/tiny-diffusion}
SEEDS=${SEEDS:-"0 1 2"}
export STUDENT=${STUDENT:-$OUT/student} CONVERTED=${CONVERTED:-$OUT/converted}
export DIFFUSION_METHODS=${DIFFUSION_METHODS:-"sft t3s random t3s@0.1 t3s@0.4 t3s@0"}

for seed in $SEEDS; do
    echo "=== seed $seed"
    RUN=$OUT/seed-$seed SEED=$seed RESUME=1 bash "$ROOT/examples/run_t3s_tiny_diffusion_cpu.sh"
done
"$ROOT/.venv/bin/python" "$ROOT/benchmarks/tiny_diffusion.py" "$OUT"
