#!/usr/bin/env bash
# Plain SFT of the tiny example, every step measured with 8 answers a prompt:
#     bash benchmarks/detector_record.sh      (about half an hour on one core)
# Writes runs/detector/ and benchmarks/data/detector_tiny.json, from which benchmarks/detector.py
# resamples.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
OUT=${OUT:-$ROOT/runs/detector}
RUNS=${RUNS:-"0:5e-4 0:1.5e-4 1:5e-4"}   # seed:learning rate
export METHODS=sft NPROC=${NPROC:-1} STUDENT=${STUDENT:-$OUT/student} STEPS=${STEPS:-20}
# The script's other measurements are not needed: one greedy answer at both ends is the least.
export EXTRA_ARGS="--t3s-accuracy-samples 8 --t3s-report-temperatures 0 --t3s-generation-batch-size 800"

for run in $RUNS; do
    RUN=$OUT/seed-${run%:*}-lr-${run#*:} SEED=${run%:*} LR=${run#*:} \
        bash "$ROOT/examples/run_t3s_tiny_cpu.sh"
done
"$ROOT/.venv/bin/python" "$ROOT/benchmarks/detector_record.py" "$OUT"
