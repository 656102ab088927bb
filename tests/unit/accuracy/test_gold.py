# SPDX-License-Identifier: Apache-2.0
"""What is found out about a verifier and the gold answers before a run begins."""

from __future__ import annotations

import pytest
from made_answers import gold

from t3s_megatron.accuracy.gold import check_gold, check_verifier
from t3s_megatron.accuracy.pool import Limits
from t3s_megatron.errors import DataError, T3SError

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
    with pytest.raises(DataError, match="not one of 2 gold answers can be read, first f.jsonl"):
        check_verifier("math", [[gold("1")], [gold(""), gold("{")]], LIMITS)


def test_a_gold_answer_that_takes_too_long_is_refused_by_name():
    """Leaving it out would depend on the machine: ranks could come to different ends."""
    with pytest.raises(DataError, match="line of slow cannot be checked .no verdict within 1e-05"):
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
