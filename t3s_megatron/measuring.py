# SPDX-License-Identifier: Apache-2.0
"""Accuracy of the live weights: generate answers on every rank, verify them on one."""

from __future__ import annotations

import time
from collections.abc import Callable

from t3s_megatron.accuracy.measurement import Answer, Measurement, grade
from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.tokenizing import Sample
from t3s_megatron.megatron import layout
from t3s_megatron.megatron.generation import Generated, Sampling, generate
from t3s_megatron.megatron.seam import CallbackContext
from t3s_megatron.prepare import Prepared


class Measurer:
    """`spent(what, seconds)` is told what generation and verification took."""

    def __init__(self, prepared: Prepared, root: int, spent: Callable[[str, float], None]):
        self.prepared = prepared
        self.config = prepared.config
        self.root = root
        self.spent = spent

    def training_accuracy(self, context: CallbackContext, *, step: int, phase: str) -> Measurement:
        """What the bottleneck detector is shown: `--t3s-accuracy-prompts`, `--t3s-temperature`.

        Collective over the world, the same result on every rank.
        """
        config, samples = self.config, self.prepared.corpus.samples
        if config.accuracy_prompts:
            samples = samples[: config.accuracy_prompts]
        measured = self._measure(context, samples, config.temperature, config.accuracy_samples)
        return measured.with_context(step=step, phase=phase, split="train")

    def evaluations(self, context: CallbackContext, *, step: int, phase: str):
        """Yields a Measurement of the whole training and held-out sets for each of
        `--t3s-report-temperatures`. Collective."""
        corpora: dict[str, Corpus | None] = {
            "train": self.prepared.corpus,
            "heldout": self.prepared.heldout,
        }
        for split, corpus in corpora.items():
            if corpus is None:
                continue
            for temperature in self.config.report_temperatures:
                repeats = self.config.report_samples if temperature > 0 else 1
                measured = self._measure(context, corpus.samples, temperature, repeats)
                yield measured.with_context(step=step, phase=phase, split=split)

    def _measure(
        self, context: CallbackContext, samples: list[Sample], temperature: float, repeats: int
    ) -> Measurement:
        """The seed of an answer depends on its place among `samples` and its number only, so
        measurements of different steps are paired."""
        started = time.perf_counter()
        asked = [sample for sample in samples for _ in range(repeats)]
        sampling = Sampling(
            temperature=temperature,
            max_new_tokens=self.prepared.max_new_tokens,
            end_token=self.prepared.tokenizer.eos_token_id,
            seed=self.config.seed,
            vocab_size=len(self.prepared.tokenizer),
            batch_size=self.config.generation_batch_size,
        )
        prompts = [sample.tokens[: sample.prompt_length].tolist() for sample in asked]
        generated = generate(context, prompts, sampling)
        generation_seconds = time.perf_counter() - started
        result = None
        if layout.rank() == self.root:  # one rank verifies: all ranks decide by the same numbers
            result = self._grade(generated, asked).with_context(
                temperature=temperature,
                samples_per_prompt=repeats,
                seconds=time.perf_counter() - started,
            )
        result = layout.broadcast(result, self.root)
        self.spent("generation", generation_seconds)
        self.spent("verification", result.seconds - generation_seconds)
        return result

    def _grade(self, generated: list[Generated], asked: list[Sample]) -> Measurement:
        answers = [
            Answer(str(self.prepared.tokenizer.decode(one.tokens)), len(one.tokens), one.truncated)
            for one in generated
        ]
        assert self.prepared.verifier is not None  # there is one where anything is generated
        return grade(answers, asked, self.prepared.verifier)
