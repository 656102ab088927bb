# SPDX-License-Identifier: Apache-2.0
"""The paired test against brute force over all signs, and against McNemar's binomial tail."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t3s_megatron.method.outcome import Outcome
from t3s_megatron.method.paired import gains, p_above, sign_flip_tail

marks = st.sampled_from("10?-")


def outcome(marks: str, samples: int = 1) -> Outcome:
    return Outcome(0.5, marks, samples)


@given(st.lists(st.integers(-3, 3), max_size=9))
def test_the_tail_is_that_of_all_choices_of_signs(differences):
    signs = itertools.product((1, -1), repeat=len(differences))
    sums = [sum(s * d for s, d in zip(chosen, differences, strict=True)) for chosen in signs]
    at_least = sum(total >= sum(differences) for total in sums) / len(sums)
    assert sign_flip_tail(differences) == pytest.approx(at_least)


@given(st.integers(0, 200), st.integers(0, 200))
def test_one_answer_a_prompt_is_mcnemars_exact_test(gained, lost):
    n = gained + lost
    tail = sum(math.comb(n, k) for k in range(gained, n + 1)) / 2**n
    now, then = "1" * gained + "0" * lost, "0" * gained + "1" * lost
    assert p_above(outcome(now + "10"), outcome(then + "10")) == pytest.approx(tail, abs=1e-12)


@pytest.mark.parametrize("sizes", [[1] * 12, [1, 1, 2, 2, 3, 4, 4], [4, 4, 4]])
def test_without_a_change_a_level_is_exceeded_at_most_as_often_as_it_says(sizes):
    found = []
    for signs in itertools.product((1, -1), repeat=len(sizes)):
        found.append(sign_flip_tail(s * d for s, d in zip(signs, sizes, strict=True)))
    for level in (0.01, 0.05, 0.2, 0.5):
        assert sum(p <= level for p in found) / len(found) <= level


def test_several_answers_are_counted_by_prompt():
    now, then = outcome("111100001100", 4), outcome("000000111010", 4)
    assert gains(now, then) == [4, -2, 0]
    assert p_above(now, then) == 0.5, "4 - 2 or 4 + 2, of four choices"


def test_what_is_not_known_in_both_is_left_out():
    assert gains(outcome("1?1-10", 2), outcome("000011", 2)) == [1, 1, -1]
    assert gains(outcome("1010"), outcome("?-0?")) == [0, 0, 1, 0]


def test_nothing_changed_or_nothing_paired_is_no_evidence():
    assert p_above(outcome("1100"), outcome("1100")) == 1.0
    assert p_above(Outcome(0.9), Outcome(0.1)) == 1.0


@given(st.lists(st.tuples(marks, marks, marks, marks), min_size=1, max_size=12), st.randoms())
def test_the_order_of_prompts_does_not_matter(prompts, rng: random.Random):
    """Two answers a prompt, now and then."""

    def p(prompts) -> float:
        now = outcome("".join(a + b for a, b, _, _ in prompts), 2)
        return p_above(now, outcome("".join(a + b for _, _, a, b in prompts), 2))

    shuffled = rng.sample(prompts, len(prompts))
    assert p(shuffled) == p(prompts)


@pytest.mark.parametrize("other", [outcome("101"), outcome("10", 2)])
def test_other_answers_cannot_be_paired(other):
    with pytest.raises(ValueError, match="cannot be paired"):
        p_above(outcome("10"), other)
