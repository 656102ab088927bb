# SPDX-License-Identifier: Apache-2.0
"""Unit tests in the forms in which they are published, and what of them is refused."""

from __future__ import annotations

import json

import pytest

from t3s_megatron.accuracy.code.tests import (
    Asserts,
    Calls,
    Streams,
    UnusableTests,
    read_tests,
)
from t3s_megatron.accuracy.gold import check_gold
from t3s_megatron.errors import DataError
from tests.support.made_answers import gold

PAIRS = {"inputs": ["1\n", "2\n"], "outputs": ["2\n", "4\n"]}
STREAMS = Streams((("1\n", "2\n"), ("2\n", "4\n")))
CALLS = Calls("f", (([1, [2]], 3), ([4, []], 4)), literal=False)
CHECK = "def check(candidate):\n    assert candidate(1) == 2\n"


@pytest.mark.parametrize(
    ("given", "tests"),
    [
        # APPS, TACO: `input_output` is JSON in a column
        ({"input_output": json.dumps(PAIRS)}, STREAMS),
        (PAIRS, STREAMS),
        ({"inputs": [["1", "2"]], "outputs": [["3"]]}, Streams((("1\n2", "3"),))),
        ({"fn_name": "f", "inputs": [[1, [2]], [4, []]], "outputs": [3, 4]}, CALLS),
        # LiveCodeBench: one JSON value a line
        (
            {"fn_name": "f", "inputs": ["1\n[2]", "4\n[]"], "outputs": ["3", "4"]},
            Calls("f", CALLS.cases, literal=True),
        ),
        (
            {"public_test_cases": [{"input": "1\n", "output": "2\n", "testtype": "stdin"}]},
            Streams((("1\n", "2\n"),)),
        ),
        (
            [{"input": "1\n[2]", "output": "3", "testtype": "functional",
              "metadata": {"func_name": "f"}}],
            Calls("f", (([1, [2]], 3),), literal=True),
        ),
        # DeepCoder
        (
            {"tests": [{"type": "stdin_stdout", "input": i, "output": o}
                       for i, o in zip(*PAIRS.values(), strict=True)]},
            STREAMS,
        ),
        (
            {"tests": json.dumps([{"type": "function_call", "fn_name": "f", "input": [1, [2]],
                                   "output": 3}])},
            Calls("f", (([1, [2]], 3),), literal=False),
        ),
        # MBPP
        (
            {"test_list": ["assert f(1) == 2", "assert f(2) == 4"], "test_setup_code": ""},
            Asserts("", "assert f(1) == 2\nassert f(2) == 4", ("f",)),
        ),
        (
            {"test_list": ["assert math.isclose(f(1), set([2]))"], "test_imports": ["import math"]},
            Asserts("import math", "assert math.isclose(f(1), set([2]))", ("f",)),
        ),
        (
            ["assert f(1).strip() == g(2)"],
            Asserts("", "assert f(1).strip() == g(2)", ("f", "g")),
        ),
        (["assert sum(1, 2) == 3"], Asserts("", "assert sum(1, 2) == 3", ("sum",))),
        # HumanEval
        (
            {"test": CHECK, "entry_point": "f", "prompt": "def f(x):\n    '''Twice x.'''\n"},
            Asserts("def f(x):\n    '''Twice x.'''\n", f"{CHECK}\ncheck(_candidate)", ("f",)),
        ),
        (
            {"test": CHECK, "entry_point": "Solution().f", "prompt": "Write a class"},
            Asserts("", f"{CHECK}\ncheck(_candidate)", ("Solution().f",)),
        ),
    ],
)  # fmt: skip
def test_published_forms(given, tests):
    assert read_tests(json.dumps(given), None) == tests
    if isinstance(given, dict):
        assert read_tests(None, given) == tests
        assert read_tests("def f(x): ...", {"source": "x"} | given) == tests


def test_test_code_as_it_is():
    assert read_tests("assert f(1) == 2", {}) == Asserts("", "assert f(1) == 2", ("f",))


@pytest.mark.parametrize(
    ("answer", "metadata", "message"),
    [
        (None, None, "neither `answer` nor `metadata` holds tests"),
        (None, {"source": "x"}, "neither"),
        ("42", None, "has to be an object or a list|have to be an object or a list, found int"),
        ("forty two", None, "is not Python"),
        ("f(1)", None, "asserts nothing"),
        ("assert 1 == 1", None, "calls no function"),
        ("{}", None, "found nothing"),
        ('{"inputs": [], "outputs": []}', None, "lists with a test in them"),
        ('{"inputs": ["1"], "outputs": []}', None, "1 `inputs` and 0 `outputs`"),
        ('{"inputs": [5], "outputs": ["5"]}', None, "text is expected, found int"),
        ('{"inputs": ["1"]}', None, "have to be lists"),
        (None, {"inputs": ["x"], "outputs": ["1"], "fn_name": "f"}, "'x' is not JSON"),
        (None, {"inputs": [1], "outputs": [1], "fn_name": "f"}, "a list of arguments"),
        (None, {"inputs": [[1]], "outputs": [1], "fn_name": "f()("}, "not the name of a function"),
        (None, {"test": CHECK}, "needs `entry_point`"),
        (None, {"test": "assert 1", "entry_point": "f"}, "does not define check"),
        (None, {"test": "def check(:", "entry_point": "f"}, "is not Python"),
        (None, {"test_list": ["assert f(1"]}, "is not Python"),
        (None, {"tests": "[" * 10**5}, "is not Python"),
        ("assert Solution().f(1) == 2", None, r"use Solution\(...\).f: an object"),
        (
            None,
            {"test_list": ["assert depth(root) == 1"], "test_setup_code": "root = Node(1)"},
            "calls Node, which is the answer's",
        ),
        (None, {"tests": [{"testtype": "functional", "input": "1", "output": "1"}]}, "fn_name"),
        (
            None,
            {"tests": [{"input": "1", "output": "1"},
                       {"type": "function_call", "fn_name": "f", "input": [1], "output": 1}]},
            "several functions",
        ),
    ],
)  # fmt: skip
def test_tests_that_cannot_be_used_are_found_before_the_run(answer, metadata, message):
    with pytest.raises(UnusableTests, match=message):
        read_tests(answer, metadata)
    good = gold(json.dumps(PAIRS))
    check_gold("code", [good])
    with pytest.raises(DataError, match=r"code: 1 gold .*, line of bad: .*has unit tests"):
        check_gold("code", [good, gold(answer, metadata, uid="bad")])
