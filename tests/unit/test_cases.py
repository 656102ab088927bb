# SPDX-License-Identifier: Apache-2.0
"""What went wrong elsewhere, and here, as public reports and checks of this project have it.

A line of tests/data/cases_of_*.jsonl says what was asked for, what happened, what happens now, and
which tests prove it. Here: that those tests exist, and that those which go through a file of inputs
find some of the case there."""

from __future__ import annotations

import ast
import functools
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "tests" / "data").glob("cases_of_*.jsonl"))
CASES = [json.loads(line) for file in FILES for line in file.read_text().splitlines()]


@functools.cache
def functions_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_a_case_has_its_tests(case):
    assert set(case) == {"id", "source", "asked", "did", "now", "what", "tests"}
    assert all(case.values()) and case["now"] in ("handled", "refused")
    for test in case["tests"]:
        file, _, name = test.partition("::")
        assert name in functions_of(file), test


#: By test: the ids of the inputs that it goes through, as in "D1" or "A1 ShareGPT roles".
INPUTS = {
    "tests/verdicts/test_answer_cases.py::test_each_answer_has_the_verdict_that_it_deserves": [
        json.loads(line)["id"]
        for line in (ROOT / "tests/verdicts/answer_cases.jsonl").read_text().splitlines()
    ],
    "tests/unit/data/test_said.py::test_a_row": [
        case["id"]
        for case in json.loads((ROOT / "tests/unit/data/said_cases.json").read_text())["cases"]
    ],
}


@pytest.mark.parametrize("test", INPUTS, ids=lambda test: test.rpartition(":")[2])
def test_inputs_are_of_the_cases_that_name_their_test(test):
    named = [case["id"] for case in CASES if test in case["tests"]]
    assert len(named) > 10
    for case in named:
        assert any(re.match(rf"{re.escape(case)}\b", found) for found in INPUTS[test]), case


def test_cases_are_told_apart_by_their_source():
    keys = [(case["id"], case["source"]) for case in CASES]
    assert len(FILES) == 2 and len(CASES) > 100 and len(set(keys)) == len(keys)
