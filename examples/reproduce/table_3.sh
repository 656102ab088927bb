#!/usr/bin/env bash
# Table 3: T3S, SFT, RRT and -T3S from one student and one set of traces.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
compare "sft rrt inverse t3s"
evaluate_and_show 3 sft rrt inverse t3s
