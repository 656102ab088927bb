# SPDX-License-Identifier: Apache-2.0
"""At which steps of the profile training accuracy is measured: coarsely first, then densely.

A measurement costs far more than a training step, and before the Imitation Shock it says no more
than that nothing has happened yet. From the shock on, theta_b is a matter of single steps.
"""

from __future__ import annotations


class MeasurementSchedule:
    """Every `coarse` steps until somebody asks for dense measuring, from then on every `dense`
    steps. `coarse` 0: densely from the start; `dense` 0: never. ValueError on misuse."""

    def __init__(self, dense: int, coarse: int = 0):
        if dense < 0 or coarse < 0:
            raise ValueError("an interval is a number of steps and not negative")
        if coarse and coarse < dense:
            raise ValueError(f"the coarse interval {coarse} is smaller than the dense one {dense}")
        self.dense = dense
        self.coarse = coarse
        self.dense_since: int | None = None if coarse else 0

    @property
    def is_dense(self) -> bool:
        return self.dense_since is not None

    @property
    def interval(self) -> int:
        return self.dense if self.is_dense else self.coarse

    def is_due(self, step: int) -> bool:
        """Whether to measure after `step` training steps of the profile."""
        return bool(self.dense) and step % self.interval == 0

    def measure_densely(self, step: int) -> bool:
        """Ask for dense measuring after `step` steps; any signal may. True the first time."""
        if self.is_dense:
            return False
        self.dense_since = step
        return True

    def state_dict(self) -> dict:
        """JSON-able; `load_state_dict` restores it exactly."""
        return {"dense_since": self.dense_since}

    def load_state_dict(self, state: dict) -> None:
        self.dense_since = state["dense_since"]
