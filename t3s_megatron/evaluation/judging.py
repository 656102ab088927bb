# SPDX-License-Identifier: Apache-2.0
"""Verdicts of a student's answers, each looked for once: they are kept beside the answers.

What is verified is what follows the thinking, as in an accuracy measurement of a run. An answer
that met its length limit, or that never left its thinking, has no end and is not right; one that a
fault took is unknown, and asked for again by the next call.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from t3s_megatron.accuracy.gold import objections
from t3s_megatron.accuracy.measurement import mark_of
from t3s_megatron.accuracy.pool import Question, VerifierPool
from t3s_megatron.accuracy.verdicts import FAILURES, Verdict
from t3s_megatron.data.finish import End, end_of
from t3s_megatron.data.thinking import answer_of
from t3s_megatron.errors import DataError
from t3s_megatron.method.outcome import UNKNOWN
from t3s_megatron.monitor.comparison import Answers, total_tokens
from t3s_megatron.teacher_data.prompts import Prompt
from t3s_megatron.teacher_data.sample_file import SampleFile

#: Answers given to the pool at a time, between two that are kept.
_ROUND = 256


@dataclass(frozen=True)
class Judgement:
    """`fates`: how many answers had each verdict; `missing`: answers that there are none of."""

    answers: Answers
    fates: dict[str, int]
    missing: int


def usable(
    prompts: Sequence[Prompt], pool: VerifierPool
) -> tuple[list[Prompt], list[tuple[str, str]]]:
    """Prompts whose gold answer the verifier can use, and (id, why not) of the others. DataError
    when there is none."""
    why = objections(list(prompts), pool)
    asked = [prompt for prompt, no in zip(prompts, why, strict=True) if no is None]
    out = [(prompt.uid, no) for prompt, no in zip(prompts, why, strict=True) if no is not None]
    if not asked:
        raise DataError(
            f"{prompts[0].where}: {pool.spec} can use none of the gold answers: {out[0][1]}"
        )
    return asked, out


def judge(
    prompts: Sequence[Prompt],
    k: int,
    rows: Sequence[dict],
    kept: SampleFile,
    pool: VerifierPool,
    say: Callable[[str], None],
) -> Judgement:
    """Of `rows`, as `teacher_data.generating` writes them: `k` samples of each of `prompts`."""
    by_place = {(row["id"], row["sample"]): row for row in rows}
    known: dict[tuple[str, int], Verdict] = {}
    for _, line in kept.rows():
        place = (line["id"], line["sample"])
        if place in by_place and line["of"] == _identity(by_place[place], pool.spec):
            known[place] = Verdict(line["verdict"])
    asked = {prompt.uid: prompt for prompt in prompts}
    new: list[tuple[tuple[str, int], Question]] = []
    for place, row in by_place.items():
        prompt = asked.get(place[0])
        if prompt is None or known.get(place) not in (None, *FAILURES):
            continue
        said = answer_of(row["response"])
        if end_of(row["finish_reason"]) is End.LENGTH or said is None:
            known[place] = Verdict.TRUNCATED
        else:
            new.append((place, Question(said, prompt.answer, prompt.metadata)))
    for start in range(0, len(new), _ROUND):
        some = new[start : start + _ROUND]
        for (place, _), judged in zip(some, pool.verify([q for _, q in some]), strict=True):
            known[place] = judged.verdict
            if judged.why is not None:
                say(f"{place[0]}, answer {place[1]}: {judged.why}")
            line = {"id": place[0], "sample": place[1], "verdict": judged.verdict.value}
            kept.append(line | {"of": _identity(by_place[place], pool.spec)})
        if len(new) > _ROUND:
            say(f"{start + len(some)} of {len(new)} answers verified")
    places = [(prompt.uid, number) for prompt in prompts for number in range(k)]
    verdicts = [known.get(place) for place in places]
    counted = [by_place[place].get("tokens") for place in places if place in by_place]
    return Judgement(
        Answers(
            marks="".join(UNKNOWN if verdict is None else mark_of(verdict) for verdict in verdicts),
            k=k,
            problems=_problems(prompts),
            total=len(counted),
            truncated=verdicts.count(Verdict.TRUNCATED),
            tokens=total_tokens(counted),
        ),
        dict(Counter(verdict.value for verdict in verdicts if verdict is not None)),
        verdicts.count(None),
    )


def _identity(row: dict, verifier: str) -> str:
    """Of what a verdict is about."""
    text = "\0".join((verifier, row["response"], str(row.get("answer")), str(row.get("metadata"))))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _problems(prompts: Sequence[Prompt]) -> str:
    """16 hex digits: the same problems with the same gold answers, in the same order."""
    text = "\0".join(f"{prompt.key}\0{prompt.answer}" for prompt in prompts)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
