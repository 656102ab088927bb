#!/usr/bin/env bash
# Section 4.3 on LLaDA2.0-mini, one node of 8 GPUs with 80 GB: a selector's run on Ling-mini-2.0, its
# autoregressive sibling, then the diffusion student with the tokens that fell in it.
#
#   SELECTOR_MODEL=Ling-mini-2.0 HF_MODEL=LLaDA2.0-mini DATA=s1k.jsonl OUT=/shared/t3s \
#       bash examples/run_t3s_llada2_mini.sh
#
# The paper names no selector, no schedule and no noise; where it is silent these are dFactory's
# defaults (docs/diffusion.md). On several nodes start it on every one of them, with NNODES, NODE_RANK
# and MASTER_ADDR as in examples/run_t3s.sh, or under Slurm as SCRIPT of examples/slurm/t3s.sbatch.
# DRY_RUN=1 prints both commands and their plans. Never run on a GPU; the same command again goes on
# where it was killed.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$HERE/lib/checks.sh"
source "$HERE/lib/guarded.sh"
[ -n "${SELECTOR_MODEL:-}" ] || t3s_refuse "SELECTOR_MODEL is not set: the folder of Ling-mini-2.0"
[ -n "${HF_MODEL:-}" ] || t3s_refuse "HF_MODEL is not set: the folder of LLaDA2.0-mini"
[ -n "${OUT:-}" ] || t3s_refuse "OUT is not set: the folder for everything the runs write"
METHOD=${METHOD:-t3s}                     # sft, t3s, random, mask-bottom-confidence, inverse
TAU=${TAU:-0.2}                           # --t3s-drop-threshold
MASK_TOKEN=${MASK_TOKEN:-<|mask|>}
STEPS=${STEPS:-313}                       # the paper: 20 epochs of 1000 samples, 64 a step
SELECTOR_STEPS=${SELECTOR_STEPS:-50}
SELECTOR_ARGS=${SELECTOR_ARGS:-}          # appended to the selector's run
EXTRA_ARGS=${EXTRA_ARGS:-}                # appended to the student's
export EP=${EP:-8} SEQ_LENGTH=${SEQ_LENGTH:-16384} METHODS=
# The selector's servers: whole on one GPU its 30 GiB of weights would not fit beside training, and
# leave room for four answers.
export SERVE_TP=${SERVE_TP:-2} SERVE_MEMORY=${SERVE_MEMORY:-0.35}

# t3s_stage NAME=VALUE ...: one of the two runs; where the end of time has stopped it, no other follows.
t3s_stage() {
    local status=0
    t3s_guarded env "$@" bash "$HERE/run_t3s.sh" || status=$?
    (( ! status )) || exit "$status"
    (( ! T3S_TOLD )) || { echo "stopped; the same command goes on from there"; exit 0; }
}

# Until its selection is there; a killed run goes on.
if [ ! -e "$OUT/selector/t3s/selection.safetensors" ]; then
    t3s_stage METHOD=t3s HF_MODEL="$SELECTOR_MODEL" OUT="$OUT/selector" STEPS="$SELECTOR_STEPS" \
        TARGETED_INTERVAL=0 \
        EXTRA_ARGS="--t3s-stop-after selection --t3s-overlong drop $SELECTOR_ARGS"
fi

t3s_stage METHOD="$METHOD" OUT="$OUT/$METHOD" STEPS="$STEPS" T3S_SIMPLE=0 SERVE=live \
    EXTRA_ARGS="--t3s-diffusion --t3s-selector $OUT/selector/t3s
        --t3s-selector-tokenizer $SELECTOR_MODEL --t3s-mask-token $MASK_TOKEN
        --t3s-drop-threshold $TAU --t3s-overlong drop --t3s-temperature 0
        --lr-decay-style cosine --lr-warmup-fraction 0.03 --weight-decay 0.1 --adam-beta2 0.999
        $EXTRA_ARGS"
