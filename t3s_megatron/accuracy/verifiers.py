# SPDX-License-Identifier: Apache-2.0
"""Verifiers: a response, its gold answer and its metadata in, a verdict out.

`exact`, `numeric`, `choice`, `math`, `reasoning-gym`, or `package.module:function` of your own.
They run in worker processes (`accuracy.pool`) and may raise: an answer whose verifier broke is not
wrong.
"""

from __future__ import annotations

import enum
import functools
import importlib
from collections.abc import Callable

from t3s_megatron.accuracy.extraction import (
    boxed,
    final_answer,
    last_number,
    letter,
    number,
    tagged,
)
from t3s_megatron.errors import T3SError


class Verdict(enum.StrEnum):
    """What became of one answer."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSEABLE = "unparseable"  # no answer found in the response
    TRUNCATED = "truncated"  # met the length limit before its end token: it has no answer
    TIMED_OUT = "timed_out"  # the verifier gave no verdict in time
    CRASHED = "crashed"  # the verifier raised, or its process died
    UNFINISHED = "unfinished"  # generation ran out of time
    SKIPPED = "skipped"  # not looked at, because the measurement was void already


#: An answer that a fault has taken: it says nothing about the student.
FAILURES = (Verdict.TIMED_OUT, Verdict.CRASHED, Verdict.UNFINISHED)

#: (response text, gold answer, metadata of the sample) -> CORRECT, WRONG or UNPARSEABLE
Verifier = Callable[[str, str, dict | None], Verdict]


def check_name(spec: str) -> None:
    """T3SError when `spec` is no verifier's name and no dotted path. Imports nothing."""
    if spec not in (*_BUILT_IN, "code") and ":" not in spec:
        names = ", ".join((*_BUILT_IN, "code"))
        raise T3SError(
            f"--t3s-verifier {spec}: unknown. Choose {names}, or package.module:function of your "
            "own"
        )


def make_verifier(spec: str, timeout: float = 30.0) -> Verifier:
    """The verifier named `spec`; `timeout`: seconds that it will have for one answer. T3SError when
    it is unknown, cannot be imported, or cannot work on this machine."""
    check_name(spec)
    if spec == "code":
        return _code(timeout)
    return _BUILT_IN[spec]() if spec in _BUILT_IN else _user_function(spec)


def _exact() -> Verifier:
    def verify(text: str, answer: str, metadata: dict | None) -> Verdict:
        found = final_answer(text)
        if found is None:
            return Verdict.UNPARSEABLE
        return _verdict(_words(found) == _words(answer))

    return verify


def _words(text: str) -> list[str]:
    """Blind to white space and to one final full stop, on both sides alike."""
    return text.strip().removesuffix(".").split()


def _numeric() -> Verifier:
    def verify(text: str, answer: str, metadata: dict | None) -> Verdict:
        for marked in (boxed(text), tagged(text)):
            if marked is not None:
                found = number(marked)
                break
        else:
            found = last_number(text)
        if found is None:
            return Verdict.UNPARSEABLE
        return _verdict(found == number(answer))

    return verify


def _choice() -> Verifier:
    def verify(text: str, answer: str, metadata: dict | None) -> Verdict:
        found = letter(final_answer(text) or "")
        return Verdict.UNPARSEABLE if found is None else _verdict(found == letter(answer))

    return verify


def _math() -> Verifier:
    try:
        from t3s_megatron.accuracy.mathematics import parse, same
    except ImportError as error:
        raise T3SError(
            '--t3s-verifier math needs math-verify: pip install "t3s-megatron[verification]"'
        ) from error

    def verify(text: str, answer: str, metadata: dict | None) -> Verdict:
        found = parse(text)
        if not found:
            return Verdict.UNPARSEABLE
        gold = parse(f"\\boxed{{{answer}}}")
        if not gold:
            raise ValueError(f"the gold answer {answer!r} cannot be parsed")
        return _verdict(same(gold, found))

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

    def verify(text: str, answer: str, metadata: dict | None) -> Verdict:
        found = tagged(text)
        found = boxed(text) if found is None else found
        if found is None:
            return Verdict.UNPARSEABLE
        assert metadata is not None  # checked with the gold answers
        score = scorer(metadata["source_dataset"])
        question = metadata.get("question", "")
        entry = {"question": question, "answer": answer, "metadata": metadata}
        return _verdict(score(answer=found, entry=entry) == 1.0)

    return verify


def _code(timeout: float) -> Verifier:
    from t3s_megatron.accuracy.code.tests import read_tests

    try:
        # Of Linux only: elsewhere it ends with what is missing.
        from t3s_megatron.accuracy.code import programs

        programs.check_here()
    except (RuntimeError, OSError, AttributeError) as error:
        raise T3SError(
            f"--t3s-verifier code: a program cannot be shut in on this machine ({error}). It needs "
            "Linux 5.12 with user namespaces for unprivileged users: see user.max_user_namespaces "
            "and kernel.apparmor_restrict_unprivileged_userns, or the container's seccomp profile. "
            "Nothing is run without; to run it elsewhere, give package.module:function of your own"
        ) from error

    def verify(text: str, answer: str | None, metadata: dict | None) -> Verdict:
        program = programs.last_program(text)
        if program is None:
            return Verdict.UNPARSEABLE
        return _verdict(programs.passes(program, read_tests(answer, metadata), timeout))

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

    def verify(text: str, answer: str, metadata: dict | None) -> Verdict:
        return _verdict(float(function(text, answer, metadata)) == 1.0)

    return verify


def _verdict(correct: bool) -> Verdict:
    return Verdict.CORRECT if correct else Verdict.WRONG


_BUILT_IN = {
    "exact": _exact,
    "numeric": _numeric,
    "choice": _choice,
    "math": _math,
    "reasoning-gym": _reasoning_gym,
}
