#!/usr/bin/env bash
# Table 7: T3S with step 10 as the selector, whatever accuracy does, against T3S and SFT.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
compare "sft t3s"
train t3s-simple METHOD=t3s T3S_SIMPLE=1
evaluate_and_show 7 sft t3s-simple t3s
