# SPDX-License-Identifier: Apache-2.0
"""Accuracy of a set of answers, with everything that was not simply wrong counted apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from t3s_megatron.accuracy.answers import Answer
from t3s_megatron.accuracy.pool import Judged, Question, VerifierPool
from t3s_megatron.accuracy.verdicts import FAILURES, Verdict
from t3s_megatron.data.thinking import answer_of
from t3s_megatron.data.tokenizing import Sample
from t3s_megatron.method.outcome import NOT_ASKED, RIGHT, UNKNOWN, WRONG, Outcome


@dataclass(frozen=True)
class Measurement:
    """`total` is the sum of the eight counts that have the names of `Verdict`.

    `void`: more answers failed than --t3s-max-failed-share allows, so that the figures say nothing
    of the student. `retries`: how often what had failed was tried again. `marks`: those of
    `method.outcome`, one an answer, and also for each that was not asked for because the
    measurement ended early; `total` does not count those. `forwards`: of all answers that were
    generated, None where each forward sets one token (`answers.Answer`); `blocks`: of all answers,
    None where they have none.
    """

    total: int
    correct: int
    wrong: int
    truncated: int
    unparseable: int
    timed_out: int
    crashed: int
    unfinished: int
    skipped: int
    generated_tokens: int
    forwards: int | None = None
    blocks: int | None = None
    marks: str = ""
    void: bool = False
    retries: int = 0
    step: int = 0
    phase: str = ""
    split: str = "train"
    temperature: float = 0.0
    samples_per_prompt: int = 1
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        """Answers that a fault has taken."""
        return self.timed_out + self.crashed + self.unfinished

    @property
    def judged(self) -> int:
        return self.total - self.failed - self.skipped

    @property
    def accuracy(self) -> float:
        """Share of correct answers among those that were judged: a fault is not a wrong answer. NaN
        for a void measurement."""
        return math.nan if self.void else self.correct / self.judged

    @property
    def standard_error(self) -> float:
        """Binomial; answers to one prompt are treated as independent. NaN for a void one."""
        p = self.accuracy
        return math.nan if self.void else math.sqrt(p * (1 - p) / self.judged)

    @property
    def tokens_per_forward(self) -> float | None:
        """Tokens of answers, without what stands behind their ends, by forward; None where no
        forward was counted."""
        return self.generated_tokens / self.forwards if self.forwards else None

    @property
    def outcome(self) -> Outcome:
        """What the bottleneck detector goes by."""
        return Outcome(self.accuracy, self.marks, self.samples_per_prompt, self.truncated)

    def with_context(self, **context) -> Measurement:
        return replace(self, **context)

    def to_dict(self) -> dict:
        """Without the figures that a void measurement does not have: they are None."""
        return asdict(self) | {
            "tokens_per_forward": self.tokens_per_forward,
            "accuracy": None if self.void else self.accuracy,
            "standard_error": None if self.void else self.standard_error,
        }

    def describe(self) -> str:
        """For a person: "0.750 +- 0.097 (15/20, 1 truncated, 2 timed out)"; with forwards that set
        several tokens also "40.1 tokens an answer, 1.31 a forward"."""
        others = [
            f"{count} {word}"
            for count, word in (
                (self.truncated, "truncated"),
                (self.unparseable, "unparseable"),
                (self.timed_out, "timed out"),
                (self.crashed, "crashed"),
                (self.unfinished, "unfinished"),
                (self.skipped, "skipped"),
            )
            if count or word == "truncated"
        ]
        if self.tokens_per_forward is not None:
            others.append(
                f"{self.generated_tokens / self.total:.1f} tokens an answer, "
                f"{self.tokens_per_forward:.2f} a forward"
            )
        if not_asked := self.marks.count(NOT_ASKED):
            others.append(f"{not_asked} not asked")
        if self.retries:
            others.append("1 retry" if self.retries == 1 else f"{self.retries} retries")
        if self.void:
            return f"void: {self.failed} of {self.total} answers failed ({', '.join(others)})"
        counts = f"{self.correct}/{self.judged}"
        figures = f"{self.accuracy:.3f} +- {self.standard_error:.3f}"
        return f"{figures} ({', '.join([counts, *others])})"


def may_fail(total: int, max_failed_share: float) -> int:
    """How many of `total` answers may fail before their measurement is void."""
    # Not one too few because 0.1 * 30 is 3.0000000000000004 here and 2.9999999999999996 there.
    return math.floor(total * max_failed_share + 1e-9)


def measure(
    answers: Sequence[Answer | None], verdicts: Sequence[Verdict | None], max_failed_share: float
) -> Measurement:
    """Count what became of each answer; None for what was not asked. ValueError when there is no
    answer, or not one verdict each. A measurement that ended early may have as many faults as the
    whole of it."""
    asked = [answer for answer in answers if answer is not None]
    if not asked:
        raise ValueError("nothing to measure: an accuracy needs at least one answer")
    if len(answers) != len(verdicts):
        raise ValueError(f"{len(verdicts)} verdicts of {len(answers)} answers")
    # Any: its keys are the fields of Measurement that are named as the verdicts.
    counts: dict[str, Any] = {verdict.value: 0 for verdict in Verdict}
    for verdict in verdicts:
        if verdict is not None:
            counts[verdict.value] += 1
    failed = sum(counts[failure.value] for failure in FAILURES)
    # Something skipped is something unknown, and of nothing judged there is no share.
    void = failed > may_fail(len(answers), max_failed_share) or counts[Verdict.SKIPPED] > 0
    void = void or failed == len(asked)
    return Measurement(
        total=len(asked),
        generated_tokens=sum(answer.tokens for answer in asked),
        forwards=_sum_of_known(answer.forwards for answer in asked),
        blocks=_sum_of_known(answer.blocks for answer in asked),
        marks="".join(map(mark_of, verdicts)),
        void=void,
        **counts,
    )


def _sum_of_known(counts: Iterable[int | None]) -> int | None:
    """None where none is known."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


_UNKNOWN = (*FAILURES, Verdict.SKIPPED)


def mark_of(verdict: Verdict | None) -> str:
    """One of `method.outcome`'s; None: it was not asked for."""
    if verdict is None:
        return NOT_ASKED
    if verdict in _UNKNOWN:
        return UNKNOWN
    return RIGHT if verdict is Verdict.CORRECT else WRONG


class Grader:
    """The verdicts of one measurement, over its first attempt and its retries."""

    def __init__(self, samples: Sequence[Sample], pool: VerifierPool, max_failed_share: float):
        self.samples = samples
        self.pool = pool
        self.max_failed_share = max_failed_share
        self.judged: list[Judged | None] = [None] * len(samples)

    def grade(self, answers: Sequence[Answer | None], again: bool = True) -> Measurement:
        """answers[i] is to samples[i], None as long as it has not been asked for. Called again,
        only what is new is judged, and with `again` what had failed: give the same answers, or new
        ones where one was unfinished.

        Truncated and unfinished answers are not verified: they have no end. What is verified is
        what follows the thinking; where that never ends there is no answer.
        """
        to_verify: list[tuple[int, str]] = []
        failed = 0
        for i, (answer, before) in enumerate(zip(answers, self.judged, strict=True)):
            if answer is None:
                continue
            if answer.unfinished:
                self.judged[i] = Judged(Verdict.UNFINISHED)
                failed += 1
            elif answer.truncated:
                self.judged[i] = Judged(Verdict.TRUNCATED)
            elif before is None or (again and before.verdict in _UNKNOWN):
                said = answer_of(answer.text, opened=self.samples[i].opens_thinking)
                if said is None:
                    self.judged[i] = Judged(Verdict.UNPARSEABLE)
                else:
                    to_verify.append((i, said))
            else:
                failed += before.verdict in _UNKNOWN
        allowed = may_fail(len(answers), self.max_failed_share) - failed
        questions = [
            Question(said, self.samples[i].answer, self.samples[i].metadata)
            for i, said in to_verify
        ]
        if allowed < 0:  # void already
            verdicts = [Judged(Verdict.SKIPPED)] * len(questions)
        else:
            verdicts = self.pool.verify(questions, allowed)
        for (i, _), judged in zip(to_verify, verdicts, strict=True):
            self.judged[i] = judged
        verdicts_of_all = [None if one is None else one.verdict for one in self.judged]
        return measure(answers, verdicts_of_all, self.max_failed_share)

    def first_fault(self) -> str | None:
        """Where the verifier first failed, and why; None when it did not."""
        for sample, judged in zip(self.samples, self.judged, strict=True):
            if judged is not None and judged.why is not None:
                return f"{sample.where}: {judged.why}"
        return None
