# SPDX-License-Identifier: Apache-2.0
"""Which answers are believed to be the live weights', and which are an earlier step's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t3s_megatron.servers.probes import agreement, compare

texts = st.lists(st.text("ab", max_size=4), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("expected", "found", "share"),
    [
        (["abcd"], ["abcd"], 1.0),
        (["abcd"], ["abxd"], 0.5),
        (["abcd"], ["ab"], 0.5),
        (["ab"], ["abcd"], 0.5),
        ([""], [""], 1.0),
        ([""], ["a"], 0.0),
        (["abcd", "x"], ["abcd", "y"], 0.5),
    ],
)
def test_agreement_is_what_answers_have_in_common_from_their_beginning(expected, found, share):
    assert agreement(expected, found) == share


@given(texts, texts)
def test_agreement_lies_between_0_and_1_and_is_1_for_the_same_alone(a, b):
    a, b = a[: len(b)], b[: len(a)]
    assert 0 <= agreement(a, b) <= 1
    assert (agreement(a, b) == 1) == (a == b)


def test_another_model_is_not_believed():
    finding = compare(["four"] * 4, ["vier"] * 4, {}, least=0.8)
    assert "agree with the live weights' to 0.00 (of 0.8)" in finding.fault


def test_rounding_that_changes_a_late_word_is_believed():
    expected = ["the sum of the two is 12"] * 10
    found = ["the sum of the two is 12"] * 8 + ["the sum of both is 12, so"] * 2
    finding = compare(expected, found, {}, least=0.8)
    assert finding.fault is None and 0.8 < finding.agreement < 1


def test_old_weights_are_found_as_soon_as_one_answer_has_changed():
    """Although the answers agree to 90 %, and would pass for rounding."""
    now, before = ["same"] * 9 + ["new"], ["same"] * 9 + ["old"]
    finding = compare(now, before, {"the start": before}, least=0.8)
    assert "1 of 1 greedy answers that have changed are still those of the start" in finding.fault
    assert compare(now, now, {"the start": before}, least=0.8).fault is None


def test_each_earlier_step_is_looked_for():
    now, start, last = ["c", "c", "c"], ["a", "c", "c"], ["a", "b", "c"]
    stale = compare(now, last, {"the start": start, "iteration 4": last}, least=0.0)
    assert "still those of iteration 4" in stale.fault and stale.telling == 2
    assert compare(now, now, {"the start": start, "iteration 4": last}, least=0.0).fault is None


def test_what_no_answer_tells_is_not_found():
    """The limit of the check: theta_0 and the live weights answer alike."""
    same = ["same"] * 3
    finding = compare(same, same, {"the start": same}, least=0.8)
    assert (finding.fault, finding.telling) == (None, 0)
