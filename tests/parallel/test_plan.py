# SPDX-License-Identifier: Apache-2.0
"""A plan against real launches of the same arguments: what every rank really held.

Parameters, weights, gradients, optimizer state and the copy of theta_0 on the host: equal to the
byte (of sharded optimizer state, on the rank with the most: the last shard ends in padding). What
the forward pass keeps: equal to the byte for dense models. Real experts are not balanced and a
plan's are, so there the sum over the ranks is compared.

Not covered: the stand-ins for Transformer Engine's kernels (they need a GPU to be compared with),
and the peak of the working memory, which on a GPU is the allocator's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.launch import MODEL, MOE, job_environment, run

TRAINING = "--train-iters 2 --lr 1e-3 --min-lr 1e-4 --bf16".split()
T3S = "--t3s --t3s-simple --t3s-simple-step 1 --t3s-profile-iters 1".split()

CASES = {
    "tp2-sp-pp2-vpp2": (
        4,
        "--tensor-model-parallel-size 2 --sequence-parallel --pipeline-model-parallel-size 2 "
        "--num-layers-per-virtual-pipeline-stage 1 --micro-batch-size 1 --t3s-arrangement padded",
    ),
    "dp2-distributed-optimizer-recompute": (
        2,
        "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather "
        "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1",
    ),
    "moe-ep2": (2, " ".join([*MOE, "--expert-model-parallel-size 2 --use-distributed-optimizer"])),
}  # fmt: skip


def plan(arguments: list, world_size: int, file, *options, expect: int = 0):
    """`t3s-megatron plan` in a process of its own: its figures."""
    done = subprocess.run(
        [sys.executable, "-m", "t3s_megatron.cli", "plan", "--world-size", str(world_size),
         "--json", str(file), *options, "--", *map(str, arguments)],
        env=job_environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == expect, done.stdout + done.stderr
    return json.loads(file.read_text())


def compare(model: list, arguments: list, processes: int, folder, *, has_experts: bool) -> dict:
    """Plan and launch of the same arguments; AssertionError where a rank holds something else. The
    plan's figures."""
    planned = plan([*model, *arguments], processes, folder / "plan.json", "--expert-load", "1")
    run(
        arguments,
        processes=processes,
        module="tests.parallel.measured_job",
        model=model,
        environment={"MEASURED_FOLDER": str(folder)},
    )
    stages = planned["model"]["stages"]
    stage_of = {number: stage for stage in stages for number in stage["stages"]}
    ranks_a_stage = processes // planned["layout"]["pipeline"]
    ranks = []
    for rank in range(processes):
        with open(os.path.join(folder, f"rank-{rank}.json")) as file:
            ranks.append((stage_of[rank // ranks_a_stage], json.load(file)))
    for stage, found in ranks:
        for key in ("parameters", "weights", "gradients"):
            assert found[key] == stage[key], (key, found[key], stage[key])
    for number, stage in stage_of.items():
        of_stage = ranks[number * ranks_a_stage : (number + 1) * ranks_a_stage]
        for key in ("optimizer", "snapshot"):
            assert max(found[key] for _, found in of_stage) == stage[key], key
            assert min(found[key] for _, found in of_stage) > 0.99 * stage[key], key
    saved = [
        ([chunk["saved"] for chunk in stage["chunks"]], found["saved"]) for stage, found in ranks
    ]
    if has_experts:
        planned_sum, real_sum = (sum(sum(pair[i]) for pair in saved) for i in (0, 1))
        assert planned_sum == pytest.approx(real_sum, rel=0.03)
    else:
        assert all(expected == found for expected, found in saved), saved
    return planned


@pytest.mark.parametrize("name", CASES)
def test_every_rank_holds_what_was_planned(name, tmp_path, data_arguments):
    processes, extra = CASES[name]
    arguments = [*data_arguments, *TRAINING, *extra.split(), *T3S, "--t3s-dir", tmp_path]
    planned = compare(MODEL, arguments, processes, tmp_path, has_experts="moe" in name)
    assert planned["samples"]["counted"] and planned["samples"]["samples"] == 24
