# SPDX-License-Identifier: Apache-2.0
"""Start real jobs of `t3s_megatron.pretrain` on CPU with gloo: by torchrun, or by what does the
same in less time, `tests.support.ranks`."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import uuid
from dataclasses import dataclass
from typing import TextIO

from tests.support.ports import free_port
from tests.support.ranks import RankFork, Request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

#: What is no part of the model: rows and batches of the tests, and what CPU runs need.
RUNTIME = """
--seq-length 48 --calculate-per-token-loss --micro-batch-size 2 --global-batch-size 8
--lr-decay-style cosine --log-interval 1 --eval-interval 1000 --eval-iters 0 --num-workers 0
--transformer-impl local --distributed-backend gloo --attention-backend unfused
--no-persist-layer-norm --no-gradient-accumulation-fusion --no-masked-softmax-fusion
--no-bias-swiglu-fusion --no-bias-gelu-fusion --no-rope-fusion --no-bias-dropout-fusion
--tokenizer-type HuggingFaceTokenizer
""".split()

#: A student of 4 layers that every layout can split.
MODEL = [
    *"""
--num-layers 4 --hidden-size 64 --ffn-hidden-size 128 --num-attention-heads 4
--group-query-attention --num-query-groups 2 --qk-layernorm --normalization RMSNorm --swiglu
--disable-bias-linear --position-embedding-type rope --untie-embeddings-and-output-weights
--max-position-embeddings 64 --make-vocab-size-divisible-by 2
--attention-dropout 0 --hidden-dropout 0
""".split(),
    *RUNTIME,
]

MOE = """
--num-experts 4 --moe-router-topk 2 --moe-ffn-hidden-size 64 --moe-token-dispatcher-type alltoall
--moe-router-load-balancing-type none
""".split()

#: A bias of the router that is a buffer, not a parameter: it is updated outside the optimizer.
EXPERT_BIAS = "--moe-router-score-function sigmoid --moe-router-enable-expert-bias".split()

FRESH = "--finetune --no-load-optim --no-load-rng".split()


_MARK = "T3S_TEST_JOB"

#: What a process that has imported everything can no longer be told.
_FIXED_AT_IMPORT = {"PYTHONPATH"}


@dataclass(frozen=True)
class ArrangedLayout:
    """A parallel layout, and the arrangement of its rows."""

    processes: int
    arguments: str
    kind: str = "packed"
    moe: bool = False


@dataclass
class Job:
    """A finished job: its output, and the losses it printed by Megatron iteration."""

    returncode: int
    output: str

    @property
    def said(self) -> list[str]:
        return [line for line in self.output.splitlines() if line.startswith("[t3s]")]

    def write(self, folder, name: str = "job") -> None:
        """For the other processes of a session: see the fixture `once`."""
        with open(os.path.join(folder, f"{name}.json"), "w") as file:
            json.dump([self.returncode, self.output], file)

    @classmethod
    def read(cls, folder, name: str = "job") -> Job:
        with open(os.path.join(folder, f"{name}.json")) as file:
            return cls(*json.load(file))


def job_command(
    arguments: list,
    *,
    processes: int = 1,
    module: str = "t3s_megatron.pretrain",
    model: list[str] | None = None,
    restarts: int = 0,
) -> list[str]:
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", str(processes), "--max-restarts", str(restarts),
        "-m", module, *(model or MODEL), *map(str, arguments),
    ]  # fmt: skip


def job_environment() -> dict[str, str]:
    """A new one for each job: its mark is how `end_processes` knows the job's processes."""
    return os.environ | {
        _MARK: uuid.uuid4().hex,
        "OMP_NUM_THREADS": "1",
        "CUDA_DEVICE_MAX_CONNECTIONS": "1",
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "")]),
    }


@contextlib.contextmanager
def agents(
    arguments: list, folders: list, *, module="t3s_megatron.pretrain", restarts=0, environment=None
):
    """A job over len(folders) "nodes" of one process: a torchrun agent each, in a working directory
    of its own, that meet at a c10d rendezvous. Yields start(node) -> Agent, which also brings a
    dead node back; ends what is left at the end."""
    # With the store shared between torchrun and the workers (its default, torch 2.15), a living
    # agent never tells a node that joins later where the store is: pytorch #135712.
    job = job_environment() | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    port = free_port()
    started: list[Agent] = []

    def start(node: int) -> Agent:
        # A node that is gone is given up after 3 s; the first one keeps the store.
        meeting = f"is_host={int(node == 0)},keep_alive_interval=1,keep_alive_max_attempt=3"
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes", str(len(folders)),
            "--nproc-per-node", "1", "--max-restarts", str(restarts),
            "--rdzv-backend", "c10d", "--rdzv-id", job[_MARK], "--rdzv-conf", meeting,
            "--rdzv-endpoint", f"localhost:{port}", "-m", module, *MODEL, *map(str, arguments),
        ]  # fmt: skip
        mark = {_MARK: f"{job[_MARK]}-{len(started)}"}
        output = tempfile.TemporaryFile("w+")  # noqa: SIM115
        process = subprocess.Popen(
            command,
            env=job | mark | (environment or {}),
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folders[node],
        )
        started.append(Agent(process, output, mark))
        return started[-1]

    try:
        yield start
    finally:
        for agent in started:
            end_processes(agent.mark)
            agent.process.wait()
            agent.output.close()


@dataclass
class Agent:
    """One node's torchrun."""

    process: subprocess.Popen
    output: TextIO
    mark: dict[str, str]

    def end(self, expect: int = 0, timeout: int = 300) -> str:
        """Its output, when it has ended; `expect` as for `run`."""
        returncode = self.process.wait(timeout)
        self.output.seek(0)
        output = self.output.read()
        assert (returncode == 0) == (expect == 0), f"exit {returncode}:\n{_relevant(output)}"
        return output


def run(
    arguments: list[str],
    *,
    processes: int = 1,
    module: str = "t3s_megatron.pretrain",
    model: list[str] | None = None,
    expect: int | None = 0,
    environment: dict | None = None,
    cwd: str | None = None,
    timeout: int = 300,
    restarts: int = 0,
) -> Job:
    """Run to the end. `expect`: the exit status asserted, None for any. With `restarts`, or another
    path to import from, by torchrun."""
    job = job_environment() | (environment or {})
    # To a file, since a killed rank leaves Megatron's checkpoint writer behind, which would keep a
    # pipe open for ever.
    with tempfile.NamedTemporaryFile("w+") as file:
        try:
            if restarts or not _FIXED_AT_IMPORT.isdisjoint(environment or {}):
                command = job_command(
                    arguments, processes=processes, module=module, model=model, restarts=restarts
                )
                returncode = subprocess.Popen(
                    command, env=job, stdout=file, stderr=subprocess.STDOUT, cwd=cwd
                ).wait(timeout)
            else:
                argv = [*(model or MODEL), *map(str, arguments)]
                request = Request(module, argv, processes, job, cwd or os.getcwd(), file.name)
                returncode = rank_fork().run(request, timeout)
        finally:
            end_processes(job)
        file.seek(0)
        output = file.read()
    if expect is not None and (returncode == 0) != (expect == 0):
        raise AssertionError(f"exit status {returncode}:\n{_relevant(output)}")
    return Job(returncode, output)


@functools.cache
def rank_fork() -> RankFork:
    """This test process's own."""
    fork = RankFork(job_environment())
    atexit.register(fork.end)
    return fork


def end_processes(environment: dict[str, str]) -> None:
    """SIGKILL every process of a job, those that outlived their parent and its session too."""
    mark = f"{_MARK}={environment[_MARK]}".encode()
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{process}/environ", "rb") as file:
            if mark in file.read().split(b"\0"):
                os.kill(int(process), signal.SIGKILL)


def _relevant(output: str) -> str:
    lines = [
        line for line in output.splitlines()
        if not re.match(r"^\s+\w+ \.{3,}", line) and "arguments" not in line
    ]  # fmt: skip
    return "\n".join(lines[-80:])
