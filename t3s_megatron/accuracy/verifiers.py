# SPDX-License-Identifier: Apache-2.0
"""Verifiers: a response and its sample in, a verdict out. They never raise.

`exact`, `numeric`, `reasoning-gym`, or `package.module:function` of your own.
"""

from __future__ import annotations

import enum
import importlib
from collections.abc import Callable

from t3s_megatron.accuracy.extraction import boxed, final_answer, last_number, number, tagged
from t3s_megatron.data.tokenizing import Sample
from t3s_megatron.errors import DataError, T3SError


class Verdict(str, enum.Enum):
    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSEABLE = "unparseable"  # no answer found in the response
    FAILED = "failed"  # the verifier itself broke


Verifier = Callable[[str, Sample], Verdict]


def make_verifier(spec: str) -> Verifier:
    """The verifier named `spec`. T3SError when it is unknown or cannot be imported."""
    if spec in _BUILT_IN:
        return _never_raise(_BUILT_IN[spec]())
    if ":" in spec:
        return _never_raise(_user_function(spec))
    names = ", ".join(sorted(_BUILT_IN))
    raise T3SError(
        f"--t3s-verifier {spec}: unknown. Choose {names}, or package.module:function of your own"
    )


def check_gold(spec: str, samples: list[Sample]) -> None:
    """DataError when gold answers are of a form that `spec` cannot compare with."""
    if spec == "numeric":
        bad = [s for s in samples if number(s.answer) is None]
        what = "is not a number"
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


def _never_raise(verify: Verifier) -> Verifier:
    def verified(text: str, sample: Sample) -> Verdict:
        try:
            return verify(text, sample)
        except Exception:  # a verdict on the answer must not depend on a bug in the verifier
            return Verdict.FAILED

    return verified


def _exact() -> Verifier:
    def verify(text: str, sample: Sample) -> Verdict:
        found = final_answer(text)
        if found is None:
            return Verdict.UNPARSEABLE
        same = found.split() == sample.answer.split()
        return Verdict.CORRECT if same else Verdict.WRONG

    return verify


def _numeric() -> Verifier:
    def verify(text: str, sample: Sample) -> Verdict:
        for marked in (boxed(text), tagged(text)):
            if marked is not None:
                found = number(marked)
                break
        else:
            found = last_number(text)
        if found is None:
            return Verdict.UNPARSEABLE
        return Verdict.CORRECT if found == number(sample.answer) else Verdict.WRONG

    return verify


def _reasoning_gym() -> Verifier:
    try:
        import reasoning_gym
    except ImportError as error:
        raise T3SError(
            '--t3s-verifier reasoning-gym needs the package: pip install "t3s-megatron[tiny]"'
        ) from error

    def verify(text: str, sample: Sample) -> Verdict:
        answer = tagged(text)
        answer = boxed(text) if answer is None else answer
        if answer is None:
            return Verdict.UNPARSEABLE
        score = reasoning_gym.get_score_answer_fn(sample.metadata["source_dataset"])
        entry = {"question": "", "answer": sample.answer, "metadata": sample.metadata}
        return Verdict.CORRECT if score(answer=answer, entry=entry) == 1.0 else Verdict.WRONG

    return verify


def _user_function(spec: str) -> Verifier:
    module_name, _, function_name = spec.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise T3SError(f"--t3s-verifier {spec}: cannot be imported ({error})") from error

    def verify(text: str, sample: Sample) -> Verdict:
        score = function(text, sample.answer, sample.metadata)
        return Verdict.CORRECT if float(score) == 1.0 else Verdict.WRONG

    return verify


_BUILT_IN = {"exact": _exact, "numeric": _numeric, "reasoning-gym": _reasoning_gym}
