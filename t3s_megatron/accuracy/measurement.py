# SPDX-License-Identifier: Apache-2.0
"""Accuracy of a set of answers, with everything that was not simply wrong counted apart."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

from t3s_megatron.accuracy.verifiers import Verdict, Verifier
from t3s_megatron.data.tokenizing import Sample


@dataclass(frozen=True)
class Answer:
    """A generated response; `truncated`: it met the length limit before its end token."""

    text: str
    tokens: int
    truncated: bool


@dataclass(frozen=True)
class Measurement:
    """total = correct + wrong + truncated + unparseable + failed."""

    total: int
    correct: int
    wrong: int
    truncated: int
    unparseable: int
    failed: int
    generated_tokens: int
    step: int = 0
    phase: str = ""
    split: str = "train"
    temperature: float = 0.0
    samples_per_prompt: int = 1
    seconds: float = 0.0

    @property
    def accuracy(self) -> float:
        return self.correct / self.total

    @property
    def standard_error(self) -> float:
        """Binomial; answers to one prompt are treated as independent."""
        p = self.accuracy
        return math.sqrt(p * (1 - p) / self.total)

    def with_context(self, **context) -> Measurement:
        return replace(self, **context)

    def to_dict(self) -> dict:
        return asdict(self) | {
            "accuracy": self.accuracy,
            "standard_error": self.standard_error,
        }


def grade(answers: list[Answer], samples: list[Sample], verifier: Verifier) -> Measurement:
    """Verify answers[i] against samples[i]. A truncated answer is not verified: it has no end.

    ValueError when there is nothing to grade, or not one sample to each answer.
    """
    if not answers:
        raise ValueError("nothing to grade: an accuracy needs at least one answer")
    verdicts = [
        None if answer.truncated else verifier(answer.text, sample)
        for answer, sample in zip(answers, samples, strict=True)
    ]
    return Measurement(
        total=len(verdicts),
        correct=verdicts.count(Verdict.CORRECT),
        wrong=verdicts.count(Verdict.WRONG),
        truncated=verdicts.count(None),
        unparseable=verdicts.count(Verdict.UNPARSEABLE),
        failed=verdicts.count(Verdict.FAILED),
        generated_tokens=sum(answer.tokens for answer in answers),
    )
