#!/usr/bin/env bash
# Table 19 and Figure 13: the same share masked by theta_0's confidence. Accuracy by step, for the
# figure, is in each run's summary (TARGETED_INTERVAL steps apart) and on OUT/report.html.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
export TARGETED_INTERVAL=${TARGETED_INTERVAL:-2}
compare "sft mask-top-confidence mask-bottom-confidence t3s"
evaluate_and_show 19 sft mask-top-confidence mask-bottom-confidence t3s
