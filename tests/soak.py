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
import subprocess
import tempfile
import time
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
        kills, jobs = 0, 0
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
                        continue
                code = job.wait()
                end_processes(environment)
                if code != 0:
                    raise SystemExit(Path(log).read_text()[-5000:])
                break
            assert_same(f"{folder}/reference", out)
            print(f"job {jobs}: killed {deaths}x, equal; {kills} kills in all", flush=True)
    print(f"{kills} kills at random instants over {jobs} jobs: every one ended bit for bit equal")


if __name__ == "__main__":
    main()
