# SPDX-License-Identifier: Apache-2.0
"""A disk that fails under a job: every rank ends, with one clear error; what was committed stays,
and once the fault is gone the same command goes on to the bit-equal end."""

from __future__ import annotations

import os
import re
import subprocess

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


def told_once(job, said: str) -> None:
    (error,) = errors_of(job).splitlines()
    assert re.search(said, error), error
    assert "rank0]: Traceback" not in job.output and "rank1]: Traceback" not in job.output


#: The job's log is a file too: the limits are above its size.
FULL = [
    # What one rank of two has to keep, and its part of Megatron's checkpoint.
    ("200000", "cannot be written .*File too large"),
    ("450000", "Megatron could not write its checkpoint of iteration 4"),
]


@pytest.mark.parametrize(("size", "said"), FULL)
def test_a_full_disk(size, said, tmp_path, start, uninterrupted):
    """Any user can have one: a limit on the size of files, from a point of the run on."""
    folder, mark = str(tmp_path / "run"), tmp_path / "mark"
    command, how = start("two", folder), {"KILL_RANK": "1", "KILL_SIZE": size}
    job = struck(command, "in the profile", mark, "full-disk", expect=1, processes=2, **how)
    told_once(job, said)
    committed = latest(folder)
    job = run(command, processes=2)
    assert f"resumed at iteration {int(committed[-7:])}:" in job.output
    assert_same(uninterrupted("two"), folder)


@pytest.fixture
def small_disk(tmp_path):
    """(folder on a tmpfs of 7 MB, remount): `remount("ro")`, `remount("size=64m")`."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> subprocess.CompletedProcess:
        command = ["mount", "-t", "tmpfs", "-o", options, "t3s-test", str(folder)]
        return subprocess.run(command, capture_output=True, text=True)

    mounted = mount("size=7m")
    if mounted.returncode != 0:
        pytest.skip(f"needs a tmpfs of its own: {mounted.stderr.strip()}")

    def remount(options: str) -> None:
        mounted = mount(f"remount,{options}")
        assert mounted.returncode == 0, mounted.stderr

    yield str(folder), remount
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_small_disk_that_runs_full_and_then_is_read_only(small_disk, start, uninterrupted):
    disk, remount = small_disk
    folder = f"{disk}/run"
    command = start("one", folder)
    told_once(run(command, expect=1), "(No space left on device|could not write its checkpoint)")
    committed = latest(folder)
    remount("ro")
    job = run(command, expect=1)
    told_once(job, f"{folder}/t3s/state: cannot be written in .Read-only file system")
    assert "number of parameters" not in job.output, "the model was built first"
    remount("rw,size=64m")
    job = run(command)
    assert f"resumed at iteration {int(committed[-7:])}:" in job.output
    assert_same(uninterrupted("one"), folder)


def test_a_folder_that_cannot_be_one(tmp_path, start):
    (tmp_path / "file").write_text("")
    out = f"{tmp_path}/file/t3s"
    job = run([*start("two", tmp_path / "run"), "--t3s-dir", out], processes=2, expect=1)
    told_once(job, f"{out}/state: cannot be written in .Not a directory")
    assert "number of parameters" not in job.output, "the model was built first"


def test_a_folder_that_is_deleted_under_the_profile(tmp_path, start, uninterrupted):
    """What was in it and is still in memory is written again with the next checkpoint."""
    folder, mark = str(tmp_path / "run"), tmp_path / "mark"
    command = start("one", folder)
    leaving = [*command, "--exit-interval", 4]
    struck(leaving, "in the profile", mark, "rmtree", expect=0, KILL_FOLDER=folder)
    assert latest(folder).endswith("iter_0000004")
    job = run(command)
    assert "resumed at iteration 4:" in job.output
    assert_same(uninterrupted("one"), folder)


def test_a_folder_that_is_deleted_under_the_targeted_phase(tmp_path, start):
    """The log-probs are no longer in memory: the run says so, and makes no state without them."""
    folder, mark = str(tmp_path / "run"), tmp_path / "mark"
    gone = f"{folder}/t3s"
    command = start("one", folder)
    job = struck(command, "in targeted training", mark, "rmtree", expect=1, KILL_FOLDER=gone)
    told_once(job, f"{gone}/selection.safetensors: was written by this run and has gone")
