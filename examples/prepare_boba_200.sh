#!/usr/bin/env bash
# BOBA-200 with the traces of a teacher (Appendix I of the paper): from the published file to what
# examples/run_t3s.sh takes as DATA.
#
#   vllm serve deepseek-ai/DeepSeek-R1 --reasoning-parser deepseek_r1 ...     # on the teacher's nodes
#   PUBLISHED=AReaL-boba-SFT-200.jsonl URL=http://teacher:8000 OUT=data \
#       bash examples/prepare_boba_200.sh
#
# The same command again goes on where it was killed. RECIPE=s1k-200 PUBLISHED=s1K-1.1.parquet makes
# S1K-200. docs/teacher_data.md says what each step does.
set -euo pipefail

refuse() {
    echo "$(basename "$0"): $1" >&2
    exit 2
}

[ -n "${PUBLISHED:-}" ] || refuse "PUBLISHED is not set: the published file (.jsonl or .parquet)"
[ -n "${URL:-}" ] || refuse "URL is not set: an OpenAI-compatible server, or several with spaces between"
[ -n "${OUT:-}" ] || refuse "OUT is not set: the folder for prompts, samples and training data"
RECIPE=${RECIPE:-boba-200}
MODEL=${MODEL:-deepseek-ai/DeepSeek-R1}   # as the server calls it
SAMPLES=${SAMPLES:-16}                    # a prompt
TEMPERATURE=${TEMPERATURE:-0.6}
MAX_TOKENS=${MAX_TOKENS:-32768}
SEED=${SEED:-0}                           # of the prompts, the samples and the choice among them
VERIFIER=${VERIFIER:-math}
WORKERS=${WORKERS:-4}                     # processes of the verifier
GENERATE_ARGS=${GENERATE_ARGS:-}          # appended: options of t3s-megatron prepare generate
PYTHON=${PYTHON:-python}

prepare() { "$PYTHON" -m t3s_megatron.cli prepare "$@"; }
verifying=(--verifier "$VERIFIER" --workers "$WORKERS")
urls=()
for url in $URL; do urls+=(--url "$url"); done
"$PYTHON" -c 'import t3s_megatron' 2>/dev/null || refuse \
    "t3s_megatron is not installed for $PYTHON: pip install 't3s-megatron[server,verification]'"

prepare prompts "$PUBLISHED" --recipe "$RECIPE" --seed "$SEED" "${verifying[@]}" \
    --output "$OUT/prompts.jsonl"
prepare generate "$OUT/prompts.jsonl" "${urls[@]}" --model "$MODEL" --samples "$SAMPLES" \
    --temperature "$TEMPERATURE" --max-tokens "$MAX_TOKENS" --seed "$SEED" $GENERATE_ARGS \
    --output "$OUT/samples.jsonl"
prepare filter "$OUT/samples.jsonl" --seed "$SEED" "${verifying[@]}" --output "$OUT/train.jsonl"
