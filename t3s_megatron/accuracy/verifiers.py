# SPDX-License-Identifier: Apache-2.0
"""Verifiers: a response and its sample in, a verdict out. They never raise.

`exact`, `numeric`, `reasoning-gym`, or `package.module:function` of your own.
"""

from __future__ import annotations

import enum
import functools
import importlib
import logging
from collections.abc import Callable

from t3s_megatron.accuracy.extraction import boxed, final_answer, last_number, number, tagged
from t3s_megatron.data.tokenizing import Sample
from t3s_megatron.errors import DataError, T3SError

_log = logging.getLogger(__name__)


class Verdict(enum.StrEnum):
    """What a verifier says of one response."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSEABLE = "unparseable"  # no answer found in the response
    FAILED = "failed"  # the verifier itself broke


#: (response text, its sample) -> verdict
Verifier = Callable[[str, Sample], Verdict]


def make_verifier(spec: str) -> Verifier:
    """The verifier named `spec`. T3SError when it is unknown or cannot be imported.

    An exception inside it becomes FAILED; the first one is logged with its traceback.
    """
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
    told = False

    def verified(text: str, sample: Sample) -> Verdict:
        nonlocal told
        try:
            return verify(text, sample)
        except Exception:  # a bug in a verifier must not end a run of hours
            if not told:  # once: it may happen for every answer of every measurement
                told = True
                _log.warning("the verifier failed on %s", sample.where, exc_info=True)
            return Verdict.FAILED

    return verified


def _exact() -> Verifier:
    def verify(text: str, sample: Sample) -> Verdict:
        found = final_answer(text)
        if found is None:
            return Verdict.UNPARSEABLE
        assert sample.answer is not None  # Corpus.require_answers
        same = _words(found) == _words(sample.answer)
        return Verdict.CORRECT if same else Verdict.WRONG

    return verify


def _words(text: str) -> list[str]:
    """Blind to white space and to one final full stop, on both sides alike."""
    return text.strip().removesuffix(".").split()


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

    # Making a scorer makes its whole data set object.
    scorer = functools.cache(reasoning_gym.get_score_answer_fn)

    def verify(text: str, sample: Sample) -> Verdict:
        answer = tagged(text)
        answer = boxed(text) if answer is None else answer
        if answer is None:
            return Verdict.UNPARSEABLE
        metadata = sample.metadata
        assert metadata is not None  # check_gold
        score = scorer(metadata["source_dataset"])
        question = metadata.get("question", "")
        entry = {"question": question, "answer": sample.answer, "metadata": metadata}
        return Verdict.CORRECT if score(answer=answer, entry=entry) == 1.0 else Verdict.WRONG

    return verify


def _user_function(spec: str) -> Verifier:
    module_name, _, function_name = spec.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # importing runs the user's module, which may raise anything
        raise T3SError(
            f"--t3s-verifier {spec}: cannot be imported ({type(error).__name__}: {error}); it has "
            "to be package.module:function, with the package on PYTHONPATH"
        ) from error
    if not callable(function):
        raise T3SError(f"--t3s-verifier {spec}: is not a function")

    def verify(text: str, sample: Sample) -> Verdict:
        score = function(text, sample.answer, sample.metadata)
        return Verdict.CORRECT if float(score) == 1.0 else Verdict.WRONG

    return verify


_BUILT_IN = {"exact": _exact, "numeric": _numeric, "reasoning-gym": _reasoning_gym}
