#!/usr/bin/env bash
# T3S on any student of a supported family, from a Hugging Face folder to a Hugging Face folder. On
# every node:
#
#   HF_MODEL=DIR DATA=traces.jsonl OUT=/shared/t3s NNODES=2 TP=8 NODE_RANK=0 MASTER_ADDR=node0 \
#       bash examples/run_t3s.sh
#
# DIR may be OWNER/NAME, a student on the hub. The folder says what the student is (t3s-megatron
# arguments DIR shows it); what is set here is how it is laid out. DRY_RUN=1 prints the command and the plan (memory, disk, time) and starts nothing.
# Other knobs: examples/lib/cluster.sh. Under Slurm: examples/slurm/t3s.sbatch. The same command
# again goes on where the run was killed.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$ROOT/examples/lib/cluster.sh"

# Nodes of 8 GPUs; what TP x PP x CP leaves of the world is data parallel. Tensor parallelism stays
# inside a node. With context parallelism, accuracy is measured without a key-value cache (correct,
# and slow).
NNODES=${NNODES:-1}
TP=${TP:-1}
PP=${PP:-1}
CP=${CP:-1}
# Of a student with experts: these are spread over EP of the tensor- and data-parallel ranks, and cut
# in ETP.
EP=${EP:-1}
ETP=${ETP:-1}
PIPELINE_ARGS=(${PIPELINE_ARGS[@]+"${PIPELINE_ARGS[@]}"})
t3s_cluster
