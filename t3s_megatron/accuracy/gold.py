# SPDX-License-Identifier: Apache-2.0
"""Before a run: can the verifier be had, and can it read the gold answers?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from t3s_megatron.accuracy.code.tests import UnusableTests, read_tests
from t3s_megatron.accuracy.extraction import letter, number
from t3s_megatron.accuracy.pool import Limits, Question, VerifierPool
from t3s_megatron.accuracy.verifiers import FAILURES, Verdict, check_name
from t3s_megatron.errors import DataError

#: They import nothing but this package: nothing can go wrong, and no process has to try.
_OWN = ("exact", "numeric", "choice")


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
    """uids of the samples whose gold answer `spec` cannot read; `sets`: training, held-out, ...

    T3SError when the verifier is unknown or cannot be imported; DataError when a gold answer is of
    a form that it does not compare at all, hangs it or breaks it, or when a set has none left.
    """
    check_name(spec)
    for samples in sets:
        check_gold(spec, samples)
    if spec in _OWN:
        return frozenset()
    unusable: set[str] = set()
    # Every rank does this, and has to come to the same end: one worker each.
    with VerifierPool(spec, Limits(limits.timeout, 1, limits.memory)) as pool:
        pool.load()
        for samples in sets if spec == "math" else ():
            unreadable = _unreadable(spec, samples, pool)
            if len(unreadable) == len(samples):
                raise DataError(
                    f"--t3s-verifier {spec}: not one of {len(samples)} gold answers can be read, "
                    f"first {samples[0].where}: {samples[0].answer!r}"
                )
            unusable |= {sample.uid for sample in unreadable}
    return frozenset(unusable)


def check_gold(spec: str, samples: Sequence[HasGold]) -> None:
    """DataError when gold answers are of a form that `spec` cannot compare with."""
    if spec == "numeric":
        bad = [s for s in samples if number(s.answer) is None]
        what = "is not a number"
    elif spec == "choice":
        bad = [s for s in samples if letter(s.answer or "") is None]
        what = "is not the letter of an option"
    elif spec == "code":
        for sample in samples:
            try:
                read_tests(sample.answer, sample.metadata)
            except UnusableTests as error:
                raise DataError(
                    f"--t3s-verifier code: the unit tests of {sample.where} cannot be used: {error}"
                ) from None
        return
    elif spec == "reasoning-gym":
        bad = [s for s in samples if not (s.metadata or {}).get("source_dataset")]
        what = "has no metadata.source_dataset, which names the scorer"
    else:
        return
    if bad:
        raise DataError(
            f"--t3s-verifier {spec}: {len(bad)} gold answers cannot be used, first {bad[0].where}: "
            f"{bad[0].answer!r} {what}"
        )


def readable(spec: str, samples: Sequence[HasGold], pool: VerifierPool) -> list[bool]:
    """Of each sample: whether `spec`, which is `pool`'s, can read its gold answer: whether it takes
    it for an answer to itself. True for verifiers that this is not known of.

    T3SError when the verifier cannot be loaded.
    """
    if spec not in (*_OWN, "math"):
        return [True] * len(samples)
    return [one.verdict is Verdict.CORRECT for one in pool.verify(_itself(samples))]


def _unreadable(spec: str, samples: Sequence[HasGold], pool: VerifierPool) -> list[HasGold]:
    """Samples whose gold answer is not accepted as an answer to itself."""
    judged = pool.verify(_itself(samples))
    for sample, one in zip(samples, judged, strict=True):
        # Not left out like the others: another rank, or a resumed run, might be in time.
        if one.verdict in FAILURES:
            raise DataError(
                f"--t3s-verifier {spec}: the gold answer {sample.answer!r} of {sample.where} "
                f"cannot be checked ({one.why}). Take it out, or write it in a simpler form"
            )
    return [s for s, one in zip(samples, judged, strict=True) if one.verdict is not Verdict.CORRECT]


def _itself(samples: Sequence[HasGold]) -> list[Question]:
    return [Question(f"\\boxed{{{s.answer}}}", s.answer, s.metadata) for s in samples]
