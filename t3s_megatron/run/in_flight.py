# SPDX-License-Identifier: Apache-2.0
"""Measurements that a server makes while training goes on (`--t3s-accuracy-overlap`).

One thread on the root rank asks and verifies, one measurement after the other, with no word to
other ranks; what it has to say is said when its outcome is collected, so that the log and the
summary of a run do not depend on how fast a server was. The verifiers' processes die with the
thread that has started them, which therefore lives as long as they may.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from t3s_megatron.accuracy.measurement import Measurement
from t3s_megatron.accuracy.measuring import Log, Measurer
from t3s_megatron.answering.server import ServedWeights, ServerBackend
from t3s_megatron.data.tokenizing import Sample
from t3s_megatron.megatron import layout
from t3s_megatron.megatron.seam import CallbackContext


@dataclass
class Said:
    """What a measurement had to say: the log that it is given, to be repeated later."""

    lines: list[str] = field(default_factory=list)
    seconds: list[tuple[str, float]] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append(line)

    def spent(self, what: str, seconds: float) -> None:
        self.seconds.append((what, seconds))

    def repeat(self, log: Log) -> None:
        for line in self.lines:
            log.say(line)
        for what, seconds in self.seconds:
            log.spent(what, seconds)


@dataclass
class Result:
    """A measurement that was made, and what it had to say."""

    measured: Measurement
    said: Said

    def to_state(self) -> dict:
        return {"measured": asdict(self.measured), **asdict(self.said)}

    @classmethod
    def from_state(cls, state: dict) -> Result:
        seconds = [(what, spent) for what, spent in state["seconds"]]
        return cls(Measurement(**state["measured"]), Said(state["lines"], seconds))


@dataclass
class Flight:
    """One measurement in flight. `weights`: None once a resumed run has its outcome. `outcome`: a
    Result where it is known, and None on ranks that only wait."""

    weights: ServedWeights | None
    outcome: Future[Result] | Result | None

    def result(self) -> Result:
        """The outcome, waited for. On the root alone."""
        if isinstance(self.outcome, Future):
            self.outcome = self.outcome.result()
        assert self.outcome is not None
        return self.outcome


class InFlight:
    """Begins and ends the measurements in flight of one run, on one rank.

    `flights`: those there are, oldest first; changed in place. `measurer`: the run's own, whose
    options, sampling and pool are used. `begin`, `collect`, `discard` and `close` are collective
    over the world.
    """

    def __init__(
        self,
        flights: list[Flight],
        backend: ServerBackend,
        measurer: Measurer,
        log: Log,
        root: int,
    ):
        self.flights = flights
        self.backend = backend
        self.measurer = measurer
        self.log = log
        self.root = root
        self.is_root = layout.rank() == root
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="t3s-measurement")

    def begin(
        self, context: CallbackContext, samples: Sequence[Sample], *, step: int, phase: str
    ) -> None:
        """Measure the live weights on the prompts of `samples`. They are exported before this
        returns."""
        weights = self.backend.take(context, step=step)
        future = None
        if self.is_root:
            future = self._thread.submit(self._measure, weights, samples, step, phase)
        self.flights.append(Flight(weights, future))

    def collect(self) -> Measurement:
        """The oldest measurement in flight, waited for; the same on every rank."""
        flight = self.flights[0]
        result = layout.together(lambda: flight.result() if self.is_root else None)[self.root]
        self.flights.pop(0)
        if flight.weights is not None:
            self.backend.release(flight.weights)
        result.said.repeat(self.log)
        return result.measured

    def discard(self) -> None:
        """Forget all measurements in flight. A server may still be at work on one."""
        self.backend.cancelled = True
        for flight in self.flights:
            future = flight.outcome
            if isinstance(future, Future) and not future.cancel():
                future.exception()  # waits: it uses the verifiers
            if flight.weights is not None:
                self.backend.release(flight.weights)
        self.flights.clear()
        self.backend.cancelled = False

    def close(self) -> None:
        if self.flights:
            self.discard()
        self._thread.shutdown()

    def _measure(
        self, weights: ServedWeights, samples: Sequence[Sample], step: int, phase: str
    ) -> Result:
        """In the thread: a measurer of its own, which speaks to no other rank."""
        mine, said = self.measurer, Said()
        alone = Measurer(
            mine.options, mine.sampling, mine.pool, self.backend.answers, said, on_root=_call
        )
        return Result(alone.measure(weights, samples, step=step, phase=phase), said)


def _call(work: Callable[[], Any]) -> Any:
    return work()
