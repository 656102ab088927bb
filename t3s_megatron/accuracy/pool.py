# SPDX-License-Identifier: Apache-2.0
"""Verifiers in processes of their own, each answer with a deadline.

A verifier may loop (in C too, holding the interpreter's lock), exit, be killed, fill the memory or
raise: it costs its own answer and a bounded time. The process is killed and replaced, the other
answers notice nothing.

Every worker has a socket of its own. Pools that share one queue between their workers
(concurrent.futures, pebble) lose the pool, or wait a minute for a lock, when a worker dies while it
holds the queue; theirs also start by importing the main script again, which here is a training
script. Workers are started by fork and exec, which is safe beside CUDA and threads; a worker dies
with its parent (Linux's parent-death signal).

Not a sandbox: a worker has the rights of the run. A program that a verifier starts ends with its
worker, unless it has left the worker's process group or the run itself is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections import deque
from dataclasses import dataclass

from t3s_megatron.accuracy.verdicts import FAILURES, Verdict
from t3s_megatron.errors import T3SError

#: Seconds a worker has to import its verifier: a shared file system can be slow.
START_TIMEOUT = 120.0
#: Workers in a row that may die before they are ready.
_START_ATTEMPTS = 3
#: Longest line a worker may answer with, bytes; its reasons are cut well below that.
_LONGEST_REPLY = 2**16
#: Share of an answer's time that, spent computing, is the answer's doing and not the machine's.
_NOT_ORDINARY = 1 / 16
#: Seconds between two looks at workers that died without closing their socket.
_TICK = 0.2


@dataclass(frozen=True)
class Limits:
    """`timeout`: seconds an answer; `memory`: GiB of data a worker may hold."""

    timeout: float = 30.0
    workers: int = 4
    memory: float = 4.0


@dataclass(frozen=True)
class Question:
    """A response, without its thinking, to be verified against a gold answer; `text` None: the gold
    answer itself is to be examined."""

    text: str | None
    answer: str | None
    metadata: dict | None = None


@dataclass(frozen=True)
class Judged:
    """`why`: for a person, where the verifier crashed or timed out, or cannot use a gold answer."""

    verdict: Verdict
    why: str | None = None


class VerifierPool:
    """Starts processes when they are first needed; `close` ends them, and so does the exit."""

    def __init__(self, spec: str, limits: Limits):
        self.spec = spec
        self.limits = limits
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        self._finalizer = weakref.finalize(self, _end_all, self._workers, os.getpid())

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """End every process. The pool may be used again."""
        _end_all(self._workers, os.getpid())

    def verify(
        self, questions: list[Question], allowed_failures: int | None = None
    ) -> list[Judged]:
        """What became of each, in order. With more than `allowed_failures` answers timed out or
        crashed, those not yet begun are SKIPPED.

        With n questions it takes no more than timeout x (n / workers + 1) seconds, or timeout x
        (allowed_failures / workers + 2) where all that is slow times out; and what starting workers
        takes, one after another, START_TIMEOUT each at most.
        T3SError when the verifier cannot be loaded.
        """
        try:
            return self._verify(questions, allowed_failures)
        except BaseException:  # interrupted: a late verdict must not meet another question
            self.close()
            raise

    def _verify(self, questions: list[Question], allowed_failures: int | None) -> list[Judged]:
        judged: dict[int, Judged] = {}
        todo = deque(range(len(questions)))
        failures = 0
        while todo or self._busy():
            self._staff(len(todo))
            for worker in self._workers:
                if worker.idle and todo:
                    given = todo.popleft()
                    worker.give(given, questions[given], self.limits.timeout)
            self._wait()
            for worker in list(self._workers):
                asked = worker.number
                result = self._look_at(worker)
                if result is not None and asked is not None:
                    judged[asked] = result
                    failures += result.verdict in FAILURES
            if allowed_failures is not None and failures > allowed_failures:
                for left in todo:
                    judged[left] = Judged(Verdict.SKIPPED)
                todo.clear()
        return [judged[number] for number in range(len(questions))]

    def load(self) -> None:
        """Wait until one worker is ready. T3SError when the verifier cannot be loaded."""
        self._staff(1)
        while not any(worker.idle for worker in self._workers):
            self._wait()
            for worker in list(self._workers):
                self._look_at(worker)
            self._staff(1)

    # ----------------------------------------------------------------------------------- workers

    def _busy(self) -> bool:
        return any(worker.number is not None for worker in self._workers)

    def _staff(self, waiting: int) -> None:
        """One more worker where answers wait and none is idle or on its way: a fast verifier is
        done before a second process has imported it."""
        for worker in list(self._workers):
            if worker.idle and worker.dead():  # between two measurements
                self._replace(worker)
        free = sum(worker.number is None for worker in self._workers)
        if not waiting or free or len(self._workers) == self.limits.workers:
            return
        try:
            self._workers.append(_Worker(self.spec, self.limits))
        except OSError as error:  # no process, no memory, no file handle
            if not self._workers:  # else go on with those that there are
                raise T3SError(f"a verifier's process cannot be started: {error}") from error

    def _wait(self) -> None:
        """Until a worker has something to say, a deadline passes, or a tick."""
        waiting = [worker for worker in self._workers if not worker.idle]
        now = time.monotonic()
        seconds = min([_TICK, *(worker.deadline - now for worker in waiting)])
        with selectors.DefaultSelector() as selector:
            for worker in waiting:
                writing = selectors.EVENT_WRITE if worker.outgoing else 0
                selector.register(worker.channel, selectors.EVENT_READ | writing)
            selector.select(max(0.0, seconds))

    def _look_at(self, worker: _Worker) -> Judged | None:
        """What has become of the worker's answer; None while there is nothing to tell."""
        if worker.idle:
            return None
        starting = worker.number is None
        died = worker.dead()  # before reading: what it said last counts
        worker.send()
        worker.receive()
        reply = worker.reply()
        if reply is not None:
            if not starting:
                return self._judged(worker, reply)
            self._started(worker, reply)
            return None
        overdue = time.monotonic() >= worker.deadline
        if not (died or worker.broken or overdue):
            return None
        how = "no answer in time" if overdue and not died else worker.how_it_ended()
        too_hard = worker.ended_by_its_answer() or (
            overdue and worker.computed_too_long(self.limits.timeout)
        )
        self._replace(worker)
        if starting:
            self._failed_starts += 1
            if self._failed_starts >= _START_ATTEMPTS:
                raise T3SError(
                    f"--t3s-verifier {self.spec}: its process does not start ({how}), tried "
                    f"{_START_ATTEMPTS} times; --t3s-verify-memory is {self.limits.memory:g} GiB"
                )
            return None
        if too_hard:
            return Judged(Verdict.UNPARSEABLE)
        if overdue and not died:
            return Judged(Verdict.TIMED_OUT, f"no verdict within {self.limits.timeout:g} s")
        return Judged(Verdict.CRASHED, f"the verifier's process ended: {how}")

    def _started(self, worker: _Worker, reply: dict) -> None:
        if "refused" in reply:
            self._replace(worker)
            raise T3SError(str(reply["refused"]))
        worker.idle = True
        self._failed_starts = 0

    def _judged(self, worker: _Worker, reply: dict) -> Judged:
        worker.idle, worker.number = True, None
        if reply.get("worn_out"):
            self._replace(worker)
        return Judged(Verdict(reply["verdict"]), reply.get("why"))

    def _replace(self, worker: _Worker) -> None:
        """A new one comes when it is needed."""
        worker.end()
        self._workers.remove(worker)


class _Worker:
    """One process. `number`: the question it is busy with; `idle`: ready for one."""

    def __init__(self, spec: str, limits: Limits):
        self.channel, theirs = socket.socketpair()
        with theirs:
            handle = theirs.fileno()
            command = [sys.executable, "-P", "-m", "t3s_megatron.accuracy.worker"]
            bounds = [str(limits.memory), str(limits.timeout)]
            try:
                self.process = subprocess.Popen(
                    [*command, str(handle), str(os.getpid()), *bounds, spec],
                    pass_fds=[handle],
                    stdin=subprocess.DEVNULL,
                    # What a verifier prints for each of many answers belongs into no log.
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=_environment(),
                    start_new_session=True,  # a group: what a verifier started dies with it
                )
            except BaseException:
                self.channel.close()
                raise
        self.channel.setblocking(False)
        self.deadline = time.monotonic() + START_TIMEOUT
        self.number: int | None = None
        self.asked_for_gold = False
        self._computed = 0.0
        self.idle = False
        self.broken = False
        self.outgoing = memoryview(b"")
        self._incoming = b""

    def give(self, number: int, question: Question, timeout: float) -> None:
        request = (number, question.text, question.answer, question.metadata)
        self.outgoing = memoryview(pickle.dumps(request))
        self.number, self.idle = number, False
        self.asked_for_gold = question.text is None
        self.deadline = time.monotonic() + timeout
        self._computed = self._processor_time()
        self.send()  # and no more: a reply read here would wake nobody who waits for one

    def send(self) -> None:
        """As much of the question as goes without waiting."""
        try:
            while self.outgoing:
                self.outgoing = self.outgoing[self.channel.send(self.outgoing) :]
        except BlockingIOError:
            pass
        except OSError:
            self.outgoing = memoryview(b"")  # it may have said something before

    def receive(self) -> None:
        """What has come without waiting. `broken` when the socket is."""
        try:
            while len(self._incoming) <= _LONGEST_REPLY:
                part = self.channel.recv(_LONGEST_REPLY)
                if not part:
                    self.broken = True
                    return
                self._incoming += part
            self.broken = True
        except BlockingIOError:
            pass
        except OSError:
            self.broken = True

    def reply(self) -> dict | None:
        """The next whole reply to the question it is busy with; None when there is none. Anything
        else makes the worker `broken`."""
        line, end, self._incoming = self._incoming.partition(b"\n")
        if not end:
            self._incoming = line
            return None
        try:
            reply = json.loads(line)
            if reply.get("number") == self.number and (
                self.number is None or Verdict(reply["verdict"])
            ):
                return reply
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
            pass
        self.broken = True
        return None

    def dead(self) -> bool:
        # Left unreaped: until `end` has killed its group, the number must not go to another.
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self.process.pid, options) is not None
        except ChildProcessError:  # reaped by somebody else in this process
            return True

    def how_it_ended(self) -> str:
        if not self.dead():
            time.sleep(_TICK)  # the socket closes a moment before the process can be waited for
        if not self.dead():
            return "it closed its connection, or wrote to it"
        self.end()
        status = self.process.returncode
        if status is not None and status < 0:
            with contextlib.suppress(ValueError):
                return f"killed by {signal.Signals(-status).name}"
        return f"exit status {status}"

    def computed_too_long(self, timeout: float) -> bool:
        """Whether it is overdue with an answer that it holds to a processor time (`Bound`), and has
        computed for it what no ordinary answer takes: on a busy machine the clock comes first."""
        if self.number is None or self.asked_for_gold or self.dead():
            return False
        try:
            soft, hard = resource.prlimit(self.process.pid, resource.RLIMIT_CPU)
        except OSError:  # it has just ended
            return False
        computed = self._processor_time() - self._computed
        return soft != hard and computed >= timeout * _NOT_ORDINARY

    def _processor_time(self) -> float:
        """Seconds that the process has computed; 0 when it is gone."""
        try:
            return time.clock_gettime((~self.process.pid << 3) | 2)  # clock_getcpuclockid(3)
        except OSError:
            return 0.0

    def ended_by_its_answer(self) -> bool:
        """Whether it died of the limit that the verifier has set to the processor time of one
        answer (`verifiers.TooHard`): inside C nothing else ends it."""
        killed = self.process.returncode == -signal.SIGXCPU
        return killed and self.number is not None and not self.asked_for_gold

    def end(self) -> None:
        """SIGKILL to the process and its group. Does nothing when called again."""
        self.channel.close()
        if self.process.returncode is None:
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                # Longer only in the kernel's hands, which is no reason to wait.
                self.process.wait(5)


def _environment() -> dict[str, str]:
    """What this process can import, a worker can; numerical libraries in it keep to one thread,
    for each would need memory of its own."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def _end_all(workers: list[_Worker], owner: int) -> None:
    if os.getpid() != owner:  # a fork of the owner, as a checkpoint writer is, has no say
        return
    for worker in workers:
        worker.end()
    workers.clear()
