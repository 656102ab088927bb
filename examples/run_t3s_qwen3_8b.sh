#!/usr/bin/env bash
# T3S on Qwen3-8B: examples/run_t3s.sh for one node of 8 GPUs with 80 GB.
#
#   HF_MODEL=Qwen3-8B DATA=traces.jsonl OUT=/shared/t3s bash examples/run_t3s_qwen3_8b.sh
#
# With METHODS="t3s sft own" and HELDOUT=FILE: each of them, and what came of it side by side.
source "$(dirname "${BASH_SOURCE[0]}")/lib/colocate.sh"
t3s_default_serve
NNODES=${NNODES:-1}
TP=${TP:-4}
if [ "${T3S_SIMPLE:-0}" = 1 ] || [ "$SERVE" != live ]; then
    # Half a row on each GPU, and its activations fit: nothing is computed twice.
    CP=${CP:-2}
    RECOMPUTE=${RECOMPUTE:-$(( CP == 1 ))}
else
    # The live weights answer, which above context parallelism 1 is done without a key-value cache
    # (correct, and slow).
    CP=${CP:-1}
fi
source "$(dirname "${BASH_SOURCE[0]}")/run_t3s.sh"
