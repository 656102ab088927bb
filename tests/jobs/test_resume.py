# SPDX-License-Identifier: Apache-2.0
"""A job killed at any of these points and started again ends as one that never died, bit for bit.

Real processes and real SIGKILL, of every rank in the one-process jobs and of one rank of two in the
others. Compared with an uninterrupted run: every tensor of the final checkpoint (weights, moments),
the selection file, the log-prob stores, and the summary but for seconds.

Same layout here; tests/jobs/test_relayout.py is about another one.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support.launch import run
from tests.support.reference import latest
from tests.support.resumable import SETTINGS, assert_same, errors_of

POINTS = [
    ("one", "before the first save"),
    ("two", "in the profile"),
    ("one", "while a candidate is copied"),
    ("two", "during generation"),
    ("one", "between the minimum and its confirmation"),
    ("two", "while theta_b is scored"),
    ("two", "while theta_0 is scored"),
    ("one", "while a store is written"),
    ("two", "between scoring and rewind"),
    ("two", "in the middle of the rewind"),
    ("one", "between rewind and selection"),
    ("two", "at the first targeted step"),
    ("one", "in targeted training"),
    ("one", "while our state is written"),
    ("one", "between our commit and Megatron's tracker"),
    ("blocks", "between the minimum and its confirmation"),
    ("packed", "in targeted training"),
    ("confidence", "between the minimum and its confirmation"),
    ("rrt", "in the profile"),
    ("rrt", "while the residual transfer is saved"),
]


@pytest.mark.parametrize(("setting", "point"), POINTS)
def test_killed_and_started_again(setting, point, tmp_path, start, uninterrupted):
    reference = uninterrupted(setting)
    kill = {"KILL_AT": point, "KILL_MARK": str(tmp_path / "killed")}
    if SETTINGS[setting].kill_rank:
        kill["KILL_RANK"] = SETTINGS[setting].kill_rank
    job = dict(processes=SETTINGS[setting].processes, module="tests.jobs.killed_job")
    command = start(setting, tmp_path / "run")
    run(command, **job, environment=kill, expect=1)
    victim = SETTINGS[setting].kill_rank or "0"
    assert os.path.exists(f"{kill['KILL_MARK']}.{victim}"), "the point was never reached"
    again = run(command, **job)
    assert ("resumed at iteration" in again.output) == (point != "before the first save")
    assert_same(reference, str(tmp_path / "run"))


def test_torchrun_brings_a_killed_run_back_without_a_person(tmp_path, start, uninterrupted):
    kill = {"KILL_AT": "in targeted training", "KILL_MARK": str(tmp_path / "killed")}
    job = run(
        start("one", tmp_path / "run"),
        module="tests.jobs.killed_job",
        environment=kill,
        restarts=1,
    )
    assert os.path.exists(tmp_path / "killed.0") and "resumed at iteration" in job.output
    assert_same(uninterrupted("one"), str(tmp_path / "run"))


def test_a_finished_run_started_again_changes_nothing(tmp_path, start, uninterrupted):
    folder = str(tmp_path / "run")
    shutil.copytree(uninterrupted("one"), folder)
    run(start("one", folder))
    assert_same(uninterrupted("one"), folder)


def test_old_states_are_removed_and_never_the_one_that_is_needed(uninterrupted):
    folder = uninterrupted("one")
    last = int(latest(folder)[-7:])
    states = sorted(os.listdir(f"{folder}/t3s/state"))
    # The targeted phase needs neither theta_0 nor a candidate.
    assert states == [f"iter_{last - 1:07d}", f"iter_{last:07d}"]


REFUSED = {
    "another detector": (1, ["--t3s-patience", 3], "--t3s-patience 2, this one has 3"),
    "shorter answers": (1, ["--t3s-max-new-tokens", 9], "max-new-tokens 16, this one has 9"),
    "another arrangement": (
        1,
        ["--t3s-arrangement", "own", "--micro-batch-size", 1],
        "--t3s-arrangement padded, this one has own",
    ),
    "another seed": (1, ["--seed", 7], "--seed 1234, this one has 7"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_job_is_not_taken_for_this_one(case, tmp_path, start, uninterrupted):
    processes, extra, wanted = REFUSED[case]
    folder = str(tmp_path / "run")
    shutil.copytree(uninterrupted("one"), folder)
    job = run([*start("one", folder), *extra], processes=processes, expect=1)
    assert wanted in errors_of(job)


def test_a_damaged_file_is_named_and_never_used(tmp_path, start, uninterrupted):
    """Of the state; other kinds of damage are in tests/unit/data/test_run_state.py."""
    folder = str(tmp_path / "run")
    shutil.copytree(uninterrupted("one"), folder)
    # Megatron is sent back to its last checkpoint but one, in the middle of the targeted phase.
    before = int(latest(folder)[-7:]) - 1
    Path(folder, "latest_checkpointed_iteration.txt").write_text(str(before))
    damaged = f"{folder}/t3s/selection.safetensors"
    with open(damaged, "r+b") as file:
        file.seek(-3, os.SEEK_END)
        byte = file.read(1)
        file.seek(-3, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    assert damaged in errors_of(run(start("one", folder), expect=1))
