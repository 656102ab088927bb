# SPDX-License-Identifier: Apache-2.0
"""Phases in which training does not wait for measurements (`--t3s-accuracy-overlap`).

The machine of `phases` is told of every step and every outcome in the order of a run that waits,
only later: training runs ahead of it, by up to `depth` measurements that somebody else makes
meanwhile. So it decides what it would have decided, at the same steps, and theta_b is the same.
What has been trained beyond a decision to rewind is thrown away.

An outcome is taken when the `depth`-th later measurement is due, or when the phase's last step has
been made: never "when it happens to be there", so that a run can be repeated, and resumed.

The weights of a step that training has left behind are kept for as long as that step may turn out
to be theta_b.
"""

from __future__ import annotations

from t3s_megatron.method.options import MethodOptions
from t3s_megatron.method.phases import Action, ActionKind, Phase, PhaseMachine


class OverlappingPhases(PhaseMachine):
    """A `PhaseMachine` whose `phase_step` is the step it decides about. `live_step`: the step that
    training has reached; `ahead`: the steps in between that it has not been told of; `in_flight`:
    those whose measurement was begun and not collected, oldest first; `kept`: those whose weights
    are kept. All of the phase.
    """

    def __init__(self, options: MethodOptions, depth: int):
        if depth < 1:
            raise ValueError("an overlap is of at least one measurement")
        if options.coarse_interval:
            raise ValueError("a coarse interval depends on outcomes that are not there yet")
        self.depth = depth
        self.ahead: list[int] = []
        self.in_flight: list[int] = []
        self.kept: list[int] = []
        super().__init__(options)

    @property
    def live_step(self) -> int:
        return self.phase_step + len(self.ahead)

    def next_action(self) -> Action | None:
        while True:
            action = super().next_action()
            if action is None and self.ahead:
                self.ahead.pop(0)
                super().step_done()
                continue
            if action is not None and action.kind is not ActionKind.MEASURE:
                if self.ahead and action.kind is ActionKind.SCORE_THETA_B:
                    return Action(ActionKind.DISCARD)
                return action
            if action is not None and not self._overlaps():
                return action
            return self._at_the_live_step(waits=action is not None)

    def _overlaps(self) -> bool:
        """Whether the measurement that is due may be made while training goes on: the first one of
        a phase is what the others are compared with, and the last of all is of the final weights.
        """
        return self.phase_step > 0 and self.phase in (Phase.PROFILE, Phase.TARGETED)

    def _at_the_live_step(self, waits: bool) -> Action | None:
        """`waits`: the machine waits for the outcome of the oldest measurement in flight."""
        if not waits:
            return None
        step = self.live_step
        due = self._measurement_is_due(step) and (not self.in_flight or self.in_flight[-1] < step)
        if due and len(self.in_flight) == self.depth:
            return Action(ActionKind.COLLECT)
        if step < self.last_step and step not in self.kept and self._may_be_theta_b(step):
            return Action(ActionKind.KEEP_WEIGHTS)
        if due:
            return Action(ActionKind.BEGIN_MEASUREMENT)
        return Action(ActionKind.COLLECT) if step >= self.last_step else None

    def _may_be_theta_b(self, step: int) -> bool:
        if self.phase is not Phase.PROFILE or not self.options.detects:
            return False
        return self._measurement_is_due(step) or step == self.options.simple_step

    # ------------------------------------------------------------------------------------ events

    def step_done(self) -> None:
        if self._waits():
            self.ahead.append(self.live_step + 1)
        else:
            super().step_done()
        self._forget_weights()

    def _waits(self) -> bool:
        """Whether the machine waits for an outcome, and training may go on. ValueError when it may
        not."""
        waiting = bool(self.in_flight) and self._pending != []
        if waiting and self.next_action() is not None:
            raise ValueError(f"no training step was due: {self.next_action()}")
        return waiting

    def measured(self, outcome) -> None:
        """Of the oldest measurement in flight, or of the MEASURE action."""
        if self.in_flight:
            self.in_flight.pop(0)
        super().measured(outcome)
        self._forget_weights()

    def done(self, action: Action) -> None:
        if action.kind is ActionKind.BEGIN_MEASUREMENT:
            self.in_flight.append(self.live_step)
        elif action.kind is ActionKind.KEEP_WEIGHTS:
            self.kept.append(self.live_step)
        elif action.kind is ActionKind.DISCARD:
            steps = len(self.ahead)
            self._say(f"{steps} steps beyond the decision are thrown away")
            self.phase_step += steps
            self.ahead, self.in_flight, self.kept = [], [], []
        elif action.kind is ActionKind.COLLECT:
            raise ValueError("a measurement is reported with measured()")
        else:
            super().done(action)
        self._forget_weights()

    def _forget_weights(self) -> None:
        """Of steps that have been decided about."""
        self.kept = [
            step
            for step in self.kept
            if step > self.phase_step or (step == self.phase_step and self._pending)
        ]
