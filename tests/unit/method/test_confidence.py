# SPDX-License-Identifier: Apache-2.0
"""The fall of the falling tokens and its turn."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from t3s_megatron.method.confidence import ConfidenceDetector, confidence_fall

FIGURE_4 = [-0.02, -0.03, -0.05, -0.06, -0.055, -0.04, -0.03]
log_probs = arrays.arrays(np.float32, 12, elements=st.floats(-50, 0, width=32))
falls = st.lists(st.floats(-3, 0), min_size=1, max_size=12)


def observe_all(detector: ConfidenceDetector, values, first_step: int = 1) -> list:
    return [detector.observe(first_step + i, value) for i, value in enumerate(values)]


def test_the_fall_by_hand():
    p_0 = np.array([0.5, 0.25, 0.75, 0.125], np.float32)
    p = np.array([0.75, 0.125, 0.75, 0.0625], np.float32)
    assert confidence_fall(np.log(p), np.log(p_0)) == pytest.approx(-(0.125 + 0.0625) / 2)


def test_a_token_can_lose_no_more_than_its_probability():
    c_0 = np.log(np.array([0.5, 0.5], np.float32))
    assert confidence_fall(np.array([-200.0, 0.0], np.float32), c_0) == pytest.approx(-0.5)


@given(log_probs, log_probs, st.randoms())
def test_neither_the_order_of_the_tokens_nor_the_size_of_gains_matters(c, c_0, random):
    order = random.sample(range(len(c)), len(c))
    assert confidence_fall(c[order], c_0[order]) == pytest.approx(confidence_fall(c, c_0))
    assert confidence_fall(np.where(c > c_0, np.float32(0), c), c_0) == confidence_fall(c, c_0)
    assert confidence_fall(np.maximum(c, c_0), c_0) == 0


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
@pytest.mark.parametrize("at_theta_0", [False, True])
def test_a_log_prob_that_is_not_finite_is_refused(bad, at_theta_0):
    c, c_0 = np.full(3, -1, np.float32), np.full(3, -1, np.float32)
    (c_0 if at_theta_0 else c)[1] = bad
    with pytest.raises(ValueError, match="not finite, the first is token 1"):
        confidence_fall(c, c_0)


def test_the_lowest_fall_is_confirmed_by_patience():
    detector = ConfidenceDetector(patience=2)
    seen = observe_all(detector, FIGURE_4)
    assert [o.is_new_minimum for o in seen] == [True] * 4 + [False] * 3
    assert detector.theta_b_step == 4 and detector.confirmed
    assert "(1 of 2)" in seen[4].reason and "confirm the turn at step 4" in seen[5].reason
    assert "already confirmed" in seen[6].reason


@given(falls, st.integers(1, 4))
def test_the_turn_is_the_first_lowest_of_what_was_observed_until_it_was_confirmed(values, patience):
    detector = ConfidenceDetector(patience)
    seen: list[float] = []
    for value in values:
        if not detector.confirmed:
            seen.append(value)
        detector.observe(detector.last_step + 1, value)
    expected = seen.index(min(seen)) + 1 if min(seen) < 0 else None
    assert detector.theta_b_step == expected
    assert not detector.confirmed or len(seen) == (expected or 0) + patience


def test_there_is_no_turn_without_a_fall():
    detector = ConfidenceDetector(patience=1)
    seen = observe_all(detector, [0.0] * 5)
    assert not detector.shock_seen and not detector.confirmed
    assert "no token has fallen" in seen[-1].reason


def test_a_fall_that_slows_says_that_the_turn_is_near():
    """A step that loses less than half of what the steps before it lost on average."""
    detector = ConfidenceDetector(patience=5)
    near = []
    for step, value in enumerate([-0.01, -0.03, -0.06, -0.07, -0.078, -0.09], start=1):
        detector.observe(step, value)
        near.append(detector.near)
    assert near == [False, False, False, False, True, True]


@given(falls, st.integers(0, 12))
def test_a_detector_that_was_saved_goes_on_as_the_one_that_was_not(values, at):
    whole, first, second = (ConfidenceDetector(patience=2) for _ in range(3))
    seen = observe_all(whole, values)
    observe_all(first, values[:at])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert observe_all(second, values[at:], first_step=at + 1) == seen[at:]
    assert second.state_dict() == whole.state_dict()


@pytest.mark.parametrize("fall", [math.nan, -math.inf, 0.1])
def test_what_cannot_be_a_fall_is_refused(fall):
    with pytest.raises(ValueError, match="fall of step 1"):
        ConfidenceDetector(patience=1).observe(1, fall)


def test_steps_have_to_increase():
    detector = ConfidenceDetector(patience=1)
    with pytest.raises(ValueError, match="step 0 was observed after step 0"):
        detector.observe(0, -0.1)
    with pytest.raises(ValueError, match="patience"):
        ConfidenceDetector(patience=0)
