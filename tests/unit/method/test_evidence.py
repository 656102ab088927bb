# SPDX-License-Identifier: Apache-2.0
"""What is said of a theta_b: p-values of the fall and the rise, and when they may be chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from phase_walk import Walk, curve

from t3s_megatron.errors import NoReferenceError
from t3s_megatron.method.detector import BottleneckDetector
from t3s_megatron.method.evidence import CHANCE, Evidence, evidence, why_nothing_can_fall
from t3s_megatron.method.outcome import Outcome
from t3s_megatron.method.phases import PhaseMachine
from tests.support.asked import asked


def right(n: int, of: int = 40) -> Outcome:
    """The first n prompts: between two such outcomes p is 2 to the minus changed."""
    return Outcome(n / of, "1" * n + "0" * (of - n))


def searched(*outcomes: Outcome, patience: int = 3, **levels) -> BottleneckDetector:
    detector = BottleneckDetector(patience, **levels)
    for step, outcome in enumerate(outcomes):
        detector.observe(step, outcome)
    return detector


# --------------------------------------------------------------------------------------- p-values


def test_the_fall_is_corrected_for_being_the_lowest_and_the_rise_for_all_pairs():
    found = evidence(5, right(30), right(20), right(32))
    assert found.p_fall == 5 * 2.0**-10
    assert found.p_rise == 10 * 2.0**-12
    assert not found.fall_may_be_chance and not found.rise_may_be_chance and not found.warnings()
    assert found.describe() == (
        "accuracy fell from 0.750 to 0.500 (p = 0.0049) and has since risen to 0.800 "
        "(p = 0.0024); p for the lowest of 5 measurements"
    )


def test_a_p_value_is_at_most_1():
    found = evidence(50, right(20), right(19), right(19))
    assert (found.p_fall, found.p_rise) == (1.0, 1.0)


def test_a_small_fall_may_be_chance_and_what_follows_is_said():
    found = evidence(8, right(20), right(16), right(30))
    assert found.p_fall == 8 * 2.0**-4 and found.fall_may_be_chance
    (said,) = found.warnings()
    assert said.startswith("the fall may be chance (p = 0.5): without any fall, the lowest of 8")
    assert "--t3s-simple" in said and "--t3s-shock-level" in said and "--t3s-no-shock" in said


def test_a_small_rise_may_be_chance():
    (said,) = evidence(8, right(30), right(10), right(12)).warnings()
    assert said.startswith("the rise after theta_b may be chance (p = 1)") and "patience" in said


def test_a_minimum_at_the_end_has_no_rise():
    found = evidence(8, right(30), right(10), None)
    assert found.p_rise is None and "was not measured again" in found.describe()
    (said,) = found.warnings()
    assert said.startswith("nothing was measured after theta_b") and "--t3s-profile-iters" in said


def test_where_answers_are_not_known_one_by_one_there_is_no_p():
    found = evidence(8, Outcome(0.7), Outcome(0.4), Outcome(0.6))
    assert (found.p_fall, found.p_rise, found.warnings()) == (None, None, [])
    assert found.describe().startswith("accuracy fell from 0.700 to 0.400 and has since risen")


def test_evidence_is_the_same_after_the_summary():
    found = evidence(5, right(30), right(20), right(32))
    assert Evidence.from_dict(found.to_dict()) == found
    assert found.to_dict()["fall_may_be_chance"] is False


# ---------------------------------------------------------------------------------- the detector's


def test_the_detector_counts_what_could_have_been_the_minimum():
    void = Outcome(math.nan, "?" * 40)
    found = searched(right(30), right(31), right(20), void, right(24), right(33), right(25))
    assert found.confirmed
    assert found.evidence() == evidence(5, right(30), right(20), right(33))
    found.observe(7, right(40))  # RRT goes on
    assert found.evidence() == evidence(5, right(30), right(20), right(33))


def test_a_lower_minimum_forgets_the_rise_before_it():
    found = searched(right(30), right(20), right(28), right(15), right(16))
    assert found.evidence() == evidence(4, right(30), right(15), right(16))
    assert searched(right(30), right(31)).evidence() is None


def test_without_a_fall_few_runs_are_said_to_have_one_and_without_a_rise_to_have_risen():
    """The correction against noise: 300 flat runs of 200 answers that are drawn anew each step."""
    rng = np.random.default_rng(0)
    falls = rises = minima = 0
    for _ in range(300):
        detector = BottleneckDetector(8)
        for step in range(40):
            marks = "".join(np.where(rng.random(200) < 0.6, "1", "0"))
            detector.observe(step, Outcome(marks.count("1") / 200, marks))
            if detector.confirmed:
                break
        found = detector.evidence()
        if found is not None:
            minima += 1
            falls += not found.fall_may_be_chance
            rises += not found.rise_may_be_chance
    assert minima > 270, "nearly all take a minimum"
    # 15 at the level, standard deviation 3.8.
    assert falls <= 26 and rises <= 26


def test_a_real_dip_is_told_from_chance():
    rng = np.random.default_rng(1)
    shape = [0.7, 0.65, 0.6, 0.52, 0.47, 0.45, *[0.45 + 0.03 * k for k in range(1, 9)]]
    told = 0
    for _ in range(50):
        detector = BottleneckDetector(8)
        for step, p in enumerate(shape + [0.7] * 8):
            marks = "".join(np.where(rng.random(200) < p, "1", "0"))
            detector.observe(step, Outcome(marks.count("1") / 200, marks))
        found = detector.evidence()
        told += not (found.fall_may_be_chance or found.rise_may_be_chance)
    assert told >= 48


# ------------------------------------------------------------------------------------- in the run


def test_every_theta_b_of_accuracy_is_told_with_its_evidence():
    walk = Walk(
        asked(patience=2, budget=2, profile_iters=6, simple_step=2), curve(0.75, 0.25, 0.5, 0.625)
    ).run()
    at = walk.log.index("theta_b is step 1 (patience 2)")
    assert walk.log[at + 1].startswith("accuracy fell from 0.750 to 0.250 (p = 0.19) and has since")
    assert walk.log[at + 2].startswith("WARNING: the fall may be chance (p = 0.19)")
    assert walk.log[at + 3].startswith("WARNING: the rise after theta_b may be chance")
    found = walk.machine.profile.findings()
    assert found["theta_b_evidence"]["measurements"] == 3 and found["theta_b_step"] == 1
    assert found["theta_b_evidence"]["p_fall"] == 3 * 2.0**-4


def test_where_accuracy_did_not_decide_there_is_none():
    for options, how in (
        (asked(simple=True, simple_step=2, budget=2), {}),
        (asked(budget=2, simple_step=2, profile_iters=4), {"accuracy": curve(0.5, 0.625)}),
        (asked(signal="confidence", patience=1, budget=2), {"fall": lambda t: -1.0 / (1 + t)}),
    ):
        walk = Walk(options, **how).run()
        assert walk.machine.theta_b_step is not None
        assert walk.machine.profile.findings()["theta_b_evidence"] is None
        assert not any("chance" in line for line in walk.log)


# ------------------------------------------------------------------------- a useless reference


@pytest.mark.parametrize("n", range(6))
@pytest.mark.parametrize("of", [8, 40, 400])
def test_a_reference_that_even_0_may_not_be_below_is_refused(n, of):
    """2 ** -n: five right answers can be seen to vanish, four cannot."""
    why = why_nothing_can_fall(right(n, of), 0.0)
    assert (why is None) == (2.0**-n <= CHANCE)
    assert why is None or "--t3s-verifier" in why


def test_several_answers_to_a_prompt_are_one_prompt():
    """16 right answers, all to two prompts: their signs alone give p = 1/4."""
    few = Outcome(0.5, "1" * 16 + "0" * 16, samples=8)
    assert "p = 0.25" in why_nothing_can_fall(few, 0.0)
    assert why_nothing_can_fall(Outcome(0.5, "1" * 16 + "0" * 16, samples=2), 0.0) is None


def test_nothing_falls_by_more_than_all_there_is():
    assert "--t3s-min-delta 0.8" in why_nothing_can_fall(right(30), 0.8)
    assert why_nothing_can_fall(Outcome(0.0), 0.0) is not None
    assert why_nothing_can_fall(Outcome(0.7), 0.0) is None, "nothing is known of its answers"


@pytest.mark.parametrize(("cut_off", "refused"), [(20, False), (25, False), (26, True), (30, True)])
def test_most_answers_cut_off(cut_off, refused):
    """Of 40, 26 are more than half by more than chance: p = 0.04, for 25 it is 0.08."""
    first = Outcome(0.25, "1" * 10 + "0" * 30, cut_off=cut_off)
    why = why_nothing_can_fall(first, 0.0)
    assert (why is not None) == refused
    if refused:
        assert f"{cut_off} of 40 answers met the length limit" in why
        assert "--t3s-max-new-tokens" in why


def test_such_a_run_ends_before_its_first_step():
    machine = PhaseMachine(asked())
    machine.done(machine.next_action())
    with pytest.raises(NoReferenceError) as caught:
        machine.measured(right(0))
    said = str(caught.value)
    assert said.startswith("accuracy before the first step is no reference for the bottleneck")
    assert "--t3s-verifier" in said and "--t3s-simple" in said


def test_it_goes_on_where_accuracy_decides_nothing():
    for options in (asked("sft", budget=3), asked(selection_load="s", budget=3)):
        machine = PhaseMachine(options)
        machine.measured(right(0))
        assert machine.next_action() is None


def test_each_teachers_prompts_need_one():
    several = asked(teachers=("a", "b"), patience=1, profile_iters=4, simple_step=2, budget=2)
    curves = {"a": curve(0.75, 0.25, 0.5), "b": curve(0.0, 0.1)}
    walk = Walk(several, accuracies=curves).run()
    assert walk.refused.startswith("teacher b: accuracy before the first step is no reference")
