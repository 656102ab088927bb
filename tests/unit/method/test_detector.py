# SPDX-License-Identifier: Apache-2.0
"""The bottleneck detector against hand-made curves and an independent argmin (Eq. 1)."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t3s_megatron.method.detector import BottleneckDetector
from t3s_megatron.method.outcome import Outcome

CRASH_THEN_RECOVER = [0.71, 0.70, 0.64, 0.50, 0.41, 0.46, 0.55, 0.60, 0.63]


def observe_all(detector: BottleneckDetector, accuracies, first_step: int = 0) -> list:
    return [detector.observe(first_step + i, Outcome(a)) for i, a in enumerate(accuracies)]


def confirmed_at(detector: BottleneckDetector, accuracies) -> int | None:
    """The first step after which the minimum is confirmed."""
    for step, accuracy in enumerate(accuracies):
        detector.observe(step, Outcome(accuracy))
        if detector.confirmed:
            return step
    return None


def test_crash_then_recover_confirms_the_lowest_step():
    detector = BottleneckDetector(patience=3)
    seen = observe_all(detector, CRASH_THEN_RECOVER)
    assert [o.step for o in seen if o.is_new_minimum] == [1, 2, 3, 4]
    # Steps 5, 6 and 7 are the three without a new minimum.
    assert detector.confirmed
    assert confirmed_at(BottleneckDetector(patience=3), CRASH_THEN_RECOVER) == 7
    assert detector.theta_b_step == 4 and detector.minimum == 0.41


def test_step_0_is_the_reference_and_never_theta_b():
    detector = BottleneckDetector(patience=1)
    observe_all(detector, [0.3, 0.4, 0.5, 0.3, 0.6])
    assert not detector.shock_seen and detector.theta_b_step is None
    assert not detector.confirmed


def test_patience_only_counts_once_there_is_a_shock():
    detector = BottleneckDetector(patience=2)
    assert confirmed_at(detector, [0.5, 0.6, 0.6, 0.6, 0.4, 0.5, 0.5]) == 6
    assert detector.theta_b_step == 4


def test_patience_starts_again_at_a_new_minimum():
    detector = BottleneckDetector(patience=2)
    observe_all(detector, [0.5, 0.4, 0.45, 0.3, 0.35])
    assert not detector.confirmed
    detector.observe(5, Outcome(0.35))
    assert detector.confirmed
    assert detector.theta_b_step == 3


def test_a_tie_is_no_new_minimum_so_the_first_of_equals_is_theta_b():
    detector = BottleneckDetector(patience=2)
    assert confirmed_at(detector, [0.5, 0.4, 0.4, 0.4]) == 3
    assert detector.theta_b_step == 1


def test_a_tie_with_step_0_is_no_shock():
    detector = BottleneckDetector(patience=1)
    observe_all(detector, [0.5, 0.5, 0.5])
    assert not detector.shock_seen


@pytest.mark.parametrize("accuracy, is_new", [(0.375, False), (0.374, True), (0.45, False)])
def test_min_delta_is_strict_and_holds_against_step_0(accuracy, is_new):
    detector = BottleneckDetector(patience=1, min_delta=0.125)
    detector.observe(0, Outcome(0.5))
    assert detector.observe(1, Outcome(accuracy)).is_new_minimum is is_new
    assert detector.shock_seen is is_new


def test_min_delta_holds_against_the_lowest_so_far():
    detector = BottleneckDetector(patience=5, min_delta=0.125)
    seen = observe_all(detector, [1.0, 0.5, 0.4375, 0.375, 0.25])
    assert [o.step for o in seen if o.is_new_minimum] == [1, 4]


@pytest.mark.parametrize("void", [math.nan, math.inf, -math.inf])
def test_a_void_measurement_neither_is_a_minimum_nor_uses_up_patience(void):
    detector = BottleneckDetector(patience=2)
    seen = observe_all(detector, [0.5, 0.4, void, 0.45, void, void])
    assert not detector.confirmed
    assert detector.void == 3 and detector.theta_b_step == 1
    assert "void" in seen[2].reason and not seen[2].is_new_minimum
    detector.observe(6, Outcome(0.45))
    assert detector.confirmed


def test_after_confirmation_theta_b_stays():
    detector = BottleneckDetector(patience=1)
    observe_all(detector, [0.5, 0.4, 0.45])
    late = detector.observe(3, Outcome(0.1))
    assert detector.confirmed and not late.is_new_minimum
    assert detector.theta_b_step == 1 and detector.minimum == 0.4


def test_measurements_may_skip_steps():
    detector = BottleneckDetector(patience=1)
    for step, accuracy in ((0, 0.5), (5, 0.3), (17, 0.4)):
        detector.observe(step, Outcome(accuracy))
    assert detector.confirmed and detector.theta_b_step == 5


def test_reasons_are_plain_sentences():
    detector = BottleneckDetector(patience=2)
    reasons = [o.reason for o in observe_all(detector, [0.5, 0.6, 0.4, 0.3, 0.35, 0.35])]
    assert reasons == [
        "step 0: accuracy 0.500 is the reference",
        "step 1: accuracy 0.600 has not fallen below step 0 (0.500)",
        "step 2: accuracy 0.400 is a new minimum (was 0.500 at step 0)",
        "step 3: accuracy 0.300 is a new minimum (was 0.400 at step 2)",
        "step 4: accuracy 0.350 is above the minimum 0.300 of step 3 (1 of 2)",
        "step 5: accuracy 0.350: 2 measurements without a new minimum confirm theta_b = step 3 "
        "(accuracy 0.300)",
    ]


@pytest.mark.parametrize("step, accuracy", [(1, 0.5), (0, math.nan), (0, math.inf)])
def test_the_first_measurement_has_to_be_a_finite_step_0(step, accuracy):
    with pytest.raises(ValueError, match="finite accuracy at step 0"):
        BottleneckDetector(patience=1).observe(step, Outcome(accuracy))


@pytest.mark.parametrize("step", [2, 3])
def test_steps_have_to_increase(step):
    detector = BottleneckDetector(patience=1)
    detector.observe(0, Outcome(0.5))
    detector.observe(3, Outcome(0.5))
    with pytest.raises(ValueError, match=f"step {step} was observed after step 3"):
        detector.observe(step, Outcome(0.5))


@pytest.mark.parametrize("patience, min_delta", [(0, 0.0), (-1, 0.0), (1, -0.1)])
def test_impossible_settings(patience, min_delta):
    with pytest.raises(ValueError, match="must"):
        BottleneckDetector(patience, min_delta)


# Accuracies of few distinct values, so that ties are common.
measured_curves = st.lists(st.integers(0, 8).map(lambda k: k / 8), min_size=2, max_size=30)


@given(measured_curves, st.integers(1, 4))
def test_theta_b_is_the_first_argmin_of_what_was_observed(accuracies, patience):
    """Eq. 1 by brute force: over the measurements up to the confirmation, if any."""
    detector = BottleneckDetector(patience)
    observed = []
    for step, accuracy in enumerate(accuracies):
        observed.append(accuracy)
        detector.observe(step, Outcome(accuracy))
        if detector.confirmed:
            break
    lowest = min(observed)
    expected = observed.index(lowest) if lowest < observed[0] else None
    assert detector.theta_b_step == expected
    if detector.confirmed:
        assert len(observed) - 1 - expected == patience


@given(measured_curves, st.integers(1, 4), st.sampled_from([0.0, 0.125]), st.data())
def test_a_saved_detector_goes_on_the_same(accuracies, patience, min_delta, data):
    cut = data.draw(st.integers(0, len(accuracies)))
    whole = BottleneckDetector(patience, min_delta)
    expected = observe_all(whole, accuracies)
    first = BottleneckDetector(patience, min_delta)
    seen = observe_all(first, accuracies[:cut])
    second = BottleneckDetector(patience, min_delta)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert seen + observe_all(second, accuracies[cut:], cut) == expected
    assert second.state_dict() == whole.state_dict()
