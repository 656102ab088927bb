#!/usr/bin/env bash
# T3S on Qwen3-235B-A22B, from a Hugging Face folder to a Hugging Face folder. On every node:
#
#   HF_MODEL=Qwen3-235B-A22B DATA=traces.jsonl OUT=/shared/t3s NODE_RANK=0 MASTER_ADDR=node0 \
#       bash examples/run_t3s_qwen3_235b_a22b.sh
#
# DRY_RUN=1 prints the command and the plan (memory, disk, time) and starts nothing. Other knobs:
# examples/lib/cluster.sh. Under Slurm: examples/slurm/t3s.sbatch. The same command again goes on
# where the run was killed.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$ROOT/examples/models/qwen3_235b_a22b.sh"
source "$ROOT/examples/lib/cluster.sh"

# Sixteen nodes of 8 GPUs with 80 GB, or more. 94 layers and 16 stages: the embedding and the
# output count as a layer each, so that every stage has six.
NNODES=${NNODES:-16}
TP=${TP:-4}
PP=${PP:-16}
CP=${CP:-1}
EP=${EP:-8}    # experts over 8 ranks of the tensor- and data-parallel ones
ETP=${ETP:-1}  # an expert is small: whole ones on fewer ranks, not slices on all
PIPELINE_ARGS=()
(( PP > 1 )) && PIPELINE_ARGS+=(
    --account-for-embedding-in-pipeline-split --account-for-loss-in-pipeline-split
)
t3s_cluster
