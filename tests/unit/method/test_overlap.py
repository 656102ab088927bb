# SPDX-License-Identifier: Apache-2.0
"""A run that does not wait for its measurements decides what a run that waits decides.

The driver keeps weights as names: those of theta_0, one candidate, and those of steps in flight.
That each action finds what it needs is asserted in it and in `Walk`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from phase_walk import Walk, curve, paired
from test_phases_properties import curves, plans, quick
from test_profiles import runs as several_teachers

from t3s_megatron.method.options import MethodOptions
from t3s_megatron.method.outcome import Outcome
from t3s_megatron.method.overlap import OverlappingPhases
from t3s_megatron.method.phases import Action, ActionKind, Phase
from tests.support.asked import asked

depths = st.integers(1, 4)


def evenly(plan: MethodOptions) -> MethodOptions:
    """Measured at steps that do not depend on outcomes, nor on anything else that is watched."""
    signal = "accuracy" if plan.signal == "both" else plan.signal
    return replace(plan, accuracy_interval_coarse=0, signal=signal)


even_plans = plans().map(evenly)


class OverlappingWalk(Walk):
    """`in_flight`: begun and not collected, with the weights they are of; `most_kept`: how many
    steps' weights were kept at once; `collected`: (step, live step) in order."""

    def __init__(self, plan, accuracy, depth: int, **how):
        super().__init__(plan, accuracy, **how)
        self.make = partial(OverlappingPhases, plan, depth)
        self.machine = self.make()
        self.in_flight: list[tuple] = []
        self.kept: dict[int, tuple] = {}
        self.most_in_flight = self.most_kept = self.discarded = 0
        self.collected: list[tuple[int, int]] = []

    def _may_resume(self) -> None:
        if self.resume_at(self.events):
            state = json.loads(json.dumps(self.machine.state_dict()))
            self.machine = self.make()
            self.machine.load_state_dict(state)
        self.events += 1

    def _train(self) -> None:
        machine = self.machine
        done = machine.offset + machine.live_step
        assert done < machine.train_iters_now, "Megatron's loop would have ended"
        machine.step_done()
        assert machine.offset + machine.live_step == done + 1
        self.steps[machine.phase.value] += 1
        self.weights = self._live()

    def _live(self) -> tuple:
        return (self.machine.teacher, self.machine.phase.value, self.machine.live_step)

    def _carry_out(self, action: Action) -> None:
        machine, kind = self.machine, action.kind
        decided = (machine.teacher, machine.phase.value, machine.phase_step)
        if kind is ActionKind.KEEP_WEIGHTS:
            self.kept[machine.live_step] = self.weights
            self.most_kept = max(self.most_kept, len(self.kept))
            machine.done(action)
        elif kind is ActionKind.BEGIN_MEASUREMENT:
            assert self.weights == self._live()
            self.in_flight.append(self.weights)
            self.most_in_flight = max(self.most_in_flight, len(self.in_flight))
            machine.done(action)
        elif kind is ActionKind.COLLECT:
            measured = self.in_flight.pop(0)
            assert measured == decided
            self.collected.append((machine.phase_step, machine.live_step))
            self.trace.append(f"{self._where()}: measure")
            machine.measured(paired(self._accuracy()))
        elif kind is ActionKind.DISCARD:
            self.discarded += machine.live_step - machine.phase_step
            self.in_flight = []
            machine.done(action)
        else:
            if kind is ActionKind.KEEP_CANDIDATE and machine.phase_step in self.kept:
                live, self.weights = self.weights, self.kept.pop(machine.phase_step)
                assert self.weights == decided
                super()._carry_out(action)
                self.weights = live
            else:
                if kind is ActionKind.KEEP_CANDIDATE:
                    assert self.weights == decided
                super()._carry_out(action)
        self.kept = {step: self.kept[step] for step in self.kept if step in machine.kept}
        assert set(machine.kept) == set(self.kept)


def decisions(walk: Walk) -> list[str]:
    """Without the steps at which a rewind was reached, which are later where training ran ahead."""
    late = (ActionKind.SCORE_THETA_B, ActionKind.REWIND)
    return [a.split(": ")[1] if a.endswith(late) else a for a in walk.trace]


@quick
@given(even_plans, curves(), depths)
def test_the_same_measurements_candidates_and_theta_b_as_a_run_that_waits(plan, curve, depth):
    plain = Walk(plan, curve).run()
    walk = OverlappingWalk(plan, curve, depth).run()
    assert bool(walk.refused) == bool(plain.refused)
    assume(not plain.refused)
    assert decisions(walk) == decisions(plain)
    assert walk.machine.theta_b_step == plain.machine.theta_b_step
    assert walk.machine.theta_b_reason == plain.machine.theta_b_reason
    assert walk.steps["targeted"] == plain.steps["targeted"]
    assert walk.steps["profile"] == plain.steps["profile"] + walk.discarded
    assert walk.machine.phase is Phase.DONE and walk.machine.total_steps == sum(walk.steps.values())


@quick
@given(several_teachers(), depths)
def test_several_teachers_are_decided_about_as_in_a_run_that_waits(drawn, depth):
    plan = evenly(drawn.plan)
    curves = dict(accuracies=drawn.accuracies, falls=drawn.falls)
    walk = OverlappingWalk(plan, None, depth, **curves).run()
    again = OverlappingWalk(plan, None, depth, **curves, resume_at=lambda event: True).run()
    assert (again.trace, again.log, again.refused) == (walk.trace, walk.log, walk.refused)
    assert again.machine.state_dict() == walk.machine.state_dict()
    plain = Walk(plan, **curves).run()
    assert walk.refused == plain.refused and decisions(walk) == decisions(plain)
    for mine, wanted in zip(walk.machine.profiles, plain.machine.profiles, strict=True):
        assert mine.state_dict() == wanted.state_dict()


@quick
@given(even_plans, curves(), depths)
def test_never_more_in_flight_or_kept_than_the_depth_allows(plan, curve, depth):
    walk = OverlappingWalk(plan, curve, depth).run()
    assert walk.most_in_flight <= depth
    # One more: the step that a run without a shock falls back on is kept though not measured.
    assert walk.most_kept <= depth + 1
    assert walk.discarded <= depth * max(1, plan.accuracy_interval)


@quick
@given(even_plans, curves(), depths)
def test_a_run_that_dies_at_every_point_makes_the_same_run(plan, curve, depth):
    whole = OverlappingWalk(plan, curve, depth).run()
    resumed = OverlappingWalk(plan, curve, depth, resume_at=lambda event: True).run()
    assert (resumed.trace, resumed.log) == (whole.trace, whole.log)
    assert (resumed.collected, resumed.refused) == (whole.collected, whole.refused)
    assert resumed.machine.state_dict() == whole.machine.state_dict()


def test_outcomes_are_taken_before_the_depth_th_later_measurement_and_at_the_end():
    plan = asked(budget=2, profile_iters=6, patience=9, no_shock="stop")
    walk = OverlappingWalk(plan, curve(0.5, 0.4, 0.3, 0.6), 2).run()
    assert walk.collected[:6] == [(1, 3), (2, 4), (3, 5), (4, 6), (5, 6), (6, 6)]
    assert walk.collected[6:] == [(1, 2), (2, 2)]


def test_the_steps_beyond_a_confirmed_minimum_are_thrown_away():
    plan = asked(budget=3, profile_iters=20, patience=2)
    walk = OverlappingWalk(plan, curve(0.5, 0.3, 0.4), 3).run()
    assert walk.machine.theta_b_step == 1  # confirmed by step 3, known at step 6
    assert (walk.steps, walk.discarded) == ({"profile": 6, "targeted": 3}, 3)
    assert walk.machine.records[0]["last_iteration"] == 6
    assert any("3 steps beyond the decision are thrown away" in line for line in walk.log)


def test_training_may_not_go_on_where_something_is_due():
    machine = OverlappingPhases(asked(budget=3, patience=2), 1)
    machine.done(Action(ActionKind.KEEP_THETA_0))
    machine.measured(Outcome(0.5))
    machine.step_done()
    with pytest.raises(ValueError, match="no training step was due"):
        machine.step_done()
    with pytest.raises(ValueError, match="outcomes that are not there yet"):
        OverlappingPhases(asked(budget=3, accuracy_interval_coarse=2), 1)
    with pytest.raises(ValueError, match="at least one"):
        OverlappingPhases(asked(budget=3), 0)
