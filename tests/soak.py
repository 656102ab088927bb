# SPDX-License-Identifier: Apache-2.0
"""Kill one small job at random instants, and see that it ends as if nothing had happened.

    .venv/bin/python -m tests.soak --kills 30        (slow; not part of the suite)

Each job is two processes of the whole method, killed whole (torchrun and all ranks, SIGKILL) at a
uniformly random instant after it has begun to train, and started again with the same command until
it is through; then its weights, moments, selection, log-probs and summary are compared with those
of a job that was left alone, bit for bit.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.conftest import pretrain_student
from tests.support.launch import end_processes, job_command, job_environment
from tests.support.resumable import assert_same, job_arguments
from tests.support.task import write_task

SETTING = "two"
PROCESSES = 2


def start(command: list[str], log: str) -> tuple[subprocess.Popen, dict]:
    environment = job_environment()
    with open(log, "w") as file:
        job = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    return job, environment


def wait_for_training(job: subprocess.Popen, log: str) -> None:
    while job.poll() is None:
        with open(log) as file:
            if "[t3s]" in file.read():
                return
        time.sleep(0.02)


def phase_of(log: str) -> str:
    """Where the job was when it wrote its last line."""
    phase = "profile"
    for line in Path(log).read_text().splitlines():
        if "[t3s] targeted training begins" in line or ": phase targeted" in line:
            phase = "targeted"
        elif "[t3s] theta_b is step" in line or re.search(": phase profile.*theta_b [0-9]", line):
            phase = "scoring and rewind"
        elif "[t3s] done" in line or ": phase done" in line:
            phase = "end"
    return phase


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        data, tokenizer = write_task(f"{folder}/task")
        data_arguments = ["--t3s-data", data, "--tokenizer-model", tokenizer]
        student = pretrain_student(f"{folder}/student", tokenizer, [])

        def command(out: str) -> list[str]:
            arguments = job_arguments(SETTING, out, data_arguments, student)
            return job_command(arguments, processes=PROCESSES)

        log = f"{folder}/log"
        job, environment = start(command(f"{folder}/reference"), log)
        wait_for_training(job, log)
        began = time.monotonic()
        assert job.wait() == 0
        length = time.monotonic() - began
        end_processes(environment)
        kills, jobs, phases = 0, 0, Counter()
        while kills < options.kills:
            out = f"{folder}/job-{jobs}"
            jobs += 1
            deaths = 0
            while True:
                job, environment = start(command(out), log)
                wait_for_training(job, log)
                if deaths < 4 and kills < options.kills:
                    try:
                        job.wait(rng.uniform(0, length))
                    except subprocess.TimeoutExpired:
                        end_processes(environment)
                        job.wait()
                        kills, deaths = kills + 1, deaths + 1
                        phases[phase_of(log)] += 1
                        continue
                code = job.wait()
                end_processes(environment)
                if code != 0:
                    raise SystemExit(Path(log).read_text()[-5000:])
                break
            assert_same(f"{folder}/reference", out)
            print(f"job {jobs}: killed {deaths}x, equal; {kills} kills in all", flush=True)
    hit = ", ".join(f"{count} in {phase}" for phase, count in phases.most_common())
    print(f"{kills} kills at random instants over {jobs} jobs ({hit}): every one ended equal")


if __name__ == "__main__":
    main()
