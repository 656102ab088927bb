# SPDX-License-Identifier: Apache-2.0
"""What went wrong with Megatron's arguments, layouts and folders, in public reports and in checks of
this project: each line of megatron_cases.jsonl says what was asked, what happened, what happens now
and which tests prove it. Here: that those tests exist."""

from __future__ import annotations

import ast
import functools
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CASES = [
    json.loads(line)
    for line in Path(__file__).with_name("megatron_cases.jsonl").read_text().splitlines()
]


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


def test_none_of_the_known_causes_is_missing():
    ids = [case["id"] for case in CASES]
    assert len(set(ids)) == len(ids)
    causes = {word for one in ids if (word := one.split()[0]).startswith("F")}
    assert causes == {
        f"F{n}" for n in (1, 3, 4, 5, 6, 8, 9, 10, 11, 13, 15, 16, 18, 19, 21, 23, 24)
    }
