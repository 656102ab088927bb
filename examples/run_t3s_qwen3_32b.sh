#!/usr/bin/env bash
# T3S on Qwen3-32B: examples/run_t3s.sh for two nodes of 8 GPUs with 80 GB, or more. On every node:
#
#   HF_MODEL=Qwen3-32B DATA=traces.jsonl OUT=/shared/t3s NODE_RANK=0 MASTER_ADDR=node0 \
#       bash examples/run_t3s_qwen3_32b.sh
NNODES=${NNODES:-2}
TP=${TP:-8}
PP=${PP:-2}
source "$(dirname "${BASH_SOURCE[0]}")/run_t3s.sh"
