# SPDX-License-Identifier: Apache-2.0
"""A job killed at any of these points and started again ends as one that never died, bit for bit.

Real processes and real SIGKILL, of the rank in the one-process jobs and of one rank of two in the
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
from tests.support.resumable import SETTINGS, assert_same, errors_of, last_of_profile

#: Each line is one job that dies at every point in turn. Between two points that lie in different
#: checkpoint intervals a checkpoint is saved; of two in the same one the later comes first, so that
#: what each death left behind is still there when the job goes through at last.
CHAINS = [
    (
        "one",
        ["before the first save", "while a candidate is copied", "while our state is written",
         "between rewind and selection", "while a store is written"],
    ),
    (
        "one",
        ["between the minimum and its confirmation", "between our commit and Megatron's tracker",
         "in targeted training"],
    ),
    (
        "two",
        ["during generation", "at the first targeted step", "in the middle of the rewind",
         "while theta_b is scored"],
    ),
    ("two", ["in the profile", "while theta_0 is scored", "between scoring and rewind"]),
    ("blocks", ["between the minimum and its confirmation"]),
    ("confidence", ["between the minimum and its confirmation", "in targeted training"]),
    ("rrt", ["in the profile", "while the residual transfer is saved"]),
]  # fmt: skip


@pytest.mark.parametrize(("setting", "points"), CHAINS)
def test_killed_and_started_again(setting, points, tmp_path, start, uninterrupted):
    reference = uninterrupted(setting)
    job = dict(processes=SETTINGS[setting].processes, module="tests.jobs.killed_job")
    victim, command = SETTINGS[setting].kill_rank, start(setting, tmp_path / "run")
    foreign = tmp_path / "run" / "iter_0000001"  # a checkpoint that this run has not saved
    foreign.mkdir(parents=True)
    resumed = False
    for point in points:
        kill = {"KILL_AT": point, "KILL_MARK": f"{tmp_path}/{point}", "KILL_RANK": victim or "0"}
        died = run(command, **job, environment=kill, expect=1)
        assert os.path.exists(f"{tmp_path}/{point}.{victim or 0}"), f"never reached: {point}"
        assert ("resumed at iteration" in died.output) == resumed, point
        resumed = point != "before the first save"
    again = run(command, **job)
    assert "resumed at iteration" in again.output
    assert_same(reference, str(tmp_path / "run"))
    assert foreign.is_dir()


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
    # The targeted phase needs neither theta_0 nor a candidate; plain fine-tuning may branch off.
    profile = last_of_profile(folder)
    assert states == [f"iter_{step:07d}" for step in (profile, last - 1, last)]


def test_of_the_checkpoints_those_stay_that_have_a_state(uninterrupted):
    """With --t3s-keep-checkpoints 2: those two, and the one from which plain fine-tuning can go
    on."""
    folder = uninterrupted("two")
    checkpoints = sorted(name for name in os.listdir(folder) if name.startswith("iter_"))
    assert len(checkpoints) == 3 and latest(folder).endswith(checkpoints[-1])
    assert checkpoints[0] == f"iter_{last_of_profile(folder):07d}"
    assert checkpoints == sorted(os.listdir(f"{folder}/t3s/state"))


def test_another_job_is_not_taken_for_this_one(tmp_path, start, uninterrupted):
    """Another detector, arrangement, seed, batch size, schedule, model: each is named, before
    Megatron's own assertions about a checkpoint."""
    folder = str(tmp_path / "run")
    shutil.copytree(uninterrupted("one"), folder)
    changed = ["--t3s-patience", 3, "--t3s-max-new-tokens", 9, "--t3s-arrangement", "own",
               "--micro-batch-size", 1, "--seed", 7, "--global-batch-size", 4, "--lr", 1e-3,
               "--rotary-base", 500000, "--clip-grad", 0.5]  # fmt: skip
    error = errors_of(run([*start("one", folder), *changed], expect=1))
    for difference in (
        "--t3s-patience 2, this one has 3",
        "max-new-tokens 16, this one has 9",
        "--t3s-arrangement padded, this one has own",
        "--seed 1234, this one has 7",
        "--global-batch-size 8, this one has 4",
        "--lr 0.002, this one has 0.001",
        "--rotary-base 10000, this one has 500000",
        "--clip-grad 1.0, this one has 0.5",
    ):
        assert difference in error


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
