# SPDX-License-Identifier: Apache-2.0
"""Walks a `PhaseMachine` through a whole run, with a driver that only has one candidate slot.

The driver keeps what a real one keeps on the host, as names instead of tensors, and asserts that
each action finds what it needs: a rewind its theta_0, a score of theta_b the weights of theta_b.
Weights are (phase, step) behind the teacher whose samples made them: two teachers have nothing in
common but theta_0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable

from t3s_megatron.errors import NoReferenceError, VoidMeasurementError
from t3s_megatron.method.options import MethodOptions
from t3s_megatron.method.outcome import Outcome
from t3s_megatron.method.phases import Action, ActionKind, Phase, PhaseMachine

Curve = Callable[[str, int], float]
THETA_0 = ("theta_0",)


def curve(*accuracies: float, targeted: float = 0.9) -> Curve:
    """Accuracy by profile step; the last one stays. Anything after the profile is `targeted`."""

    def accuracy(phase: str, step: int) -> float:
        return accuracies[min(step, len(accuracies) - 1)] if phase == "profile" else targeted

    return accuracy


def paired(accuracy: float) -> Outcome:
    """Of eight prompts, where that has such an accuracy, beside five that are always right: enough
    for a fall to be seen."""
    if math.isfinite(accuracy) and (accuracy * 8).is_integer():
        return Outcome(accuracy, f"11111{'1' * int(accuracy * 8):0<8}")
    return Outcome(accuracy)


class Walk:
    """`refused`: why the run ended before its end, where it had nothing to go by.
    `fall`: the confidence fall by profile step; by default what accuracy has lost since step 0.
    `trace`: each action as "phase step: kind", with " (live)" where the weights are theta_b and
    the teacher before it where there are several. `accuracies`, `falls`: a curve for each teacher,
    by name; those without one have `accuracy` and `fall`."""

    def __init__(
        self,
        plan: MethodOptions,
        accuracy: Curve | None = None,
        resume_at: Callable[[int], bool] = lambda event: False,
        fall: Callable[[int], float] | None = None,
        accuracies: dict[str, Curve] | None = None,
        falls: dict[str, Callable[[int], float]] | None = None,
    ):
        self.plan, self.accuracy, self.resume_at = plan, accuracy or curve(0.5), resume_at
        self.accuracies, self.falls = accuracies or {}, falls or {}
        self.fall = fall or self._lost_accuracy
        self.machine = PhaseMachine(plan)
        self.weights: tuple = THETA_0
        self.starts: list[tuple] = []  # the weights that each profile and the targeted phase had
        self.kept_theta_0: tuple | None = None
        self.candidate: tuple | None = None  # the one slot
        self.events = 0
        self.trace: list[str] = []
        self.log: list[str] = []
        self.steps = {"profile": 0, "targeted": 0}
        self.refused: str | None = None

    def _lost_accuracy(self, step: int) -> float:
        accuracy = self.accuracies.get(self.machine.teacher or "", self.accuracy)
        lost = accuracy("profile", step) - accuracy("profile", 0)
        return min(lost, 0.0) if math.isfinite(lost) else 0.0

    def run(self) -> Walk:
        try:
            self._run()
        except (NoReferenceError, VoidMeasurementError) as error:
            self.refused = str(error)
        return self

    def _run(self) -> None:
        while self.machine.phase is not Phase.DONE:
            self._may_resume()
            action = self.machine.next_action()
            if action is None:
                self._train()
            else:
                self._carry_out(action)
            # Not drained before a resume: what was not yet said has to survive it.
            if self.events % 3 == 0:
                self.log += self.machine.drain_log()
            assert self.events < 10_000, "the run does not end"
        assert self.machine.next_action() is None
        self.log += self.machine.drain_log()

    def _may_resume(self) -> None:
        if self.resume_at(self.events):
            state = json.loads(json.dumps(self.machine.state_dict()))
            self.machine = PhaseMachine(self.plan)
            self.machine.load_state_dict(state)
        self.events += 1

    def _train(self) -> None:
        machine = self.machine
        assert machine.total_steps < machine.train_iters_now, "Megatron's loop would have ended"
        before = machine.total_steps
        if machine.phase_step == 0:
            self.starts.append(self.weights)
        machine.step_done()
        assert machine.total_steps == before + 1
        self.steps[machine.phase.value] += 1
        self.weights = (machine.teacher, machine.phase.value, machine.phase_step)

    def _where(self) -> str:
        machine = self.machine
        whose = "" if machine.teacher is None else f"{machine.teacher} "
        return f"{whose}{machine.phase.value} {machine.phase_step}"

    def _accuracy(self) -> float:
        """Of the step that is decided about."""
        accuracy = self.accuracies.get(self.machine.teacher or "", self.accuracy)
        return accuracy(self.machine.phase.value, self.machine.phase_step)

    def _carry_out(self, action: Action) -> None:
        machine, kind = self.machine, action.kind
        live = " (live)" if action.live else ""
        self.trace.append(f"{self._where()}: {kind.value}{live}")
        teacher = machine.profile.teacher
        theta_b = (teacher, "profile", machine.theta_b_step)
        if kind is ActionKind.MEASURE:
            machine.measured(paired(self._accuracy()))
            return
        if kind is ActionKind.SCORE:
            decided = (machine.teacher, machine.phase.value, machine.phase_step)
            assert self.weights == (decided if machine.phase_step else THETA_0)
            fall = self.falls.get(machine.teacher or "", self.fall)
            machine.scored(fall(machine.phase_step))
            return
        if kind is ActionKind.KEEP_THETA_0:
            assert self.weights == THETA_0
            self.kept_theta_0 = self.weights
        elif kind is ActionKind.KEEP_CANDIDATE:
            self.candidate = self.weights
        elif kind is ActionKind.SCORE_THETA_B:
            assert (self.weights if action.live else self.candidate) == theta_b
            self.weights = theta_b
        elif kind is ActionKind.REWIND:
            assert self.kept_theta_0 == THETA_0
            self.weights = THETA_0
        elif kind in (ActionKind.SCORE_THETA_0, ActionKind.NEXT_PROFILE, ActionKind.SELECT):
            assert self.weights == THETA_0
        elif kind is ActionKind.RESIDUAL_TRANSFER:
            assert self.kept_theta_0 == THETA_0 and self.candidate == theta_b
        machine.done(action)
        if kind is ActionKind.KEEP_CANDIDATE:
            assert (teacher, "profile", machine.candidate_step) == self.candidate
        elif kind is ActionKind.SELECT:
            assert machine.candidate_step is None
