# SPDX-License-Identifier: Apache-2.0
"""Find the Imitation Bottleneck while training goes on (Eq. 1, section 3.5).

The shape is that of early stopping, looking for a minimum: a measurement is a new minimum when it
is lower than the lowest so far by more than `min_delta`; when `patience` measurements in a row were
not, the minimum is confirmed as theta_b. There is no minimum to confirm before accuracy has fallen
below step 0: that fall is the Imitation Shock.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from t3s_megatron.method.outcome import Outcome


class Decision(enum.StrEnum):
    CONTINUE = "continue"
    CONFIRMED = "confirmed"


@dataclass(frozen=True)
class Observation:
    """What one measurement meant; `reason` is a plain sentence for the log."""

    step: int
    accuracy: float
    is_new_minimum: bool
    decision: Decision
    reason: str


class BottleneckDetector:
    """Argmin of training accuracy over the steps, confirmed by patience. ValueError on misuse.

    `measured` and `void` count the measurements after step 0.
    """

    def __init__(self, patience: int, min_delta: float = 0.0):
        if patience < 1 or min_delta < 0:
            raise ValueError("patience must be at least 1 and min_delta not negative")
        self.patience = patience
        self.min_delta = min_delta
        self.accuracy_0: float | None = None
        self.minimum: float | None = None
        self.theta_b_step: int | None = None
        self.confirmed = False
        self.waited = 0
        self.void = 0
        self.measured = 0
        self.last_step: int | None = None

    @property
    def shock_seen(self) -> bool:
        return self.theta_b_step is not None

    def observe(self, step: int, outcome: Outcome) -> Observation:
        """The outcome after `step` training steps; steps increase, step 0 comes first.

        A void measurement is counted and otherwise ignored.
        """
        if self.last_step is not None and step <= self.last_step:
            raise ValueError(f"step {step} was observed after step {self.last_step}")
        accuracy = outcome.accuracy
        if self.accuracy_0 is None and (step != 0 or outcome.void):
            raise ValueError("the first measurement has to be a finite accuracy at step 0")
        self.last_step = step
        new_minimum = False
        if outcome.void:
            self.void += 1
            reason = f"step {step}: the measurement is void and ignored"
        elif self.accuracy_0 is None:
            self.accuracy_0 = accuracy
            reason = f"step 0: accuracy {accuracy:.3f} is the reference"
        else:
            self.measured += 1
            new_minimum, reason = self._compare(step, accuracy)
        decision = Decision.CONFIRMED if self.confirmed else Decision.CONTINUE
        return Observation(step, accuracy, new_minimum, decision, reason)

    def _compare(self, step: int, accuracy: float) -> tuple[bool, str]:
        said = f"step {step}: accuracy {accuracy:.3f}"
        if self.confirmed:
            return False, f"{said}; theta_b is already confirmed at step {self.theta_b_step}"
        lowest = self.accuracy_0 if self.minimum is None else self.minimum
        assert lowest is not None  # step 0 is measured first
        if accuracy < lowest - self.min_delta:
            was = "step 0" if self.minimum is None else f"step {self.theta_b_step}"
            self.minimum, self.theta_b_step, self.waited = accuracy, step, 0
            return True, f"{said} is a new minimum (was {lowest:.3f} at {was})"
        if not self.shock_seen:
            return False, f"{said} has not fallen below step 0 ({self.accuracy_0:.3f})"
        self.waited += 1
        if self.waited < self.patience:
            return False, (
                f"{said} is above the minimum {self.minimum:.3f} of step {self.theta_b_step} "
                f"({self.waited} of {self.patience})"
            )
        self.confirmed = True
        return False, (
            f"{said}: {self.patience} measurements without a new minimum confirm theta_b = step "
            f"{self.theta_b_step} (accuracy {self.minimum:.3f})"
        )

    def state_dict(self) -> dict:
        """JSON-able; `load_state_dict` restores it exactly."""
        return dict(vars(self))

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)
