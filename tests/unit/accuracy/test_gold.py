# SPDX-License-Identifier: Apache-2.0
"""What is found out about a verifier and the gold answers before a run begins."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from t3s_megatron.accuracy import verifiers
from t3s_megatron.accuracy.gold import check_gold, check_verifier
from t3s_megatron.accuracy.pool import Limits
from t3s_megatron.accuracy.verifiers import VERIFIERS, names
from t3s_megatron.errors import DataError, T3SError
from tests.support.made_answers import gold

CHAIN = {"source_dataset": "chain_sum"}
LIMITS = Limits(timeout=2.0)


def test_gold_answers_that_can_be_compared():
    check_gold("numeric", [gold("1/2"), gold("1,000"), gold("50%")])
    check_gold("reasoning-gym", [gold("anything", CHAIN)])
    check_gold("exact", [gold("anything")])
    check_gold("own_verifiers:same", [gold("anything")])


@pytest.mark.parametrize("answer", ["about 5", "3 1/2", "(1, 2)", "", None])
def test_a_gold_answer_that_is_no_number_is_named(answer):
    bad = gold(answer, uid="bad")
    with pytest.raises(DataError) as caught:
        check_gold("numeric", [gold("1"), bad, gold("x", uid="worse")])
    text = str(caught.value)
    assert (
        "--t3s-verifier numeric: 2 gold answers" in text and f"{answer!r} is not a number" in text
    )
    assert "first f.jsonl, line of bad" in text


@pytest.mark.parametrize("metadata", [None, {}, {"source_dataset": ""}])
def test_a_sample_without_a_scorer_is_named(metadata):
    with pytest.raises(DataError, match=r"1 gold .*line of bad.*metadata\.source_dataset"):
        check_gold("reasoning-gym", [gold("1", CHAIN), gold("2", metadata, uid="bad")])


@pytest.mark.parametrize("answer", ["42", "A or B", "", None])
def test_a_gold_answer_that_is_no_option_is_named(answer):
    check_gold("choice", [gold("A"), gold("(b)"), gold("C. 42")])
    with pytest.raises(DataError, match="choice: 1 gold .*line of bad.*is not the letter"):
        check_gold("choice", [gold("A"), gold(answer, uid="bad")])


def test_gold_answers_without_a_mathematical_meaning_are_left_out():
    train = [gold("1/2", uid="a"), gold("", uid="b"), gold(r"\{1, 2\}", uid="c")]
    heldout = [gold("{", uid="d"), gold("7", uid="e")]
    assert check_verifier("math", [train, heldout], LIMITS) == {"b", "d"}


def test_a_set_without_any_gold_answer_that_can_be_read():
    with pytest.raises(DataError, match="math: 2 gold answers cannot be used, first f.jsonl"):
        check_verifier("math", [[gold("1")], [gold(""), gold("{")]], LIMITS)


def test_a_gold_answer_that_takes_too_long_is_refused_by_name():
    """Leaving it out would depend on the machine: ranks could come to different ends."""
    why = "(no verdict within 1e-05|.*takes more than)"  # by the clock, or by the verifier itself
    with pytest.raises(DataError, match=f"line of slow: .x . 1. cannot be checked .{why}"):
        check_verifier("math", [[gold("x + 1", uid="slow")]], Limits(timeout=1e-5))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("fuzzy", "--t3s-verifier fuzzy: unknown"),
        ("no.such:thing", r"--t3s-verifier no\.such:thing: cannot be imported"),
    ],
)
def test_a_verifier_that_cannot_be_had(spec, message):
    with pytest.raises(T3SError, match=message):
        check_verifier(spec, [[gold("1")]], LIMITS)


# --------------------------------------------------------------------------------------- the table

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("name", VERIFIERS)
def test_a_verifier_is_declared_once_and_documented(name):
    assert names().split(", ").count(name) == 1, "what --help says is made of the table"
    table = (DOCS / "verifiers.md").read_text().split("## ")[0]
    assert len(re.findall(rf"^\| `{name}` \|", table, re.MULTILINE)) == 1
    assert names() in (DOCS / "arguments.md").read_text()


def test_nothing_else_is_documented_as_a_verifier():
    table = (DOCS / "verifiers.md").read_text().split("## ")[0]
    documented = re.findall(r"^\| `([^`]*)` \|", table, re.MULTILINE)
    assert documented == [*VERIFIERS, "package.module:function"]


def test_no_other_module_compares_with_a_verifiers_name():
    package = Path(verifiers.__file__).parents[1]
    compared = re.compile(rf"""[!=]= ["']({"|".join(map(re.escape, VERIFIERS))})["']""")
    for path in package.rglob("*.py"):
        for line in path.read_text().splitlines():
            named = compared.search(line)
            assert named is None or "verifier" not in line + named[0], f"{path}: {line}"


# -------------------------------------------------------------------------- scored against itself


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_verifiers.py").write_text(
        "def yes(text, answer, metadata):\n    return True\n"
        "def strict(text, answer, metadata):\n    return text == '{' + answer + '}'\n"
        "def broken(text, answer, metadata):\n    raise KeyError(text)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_verifier_that_accepts_nonsense_is_refused(own):
    with pytest.raises(DataError, match="own_verifiers:yes: 2 gold .*'banana' is accepted for"):
        check_verifier("own_verifiers:yes", [[gold("1"), gold("2")]], LIMITS)


@pytest.mark.parametrize("name", ["strict", "broken"])
def test_which_form_a_users_verifier_looks_for_is_not_known(own, name):
    assert check_verifier(f"own_verifiers:{name}", [[gold("1")]], LIMITS) == frozenset()
