#!/usr/bin/env bash
# T3S on Qwen3-8B: examples/run_t3s.sh for one node of 8 GPUs with 80 GB.
#
#   HF_MODEL=Qwen3-8B DATA=traces.jsonl OUT=/shared/t3s bash examples/run_t3s_qwen3_8b.sh
NNODES=${NNODES:-1}
TP=${TP:-4}
source "$(dirname "${BASH_SOURCE[0]}")/run_t3s.sh"
