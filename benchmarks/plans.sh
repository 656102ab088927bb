#!/usr/bin/env bash
# Plans of the cluster scripts, on a CPU, without data and students: bash benchmarks/plans.sh
# Writes benchmarks/results/plans.md (ten minutes); ends with an error if one does not fit 80 GiB.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
RESULT=$ROOT/benchmarks/results/plans.md

STUDENTS=$(mktemp -d)
trap 'rm -rf "$STUDENTS"' EXIT

# student NAME: a folder with its published config.json, and a tokenizer of the tests in the place of
# its own: no sample is tokenised, and the rows of the vocabulary are those of the config.
student() {
    mkdir -p "$STUDENTS/$1"
    PYTHONPATH=$ROOT "$PYTHON" -c '
import json, shutil, sys
from tests.support.published import LLADA2_MINI, MODELS
from tests.support.task import write_task
name, folder = sys.argv[1:]
_, tokenizer = write_task(f"{folder}/task")
shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
json.dump((MODELS | {"LLaDA2.0-mini": LLADA2_MINI})[name], open(f"{folder}/config.json", "w"))
' "$1" "$STUDENTS/$1"
}

plan() {
    local title=$1 script=$2
    shift 2
    local said
    said=$(env HF_MODEL="$STUDENTS/${title%%,*}" DATA=traces.jsonl OUT=out DRY_RUN=1 "$@" bash "$ROOT/examples/$script")
    # Without the command lines.
    said=$(grep -Ev 'torch.distributed.run|^# beside it' <<<"$said" | cat -s | sed '1{/^$/d}')
    printf '\n## %s\n\n```text\n%s\n```\n' "$title" "$said"
}

student Qwen3-8B
student Qwen3-32B
student Qwen3-235B-A22B
student Ling-mini-2.0
student LLaDA2.0-mini
{
    cat <<'HEAD'
# What the cluster scripts will need

Planned, not measured: `t3s-megatron plan` on a CPU, by `bash benchmarks/plans.sh`. The data is not there, so every sample counts with the full 32,768 tokens; with yours, `DRY_RUN=1` counts them.
HEAD
    plan "Qwen3-8B, 8 GPUs, servers on them" run_t3s_qwen3_8b.sh
    plan "Qwen3-8B, 8 GPUs, servers on them, answers of 10,000 tokens" run_t3s_qwen3_8b.sh \
        PLAN_ARGS="--mean-answer-tokens 10000"
    plan "Qwen3-8B, 8 GPUs, live" run_t3s_qwen3_8b.sh SERVE=live
    plan "Qwen3-8B, 8 GPUs, T3S-simple" run_t3s_qwen3_8b.sh T3S_SIMPLE=1
    plan "Qwen3-32B, 16 GPUs, servers on them" run_t3s_qwen3_32b.sh
    plan "Qwen3-32B, 16 GPUs, servers on them, answers of 10,000 tokens" run_t3s_qwen3_32b.sh \
        PLAN_ARGS="--mean-answer-tokens 10000"
    plan "Qwen3-32B, 16 GPUs, live" run_t3s_qwen3_32b.sh SERVE=live
    plan "Qwen3-32B, 64 GPUs, servers on them" run_t3s_qwen3_32b.sh NNODES=8
    plan "Qwen3-32B, 16 GPUs, two servers elsewhere with an overlap" run_t3s_qwen3_32b.sh \
        SERVE="http://gpu-a:8000 http://gpu-b:8000" EXTRA_ARGS="--t3s-accuracy-overlap 2"
    plan "Qwen3-32B, 16 GPUs, T3S-simple" run_t3s_qwen3_32b.sh T3S_SIMPLE=1
    plan "Qwen3-235B-A22B, 128 GPUs, live" run_t3s_qwen3_235b_a22b.sh SERVE=live
    plan "Qwen3-235B-A22B, 512 GPUs, live" run_t3s_qwen3_235b_a22b.sh NNODES=64 SERVE=live
    plan "Qwen3-235B-A22B, 128 GPUs, servers elsewhere" run_t3s_qwen3_235b_a22b.sh \
        SERVE="http://gpu-a:8000 http://gpu-b:8000 http://gpu-c:8000 http://gpu-d:8000"
    plan "LLaDA2.0-mini, 8 GPUs: its selector Ling-mini-2.0 with servers on them, then the diffusion student" \
        run_t3s_llada2_mini.sh SELECTOR_MODEL="$STUDENTS/Ling-mini-2.0"
    plan "LLaDA2.0-mini, 8 GPUs: its selector by T3S-simple, then the diffusion student" \
        run_t3s_llada2_mini.sh SELECTOR_MODEL="$STUDENTS/Ling-mini-2.0" T3S_SIMPLE=1
} >"$RESULT.tmp"
mv "$RESULT.tmp" "$RESULT"
