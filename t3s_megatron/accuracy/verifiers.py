# SPDX-License-Identifier: Apache-2.0
"""Verifiers: a response, its gold answer and its metadata in, a verdict out.

All that the rest of the package knows of a built-in verifier stands in its entry of `VERIFIERS`;
`package.module:function` is one of a user's own. They run in worker processes (`accuracy.pool`) and
may raise: an answer whose verifier broke is not wrong. What they are shown is the answer without
its thinking (`data.thinking.answer_of`).
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from t3s_megatron.accuracy.code.tests import UnusableTests, read_tests
from t3s_megatron.accuracy.extraction import (
    final_answer,
    final_letter,
    final_number,
    letter,
    marked,
    number,
)
from t3s_megatron.accuracy.verdicts import Verdict, Verifier
from t3s_megatron.errors import T3SError

#: (gold answer, metadata of the sample) -> why it cannot be used; None when it can.
Objection = Callable[[str | None, dict | None], str | None]

#: Answers that are right to no question. The last is for those who ask for a number.
NONSENSE = ("banana", "-98765432123.625")


def _no_objection(answer: str | None, metadata: dict | None) -> None:
    return None


def _scored(verify: Verifier, answer: str | None, metadata: dict | None) -> str | None:
    """Gold is scored against itself, and against nonsense."""
    if verify(f"<answer>{answer}</answer>", answer, metadata) is not Verdict.CORRECT:
        return "is not accepted as an answer to itself"
    return _accepts_nonsense(verify, answer, metadata)


def _accepts_nonsense(verify: Verifier, answer: str | None, metadata: dict | None) -> str | None:
    for nonsense in NONSENSE:
        if verify(f"<answer>{nonsense}</answer>", answer, metadata) is Verdict.CORRECT:
            return f"is what {nonsense!r} is accepted for"
    return None


@dataclass(frozen=True)
class Builtin:
    """All that is known of a verifier.

    `make`: it, for a process and with the seconds that it will have for an answer; T3SError when it
    cannot work on this machine. `summary`: what it compares, for --help. `unusable`: what is wrong
    with the form of a gold answer, told without any process. `examine`: what is wrong with one when
    the verifier itself is asked. Gold that is no good is refused by line or, with `leaves_out`, its
    sample is never asked. `gold_in_metadata`: a sample may have its gold there and no `answer`.
    `local`: it imports this package only and takes no time, so that no process has to try.
    `examined`: how many gold answers of a set are scored at most; `all_workers`: in how many
    processes.
    """

    make: Callable[[float], Verifier]
    summary: str
    unusable: Objection = _no_objection
    examine: Callable[[Verifier, str | None, dict | None], str | None] = _scored
    leaves_out: bool = False
    gold_in_metadata: bool = False
    local: bool = False
    examined: int | None = None
    all_workers: bool = False

    def judge_gold(
        self, verify: Verifier, answer: str | None, metadata: dict | None
    ) -> tuple[Verdict, str | None]:
        """(CORRECT, None) for gold that `verify` can use; else (WRONG, why not)."""
        why = self.examine(verify, answer, metadata)
        return (Verdict.CORRECT if why is None else Verdict.WRONG), why


def names() -> str:
    """What may be chosen, for a person."""
    return ", ".join((*VERIFIERS, "or package.module:function of your own"))


def entry(spec: str) -> Builtin:
    """What is known of the verifier `spec`. T3SError when it is no verifier's name and no dotted
    path. Imports nothing."""
    if ":" in spec:
        return Builtin(
            functools.partial(_users_own, spec),
            "a function of your own",
            # What form of an answer it looks for is not known; and it may ask a paid service.
            examine=_accepts_nonsense,
            examined=3,
        )
    if spec not in VERIFIERS:
        raise T3SError(f"--t3s-verifier {spec}: unknown. Choose {names()}")
    return VERIFIERS[spec]


def make_verifier(spec: str, timeout: float = 30.0) -> Verifier:
    """The verifier named `spec`; `timeout`: seconds that it will have for one answer. T3SError when
    it is unknown, cannot be imported, or cannot work on this machine."""
    return entry(spec).make(timeout)


# --------------------------------------------------------------------------- read from the text


def _exact(timeout: float) -> Verifier:
    def verify(text: str, answer: str | None, metadata: dict | None) -> Verdict:
        found = final_answer(text)
        if found is None:
            return Verdict.UNPARSEABLE
        # A column of whole numbers that a table with gaps has made decimals of.
        golds = {answer or "", re.sub(r"^(-?\d+)\.0$", r"\1", answer or "")}
        return _verdict(any(_words(found) == _words(gold) for gold in golds))

    return verify


def _words(text: str) -> list[str]:
    """Blind to white space and to one final full stop, on both sides alike."""
    return text.strip().removesuffix(".").split()


def _numeric(timeout: float) -> Verifier:
    def verify(text: str, answer: str | None, metadata: dict | None) -> Verdict:
        found = final_number(text)
        if found is None:
            return Verdict.UNPARSEABLE
        return _verdict(found == number(answer))

    return verify


def _no_number(answer: str | None, metadata: dict | None) -> str | None:
    return "is not a number" if number(answer) is None else None


def _choice(timeout: float) -> Verifier:
    def verify(text: str, answer: str | None, metadata: dict | None) -> Verdict:
        found = final_letter(text)
        return Verdict.UNPARSEABLE if found is None else _verdict(found == letter(answer or ""))

    return verify


def _no_letter(answer: str | None, metadata: dict | None) -> str | None:
    return "is not the letter of an option" if letter(answer or "") is None else None


# ----------------------------------------------------------------------------- by other packages


def _math(how: str, timeout: float) -> Verifier:
    try:
        from t3s_megatron.accuracy.math import engine, verify
    except ImportError as error:
        raise T3SError(
            f'--t3s-verifier {how} needs math-verify: pip install "t3s-megatron[verification]"'
        ) from error
    look = {"math": verify.strict, "math-lenient": verify.lenient}[how]
    bound = engine.Bound(timeout)

    def judge(text: str, answer: str | None, metadata: dict | None) -> Verdict:
        with bound():
            return look(text, answer)

    return judge


def _reasoning_gym(timeout: float) -> Verifier:
    try:
        import reasoning_gym
    except ImportError as error:
        raise T3SError(
            "--t3s-verifier reasoning-gym needs the package: pip install "
            '"t3s-megatron[reasoning-gym]"'
        ) from error

    # Making a scorer makes its whole data set object.
    scorer = functools.cache(reasoning_gym.get_score_answer_fn)

    def is_right(found: str, answer: str | None, metadata: dict) -> bool | None:
        """With the metadata as they are, or as they were before JSON made lists of tuples. None
        where the scorer raises: gold answers were scored, so it is for this answer."""
        scores = scorer(metadata["source_dataset"])
        question, raised = metadata.get("question", ""), False
        for said in (metadata, _tuples(metadata)):
            entry = {"question": question, "answer": answer, "metadata": said}
            try:
                if scores(answer=found, entry=entry) == 1.0:
                    return True
            except Exception:
                raised = raised or said is metadata
        return None if raised else False

    def verify(text: str, answer: str | None, metadata: dict | None) -> Verdict:
        found = marked(text)
        if found is None or found.content is None:
            return Verdict.UNPARSEABLE
        assert metadata is not None  # checked with the gold answers
        right = is_right(found.content.strip(), answer, metadata)
        return Verdict.UNPARSEABLE if right is None else _verdict(right)

    return verify


def _tuples(value: object) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(part) for key, part in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _scored_by_gym(verify: Verifier, answer: str | None, metadata: dict | None) -> str | None:
    """Some scorers reject their own gold answers, and some accept anything."""
    name = (metadata or {})["source_dataset"]
    if answer is None:
        why = None if _needs_no_answer(name) else "is missing"
        why = why or _accepts_nonsense(verify, answer, metadata)
    else:
        why = _scored(verify, answer, metadata)
    return why and f"{why} (scorer of {name})"


@functools.cache
def _needs_no_answer(name: str) -> bool:
    """Whether the problems of a data set have none: its scorer goes by the metadata."""
    import reasoning_gym

    return reasoning_gym.create_dataset(name, size=1, seed=0)[0]["answer"] is None


def _no_scorer(answer: str | None, metadata: dict | None) -> str | None:
    if (metadata or {}).get("source_dataset"):
        return None
    return "has no metadata.source_dataset, which names the scorer"


# -------------------------------------------------------------------------------------- programs


def _code(timeout: float) -> Verifier:
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


def _no_tests(answer: str | None, metadata: dict | None) -> str | None:
    try:
        read_tests(answer, metadata)
    except UnusableTests as error:
        return f"has unit tests that cannot be used: {error}"
    return None


def _tests_that_fail(verify: Verifier, answer: str | None, metadata: dict | None) -> str | None:
    """No program that is right is known; that one which is wrong fails each test, can be tried."""
    from t3s_megatron.accuracy.code.programs import never_fails

    try:
        why = never_fails(read_tests(answer, metadata), 30.0)
    except RuntimeError as error:
        why = str(error)
    return None if why is None else f"has unit tests that cannot be used: {why}"


# -------------------------------------------------------------------------------------- your own


def _users_own(spec: str, timeout: float) -> Verifier:
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

    def verify(text: str, answer: str | None, metadata: dict | None) -> Verdict:
        return _verdict(float(function(text, answer, metadata)) == 1.0)

    return verify


def _verdict(correct: bool) -> Verdict:
    return Verdict.CORRECT if correct else Verdict.WRONG


VERIFIERS = {
    "exact": Builtin(_exact, "word by word", local=True),
    "numeric": Builtin(_numeric, "as a number", unusable=_no_number, local=True),
    "choice": Builtin(_choice, "the letter of an option", unusable=_no_letter, local=True),
    "math": Builtin(functools.partial(_math, "math"), "by mathematical meaning", leaves_out=True),
    "math-lenient": Builtin(
        functools.partial(_math, "math-lenient"), "as math-verify has it", leaves_out=True
    ),
    "reasoning-gym": Builtin(
        _reasoning_gym,
        "with the scorer of the data set that metadata.source_dataset names",
        unusable=_no_scorer,
        examine=_scored_by_gym,
        gold_in_metadata=True,
    ),
    "code": Builtin(
        _code,
        "by the unit tests of the problem",
        unusable=_no_tests,
        examine=_tests_that_fail,
        gold_in_metadata=True,
        all_workers=True,
    ),
}
