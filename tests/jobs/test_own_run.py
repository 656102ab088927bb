# SPDX-License-Identifier: Apache-2.0
"""Another kind of run than T3S is handed to `pretrain.main`, and has Megatron's loop to itself."""

from __future__ import annotations

import json

import torch

from tests.jobs.test_job import BUDGET, SCHEDULE, summary_of
from tests.support.launch import FRESH, run
from tests.support.reference import read_tensors


def test_a_run_of_ones_own_trains_twice_and_ends_as_plain_fine_tuning(
    tmp_path, data_arguments, student
):
    command = [*data_arguments, *SCHEDULE, "--load", student, *FRESH, "--save-interval", 100,
               "--t3s", "--t3s-method", "sft", "--t3s-max-new-tokens", 16,
               "--t3s-report-temperatures", 0]  # fmt: skip
    run([*command, "--save", tmp_path / "sft"])
    job = run(
        [*command, "--save", tmp_path / "own"],
        module="tests.jobs.own_run_job",
        environment={"SEEN": str(tmp_path / "seen")},
    )
    seen = json.loads((tmp_path / "seen").read_text())
    assert len(seen) == 2 * BUDGET and seen[:BUDGET] == seen[BUDGET:] and seen[0] != seen[1]
    wanted, found = (read_tensors(str(tmp_path / name)) for name in ("sft", "own"))
    weights = [key for key in wanted if "optimizer" not in key]
    assert weights and all(torch.equal(wanted[key], found[key]) for key in weights)
    own, sft = summary_of(tmp_path / "own/t3s"), summary_of(tmp_path / "sft/t3s")
    assert own["method"] == "Twice" and own["finished"]
    first, second = own["measurements"]
    assert (first["step"], second["step"]) == (0, BUDGET)
    assert first["marks"] == second["marks"] == sft["measurements"][0]["marks"]
    (evaluated,) = own["evaluations"]
    assert evaluated["accuracy"] == sft["evaluations"][-1]["accuracy"]
    assert f"[t3s] training step {BUDGET}: accuracy" in job.output
