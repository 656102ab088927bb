# SPDX-License-Identifier: Apache-2.0
"""Megatron's own ways to leave early work in every phase: the job saves, leaves with status 0, and
goes on as if it had never left, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import time

from tests.support.launch import end_processes, job_command, job_environment, run
from tests.support.reference import latest
from tests.support.resumable import assert_same

#: Of the profile, between the phases, and of the targeted phase.
SIGTERM = ["during generation", "while theta_b is scored", "in targeted training"]


def test_sigterm_to_one_rank_lets_all_of_them_save_and_leave(tmp_path, start, uninterrupted):
    """One job that is told to leave three times, each time one rank of two only."""
    folder = str(tmp_path / "run")
    command = [*start("two", folder), "--exit-signal-handler"]
    left_at = []
    for point in SIGTERM:
        mark = str(tmp_path / point)
        environment = {"KILL_AT": point, "KILL_MARK": mark, "KILL_RANK": "1", "KILL_BY": "SIGTERM"}
        job = run(command, processes=2, module="tests.jobs.killed_job", environment=environment)
        assert os.path.exists(f"{mark}.1"), "the point was never reached"
        assert "exiting program after receiving SIGTERM" in job.output
        assert ("resumed at iteration" in job.output) == bool(left_at)
        left_at.append(latest(folder))
    assert sorted(set(left_at)) == left_at, "it left without a step of its own"
    run(command, processes=2)
    assert_same(uninterrupted("two"), folder)


def test_leaving_by_time_and_by_iteration(tmp_path, start, uninterrupted):
    folder = str(tmp_path / "run")
    command = start("one", folder)
    # A time that is over before the first step.
    job = run([*command, "--exit-duration-in-mins", -1])
    assert latest(folder).endswith("iter_0000001") and "exiting program after" in job.output
    job = run([*command, "--exit-interval", 7])
    assert latest(folder).endswith("iter_0000007")
    assert "exiting program at iteration 7" in job.output
    run(command)
    assert_same(uninterrupted("one"), folder)


def test_sigterm_to_torchrun_waits_for_the_measurement(tmp_path, start):
    """A scheduler signals the whole step, torchrun included, whose own patience is 30 s: three
    answers of this verifier take longer."""
    folder, asked = str(tmp_path / "run"), tmp_path / "asked"
    slow = ["--t3s-verifier", "tests.jobs.slow_verifier:check", "--t3s-verify-workers", 1,
            "--exit-signal-handler"]  # fmt: skip
    command = job_command([*start("one", folder), *slow])
    at = command.index("--standalone")
    command[at:at] = ["--shutdown-timeout", "120"]
    environment = job_environment() | {"SLOW": str(asked)}
    with open(tmp_path / "log", "w") as log:
        job = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        while not asked.exists():
            assert job.poll() is None, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.2)
        job.send_signal(signal.SIGTERM)
        job.wait(240)
    finally:
        end_processes(environment)
    said = (tmp_path / "log").read_text()
    assert "exiting program after receiving SIGTERM" in said, said[-3000:]
    assert latest(folder).endswith("iter_0000001")
