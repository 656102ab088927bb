# SPDX-License-Identifier: Apache-2.0
"""What the detector makes of paired outcomes: confirmed by a test, a significant shock, an early
end. The curves of tests/unit/method/test_detector.py have accuracies only."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t3s_megatron.method.detector import BottleneckDetector
from t3s_megatron.method.outcome import Outcome
from t3s_megatron.method.paired import p_above

PROMPTS = 12


def outcome(marks: str) -> Outcome:
    known = marks.count("1") + marks.count("0")
    return Outcome(marks.count("1") / known, marks)


def right(n: int) -> Outcome:
    """The first n prompts: from one such outcome to a higher one, p is 2 ** -gained."""
    return outcome("1" * n + "0" * (PROMPTS - n))


def observe_all(detector: BottleneckDetector, outcomes) -> list:
    return [detector.observe(step, one) for step, one in enumerate(outcomes)]


def confirmed_at(detector: BottleneckDetector, outcomes) -> int | None:
    for step, seen in enumerate(outcomes):
        detector.observe(step, seen)
        if detector.confirmed:
            return step
    return None


# --------------------------------------------------------------------------------- confirmation


def test_a_significant_rise_confirms_before_patience_is_up():
    """Level 0.04 over the 4 looks that come before patience 5: p <= 0.01, 7 prompts."""
    curve = [right(n) for n in (10, 2, 8, 9, 9)]
    assert confirmed_at(BottleneckDetector(5), curve) is None
    detector = BottleneckDetector(5, confirm_level=0.04)
    seen = observe_all(detector, curve)
    assert confirmed_at(BottleneckDetector(5, confirm_level=0.04), curve) == 3
    assert (detector.theta_b_step, detector.minimum) == (1, 2 / 12)
    assert seen[3].reason == (
        "step 3: accuracy 0.750 is above the minimum by a paired test, p = 0.0078: theta_b = "
        "step 1 (accuracy 0.167)"
    )
    assert detector.confirmed_by == "paired test at step 3, p = 0.0078"


def test_the_level_is_that_of_all_looks_together():
    assert BottleneckDetector(5, confirm_level=0.04).look_level == 0.01
    assert BottleneckDetector(1, confirm_level=0.04).look_level == 0.04
    curve = [right(n) for n in (10, 2, 8)]
    assert confirmed_at(BottleneckDetector(2, confirm_level=0.02), curve) == 2
    assert confirmed_at(BottleneckDetector(3, confirm_level=0.02), curve) is None


def test_it_is_the_pairs_that_count_and_not_the_accuracies():
    """Equal accuracies: two prompts gained and none lost, or seven gained and five lost."""
    for low, high, expected in (
        ("000000000011", "110000000011", 2),
        ("000000011111", "111111100000", None),
    ):
        curve = [right(10), outcome(low), outcome(high)]
        assert confirmed_at(BottleneckDetector(3, confirm_level=0.5), curve) == expected


def test_without_marks_patience_decides():
    curve = [Outcome(a) for a in (0.9, 0.1, 0.9, 0.9)]
    assert confirmed_at(BottleneckDetector(2, confirm_level=0.9), curve) == 3


# ---------------------------------------------------------------------------------------- shock


def test_a_fall_that_may_be_chance_is_no_shock():
    curve = [right(n) for n in (8, 7, 6, 3, 4)]
    assert [o.is_new_minimum for o in observe_all(BottleneckDetector(5), curve)][1:3] == [True] * 2
    detector = BottleneckDetector(5, shock_level=0.05)
    seen = observe_all(detector, curve)
    assert [one.is_new_minimum for one in seen] == [False, False, False, True, False]
    assert (
        seen[2].reason == "step 2: accuracy 0.500 may be below step 0 (0.667) by chance: p = 0.25"
    )
    assert detector.theta_b_step == 3


def test_once_there_is_a_shock_any_lower_accuracy_is_a_minimum():
    seen = observe_all(BottleneckDetector(5, shock_level=0.05), [right(n) for n in (10, 3, 2)])
    assert seen[2].is_new_minimum


# ------------------------------------------------------------------------------------ early end


def test_a_measurement_that_ended_early_is_no_minimum_and_may_confirm():
    detector = BottleneckDetector(3, confirm_level=0.1)
    observe_all(detector, [right(10), right(4)])
    low = detector.observe(2, outcome("100-" + "-" * 8))
    assert not low.is_new_minimum and "of the prompts asked is above" in low.reason
    high = detector.observe(3, outcome("-" * 4 + "11111---"))
    assert detector.confirmed and not high.is_new_minimum and detector.theta_b_step == 1


def test_before_the_shock_step_0_is_what_has_to_be_undercut():
    detector = BottleneckDetector(3)
    assert detector.rules_out(outcome("1" * 11 + "-"), 0.5) is None, "the first is always whole"
    detector.observe(0, right(4))
    assert detector.rules_out(outcome("1110" + "-" * 8)) is None
    reason = detector.rules_out(outcome("1111" + "-" * 8))
    assert reason == "with 4 right answers it can be no new minimum"


def test_a_test_may_rule_a_measurement_out_before_that_is_certain():
    detector = BottleneckDetector(3)
    observe_all(detector, [right(12), right(6)])
    rising = outcome("-" * 6 + "1111--")
    assert detector.rules_out(rising) is None and detector.rules_out(rising, 0.05) is None
    assert "paired test, p = 0.062" in detector.rules_out(rising, 0.1)


@given(st.text("10?-", min_size=PROMPTS, max_size=PROMPTS), st.integers(0, PROMPTS),
       st.sampled_from([0.0, 0.125]))  # fmt: skip
def test_it_is_ruled_out_for_certain_exactly_when_wrong_answers_alone_cannot_help(
    marks, reference, min_delta
):
    detector = BottleneckDetector(3, min_delta)
    detector.observe(0, right(reference))
    if "-" not in marks or not marks.count("1") + marks.count("0"):
        return
    lowest = outcome(marks.replace("-", "0"))
    ruled_out = detector.rules_out(outcome(marks)) is not None
    assert ruled_out != detector.observe(1, lowest).is_new_minimum


# ----------------------------------------------------------------------------------- properties

runs = st.lists(st.text("10?", min_size=6, max_size=6).filter(lambda m: m != "?" * 6), min_size=2)
levels = st.sampled_from([0.0, 0.05, 0.2, 0.6])


def made(patience: int, confirm: float = 0.0, shock: float = 0.0) -> BottleneckDetector:
    return BottleneckDetector(patience, confirm_level=confirm, shock_level=shock)


@given(runs, st.integers(1, 5))
def test_without_levels_the_decisions_are_those_of_the_accuracies(run, patience):
    outcomes = [outcome(marks) for marks in run]
    bare = [Outcome(one.accuracy) for one in outcomes]
    assert observe_all(made(patience), outcomes) == observe_all(made(patience), bare)


@given(runs, st.integers(1, 5), levels)
def test_it_is_confirmed_at_the_latest_when_patience_alone_would(run, patience, level):
    outcomes = [outcome(marks) for marks in run]
    alone, tested = made(patience), made(patience, level)
    late = confirmed_at(alone, outcomes)
    early = confirmed_at(tested, outcomes)
    assert late is None or early <= late
    if early is not None:
        seen = outcomes[: early + 1]
        lowest = min(one.accuracy for one in seen)
        assert outcomes[tested.theta_b_step].accuracy == lowest
        assert (
            tested.waited == patience or p_above(seen[-1], outcomes[tested.theta_b_step]) <= level
        )


@given(runs, st.integers(1, 5), levels, levels, st.randoms())
def test_no_decision_depends_on_the_order_of_prompts(run, patience, confirm, shock, rng):
    order = rng.sample(range(6), 6)
    shuffled = ["".join(marks[i] for i in order) for marks in run]
    first, second = made(patience, confirm, shock), made(patience, confirm, shock)
    seen = observe_all(first, map(outcome, run))
    assert observe_all(second, map(outcome, shuffled)) == seen


@settings(max_examples=50)
@given(runs, st.integers(1, 5), levels, levels, st.data())
def test_a_saved_detector_goes_on_the_same(run, patience, confirm, shock, data):
    cut = data.draw(st.integers(0, len(run)))
    outcomes = [outcome(marks) for marks in run]
    whole = made(patience, confirm, shock)
    expected = observe_all(whole, outcomes)
    first, second = made(patience, confirm, shock), made(patience, confirm, shock)
    seen = observe_all(first, outcomes[:cut])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    seen += [second.observe(cut + i, one) for i, one in enumerate(outcomes[cut:])]
    assert seen == expected and second.state_dict() == whole.state_dict()


@pytest.mark.parametrize("confirm, shock", [(1.0, 0.0), (-0.1, 0.0), (0.0, 1.0), (0.0, -0.1)])
def test_a_level_lies_between_0_and_1(confirm, shock):
    with pytest.raises(ValueError, match="level of a test"):
        made(5, confirm, shock)
