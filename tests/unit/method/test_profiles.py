# SPDX-License-Identifier: Apache-2.0
"""Several teachers (section 4.2): a profile for each, every one from theta_0, one targeted phase.

The reference is the machine with one teacher: each profile has to be the profile of a run with that
teacher alone, up to the names of things.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from phase_walk import THETA_0, Walk, curve
from test_phases import SHOCK, plan

from t3s_megatron.method.arguments import SIGNALS
from t3s_megatron.method.phases import PhaseMachine

EARLY = curve(0.9, 0.3, 0.5, 0.6, 0.7)
NO_SHOCK = curve(0.5, 0.6, 0.7)
TEACHERS = ("r1", "qwq", "235b")


def alone(walk: Walk, teacher: str, **changed) -> Walk:
    """The run with this teacher only."""
    settings = vars(walk.plan) | {"teachers": ()} | changed
    accuracy = walk.accuracies.get(teacher, walk.accuracy)
    return Walk(type(walk.plan)(**settings), accuracy, fall=walk.falls.get(teacher)).run()


def profile_of(trace: list[str]) -> list[str]:
    return [
        action for action in trace if action.startswith("profile") and "keep theta" not in action
    ]


def test_two_teachers_one_after_the_other():
    walk = Walk(plan(teachers=("r1", "qwq")), SHOCK, accuracies={"qwq": EARLY}).run()
    assert walk.trace == [
        "r1 profile 0: keep theta_0",
        "r1 profile 0: measure",
        "r1 profile 1: measure",
        "r1 profile 1: keep candidate",
        "r1 profile 2: measure",
        "r1 profile 2: keep candidate",
        "r1 profile 3: measure",
        "r1 profile 4: measure",
        "r1 profile 4: score theta_b",
        "r1 profile 4: rewind",
        "r1 profile 0: score theta_0",
        "r1 profile 0: next profile",
        "qwq profile 0: measure",
        "qwq profile 1: measure",
        "qwq profile 1: keep candidate",
        "qwq profile 2: measure",
        "qwq profile 3: measure",
        "qwq profile 3: score theta_b",
        "qwq profile 3: rewind",
        "targeted 0: score theta_0",
        "targeted 0: select",
        "targeted 3: measure",
        "targeted 3: finish",
    ]
    assert [profile.theta_b_step for profile in walk.machine.profiles] == [2, 1]
    assert walk.machine.records == [
        {"phase": "profile", "teacher": "r1", "first_iteration": 1, "last_iteration": 4},
        {"phase": "profile", "teacher": "qwq", "first_iteration": 5, "last_iteration": 7},
        {"phase": "targeted", "first_iteration": 8, "last_iteration": 10},
    ]
    assert "teacher qwq: theta_b is step 1 (patience 2)" in walk.log
    assert "teacher r1: rewound to theta_0 after 4 profile steps" in walk.log


def test_a_teacher_without_a_shock_is_taken_at_the_simple_step_and_the_others_are_not():
    walk = Walk(plan(teachers=TEACHERS), SHOCK, accuracies={"qwq": NO_SHOCK}).run()
    assert [profile.theta_b_step for profile in walk.machine.profiles] == [2, 2, 2]
    reasons = [profile.theta_b_reason for profile in walk.machine.profiles]
    assert ["T3S-simple" in reason for reason in reasons] == [False, True, False]
    assert walk.steps == {"profile": 4 + 6 + 4, "targeted": 3}


def test_a_teacher_without_a_shock_stops_the_run_where_that_is_asked_for():
    stops = plan(teachers=TEACHERS, no_shock="stop")
    walk = Walk(stops, SHOCK, accuracies={"qwq": NO_SHOCK}).run()
    assert walk.trace[-1] == "qwq profile 6: finish" and walk.steps["targeted"] == 0
    assert walk.machine.train_iters_now == 4 + 6
    assert any("teacher qwq: no Imitation Shock" in line for line in walk.log)


def test_a_void_start_of_a_later_profile_ends_the_run_and_names_the_teacher():
    walk = Walk(plan(teachers=TEACHERS), SHOCK, accuracies={"qwq": curve(math.nan)}).run()
    assert walk.refused.startswith("teacher qwq: the accuracy before the first step")
    walk = Walk(plan(teachers=TEACHERS), SHOCK, accuracies={"qwq": curve(0.7, math.nan)}).run()
    assert walk.refused.startswith("teacher qwq: every one of the")


def test_simple_measures_nothing_until_the_targeted_phase():
    walk = Walk(plan(teachers=("a", "b"), simple=True, targeted_accuracy_interval=2)).run()
    assert [a for a in walk.trace if "measure" in a] == [
        "targeted 0: measure", "targeted 2: measure", "targeted 3: measure",
    ]  # fmt: skip
    assert walk.steps == {"profile": 4, "targeted": 3}


@pytest.mark.parametrize(
    "changed",
    [
        dict(method="sft", budget=5),
        dict(selection_load="s"),
        dict(method="random", mask_share=0.2),
        dict(method="mask-top-confidence", mask_share=0.2),
    ],
)
def test_what_needs_no_theta_b_has_one_phase_over_all_samples(changed):
    several = Walk(plan(**{"teachers": TEACHERS} | changed), SHOCK).run()
    assert several.trace == Walk(plan(**changed), SHOCK).run().trace


def test_train_iters_leaves_room_for_the_profiles_to_come():
    machine = PhaseMachine(plan(teachers=TEACHERS, budget=7))
    assert machine.train_iters_now == 3 * 6 + 7
    done = Walk(plan(teachers=TEACHERS, budget=7), SHOCK).run().machine
    assert done.train_iters_now == done.total_steps == 3 * 4 + 7


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (dict(method="rrt"), "one trajectory"),
        (dict(no_shock="sft", budget=9), "fine-tuning on all"),
    ],
)
def test_what_one_teacher_alone_can_do(changed, reason):
    with pytest.raises(ValueError, match=reason):
        PhaseMachine(plan(teachers=TEACHERS, **changed))
    Walk(plan(**changed), NO_SHOCK).run()


@st.composite
def falls(draw):
    """Of the confidence, by step."""
    lowered = draw(st.lists(st.integers(-8, 0), min_size=1, max_size=8))
    return lambda step: 0.0 if step == 0 else lowered[min(step, len(lowered)) - 1] / 8


@st.composite
def runs(draw) -> Walk:
    """As T3SConfig makes plans: without the detector of accuracy no profile is measured."""
    signal, simple = draw(
        st.sampled_from([*((signal, False) for signal in SIGNALS), ("accuracy", True)])
    )
    accuracy_interval = draw(st.integers(1, 3))
    coarse = [3, 4] if signal == "both" else [0, 3, 4]
    teachers = TEACHERS[: draw(st.integers(2, 3))]
    values = st.one_of(st.integers(0, 8).map(lambda k: k / 8), st.just(math.nan))
    profile_iters = draw(st.integers(1, 7))
    drawn = plan(
        draw(st.sampled_from(["t3s", "inverse", "random", "mask-top-confidence"])),
        teachers=teachers,
        budget=draw(st.integers(1, 5)),
        signal=signal,
        simple=simple,
        simple_step=draw(st.integers(1, profile_iters)),
        profile_iters=profile_iters,
        accuracy_interval=accuracy_interval,
        targeted_accuracy_interval=draw(st.integers(0, 2)),
        patience=draw(st.integers(1, 3)),
        confirm_level=draw(st.sampled_from([0.0, 0.3])),
        shock_level=draw(st.sampled_from([0.0, 0.0, 0.3])),
        accuracy_interval_coarse=draw(st.sampled_from(coarse)),
        no_shock=draw(st.sampled_from(["simple", "stop"])),
    )
    curves = {
        teacher: curve(*draw(st.lists(values, min_size=2, max_size=8))) for teacher in teachers
    }
    return Walk(drawn, accuracies=curves, falls={teacher: draw(falls()) for teacher in teachers})


@settings(max_examples=200)
@given(runs())
def test_every_profile_is_that_of_a_run_with_this_teacher_alone(walk):
    walk.run()
    assume(not walk.refused)
    for profile in walk.machine.profiles:
        if profile.theta_b_reason is None:  # an earlier teacher stopped the run
            break
        single = alone(walk, profile.teacher)
        mine = [
            action.removeprefix(f"{profile.teacher} ")
            for action in walk.trace
            if action.startswith(profile.teacher)
        ]
        mine = [a for a in mine if a not in ("profile 0: score theta_0", "profile 0: next profile")]
        assert profile_of(mine) == profile_of(single.trace)
        known = single.machine.profile
        # Detectors, schedule, theta_b: but for whose they are and where the run ended.
        mine, wanted = profile.state_dict(), known.state_dict()
        for own in ("teacher", "closed", "candidate_step"):
            del mine[own], wanted[own]
        assert mine == wanted
    assert set(walk.starts) == {THETA_0}, "a phase began from other weights"
    selected = walk.steps["targeted"] > 0
    assert walk.steps["targeted"] in (0, walk.plan.budget)
    assert [profile.closed for profile in walk.machine.profiles].count(True) == (
        len(walk.plan.teachers) if selected else walk.machine.number
    )


@settings(max_examples=60)
@given(runs())
def test_a_run_that_dies_at_any_point_makes_the_same_run(walk):
    whole = walk.run()
    for point in [None, *range(whole.events)]:  # None: at every one
        resumed = Walk(
            walk.plan,
            resume_at=lambda event, point=point: point is None or event == point,
            accuracies=walk.accuracies,
            falls=walk.falls,
        ).run()
        assert (resumed.trace, resumed.log) == (whole.trace, whole.log), f"died at event {point}"
        assert resumed.refused == whole.refused and resumed.starts == whole.starts
    assert resumed.machine.state_dict() == whole.machine.state_dict()


def test_a_state_of_other_teachers_is_refused():
    state = PhaseMachine(plan(teachers=("a", "b"))).state_dict()
    with pytest.raises(ValueError, match="other --t3s arguments"):
        PhaseMachine(plan(teachers=("a", "c"))).load_state_dict(state)
