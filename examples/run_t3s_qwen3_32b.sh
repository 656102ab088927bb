#!/usr/bin/env bash
# T3S on Qwen3-32B, from a Hugging Face folder to a Hugging Face folder. On every node:
#
#   HF_MODEL=Qwen3-32B DATA=traces.jsonl OUT=/shared/t3s NODE_RANK=0 MASTER_ADDR=node0 \
#       bash examples/run_t3s_qwen3_32b.sh
#
# DRY_RUN=1 prints the command and the plan (memory, disk, time) and starts nothing. Other knobs:
# examples/lib/cluster.sh. Under Slurm: examples/slurm/t3s.sbatch. The same command again goes on
# where the run was killed.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$ROOT/examples/models/qwen3_32b.sh"
source "$ROOT/examples/lib/cluster.sh"

# Two nodes of 8 GPUs with 80 GB, or more: what is left of the world is data parallel. Tensor
# parallelism stays inside a node; context parallelism is left at 1 because accuracy is measured
# without a key-value cache above it (correct, and slow).
NNODES=${NNODES:-2}
TP=${TP:-8}
PP=${PP:-2}
CP=${CP:-1}
PIPELINE_ARGS=()
t3s_cluster
