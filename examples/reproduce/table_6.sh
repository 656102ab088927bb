#!/usr/bin/env bash
# Table 6: loss transfer between easy and hard halves of anchors and the others. No server is needed.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
SUBSETS="anchor-easy anchor-hard other-easy other-hard"
train t3s METHOD=t3s
[ "${DRY_RUN:-0}" = 1 ] || "$PYTHON" -m t3s_megatron.cli analyse subsets "$OUT/t3s/t3s" --to "$OUT/subsets"
folders=()
for subset in $SUBSETS; do
    selection=""
    [ "${DRY_RUN:-0}" = 1 ] || selection="--t3s-selection-load $OUT/subsets/$subset.safetensors"
    look "$subset" "$selection --analyse-interval 1000000" METHOD=t3s T3S_SIMPLE="${DRY_RUN:-0}"
    folders+=("$OUT/$subset/seen")
done
[ "${DRY_RUN:-0}" = 1 ] || "$PYTHON" -m t3s_megatron.cli analyse transfer "${folders[@]}" --to "$OUT/analyses"
