# SPDX-License-Identifier: Apache-2.0
"""Answers that people's verifiers were wrong about, in public reports: each line of
answer_cases.jsonl has an input in the shape of one, the right verdict, and where it comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from t3s_megatron.accuracy.gold import check_verifier
from t3s_megatron.accuracy.measurement import Answer, Grader
from t3s_megatron.accuracy.pool import Limits, VerifierPool
from t3s_megatron.errors import DataError
from tests.support.made_answers import gold
from tests.support.sandboxed import needs_sandbox

CASES = [
    json.loads(line)
    for line in Path(__file__).with_name("answer_cases.jsonl").read_text().splitlines()
]
VERIFIERS = list(dict.fromkeys(case["verifier"] for case in CASES))


@pytest.mark.parametrize(
    "spec", [pytest.param(s, marks=needs_sandbox) if s == "code" else s for s in VERIFIERS]
)
def test_each_answer_has_the_verdict_that_it_deserves(spec):
    """As in a measurement: thinking is cut off, a fault is no verdict."""
    cases = [case for case in CASES if case["verifier"] == spec]
    samples = [gold(case["gold"], case.get("metadata"), uid=case["id"]) for case in cases]
    limits = Limits(timeout=20.0, workers=2)
    assert check_verifier(spec, [samples], limits) == frozenset()
    with VerifierPool(spec, limits) as pool:
        answers = [Answer(case["response"], 1, False) for case in cases]
        found = Grader(samples, pool, 0.0).grade(answers)
    wrong = [
        (case["id"], case["gold"], case["response"])
        for case, mark in zip(cases, found.marks, strict=True)
        if mark != str(int(case["right"]))
    ]
    assert not wrong
    assert found.failed == 0


@pytest.mark.parametrize(
    ("tests", "why"),
    [
        ("def check(candidate):\n    assert candidate(1) == f(1)", "nothing calls check"),
        ("def helper():\n    assert f(1) == 2\nf(1)", "nothing calls helper"),
        ("def test_it(x):\n    assert f(x) == 2", "takes arguments that nothing gives it"),
        ("try:\n    assert f(1) == 2\nexcept Exception:\n    pass", "lacks the function passes"),
        ("try:\n    assert f(1) == 2\nexcept NameError:\n    raise\nexcept Exception:\n    pass",
         "that raises passes"),
        ("assert f(1) == 2\nassert f or 1 == 1", "lacks the function passes"),
        ("import no_such_module\nassert f(1) == 2", "No module named 'no_such_module'"),
        (json.dumps({"inputs": ["1\n"], "outputs": ["\n"]}), "prints nothing would pass"),
        (json.dumps({"public_test_cases": [{"input": "1", "output": "2"}],
                     "private_test_cases": "eJxrYJ"}), "unpack it first"),
    ],
)  # fmt: skip
@needs_sandbox
def test_tests_that_cannot_fail_are_refused_by_line(tests, why):
    with pytest.raises(DataError, match=f"code: 1 gold .*line of bad.*{why}"):
        check_verifier("code", [[gold("assert f(1) == 2"), gold(tests, uid="bad")]], Limits())
