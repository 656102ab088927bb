#!/usr/bin/env bash
# Table 4: one, two and three teachers. DATA: a file of each, in the order R1, Qwen3-235B, QwQ; 50
# steps a teacher. With HF_MODEL=Qwen3-32B: RUN_SCRIPT=examples/run_t3s_qwen3_32b.sh.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
read -ra TEACHERS <<<"$DATA"
(( ${#TEACHERS[@]} > 1 )) || refuse "DATA has one file: give one for each teacher, with spaces between"
names=()
for method in sft t3s; do
    for (( count = 1; count <= ${#TEACHERS[@]}; count++ )); do
        names+=("$method-$count")
        train "$method-$count" METHOD="$method" DATA="${TEACHERS[*]:0:count}" \
            STEPS=$(( count * ${STEPS:-50} ))
    done
done
evaluate_and_show 4 "${names[@]}"
