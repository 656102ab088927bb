#!/usr/bin/env bash
# T3S on Qwen3-235B-A22B: examples/run_t3s.sh for 16 nodes of 8 GPUs with 80 GB, or more. On every
# node:
#
#   HF_MODEL=Qwen3-235B-A22B DATA=traces.jsonl OUT=/shared/t3s NODE_RANK=0 MASTER_ADDR=node0 \
#       bash examples/run_t3s_qwen3_235b_a22b.sh
NNODES=${NNODES:-16}
TP=${TP:-4}
PP=${PP:-16}
EP=${EP:-8}
# 438 GiB of weights leave no room on the eight GPUs of a node that trains: name servers elsewhere,
# SERVE="http://HOST:PORT ...", or these ranks answer, for days.
[ -n "${SERVE:-}" ] || SERVE=live
ETP=${ETP:-1}  # an expert is small: whole ones on fewer ranks, not slices on all
# 94 layers and 16 stages: the embedding and the output count as a layer each, so that every stage
# has six.
PIPELINE_ARGS=()
(( PP > 1 )) && PIPELINE_ARGS+=(
    --account-for-embedding-in-pipeline-split --account-for-loss-in-pipeline-split
)
source "$(dirname "${BASH_SOURCE[0]}")/run_t3s.sh"
