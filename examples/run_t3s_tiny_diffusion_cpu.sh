#!/usr/bin/env bash
# Section 4.3 on a CPU, from a clean clone: bash examples/run_t3s_tiny_diffusion_cpu.sh
#
# Pre-trains the tiny autoregressive student, runs it as the selector (profile, bottleneck, the
# selection, and no further), converts it to block diffusion on its pre-training data, and fine-tunes
# the converted student with and without the tokens that fell in the selector. The table at the end
# has the losses on those tokens and on the others. Every knob is an environment variable:
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export RUN=${RUN:-$ROOT/runs/tiny_diffusion}  # everything this script writes
export NPROC=${NPROC:-$(( $(nproc) < 2 ? 1 : 2 ))}
export SEED=${SEED:-0}
export STUDENT=${STUDENT:-$RUN/student}       # autoregressive; made when it is not there, else reused
CONVERTED=${CONVERTED:-$RUN/converted}        # the diffusion student before it is fine-tuned; likewise
DIFFUSION_METHODS=${DIFFUSION_METHODS:-"sft t3s random"}  # each may have its own tau: t3s@0.1
CONVERT_STEPS=${CONVERT_STEPS:-400}
STEPS=${STEPS:-50}
BATCH=${BATCH:-64}
LR=${LR:-1e-4}
BLOCK=${BLOCK:-8}
TAU=${TAU:-0.2}                               # --t3s-drop-threshold
INTERVAL=${INTERVAL:-25}                      # steps from one measured accuracy to the next
RESUME=${RESUME:-0}                           # 1: a method whose run is finished is kept
EXTRA_ARGS=${EXTRA_ARGS:-}                    # appended to the runs of the diffusion student
SELECTOR_ARGS=${SELECTOR_ARGS:-}              # appended to the selector's run

# The autoregressive student and the selector's run, both kept and reused; the table that comes with
# them is of the selector alone.
env -u STEPS -u BATCH -u LR RESUME=1 METHODS=t3s DATA_ARGS=--mask-token \
    EXTRA_ARGS="--t3s-stop-after selection --t3s-targeted-accuracy-interval 0
        --t3s-report-temperatures 0 --t3s-report-samples 1 $SELECTOR_ARGS" \
    bash "$ROOT/examples/run_t3s_tiny_cpu.sh"

source "$ROOT/examples/lib/python.sh"
source "$ROOT/examples/lib/compare.sh"
source "$ROOT/examples/lib/cpu.sh"
source "$ROOT/examples/models/tiny.sh"
t3s_python "$ROOT"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} CUDA_DEVICE_MAX_CONNECTIONS=1 PYTHONWARNINGS=ignore

COMMON_ARGS=(
    "${CPU_ARGS[@]}"
    --tokenizer-type HuggingFaceTokenizer --tokenizer-model "$RUN/data/tokenizer"
    --seq-length 112 --micro-batch-size 1 --global-batch-size "$BATCH"
    --calculate-per-token-loss --num-workers 0 --eval-iters 0 --log-interval 1
    --t3s-diffusion --t3s-block-size "$BLOCK"
)

# launch NAME arguments...: full log to $RUN/NAME.log, what the run says to the screen.
launch() {
    local name=$1 status=0
    shift
    "$PYTHON" -m torch.distributed.run --standalone --nproc-per-node "$NPROC" \
        -m t3s_megatron.pretrain "${MODEL_ARGS[@]}" "${COMMON_ARGS[@]}" "$@" 2>&1 \
        | tee "$RUN/$name.log" | awk -v name="$name" '
            /^\[t3s\]/ { sub(/^\[t3s\] /, ""); print "  " name ": " $0; fflush() }
            /t3s-megatron: error/ { print; fflush() }' || status=$?
    if [ "$status" -ne 0 ]; then
        echo "$name failed; the end of $RUN/$name.log:" >&2
        tail -n 30 "$RUN/$name.log" >&2
        exit "$status"
    fi
}

echo "conversion to block diffusion: $CONVERTED"
if [ ! -e "$CONVERTED/latest_checkpointed_iteration.txt" ]; then
    launch converted --pretrained-checkpoint "$STUDENT" --finetune \
        --t3s-data "$RUN/data/pretrain.jsonl" --t3s-mask-rate 0.1 1 --t3s-arrangement own \
        --train-iters "$CONVERT_STEPS" --lr 1e-3 --min-lr 1e-4 --lr-warmup-iters 20 \
        --lr-decay-style cosine --weight-decay 0.01 --seed 1234 \
        --save "$CONVERTED" --save-interval "$CONVERT_STEPS" --no-save-optim --no-save-rng
else
    echo "  kept from an earlier run"
fi

runs=()
for named in $DIFFUSION_METHODS; do
    method=${named%@*} tau=$TAU
    [ "$named" = "$method" ] || tau=${named#*@}
    folder="$RUN/diffusion-$named"
    echo "$named: $folder"
    runs+=("$named=$folder/t3s/summary.json")
    if [ "$RESUME" = 1 ] && [ "$(t3s_summary "$folder" 'summary["finished"]')" = True ]; then
        echo "  kept from an earlier run"
        continue
    fi
    rm -rf "$folder"
    launch "diffusion-$named" --pretrained-checkpoint "$CONVERTED" \
        --save "$folder/checkpoints" --save-interval "$STEPS" \
        --tensorboard-dir "$folder/tensorboard" \
        --train-iters "$STEPS" --lr "$LR" --lr-decay-style constant --weight-decay 0 \
        --seed "$(( 1234 + SEED ))" \
        --t3s --t3s-method "$method" --t3s-dir "$folder/t3s" \
        --t3s-selector "$RUN/t3s/t3s" --t3s-drop-threshold "$tau" --t3s-arrangement packed \
        --t3s-data "$RUN/data/train.jsonl" --t3s-heldout-data "$RUN/data/heldout.jsonl" \
        --t3s-verifier reasoning-gym --t3s-max-new-tokens 90 --t3s-accuracy-prompts 50 \
        --t3s-targeted-accuracy-interval "$INTERVAL" --t3s-report-temperatures 0 $EXTRA_ARGS
done

echo "report"
"$PYTHON" -m t3s_megatron.cli report "${runs[@]}" --picture "$RUN/diffusion.png"
