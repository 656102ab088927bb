# SPDX-License-Identifier: Apache-2.0
"""A process that has imported everything and forks the ranks of one job after another.

Importing torch and Megatron takes seconds of each rank, longer than most jobs of the tests compute;
forked, they have it already. The ranks are told what torchrun would tell them, and ended as it ends
them. What is lost: ranks of a job share one seed of Python's hashes, and whatever an import does,
it does once. torchrun itself starts the jobs of test_exits, test_nodes, test_cluster_scripts and
test_releases, and all that it is to start again.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from selectors import EVENT_READ, DefaultSelector
from typing import NoReturn

#: Seconds between SIGTERM and SIGKILL for the other ranks of one that has failed: torchrun's.
GRACE = 30

#: What jobs import besides, most of it only when they come to it. None of it looks at arguments.
IMPORTED = (
    "datasets",
    "megatron.core.models.mimo",
    "megatron.core.tokenizers.text.text_tokenizer",
    "t3s_megatron.megatron.model",
    "t3s_megatron.plugin",
    "t3s_megatron.pretrain",
    "t3s_megatron.run.plain",
    "t3s_megatron.run.t3s",
    "torch._dynamo.variables",
    "torch.onnx",
    "transformers.models.auto",
)


@dataclass
class Request:
    """One job: `argv` of `module` in `processes` ranks, output appended to the file `output`."""

    module: str
    argv: list[str]
    processes: int
    environment: dict[str, str]
    cwd: str
    output: str


class RankFork:
    """The process above, from the side of a test: `run` takes one job after the other."""

    def __init__(self, environment: dict[str, str]):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.ranks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def run(self, request: Request, timeout: float) -> int:
        """Its exit status, negative for a signal, of several ranks 1 when one has failed.

        TimeoutError after `timeout` seconds. What is left of its session is killed in any case.
        """
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request.__dict__).encode() + b"\n")
        self._process.stdin.flush()
        session = int(self._process.stdout.readline())
        try:
            with DefaultSelector() as selector:
                selector.register(self._process.stdout, EVENT_READ)
                if not selector.select(timeout):
                    raise TimeoutError(f"{request.module} still ran after {timeout} s")
            return int(self._process.stdout.readline())
        except BaseException:
            kill_session(session)
            self._process.stdout.readline()
            raise
        finally:
            kill_session(session)

    def end(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def kill_session(session: int) -> None:
    """SIGKILL every process of it, whatever its group."""
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.getsid(int(process)) == session:
                os.kill(int(process), signal.SIGKILL)


def serve() -> Request:
    """Answer requests until there are none; returns in the ranks alone, each with its request."""
    replies = os.dup(1)
    for line in iter(sys.stdin.buffer.readline, b""):
        request = Request(**json.loads(line))
        child = os.fork()
        if child == 0:
            os.close(replies)
            become_a_rank(request)
            return request
        os.write(replies, f"{child}\n".encode())
        _, status = os.waitpid(child, 0)
        os.write(replies, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    sys.exit()


def become_a_rank(request: Request) -> None:
    """Return in each of the ranks; with several of them, this process is their agent."""
    from megatron.core.dist_checkpointing.strategies.filesystem_async import (
        get_write_results_queue,
    )

    os.setsid()
    os.chdir(request.cwd)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(request.output, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(request.environment)
    tempfile.tempdir = None
    listening = socket.create_server(("localhost", 0))
    os.environ |= {
        "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0",
        "WORLD_SIZE": str(request.processes), "LOCAL_WORLD_SIZE": str(request.processes),
        "MASTER_ADDR": "localhost", "MASTER_PORT": str(listening.getsockname()[1]),
    }  # fmt: skip
    if request.processes > 1:
        os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
        ranks = {}
        for rank in range(request.processes):
            child = os.fork()
            if child == 0:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                break
            ranks[child] = rank
        else:
            watch(ranks, listening)
    listening.close()
    # The process that Megatron's writers of checkpoints report to: started by spawn, as it is by
    # default, it would import everything again.
    get_write_results_queue(mp_mode="fork")


def watch(ranks: dict[int, int], listening: socket.socket) -> NoReturn:
    """Keep the store that ranks meet at, and end all of them when one has failed, as torchrun does.
    `ranks`: by process."""
    from torch.distributed import TCPStore

    port = listening.getsockname()[1]
    store = TCPStore(
        "localhost", port, is_master=True, wait_for_workers=False,
        master_listen_fd=listening.detach(),
    )  # fmt: skip
    failed, deadline = False, float("inf")
    while ranks:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process in ranks:
            rank, code = ranks.pop(process), os.waitstatus_to_exitcode(status)
            if code and not failed:
                print(f"rank {rank} ended with {code}; so do the others", flush=True)
                failed, deadline = True, time.monotonic() + GRACE
                for other in ranks:
                    os.kill(other, signal.SIGTERM)
        elif time.monotonic() > deadline:
            for other in ranks:
                os.kill(other, signal.SIGKILL)
            deadline = float("inf")
        else:
            time.sleep(0.02)
    del store
    sys.stdout.flush()
    os._exit(int(failed))


def main() -> None:
    # The device layer comes before Megatron, whatever the arguments.
    from t3s_megatron.entry import start_process

    start_process(["--distributed-backend", "gloo"])
    for module in IMPORTED:
        importlib.import_module(module)
    request = serve()
    sys.argv[1:] = request.argv
    runpy.run_module(request.module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
