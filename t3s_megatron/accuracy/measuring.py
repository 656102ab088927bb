# SPDX-License-Identifier: Apache-2.0
"""Accuracy of the live weights: generate answers on every rank, verify them on one.

When more answers fail than `--t3s-max-failed-share` allows, the measurement is void and what failed
is tried again: answers that generation did not finish are generated again, answers whose verifier
timed out or crashed are verified again. All of it with the seeds that it had: a retry that succeeds
gives the very figures of a measurement without faults, and measurements of different steps stay
paired. A fresh seed would let the faults choose which answers are counted. A measurement that stays
void is handed on as such. All of it lies between two training steps, so no checkpoint ever holds
half a measurement.

A measurement that looks for the minimum is asked in `--t3s-accuracy-blocks`, and ends after the
block that settles it (`accuracy.blocks`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from t3s_megatron.accuracy.backend import Backend
from t3s_megatron.accuracy.blocks import Settles, in_blocks
from t3s_megatron.accuracy.measurement import Answer, Grader, Measurement
from t3s_megatron.accuracy.pool import VerifierPool
from t3s_megatron.answering.live import LiveBackend
from t3s_megatron.answering.server import ServerBackend
from t3s_megatron.data.tokenizing import Sample
from t3s_megatron.errors import T3SError
from t3s_megatron.megatron import layout
from t3s_megatron.megatron.generation import Sampling
from t3s_megatron.megatron.seam import CallbackContext
from t3s_megatron.run.inputs import Inputs


class Measurer:
    """`spent(what, seconds)` is told what generation and verification took, `say(line)` what a
    person should know of faults. The processes that verify belong to rank `root`."""

    def __init__(
        self,
        inputs: Inputs,
        root: int,
        spent: Callable[[str, float], None],
        say: Callable[[str], None],
    ):
        self.inputs = inputs
        self.config = inputs.config
        self.root = root
        self.spent = spent
        self.say = say
        self.pool = VerifierPool(inputs.config.verifier, inputs.config.verify_limits)
        self.backend: Backend
        if inputs.config.generation == "server" and inputs.config.needs_answers:
            self.backend = ServerBackend(inputs, root, self._tell)
        else:
            self.backend = LiveBackend(inputs.tokenizer, root, self._tell)
        # How all ranks measure together; `flights` has the root measure alone.
        self.answers = self.backend.generate
        self.on_root = lambda work: layout.together(work)[root]

    def check(self, context: CallbackContext) -> None:
        """Before the first training step: T3SError on all ranks when no answer can be had."""
        self.backend.check(context)

    def close(self) -> None:
        """End the processes that verify, and leave nothing for a server."""
        self.pool.close()
        self.backend.close()

    @staticmethod
    def _tell(line: str) -> None:
        """What is of use while it happens, and belongs into no summary."""
        print(f"[t3s] {line}", flush=True)

    def training_accuracy(
        self,
        context: CallbackContext,
        *,
        step: int,
        phase: str,
        teacher: str | None = None,
        settles: Settles | None = None,
    ) -> Measurement:
        """What the bottleneck detector is shown: `--t3s-accuracy-prompts`, `--t3s-temperature`, on
        the prompts of `teacher` (None: of all).

        `settles`: asked between the blocks of the measurement whether it may end; without it there
        is one block. Collective over the world, the same result on every rank.
        """
        weights = self.backend.take(context, step=step)
        measured = self.measure(weights, step=step, phase=phase, teacher=teacher, settles=settles)
        self.backend.release(weights)
        return measured

    def measure(
        self,
        weights: Any,
        *,
        step: int,
        phase: str,
        teacher: str | None = None,
        settles: Settles | None = None,
    ) -> Measurement:
        """The training accuracy of `weights`, which the backend has taken."""
        config = self.config
        samples = self.inputs.asked(teacher, config.accuracy_prompts)
        measured = self._measure(
            weights, samples, config.temperature, config.accuracy_samples, settles
        )
        return measured.with_context(step=step, phase=phase, split="train")

    def evaluations(self, context: CallbackContext, *, step: int, phase: str):
        """Yields a Measurement of the whole training and held-out sets for each of
        `--t3s-report-temperatures`. Collective."""
        if not self.config.report_temperatures:
            return
        splits = {"train": self.inputs.asked(None)}
        if self.inputs.heldout is not None:
            splits["heldout"] = self.inputs.askable(self.inputs.heldout)
        weights = self.backend.take(context, step=step)
        for split, samples in splits.items():
            for temperature in self.config.report_temperatures:
                repeats = self.config.report_samples if temperature > 0 else 1
                measured = self._measure(weights, samples, temperature, repeats)
                yield measured.with_context(step=step, phase=phase, split=split)
        self.backend.release(weights)

    def _measure(
        self,
        weights: Any,
        samples: list[Sample],
        temperature: float,
        repeats: int,
        settles: Settles | None = None,
    ) -> Measurement:
        """`weights`: the backend's. The seed of an answer depends on its place among `samples` and
        its number only, so measurements of different steps are paired."""
        started = time.perf_counter()
        asked = [sample for sample in samples for _ in range(repeats)]
        grader = Grader(asked, self.pool, self.config.max_failed_share)
        count = 1 if settles is None else self.config.accuracy_blocks
        blocks = in_blocks(len(samples), repeats, count, self.config.seed)
        wanted, again = blocks.pop(0), False
        generated: dict[int, Answer] = {}
        retry, generating = 0, 0.0
        while True:
            generating += self._generate(weights, asked, generated, temperature, wanted, generating)
            measured, fault = self._verify(grader, generated, again)
            if fault is not None:
                self.say(f"the verifier failed, first on {fault}")
            measured = measured.with_context(
                retries=retry,
                temperature=temperature,
                samples_per_prompt=repeats,
                seconds=time.perf_counter() - started,
            )
            if measured.void:
                self.say(f"the measurement is {measured.describe()}")
                if retry == self.config.measurement_retries:
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

        def ask() -> str | None:
            if settles is None or layout.rank() != self.root:
                return None
            return settles(measured.outcome, looks)

        why = self.on_root(ask)
        if why is not None:
            asked, planned = measured.total, len(measured.marks)
            self.say(f"the measurement ends after {asked} of {planned} answers: {why}")
        return why is not None

    def _generate(
        self,
        weights: Any,
        asked: list[Sample],
        generated: dict[int, Answer],
        temperature: float,
        wanted: list[int],
        spent: float,
    ) -> float:
        """Fill in the answers of these numbers; returns the seconds it took. `spent`: seconds that
        other blocks have used up of the time for the whole measurement."""
        started = time.perf_counter()
        limit = self.config.generation_timeout
        sampling = Sampling(
            temperature=temperature,
            max_new_tokens=self.inputs.max_new_tokens,
            end_token=self.inputs.tokenizer.eos_token_id,
            seed=self.config.seed,
            vocab_size=len(self.inputs.tokenizer),
            batch_size=self.config.generation_batch_size,
        )
        prompts = [asked[i].tokens[: asked[i].prompt_length].tolist() for i in wanted]
        try:
            answers = self.answers(
                weights,
                prompts,
                sampling,
                numbers=wanted,
                timeout=None if limit is None else max(0.0, limit - spent),
            )
        except T3SError:  # on every rank
            raise
        except Exception as error:
            # The other ranks wait for this one, until its launcher ends them with it.
            error.add_note(f"[t3s] rank {layout.rank()} failed while it generated answers")
            raise
        for i, answer in zip(wanted, answers, strict=True):
            generated[i] = answer
        seconds = time.perf_counter() - started
        self.spent("generation", seconds)
        return seconds

    def _verify(
        self, grader: Grader, generated: dict[int, Answer], again: bool
    ) -> tuple[Measurement, str | None]:
        """The measurement so far, and where the verifier first failed; the same on every rank. One
        rank verifies: all ranks decide by the same figures, and by the same failure."""
        started = time.perf_counter()

        def grade() -> tuple[Measurement, str | None] | None:
            if layout.rank() != self.root:
                return None
            answers = [generated.get(i) for i in range(len(grader.samples))]
            return grader.grade(answers, again), grader.first_fault()

        result = self.on_root(grade)
        self.spent("verification", time.perf_counter() - started)
        return result
