# SPDX-License-Identifier: Apache-2.0
"""The paper's analyses of what happens to single tokens, on any student (docs/analyses.md).

From the files that a run leaves: `stores`, `transfer`. By a run in Megatron's loop: `trajectory`,
which `torchrun -m t3s_megatron.analysis.trajectory` starts. Only `trajectory_run` may import what
knows of processes.
"""
