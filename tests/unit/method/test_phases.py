# SPDX-License-Identifier: Apache-2.0
"""Every path a run can take through the phases, as the exact sequence of its actions."""

from __future__ import annotations

import math

import pytest
from phase_walk import Walk, curve

from t3s_megatron.errors import T3SError
from t3s_megatron.method.options import MethodOptions
from t3s_megatron.method.outcome import Outcome
from t3s_megatron.method.phases import Action, ActionKind, Phase, PhaseMachine
from tests.support.asked import Evaluated, asked

BASELINES = ("random", "mask-top-confidence", "mask-bottom-confidence")
SELECTING = ("t3s", "inverse", *BASELINES)
SHOCK = curve(0.7, 0.5, 0.4, 0.45, 0.5, 0.6)
NO_SHOCK = curve(0.5, 0.6, 0.7)


def plan(method: str = "t3s", **changed) -> MethodOptions:
    """Small numbers; targeted steps are not measured unless a test asks, but for the last one."""
    settings = dict(budget=3, simple_step=2, profile_iters=6, patience=2)
    return asked(method, **settings | dict(targeted_accuracy_interval=0) | changed)


def measures(phase: str, steps) -> list[str]:
    return [f"{phase} {step}: measure" for step in steps]


SELECTED_AFTER_REWIND = ["targeted 0: score theta_0", "targeted 0: select", "targeted 3: finish"]
#: The same where accuracy is measured.
MEASURED_AT_THE_END = [*SELECTED_AFTER_REWIND[:2], "targeted 3: measure", "targeted 3: finish"]


def in_profile(walk: Walk) -> list[str]:
    """What was measured to find theta_b."""
    return [a for a in walk.trace if a.startswith("profile") and a.endswith("measure")]


# --------------------------------------------------------------------- methods that need a theta_b


@pytest.mark.parametrize("method", SELECTING)
def test_shock_confirmed_by_patience(method):
    walk = Walk(plan(method), SHOCK).run()
    assert walk.trace == [
        "profile 0: keep theta_0",
        "profile 0: measure",
        "profile 1: measure",
        "profile 1: keep candidate",
        "profile 2: measure",
        "profile 2: keep candidate",
        "profile 3: measure",
        "profile 4: measure",
        "profile 4: score theta_b",
        "profile 4: rewind",
        *MEASURED_AT_THE_END,
    ]
    assert walk.machine.theta_b_step == 2
    assert walk.machine.records == [
        {"phase": "profile", "first_iteration": 1, "last_iteration": 4},
        {"phase": "targeted", "first_iteration": 5, "last_iteration": 7},
    ]


def test_the_log_tells_the_run_in_plain_words():
    walk = Walk(plan(), SHOCK).run()
    assert walk.log[-6:] == [
        "step 4: accuracy 0.500: 2 measurements without a new minimum confirm theta_b = step 2 "
        "(accuracy 0.400)",
        "theta_b is step 2 (patience 2)",
        "accuracy fell from 0.700 to 0.400 and has since risen to 0.500; p for the lowest of 4 "
        "measurements",
        "rewound to theta_0 after 4 profile steps",
        "targeted training begins: 3 steps",
        "done",
    ]


def test_ties_keep_the_first_of_equals():
    walk = Walk(plan(), curve(0.7, 0.5, 0.5, 0.5)).run()
    assert [a for a in walk.trace if "candidate" in a] == ["profile 1: keep candidate"]
    assert walk.machine.theta_b_step == 1 and walk.steps["profile"] == 3


def test_the_profile_ends_at_its_upper_bound():
    walk = Walk(plan(patience=9), SHOCK).run()
    assert walk.trace[-6:-4] == ["profile 6: score theta_b", "profile 6: rewind"]
    assert walk.machine.theta_b_step == 2
    assert walk.machine.theta_b_reason == "lowest of all 6 profile steps"


def test_a_minimum_at_the_upper_bound_is_scored_live_and_not_kept():
    walk = Walk(plan(profile_iters=3), curve(0.7, 0.6, 0.5, 0.4)).run()
    assert walk.trace[-7:] == [
        "profile 3: measure",
        "profile 3: score theta_b (live)",
        "profile 3: rewind",
        *MEASURED_AT_THE_END,
    ]
    assert walk.machine.theta_b_step == 3


def test_a_void_measurement_is_neither_a_minimum_nor_patience():
    walk = Walk(plan(), curve(0.7, 0.5, math.nan, 0.6, math.nan, 0.6)).run()
    assert walk.machine.theta_b_step == 1 and walk.steps["profile"] == 5
    assert "step 2: the measurement is void and ignored" in walk.log


def test_a_void_measurement_before_the_first_step_ends_the_run():
    walk = Walk(plan(), curve(math.nan)).run()
    assert "accuracy before the first step could not be measured" in walk.refused
    assert walk.steps == {"profile": 0, "targeted": 0}


def test_a_profile_of_void_measurements_is_not_taken_for_one_without_a_shock():
    walk = Walk(plan(), curve(0.7, math.nan)).run()
    assert f"every one of the {walk.steps['profile']} accuracy measurements" in walk.refused
    assert walk.machine.theta_b_step is None


def test_how_many_steps_were_not_measured_is_told_with_theta_b():
    walk = Walk(plan(patience=9), curve(0.7, 0.5, math.nan, math.nan, 0.6)).run()
    assert walk.machine.theta_b_reason.endswith("profile steps (2 unmeasured)")
    walk = Walk(plan(), curve(0.7, math.nan, 0.7)).run()
    assert "never fell below step 0 (1 unmeasured)" in walk.machine.theta_b_reason


def test_void_measurements_of_the_targeted_phase_change_nothing():
    shock = (0.7, 0.5, 0.6)
    walk = Walk(plan(), curve(*shock, targeted=math.nan)).run()
    assert not walk.refused and walk.trace == Walk(plan(), curve(*shock)).run().trace


def test_a_void_measurement_at_the_upper_bound_still_ends_the_profile():
    walk = Walk(plan(patience=9), curve(0.7, 0.5, 0.6, 0.6, 0.6, 0.6, math.nan)).run()
    assert walk.steps == {"profile": 6, "targeted": 3} and walk.machine.theta_b_step == 1


def test_an_interval_measures_only_then_and_at_the_upper_bound():
    walk = Walk(plan(accuracy_interval=4, patience=9), curve(0.7, *[0.6] * 5, 0.5)).run()
    assert in_profile(walk) == measures("profile", (0, 4, 6))
    assert walk.machine.theta_b_step == 6


def test_coarse_until_the_shock_and_dense_from_there():
    shock = curve(0.7, 0.75, 0.8, 0.8, 0.6, 0.5, 0.55, 0.6)
    walk = Walk(plan(accuracy_interval_coarse=2, profile_iters=9), shock).run()
    assert in_profile(walk) == measures("profile", (0, 2, 4, 5, 6, 7))
    assert walk.machine.theta_b_step == 5
    said = "from here on accuracy is measured every --t3s-accuracy-interval steps"
    assert walk.log.count(said) == 1


def test_another_signal_may_ask_for_dense_measuring():
    machine = PhaseMachine(plan(accuracy_interval_coarse=4))
    machine.done(machine.next_action())
    machine.measured(Outcome(0.7))
    machine.step_done()
    assert machine.next_action() is None
    assert machine.schedule.measure_densely(machine.phase_step)
    machine.step_done()
    assert machine.next_action() == Action(ActionKind.MEASURE)


def test_the_end_of_the_profile_is_measured_however_coarse():
    walk = Walk(plan(accuracy_interval_coarse=4), NO_SHOCK).run()
    assert in_profile(walk) == measures("profile", (0, 4, 6))


def test_the_paired_test_is_told_with_theta_b():
    walk = Walk(plan(patience=4, confirm_level=0.2), curve(0.75, 0.125, 0.25, 0.625)).run()
    assert walk.machine.theta_b_step == 1 and walk.steps["profile"] == 3
    assert walk.machine.theta_b_reason == "paired test at step 3, p = 0.062"


def test_only_a_measurement_that_looks_for_the_minimum_may_end_early():
    """The first is the reference; SFT, RRT past theta_b and targeted training show their course."""
    looking = {"t3s": [1, 2, 3, 4], "rrt": [1, 2, 3, 4], "sft": []}
    for method, expected in looking.items():
        machine = PhaseMachine(plan(method, budget=6, targeted_accuracy_interval=1))
        sought = []
        while machine.phase is not Phase.DONE:
            action = machine.next_action()
            if action is None:
                machine.step_done()
            elif action.kind is ActionKind.MEASURE:
                sought += [machine.total_steps] if machine.seeks_minimum else []
                accuracy = (0.7, 0.5, 0.4)[machine.phase_step] if machine.phase_step < 3 else 0.6
                machine.measured(Outcome(accuracy))
            else:
                machine.done(action)
        assert sought == expected, method


def test_the_stop_level_is_divided_between_the_looks_of_a_measurement():
    machine = PhaseMachine(plan(accuracy_stop_level=0.2, accuracy_blocks=3))
    for marks in ("11111111", "00011111"):
        while machine.next_action() != Action(ActionKind.MEASURE):
            action = machine.next_action()
            machine.done(action) if action else machine.step_done()
        machine.measured(Outcome(marks.count("1") / 8, marks))
    rising = Outcome(1.0, "111-----")  # p = 1/8
    assert "paired test" in machine.settles(rising, looks=1)
    assert machine.settles(rising, looks=2) is None


# ----------------------------------------------------------------------------- no Imitation Shock


def test_no_shock_goes_on_as_t3s_simple():
    walk = Walk(plan(), NO_SHOCK).run()
    assert walk.trace == [
        "profile 0: keep theta_0",
        *measures("profile", (0, 1, 2)),
        "profile 2: keep candidate",
        *measures("profile", (3, 4, 5, 6)),
        "profile 6: score theta_b",
        "profile 6: rewind",
        *MEASURED_AT_THE_END,
    ]
    assert walk.machine.theta_b_step == 2
    assert "no Imitation Shock in 6 steps" in walk.machine.theta_b_reason
    assert "T3S-simple" in walk.machine.theta_b_reason


def test_no_shock_with_the_simple_step_at_the_upper_bound_is_live():
    walk = Walk(plan(simple_step=6), NO_SHOCK).run()
    assert "profile 6: score theta_b (live)" in walk.trace
    assert not [a for a in walk.trace if "candidate" in a]


def test_a_late_shock_replaces_the_simple_step():
    walk = Walk(plan(), curve(0.5, 0.6, 0.6, 0.6, 0.4, 0.45, 0.45)).run()
    kept = [a for a in walk.trace if "candidate" in a]
    assert kept == ["profile 2: keep candidate", "profile 4: keep candidate"]
    assert walk.machine.theta_b_step == 4


def test_the_simple_step_never_replaces_a_real_minimum():
    walk = Walk(plan(patience=3), curve(0.5, 0.4, 0.45)).run()
    assert [a for a in walk.trace if "candidate" in a] == ["profile 1: keep candidate"]


def test_no_shock_goes_on_as_plain_sft():
    walk = Walk(plan(no_shock="sft", budget=8, profile_iters=3), NO_SHOCK).run()
    assert walk.trace == [
        "profile 0: keep theta_0",
        *measures("profile", range(9)),
        "profile 8: finish",
    ]
    assert walk.machine.theta_b_step is None
    assert walk.steps == {"profile": 8, "targeted": 0}
    assert walk.machine.theta_b_reason in walk.log
    assert walk.machine.theta_b_reason.endswith("going on as plain SFT")


def test_a_shock_after_going_on_as_sft_decides_nothing():
    late = curve(0.5, 0.6, 0.6, 0.6, 0.1, 0.2, 0.2, 0.2)
    walk = Walk(plan(no_shock="sft", budget=8, profile_iters=3), late).run()
    assert walk.trace[-1] == "profile 8: finish" and walk.machine.theta_b_step is None


def test_no_shock_stops():
    walk = Walk(plan(no_shock="stop"), NO_SHOCK).run()
    assert walk.trace[-2:] == ["profile 6: measure", "profile 6: finish"]
    assert walk.machine.train_iters_now == 6 and walk.machine.theta_b_step is None
    assert "no Imitation Shock" in walk.machine.theta_b_reason


# ------------------------------------------------------------------------------------- T3S-simple


@pytest.mark.parametrize("method", SELECTING)
def test_simple_measures_nothing_and_scores_the_live_weights(method):
    walk = Walk(plan(method, simple=True)).run()
    assert walk.trace == [
        "profile 0: keep theta_0",
        "profile 2: score theta_b (live)",
        "profile 2: rewind",
        *SELECTED_AFTER_REWIND,
    ]
    assert walk.machine.theta_b_reason == "T3S-simple takes step 2"


def test_simple_measures_in_the_targeted_phase_when_asked_from_theta_0_on():
    walk = Walk(plan(simple=True, targeted_accuracy_interval=2)).run()
    measured = [a for a in walk.trace if "measure" in a]
    assert measured == measures("targeted", (0, 2, 3))


def test_where_answers_are_asked_for_anyway_the_end_is_measured():
    """By --t3s-report-temperatures, of which the phases know nothing."""
    options = Evaluated(**vars(plan(simple=True)))
    assert Walk(options).run().trace[-2:] == [*measures("targeted", (3,)), "targeted 3: finish"]


# ------------------------------------------------------------------- the signal without generation

FALLS = (0.0, -0.1, -0.2, -0.24, -0.25, -0.2, -0.1)  # slower from step 3 on


def fall(step: int) -> float:
    return FALLS[min(step, len(FALLS) - 1)]


def test_by_confidence_the_turn_is_theta_b_and_nothing_is_measured():
    walk = Walk(plan(signal="confidence", profile_iters=9), fall=fall).run()
    assert walk.trace == [
        "profile 0: keep theta_0",
        "profile 0: score",
        *[f"profile {k}: {what}" for k in (1, 2, 3, 4) for what in ("score", "keep candidate")],
        "profile 5: score",
        "profile 6: score",
        "profile 6: score theta_b",
        "profile 6: rewind",
        *SELECTED_AFTER_REWIND,
    ]
    assert walk.machine.theta_b_step == 4 and walk.machine.theta_b_reason == "patience 2"


def test_by_confidence_without_a_fall_the_run_says_so():
    asked = plan(signal="confidence")
    walk = Walk(asked, fall=lambda step: 0.0).run()
    assert walk.machine.theta_b_step == 2
    assert "confidence never fell below step 0" in walk.machine.theta_b_reason


def test_by_both_accuracy_decides_and_is_measured_once_the_fall_has_slowed():
    asked = plan(signal="both", accuracy_interval_coarse=6, profile_iters=9)
    walk = Walk(asked, curve(0.7, 0.6, 0.5, 0.45, 0.5, 0.4, 0.45, 0.5, 0.5), fall=fall).run()
    assert in_profile(walk) == measures("profile", (0, 3, 4, 5, 6, 7))
    # The turn is confirmed at step 6, and then there is nothing left to score for.
    assert [a for a in walk.trace if a.endswith(": score")] == [
        f"profile {step}: score" for step in range(7)
    ]
    assert walk.machine.theta_b_step == 5
    assert "from here on accuracy is measured every" in "\n".join(walk.log)


def test_rrt_by_confidence_keeps_the_turn():
    asked = plan("rrt", budget=8, profile_iters=8, signal="confidence")
    walk = Walk(asked, fall=fall).run()
    assert walk.machine.theta_b_step == 4 and walk.machine.phase is Phase.DONE
    assert walk.trace[-2:] == ["profile 8: residual transfer", "transferred 8: finish"]


# ---------------------------------------------------------------------------------- RRT and SFT


def test_rrt_trains_to_theta_f_and_transfers_the_residual():
    walk = Walk(plan("rrt", budget=6), SHOCK).run()
    assert walk.trace == [
        "profile 0: keep theta_0",
        *measures("profile", (0, 1)),
        "profile 1: keep candidate",
        "profile 2: measure",
        "profile 2: keep candidate",
        *measures("profile", (3, 4, 5, 6)),
        "profile 6: residual transfer",
        "transferred 6: measure",
        "transferred 6: finish",
    ]
    assert walk.machine.theta_b_step == 2
    assert walk.machine.records == [{"phase": "profile", "first_iteration": 1, "last_iteration": 6}]


def test_rrt_keeps_the_first_confirmed_minimum():
    walk = Walk(plan("rrt", budget=6), curve(0.7, 0.5, 0.6, 0.6, 0.1, 0.1, 0.1)).run()
    assert walk.machine.theta_b_step == 1


def test_rrt_takes_the_lowest_when_nothing_was_confirmed():
    walk = Walk(
        plan("rrt", budget=4, patience=9, profile_iters=4), curve(0.7, 0.5, 0.6, 0.4, 0.5)
    ).run()
    assert walk.machine.theta_b_step == 3
    assert walk.trace[-3:-1] == ["profile 4: residual transfer", "transferred 4: measure"]


def test_rrt_measures_at_its_interval_whatever_the_profile_bound():
    walk = Walk(plan("rrt", budget=7, profile_iters=9, accuracy_interval=5), SHOCK).run()
    assert in_profile(walk) == measures("profile", (0, 5, 7))


def test_rrt_without_shock_takes_the_simple_step():
    walk = Walk(plan("rrt", budget=6), NO_SHOCK).run()
    assert walk.machine.theta_b_step == 2
    assert [a for a in walk.trace if "candidate" in a] == ["profile 2: keep candidate"]


@pytest.mark.parametrize("no_shock", ["sft", "stop"])
def test_rrt_without_shock_leaves_theta_f(no_shock):
    walk = Walk(plan("rrt", budget=6, no_shock=no_shock), NO_SHOCK).run()
    assert walk.trace[-1] == "profile 6: finish" and walk.machine.theta_b_step is None
    assert "theta_f is left as it is" in walk.machine.theta_b_reason


def test_rrt_simple():
    walk = Walk(plan("rrt", budget=6, simple=True)).run()
    assert walk.trace == [
        "profile 0: keep theta_0",
        "profile 2: keep candidate",
        "profile 6: residual transfer",
        "transferred 6: finish",
    ]


def test_sft_measures_and_decides_nothing():
    walk = Walk(plan("sft", budget=5, accuracy_interval=2), SHOCK).run()
    assert walk.trace == [*measures("profile", (0, 2, 4, 5)), "profile 5: finish"]
    assert walk.machine.theta_b_step is None
    assert walk.machine.detector.theta_b_step == 2  # for the report


def test_sft_without_measuring():
    walk = Walk(plan("sft", budget=5, accuracy_interval=0)).run()
    assert walk.trace == ["profile 5: finish"] and walk.steps["profile"] == 5


# -------------------------------------------------------------------- runs without a profile phase


def test_random_with_a_share_of_its_own():
    walk = Walk(plan("random", mask_share=0.2)).run()
    assert walk.trace == ["targeted 0: select", "targeted 3: finish"]


@pytest.mark.parametrize("method", BASELINES[1:])
def test_confidence_masks_with_a_share_only_score_theta_0(method):
    assert Walk(plan(method, mask_share=0.2)).run().trace == SELECTED_AFTER_REWIND


def test_keep_top_delta_has_a_profile_even_with_a_share_of_its_own():
    """Its order of the tokens is that of delta_c, which needs theta_b."""
    assert Walk(plan("keep-top-delta", mask_share=0.2)).run().trace == Walk(plan("t3s")).run().trace


@pytest.mark.parametrize("method", SELECTING)
def test_a_loaded_selection_starts_targeted(method):
    walk = Walk(plan(method, selection_load="s")).run()
    assert walk.trace == ["targeted 3: finish"]
    assert walk.machine.records == [
        {"phase": "targeted", "first_iteration": 1, "last_iteration": 3}
    ]


def test_a_loaded_selection_measures_theta_0_itself():
    loaded = plan(selection_load="s", targeted_accuracy_interval=2)
    assert Walk(loaded).run().trace == [
        *measures("targeted", (0, 2, 3)),
        "targeted 3: finish",
    ]


def test_theta_0_is_not_measured_twice():
    walk = Walk(plan(targeted_accuracy_interval=2), SHOCK).run()
    measured = [a for a in walk.trace if a.endswith("measure") and a.startswith("targeted")]
    assert measured == measures("targeted", (2, 3))


# ------------------------------------------------------------------------------------- bookkeeping


def test_train_iters_is_an_upper_bound_until_the_profile_ends():
    machine = PhaseMachine(plan(simple=True, budget=7))
    assert machine.train_iters_now == 2 + 7
    assert PhaseMachine(plan(budget=7)).train_iters_now == 6 + 7
    assert PhaseMachine(plan("sft", budget=7)).train_iters_now == 7
    assert PhaseMachine(plan("rrt", budget=7, profile_iters=7)).train_iters_now == 7
    assert PhaseMachine(plan(budget=7, selection_load="s")).train_iters_now == 7
    done = Walk(plan(budget=7), SHOCK).run().machine
    assert done.offset == 4 and done.train_iters_now == done.total_steps == 4 + 7


@pytest.mark.parametrize(
    "changed, reason",
    [
        (dict(profile_iters=0), "--t3s-profile-iters 0: must be at least 1"),
        (dict(accuracy_interval=0), "detector needs accuracy"),
        (dict(method="rrt", accuracy_interval=0), "detector needs accuracy"),
        (dict(method="rrt", budget=7), "--t3s-profile-iters 6 cannot be shorter"),
        (dict(simple_step=7), "--t3s-simple-step 7 lies beyond --t3s-profile-iters 6"),
        (dict(simple_step=0), "--t3s-simple-step 0: must be at least 1"),
        (dict(simple=True, simple_step=7), "theta_b would never be reached"),
        (dict(no_shock="sft", profile_iters=4), "goes on to --train-iters 3 in all"),
        (dict(method="rrt", simple_step=4), "--t3s-simple-step 4 lies beyond --train-iters 3"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_by_the_machine_as_well(changed, reason):
    with pytest.raises(T3SError, match=reason):
        PhaseMachine(plan(**changed))


def test_the_simple_step_is_free_where_nothing_uses_it():
    for free in (dict(no_shock="stop"), dict(method="sft"), dict(method="random", mask_share=0.5)):
        plan(simple_step=99, **free).check()


def test_events_out_of_order_are_refused():
    machine = PhaseMachine(plan())
    with pytest.raises(ValueError, match="no training step was due"):
        machine.step_done()
    with pytest.raises(ValueError, match="measure was reported"):
        machine.measured(Outcome(0.5))
    machine.done(machine.next_action())
    with pytest.raises(ValueError, match=r"reported with measured\(\)"):
        machine.done(machine.next_action())
    with pytest.raises(ValueError, match="rewind was reported"):
        machine.done(Action(ActionKind.REWIND))
    finished = Walk(plan("sft", accuracy_interval=0)).run().machine
    assert finished.phase is Phase.DONE
    with pytest.raises(ValueError, match="no training step was due"):
        finished.step_done()


def test_a_state_of_another_plan_is_refused():
    state = PhaseMachine(plan()).state_dict()
    with pytest.raises(ValueError, match="other --t3s arguments"):
        PhaseMachine(plan(patience=3)).load_state_dict(state)
