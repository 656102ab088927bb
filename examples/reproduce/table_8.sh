#!/usr/bin/env bash
# Table 8: T3S with the selection of every step of SELECTORS. One trajectory of plain fine-tuning is
# scored at each of them; each selection then trains from the untouched student.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
SELECTORS=${SELECTORS:-"2 4 6 8 10 20 30 40 50"}
INTERVAL=${INTERVAL:-2}  # steps between two scorings; divides all of SELECTORS
# The sweep is of the training accuracy at the end of each run; 0: none is measured, and no sweep made.
export TARGETED_INTERVAL=${TARGETED_INTERVAL:-${STEPS:-50}}
compare "sft t3s"
look trajectory "--analyse-interval $INTERVAL --analyse-stores" METHOD=sft T3S_SIMPLE=0
names=() folders=()
for step in $SELECTORS; do
    name=ckt-$step selection="$OUT/ckt-$step.safetensors"
    if [ "${DRY_RUN:-0}" = 1 ]; then
        # The selection is not there yet; a run with it has the steps and no profile.
        train "$name" METHOD=sft
    else
        "$PYTHON" -m t3s_megatron.cli selection from-stores "$OUT/trajectory/seen/step-$step" \
            --to "$selection"
        train "$name" METHOD=t3s EXTRA_ARGS="${EXTRA_ARGS:-} --t3s-selection-load $selection"
    fi
    names+=("$name") folders+=("$OUT/$name/t3s")
done
[ "${DRY_RUN:-0}" = 1 ] || [ "$TARGETED_INTERVAL" = 0 ] \
    || "$PYTHON" -m t3s_megatron.cli analyse sweep "${folders[@]}" --to "$OUT/analyses"
evaluate_and_show 8 sft t3s "${names[@]}"
