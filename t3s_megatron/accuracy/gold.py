# SPDX-License-Identifier: Apache-2.0
"""Before a run: can the verifier be had, and what is its verdict on the gold answers themselves?

Gold that is not accepted as an answer to itself would make every answer wrong, and gold that
nonsense is accepted for would make every answer right: both are scored here, for every verifier.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NoReturn, Protocol

from t3s_megatron.accuracy.pool import Judged, Limits, Question, VerifierPool
from t3s_megatron.accuracy.verdicts import FAILURES, Verdict
from t3s_megatron.accuracy.verifiers import Builtin, entry
from t3s_megatron.errors import DataError


class HasGold(Protocol):
    """What is looked at in a sample."""

    @property
    def uid(self) -> str: ...
    @property
    def answer(self) -> str | None: ...
    @property
    def metadata(self) -> dict | None: ...
    @property
    def where(self) -> str: ...


def check_verifier(spec: str, sets: Sequence[Sequence[HasGold]], limits: Limits) -> frozenset[str]:
    """uids of the samples that are not to be asked, because `spec` cannot use their gold answers;
    `sets`: training, held-out, ...

    T3SError when the verifier is unknown or cannot be imported; DataError when a gold answer is of
    a form that it does not compare at all, hangs it or breaks it, or when a set has none left.
    """
    known = entry(spec)
    for samples in sets:
        check_gold(spec, samples)
    # Every rank does this, and has to come to the same end: one worker each where one will do.
    workers = limits.workers if known.all_workers else 1
    unusable: set[str] = set()
    with VerifierPool(spec, dataclasses.replace(limits, workers=workers)) as pool:
        if not known.local:
            pool.load()
        for samples in sets:
            judged = _judged(known, samples[: known.examined], pool)
            bad = [(sample, one.why) for sample, one in judged if one.why is not None]
            # Not left out like the others: another rank, or a resumed run, might be in time.
            faults = [(sample, one.why) for sample, one in judged if one.verdict in FAILURES]
            if faults or (bad and not (known.leaves_out and len(bad) < len(samples))):
                _refuse(spec, faults or bad)
            unusable |= {sample.uid for sample, _ in bad}
    return frozenset(unusable)


def check_gold(spec: str, samples: Sequence[HasGold]) -> None:
    """DataError when gold answers are of a form that `spec` cannot compare with."""
    unusable = entry(spec).unusable
    found = [(sample, unusable(sample.answer, sample.metadata)) for sample in samples]
    if bad := [(sample, why) for sample, why in found if why is not None]:
        _refuse(spec, bad)


def objections(samples: Sequence[HasGold], pool: VerifierPool) -> list[str | None]:
    """Why the verifier of `pool` cannot use the gold answer of each sample, in a few words; None
    where it can.

    T3SError when the verifier cannot be loaded.
    """
    known = entry(pool.spec)
    found = [known.unusable(sample.answer, sample.metadata) for sample in samples]
    well_formed = [i for i, why in enumerate(found) if why is None][: known.examined]
    judged = _judged(known, [samples[i] for i in well_formed], pool)
    for i, (_, one) in zip(well_formed, judged, strict=True):
        found[i] = one.why
    return found


def _judged(
    known: Builtin, samples: Sequence[HasGold], pool: VerifierPool
) -> list[tuple[HasGold, Judged]]:
    """What the verifier finds about the gold answer of each sample that it has a look at. `why`:
    None where there is nothing wrong with it."""
    if known.local:
        verify = known.make(pool.limits.timeout)
        judged = [Judged(*known.judge_gold(verify, s.answer, s.metadata)) for s in samples]
    else:
        judged = pool.verify([Question(None, s.answer, s.metadata) for s in samples])
    return [(s, _in_short(one, known)) for s, one in zip(samples, judged, strict=True)]


def _in_short(judged: Judged, known: Builtin) -> Judged:
    """A fault in one line. That of a user's own function says nothing of the gold answer, which was
    shown to it with nonsense."""
    if judged.verdict not in FAILURES:
        return judged
    if known.examined is not None:
        return Judged(Verdict.CORRECT)
    lines = (judged.why or "").strip().splitlines() or ["no reason given"]
    return Judged(judged.verdict, f"cannot be checked ({lines[-1][:200]})")


def _refuse(spec: str, bad: Sequence[tuple[HasGold, str | None]]) -> NoReturn:
    sample, why = bad[0]
    answer = sample.answer
    shown = repr(answer if answer is None or len(answer) <= 80 else f"{answer[:80]}...")
    raise DataError(
        f"--t3s-verifier {spec}: {len(bad)} gold answers cannot be used, first {sample.where}: "
        f"{'' if sample.answer is None and entry(spec).gold_in_metadata else shown + ' '}{why}"
    )
