# SPDX-License-Identifier: Apache-2.0
"""Rejection sampling (Appendix I): every sample is verified, one correct sample of each teacher to
each prompt is kept at random, and prompts without one are dropped.

What is kept depends on the seed and on the samples: not on their order, not on the number of
workers, not on other prompts. Only a verifier that runs out of time can make a difference.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from t3s_megatron.accuracy.gold import objections
from t3s_megatron.accuracy.pool import Limits, Question, VerifierPool
from t3s_megatron.accuracy.verifiers import entry
from t3s_megatron.data.thinking import join_thinking, split_thinking
from t3s_megatron.errors import DataError
from t3s_megatron.teacher_data.draw import draw
from t3s_megatron.teacher_data.traces import Asked, Trace

#: Samples given to the pool at a time, between two lines of progress.
_ROUND = 512


class Fate(enum.StrEnum):
    """What became of one sample."""

    CORRECT = "correct"
    WRONG = "wrong"
    TRUNCATED = "truncated"  # met a length limit, or its thinking never ends
    EMPTY = "empty"  # nothing in it, or nothing after the thinking
    MALFORMED = "malformed"  # thinking tags that do not pair up, or of another family
    UNPARSEABLE = "unparseable"  # the verifier found no answer in it
    TIMED_OUT = "timed_out"  # the verifier gave no verdict in time
    CRASHED = "crashed"  # the verifier raised, or its process died
    UNVERIFIED = "unverified"  # its prompt has no usable gold answer


class Dropped(enum.StrEnum):
    """Why nothing of a prompt is kept."""

    NO_GOLD = "no gold answer"
    CONFLICTING_GOLD = "gold answers that contradict each other"
    UNREADABLE_GOLD = "a gold answer that the verifier cannot use"
    NONE_CORRECT = "no correct sample"
    UNDECIDED = "no correct sample, and the verifier failed on some"


@dataclass(frozen=True)
class Result:
    """Of one teacher and prompt. `kept`: the trace to train on, or None and `dropped`; `fates` and
    `faults` (why a verifier failed, or None) go with `asked.traces`."""

    asked: Asked
    fates: tuple[Fate, ...]
    faults: tuple[str | None, ...]
    kept: Trace | None
    dropped: Dropped | None

    @property
    def n_correct(self) -> int:
        return self.fates.count(Fate.CORRECT)


@dataclass(frozen=True)
class _Gold:
    """`accuracy.gold.HasGold` of a prompt."""

    uid: str
    answer: str | None
    metadata: dict | None
    where: str


def verify_and_choose(
    asked: Sequence[Asked],
    verifier: str,
    limits: Limits,
    *,
    seed: int,
    thinking_required: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Result]:
    """One result for each of `asked`, in order.

    `thinking_required`: a sample without an end of thinking was cut off (teachers whose template
    opens the thinking, where no finish reason is known). T3SError when the verifier cannot be
    loaded, DataError when it can use no gold answer at all.
    """
    with VerifierPool(verifier, limits) as pool:
        reasons = _without_gold(asked, pool)
        fates: list[list[Fate]] = []
        questions: list[Question] = []
        places: list[tuple[int, int]] = []
        for number, one in enumerate(asked):
            fates.append([])
            for trace in one.traces:
                fate, answer = _before_verifying(trace, thinking_required)
                if fate is None and number not in reasons:
                    places.append((number, len(fates[number])))
                    questions.append(Question(answer, one.answer, one.meta))
                fates[number].append(fate or Fate.UNVERIFIED)
        faults: list[list[str | None]] = [[None] * len(one.traces) for one in asked]
        for start in range(0, len(questions), _ROUND):
            some = slice(start, start + _ROUND)
            verdicts = pool.verify(questions[some])
            for (number, sample), judged in zip(places[some], verdicts, strict=True):
                fates[number][sample] = Fate(judged.verdict.value)
                faults[number][sample] = judged.why
            progress(start + len(verdicts), len(questions))
    return [
        _choose(one, tuple(fates[number]), tuple(faults[number]), reasons.get(number), seed)
        for number, one in enumerate(asked)
    ]


def _without_gold(asked: Sequence[Asked], pool: VerifierPool) -> dict[int, Dropped]:
    """The numbers of those that cannot be verified, and why. DataError when none can."""
    in_metadata = entry(pool.spec).gold_in_metadata
    reasons: dict[int, Dropped] = {}
    usable: dict[int, _Gold] = {}
    for number, one in enumerate(asked):
        if one.answer is not None or (in_metadata and one.meta and not one.answers):
            usable[number] = _Gold(one.uid, one.answer, one.meta, one.places[0])
        else:
            reasons[number] = Dropped.CONFLICTING_GOLD if one.answers else Dropped.NO_GOLD
    told: dict[int, str] = {}
    for number, why in zip(usable, objections(list(usable.values()), pool), strict=True):
        if why is not None:
            reasons[number], told[number] = Dropped.UNREADABLE_GOLD, why
    if len(reasons) == len(asked):
        examples = sorted(asked[0].answers.values())
        raise DataError(
            f"not one of {len(asked)} prompts has a gold answer that {pool.spec} can use, first "
            f"{asked[0].places[0]}: {reasons[0]} {examples or ''} {told.get(0, '')}".rstrip()
        )
    return reasons


def _before_verifying(trace: Trace, thinking_required: bool) -> tuple[Fate | None, str]:
    """(what is known without a verifier, what the verifier is to read)."""
    if trace.flaw is not None:
        return Fate(trace.flaw.value), ""
    thought, answer = split_thinking(trace.response)
    if thinking_required and thought is None:
        return Fate.TRUNCATED, ""
    # An answer that stands in the thinking only is none: the student would learn to leave it there.
    return None, answer or ""


def _choose(
    asked: Asked,
    fates: tuple[Fate, ...],
    faults: tuple[str | None, ...],
    dropped: Dropped | None,
    seed: int,
) -> Result:
    correct = [t for t, fate in zip(asked.traces, fates, strict=True) if fate is Fate.CORRECT]
    if correct:
        return Result(asked, fates, faults, _one_of(correct, asked, seed), None)
    if dropped is None:
        failed = any(fate in (Fate.TIMED_OUT, Fate.CRASHED) for fate in fates)
        dropped = Dropped.UNDECIDED if failed else Dropped.NONE_CORRECT
    return Result(asked, fates, faults, None, dropped)


def _one_of(correct: list[Trace], asked: Asked, seed: int) -> Trace:
    """Uniform over the samples. Those with the same text count each, and are told apart by a number
    only: they are interchangeable, so that order still means nothing."""
    seen: Counter[str] = Counter()
    drawn = []
    for trace in correct:
        seen[trace.response] += 1
        identity = ("trace", asked.teacher, asked.key, trace.response, seen[trace.response])
        drawn.append((draw(seed, *identity), trace))
    return min(drawn, key=lambda one: one[0])[1]


def training_row(result: Result) -> dict:
    """What `--t3s-data` reads. The id names prompt and teacher, so that files of several can be put
    together."""
    assert result.kept is not None
    asked = result.asked
    thought, answer = split_thinking(result.kept.response)
    row = {
        "id": asked.uid if asked.teacher is None else f"{asked.uid}@{asked.teacher}",
        "prompt": asked.prompt,
        "response": join_thinking(thought, answer),
        "answer": asked.answer,
        "teacher": asked.teacher,
        "metadata": asked.meta,
    }
    return {key: value for key, value in row.items() if value is not None}
