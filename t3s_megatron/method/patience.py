# SPDX-License-Identifier: Apache-2.0
"""A minimum that is looked for while values still come in, confirmed by patience.

The shape is that of early stopping: the lowest value so far is the minimum, and it is confirmed
when `patience` values in a row were no new one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Observation:
    """What the value of a step meant; `reason` is a plain sentence for the log."""

    step: int
    value: float
    is_new_minimum: bool
    reason: str


class PatientMinimum:
    """At which step the minimum is, and whether it is confirmed. ValueError on misuse.

    `first_step`: the first that has a value. `theta_b_step`: of the lowest value so far, None
    before anything has fallen. `waited`: values in a row that were no new minimum. `measured` and
    `void`: values after step 0 that could be compared, and that could not.
    """

    def __init__(self, patience: int, first_step: int):
        if patience < 1:
            raise ValueError("patience must be at least 1")
        self.patience = patience
        self.theta_b_step: int | None = None
        self.confirmed_by: str | None = None
        self.waited = 0
        self.measured = 0
        self.void = 0
        self.last_step = first_step - 1

    @property
    def confirmed(self) -> bool:
        """The search is over."""
        return self.confirmed_by is not None

    @property
    def shock_seen(self) -> bool:
        """Something has fallen: there is a minimum."""
        return self.theta_b_step is not None

    def _come_to(self, step: int) -> None:
        if step <= self.last_step:
            raise ValueError(f"step {step} was observed after step {self.last_step}")
        self.last_step = step

    def _take(self, step: int) -> None:
        self.theta_b_step, self.waited = step, 0

    def _wait(self) -> bool:
        """One more value was no new minimum. Whether patience is up, and the minimum confirmed."""
        self.waited += 1
        if self.waited >= self.patience:
            self.confirmed_by = f"patience {self.patience}"
        return self.confirmed

    def state_dict(self) -> dict:
        """JSON-able; `load_state_dict` restores it exactly."""
        return dict(vars(self))

    def load_state_dict(self, state: dict) -> None:
        """Go on from a state that `state_dict` gave."""
        vars(self).update(state)
