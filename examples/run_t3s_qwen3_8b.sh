#!/usr/bin/env bash
# T3S on Qwen3-8B, from a Hugging Face folder to a Hugging Face folder. On every node:
#
#   HF_MODEL=Qwen3-8B DATA=traces.jsonl OUT=/shared/t3s NODE_RANK=0 MASTER_ADDR=node0 \
#       bash examples/run_t3s_qwen3_8b.sh
#
# DRY_RUN=1 prints the command and the plan (memory, disk, time) and starts nothing. Other knobs:
# examples/lib/cluster.sh. Under Slurm: examples/slurm/t3s.sbatch. The same command again goes on
# where the run was killed.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$ROOT/examples/models/qwen3_8b.sh"
source "$ROOT/examples/lib/cluster.sh"

# One node of 8 GPUs with 80 GB.
NNODES=${NNODES:-1}
TP=${TP:-4}
PP=${PP:-1}
if [ "${T3S_SIMPLE:-0}" = 1 ] || [ "${GENERATION:-live}" = server ]; then
    # Half a row on each GPU, and its activations fit: nothing is computed twice.
    CP=${CP:-2}
    RECOMPUTE=${RECOMPUTE:-$(( CP == 1 ))}
else
    # The live weights answer, which above context parallelism 1 is done without a key-value cache
    # (correct, and slow).
    CP=${CP:-1}
fi
PIPELINE_ARGS=()
t3s_cluster
