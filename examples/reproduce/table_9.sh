#!/usr/bin/env bash
# Table 9: T3S with the selection of another student of the same tokenizer. OTHER: the t3s/ folder of
# the other student's finished run on the same DATA (of Qwen3-32B: RUN_SCRIPT and HF_MODEL for that).
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
[ -e "${OTHER:-}/selection.safetensors" ] || [ "${DRY_RUN:-0}" = 1 ] \
    || refuse "OTHER has no selection.safetensors: the t3s/ folder of the other student's run"
compare "sft t3s"
if [ "${DRY_RUN:-0}" = 1 ]; then
    train t3s-cross METHOD=sft  # the same steps, no profile
else
    train t3s-cross METHOD=t3s \
        EXTRA_ARGS="${EXTRA_ARGS:-} --t3s-selection-load $OTHER/selection.safetensors"
fi
evaluate_and_show 9 sft t3s t3s-cross
