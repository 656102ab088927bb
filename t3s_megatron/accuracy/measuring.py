# SPDX-License-Identifier: Apache-2.0
"""Accuracy of a set of weights: ask for answers, have them verified, try again what failed.

When more answers fail than `--t3s-max-failed-share` allows, the measurement is void and what failed
is tried again: answers that generation did not finish are generated again, answers whose verifier
timed out or crashed are verified again. All of it with the seeds that it had: a retry that succeeds
gives the very figures of a measurement without faults, and measurements of different steps stay
paired. A fresh seed would let the faults choose which answers are counted. A measurement that stays
void is handed on as such. All of it lies between two training steps, so no checkpoint ever holds
half a measurement.

A measurement that looks for the minimum is asked in `--t3s-accuracy-blocks`, and ends after the
block that settles it (`accuracy.blocks`).

Nothing here knows what a rank or a server is: who answers, who verifies, and how what one of them
finds becomes known to all is handed in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

from t3s_megatron.accuracy.answers import Answer, Generate, Sampling
from t3s_megatron.accuracy.blocks import Settles, in_blocks
from t3s_megatron.accuracy.measurement import Grader, Measurement
from t3s_megatron.accuracy.options import AccuracyOptions
from t3s_megatron.accuracy.pool import VerifierPool
from t3s_megatron.data.tokenizing import Sample


class Log(Protocol):
    """Who hears what a measurement has to say."""

    def say(self, line: str) -> None:
        """What a person should know of faults."""

    def spent(self, what: str, seconds: float) -> None:
        """What generation and verification took."""


class Measurer:
    """Measures weights that a backend has taken.

    `sampling`: that of the accuracies which the bottleneck detector is shown. `generate`: the
    backend's, or one of its kind that speaks for itself alone. `on_root(work)`: the result of
    `work`, which is done once, wherever the processes of `pool` belong to.
    """

    def __init__(
        self,
        options: AccuracyOptions,
        sampling: Sampling,
        pool: VerifierPool,
        generate: Generate,
        log: Log,
        on_root: Callable[[Callable[[], Any]], Any],
    ):
        self.options = options
        self.sampling = sampling
        self.pool = pool
        self.generate = generate
        self.log = log
        self.on_root = on_root

    def measure(
        self,
        weights: Any,
        samples: Sequence[Sample],
        *,
        step: int,
        phase: str,
        split: str = "train",
        settles: Settles | None = None,
        blocks: int = 1,
    ) -> Measurement:
        """What the bottleneck detector is shown: the training accuracy of `weights` on the prompts
        of `samples`. Or, of another `split`, the same for whoever watches.

        `settles`: asked between the `blocks` of the measurement whether it may end; without it
        there is one block. As collective as `generate` and `on_root`, and the same result wherever
        they give the same.
        """
        repeats = self.options.accuracy_samples
        count = 1 if settles is None else blocks
        measured = self._measure(weights, samples, self.sampling, repeats, settles, count)
        return measured.with_context(step=step, phase=phase, split=split)

    def report(
        self, weights: Any, splits: dict[str, list[Sample]], *, step: int, phase: str
    ) -> Iterator[Measurement]:
        """Yields the accuracy on each of `splits` at each of `--t3s-report-temperatures`."""
        for split, samples in splits.items():
            for temperature in self.options.report_temperatures:
                repeats = self.options.report_samples if temperature > 0 else 1
                sampling = replace(self.sampling, temperature=temperature)
                measured = self._measure(weights, samples, sampling, repeats)
                yield measured.with_context(step=step, phase=phase, split=split)

    def _measure(
        self,
        weights: Any,
        samples: Sequence[Sample],
        sampling: Sampling,
        repeats: int,
        settles: Settles | None = None,
        count: int = 1,
    ) -> Measurement:
        """The accuracy over `count` blocks, between which `settles` is asked. The seed of an answer
        depends on its place among `samples` and its number only, so measurements of different steps
        are paired."""
        started = time.perf_counter()
        asked = [sample for sample in samples for _ in range(repeats)]
        grader = Grader(asked, self.pool, self.options.max_failed_share)
        blocks = in_blocks(len(samples), repeats, count, sampling.seed)
        wanted, again = blocks.pop(0), False
        generated: dict[int, Answer] = {}
        retry, generating = 0, 0.0
        while True:
            generating += self._generate(weights, asked, generated, sampling, wanted, generating)
            measured, fault = self._verify(grader, generated, again)
            if fault is not None:
                self.log.say(f"the verifier failed, first on {fault}")
            measured = measured.with_context(
                retries=retry,
                temperature=sampling.temperature,
                samples_per_prompt=repeats,
                seconds=time.perf_counter() - started,
            )
            if measured.void:
                self.log.say(f"the measurement is {measured.describe()}")
                if retry == self.options.measurement_retries:
                    return measured
                retry, generating = retry + 1, 0.0
                wanted, again = [i for i in sorted(generated) if generated[i].unfinished], True
            elif not blocks or self._settled(settles, measured, count - 1):
                return measured
            else:
                wanted, again = blocks.pop(0), False

    def _settled(self, settles: Settles | None, measured: Measurement, looks: int) -> bool:
        """Whether the measurement may end before its next block. By what the root says: no rank may
        go on generating alone."""
        why = self.on_root(lambda: None if settles is None else settles(measured.outcome, looks))
        if why is not None:
            asked, planned = measured.total, len(measured.marks)
            self.log.say(f"the measurement ends after {asked} of {planned} answers: {why}")
        return why is not None

    def _generate(
        self,
        weights: Any,
        asked: list[Sample],
        generated: dict[int, Answer],
        sampling: Sampling,
        wanted: list[int],
        spent: float,
    ) -> float:
        """Fill in the answers of these numbers; returns the seconds it took. `spent`: seconds that
        other blocks have used up of the time for the whole measurement."""
        started = time.perf_counter()
        limit = self.options.generation_timeout
        answers = self.generate(
            weights,
            [asked[i].tokens[: asked[i].prompt_length].tolist() for i in wanted],
            sampling,
            numbers=wanted,
            timeout=None if limit is None else max(0.0, limit - spent),
        )
        generated.update(zip(wanted, answers, strict=True))
        seconds = time.perf_counter() - started
        self.log.spent("generation", seconds)
        return seconds

    def _verify(
        self, grader: Grader, generated: dict[int, Answer], again: bool
    ) -> tuple[Measurement, str | None]:
        """The measurement so far, and where the verifier first failed. Verified once: all ranks
        decide by the same figures, and by the same failure."""
        started = time.perf_counter()

        def grade() -> tuple[Measurement, str | None]:
            answers = [generated.get(i) for i in range(len(grader.samples))]
            return grader.grade(answers, again), grader.first_fault()

        result = self.on_root(grade)
        self.log.spent("verification", time.perf_counter() - started)
        return result
