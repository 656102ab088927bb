#!/usr/bin/env bash
# The data of the control that every method has to beat: the student's OWN verified answers to the
# prompts of DATA. Fine-tuning on them changes nothing of its style, and shows what the prompts alone
# can teach it.
#
#   vllm serve Qwen3-8B --reasoning-parser qwen3 ...           # theta_0, on the nodes of the run
#   DATA=traces.jsonl URL=http://node0:8000 MODEL=Qwen3-8B OUT=own bash examples/prepare_own.sh
#   METHODS="t3s sft own" OWN_DATA=own/train.jsonl ... bash examples/run_t3s_qwen3_8b.sh
#
# The same command again goes on where it was killed.
set -euo pipefail

refuse() {
    echo "$(basename "$0"): $1" >&2
    exit 2
}

[ -n "${DATA:-}" ] || refuse "DATA is not set: the traces of the run, or prompts with gold answers"
[ -n "${URL:-}" ] || refuse "URL is not set: a server of the student, or several with spaces between"
[ -n "${MODEL:-}" ] || refuse "MODEL is not set: the student, as the server calls it"
[ -n "${OUT:-}" ] || refuse "OUT is not set: the folder for samples and training data"
SAMPLES=${SAMPLES:-4}                     # a prompt; one that is right is kept
TEMPERATURE=${TEMPERATURE:-0.6}
MAX_TOKENS=${MAX_TOKENS:-32768}
SEED=${SEED:-0}
VERIFIER=${VERIFIER:-math}
GENERATE_ARGS=${GENERATE_ARGS:-}          # appended: options of t3s-megatron prepare generate
PYTHON=${PYTHON:-python}

prepare() { "$PYTHON" -m t3s_megatron.cli prepare "$@"; }
urls=()
for url in $URL; do urls+=(--url "$url"); done
mkdir -p "$OUT"

# The traces' answers are the teacher's: only prompt, gold answer and metadata are asked.
"$PYTHON" - "$DATA" "$OUT/prompts.jsonl" <<'PROMPTS'
import sys

from t3s_megatron.data.files import raw_rows
from t3s_megatron.teacher_data.prompts import write_rows

KEPT = ("id", "prompt", "system", "answer", "metadata")
rows, seen = [], set()
for _, row in raw_rows(sys.argv[1], "train"):
    kept = {name: row[name] for name in KEPT if row.get(name) is not None}
    if "prompt" not in kept:
        sys.exit(f"{sys.argv[1]}: a row has no `prompt`; give prompts with gold answers as DATA")
    if str(kept["prompt"]) not in seen:  # of several teachers once
        seen.add(str(kept["prompt"]))
        rows.append(kept)
write_rows(sys.argv[2], rows)
PROMPTS
prepare generate "$OUT/prompts.jsonl" "${urls[@]}" --model "$MODEL" --teacher own \
    --samples "$SAMPLES" --temperature "$TEMPERATURE" --max-tokens "$MAX_TOKENS" --seed "$SEED" \
    $GENERATE_ARGS --output "$OUT/samples.jsonl"
prepare filter "$OUT/samples.jsonl" --seed "$SEED" --verifier "$VERIFIER" \
    --output "$OUT/train.jsonl"
