# SPDX-License-Identifier: Apache-2.0
"""A disk that fails under a job: every rank ends, with one clear error; what was committed stays,
and once the fault is gone the same command goes on to the bit-equal end."""

from __future__ import annotations

import os

import pytest

from tests.support.launch import run
from tests.support.reference import latest
from tests.support.resumable import assert_same, errors_of


def struck(command: list, point: str, mark, what: str, *, expect: int, processes: int = 1, **how):
    environment = {"KILL_AT": point, "KILL_MARK": str(mark), "KILL_BY": what} | how
    job = run(
        command,
        processes=processes,
        module="tests.jobs.killed_job",
        environment=environment,
        expect=expect,
    )
    assert os.path.exists(f"{mark}.{environment.get('KILL_RANK', '0')}"), "it was never reached"
    return job


FULL = [
    # What cannot be written then: a rank's part of the state, Megatron's checkpoint, a store.
    ("two", "in the profile", "state/candidate-", {"KILL_RANK": "1"}),
    ("one", "in the profile", "checkpoint", {"KILL_SIZE": "1500000"}),
    ("one", "while theta_b is scored", "c_theta_b.safetensors", {}),
]


@pytest.mark.parametrize(("setting", "point", "said", "how"), FULL)
def test_a_full_disk(setting, point, said, how, tmp_path, start, uninterrupted):
    """Any user can have one: a limit on the size of files, from a point of the run on."""
    folder, processes = str(tmp_path / "run"), 2 if setting == "two" else 1
    command = start(setting, folder)
    mark = tmp_path / "mark"
    job = struck(command, point, mark, "full-disk", expect=1, processes=processes, **how)
    error = errors_of(job)
    assert error.count("t3s-megatron: error:") == 1, "told more than once, or not at all"
    assert said in error and "File too large" in error
    committed = latest(folder)
    job = run(command, processes=processes)
    assert f"resumed at iteration {int(committed[-7:])}:" in job.output
    assert_same(uninterrupted(setting), folder)
