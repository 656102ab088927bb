#!/usr/bin/env bash
# Table 1: recovering-residual transfer. One trajectory: theta_f is SFT, theta_0 + (theta_f - theta_b)
# is RRT.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
compare "sft rrt"
evaluate_and_show 1 sft rrt
