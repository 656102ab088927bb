# SPDX-License-Identifier: Apache-2.0
"""Measurements that a server makes while training goes on (`--t3s-accuracy-overlap`).

One thread on the root rank asks and verifies, one measurement after the other, with no word to
other ranks; what it has to say is said when its outcome is collected, so that the log and the
summary of a run do not depend on how fast a server was. The verifiers' processes die with the
thread that has started them, which therefore lives as long as they may.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from t3s_megatron.accuracy.measurement import Measurement
from t3s_megatron.accuracy.measuring import Measurer
from t3s_megatron.answering.server import ServedWeights, ServerBackend
from t3s_megatron.megatron import layout
from t3s_megatron.megatron.seam import CallbackContext


@dataclass
class Result:
    """`lines` and `seconds` (what, how many): what the measurement had to say."""

    measured: Measurement
    lines: list[str] = field(default_factory=list)
    seconds: list[tuple[str, float]] = field(default_factory=list)

    def to_state(self) -> dict:
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict) -> Result:
        seconds = [(what, spent) for what, spent in state["seconds"]]
        return cls(Measurement(**state["measured"]), state["lines"], seconds)


class Flights:
    """Of one run, on one rank. `begin`, `collect`, `discard`, `results` and `close` are collective
    over the world."""

    def __init__(self, measurer: Measurer):
        self.measurer = measurer
        self.is_root = layout.rank() == measurer.root
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="t3s-measurement")
        # Oldest first; a Result where it is known, and None on ranks that only wait.
        self._flights: list[tuple[ServedWeights | None, Future | Result | None]] = []

    def begin(
        self, context: CallbackContext, *, step: int, phase: str, teacher: str | None
    ) -> None:
        """Measure the live weights on the prompts of `teacher` (None: of all). They are exported
        before this returns."""
        backend = self._backend()
        weights = backend.take(context, step=step)
        future = None
        if self.is_root:
            future = self._thread.submit(self._measure, weights, step, phase, teacher)
        self._flights.append((weights, future))

    def collect(self) -> Measurement:
        """The oldest measurement in flight, waited for; the same on every rank."""
        weights, _ = self._flights[0]
        result = layout.together(lambda: self._result(0) if self.is_root else None)[
            self.measurer.root
        ]
        self._flights.pop(0)
        if weights is not None:
            self.measurer.backend.release(weights)
        for line in result.lines:
            self.measurer.say(line)
        for what, seconds in result.seconds:
            self.measurer.spent(what, seconds)
        return result.measured

    def discard(self) -> None:
        """Forget all measurements in flight. A server may still be at work on one."""
        backend = self._backend()
        backend.cancelled = True
        for weights, future in self._flights:
            if isinstance(future, Future) and not future.cancel():
                future.exception()  # waits: it uses the verifiers
            if weights is not None:
                backend.release(weights)
        self._flights = []
        backend.cancelled = False

    def results(self) -> list[dict]:
        """Of all measurements in flight, which are waited for; JSON-able. [] but on the root."""
        here = [self._result(i) for i in range(len(self._flights))] if self.is_root else []
        return [result.to_state() for result in here]

    def restore(self, results: list[dict]) -> None:
        """What `results` returned, on every rank."""
        self._flights = [(None, Result.from_state(result)) for result in results]

    def close(self) -> None:
        if self._flights:
            self.discard()
        self._thread.shutdown()

    def _backend(self) -> ServerBackend:
        backend = self.measurer.backend
        assert isinstance(backend, ServerBackend)  # T3SConfig refuses an overlap with another
        return backend

    def _result(self, i: int) -> Result:
        weights, result = self._flights[i]
        if isinstance(result, Future):
            result = result.result()
            self._flights[i] = weights, result
        assert result is not None
        return result

    def _measure(
        self, weights: ServedWeights, step: int, phase: str, teacher: str | None
    ) -> Result:
        """In the thread."""
        lines: list[str] = []
        seconds: list[tuple[str, float]] = []
        alone = copy.copy(self.measurer)
        alone.say = lines.append
        alone.spent = lambda what, spent: seconds.append((what, spent))
        alone.on_root = _call
        alone.answers = self._backend().answers
        measured = alone.measure(weights, step=step, phase=phase, teacher=teacher)
        return Result(measured, lines, seconds)


def _call(work: Callable[[], Any]) -> Any:
    return work()
