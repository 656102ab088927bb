# SPDX-License-Identifier: Apache-2.0
"""Find theta_b without an answer: where the falling tokens turn around (section 2.3, Figure 4).

Under the full objective some tokens gain confidence from the start, and the others lose it until
about the bottleneck, and then recover. How deep they are is read from log-probs alone:

    fall(theta) = mean of p_t(theta) - p_t(theta_0), p_t = exp(c_t), over the target tokens t with
                  c_t(theta) < c_t(theta_0)

The gains of the anchors, which are many times larger, would hide the turn. Probabilities, as in the
figure: in log-probs a few tokens that lose many nats in the first step weigh as much as all others
(measured in benchmarks/results/confidence.md). The lowest fall is the turn, confirmed by patience
as an accuracy minimum is.

Before it turns the fall slows down, which says that the bottleneck is near.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from t3s_megatron.method.selection import delta_c


def confidence_fall(c: np.ndarray, c_0: np.ndarray) -> float:
    """fall(theta), from -1 to 0, of log-probs at theta and at theta_0, float32[n] each and finite.

    0 when no token is below theta_0. ValueError for log-probs that are not finite, or for different
    numbers of tokens.
    """
    fallen = delta_c(c, c_0) < 0
    if not fallen.any():
        return 0.0
    lost = np.exp(c_0[fallen], dtype=np.float64) - np.exp(c[fallen], dtype=np.float64)
    return -float(lost.mean())


#: The fall has slowed when a step loses less than this share of what the steps before it lost on
#: average.
SLOWED = 0.5


@dataclass(frozen=True)
class TurnObservation:
    """What the fall after a step meant; `reason` is a plain sentence for the log."""

    step: int
    fall: float
    is_new_minimum: bool
    reason: str


class ConfidenceDetector:
    """Argmin of the fall over the steps, confirmed by patience. ValueError on misuse.

    There is no turn before something has fallen. `near`: the fall has slowed, or turned.
    `measured` counts the falls observed; none is void.
    """

    def __init__(self, patience: int):
        if patience < 1:
            raise ValueError("patience must be at least 1")
        self.patience = patience
        self.last_fall = 0.0
        self.lowest = 0.0
        self.near = False
        self.theta_b_step: int | None = None
        self.confirmed_by: str | None = None
        self.waited = 0
        self.measured = 0
        self.void = 0
        self.last_step = 0

    @property
    def confirmed(self) -> bool:
        return self.confirmed_by is not None

    @property
    def shock_seen(self) -> bool:
        """Whether anything has fallen."""
        return self.theta_b_step is not None

    def observe(self, step: int, fall: float) -> TurnObservation:
        """The fall after `step` training steps, at least 1 and increasing."""
        if step <= self.last_step:
            raise ValueError(f"step {step} was observed after step {self.last_step}")
        if not math.isfinite(fall) or fall > 0:
            raise ValueError(f"the fall of step {step} is {fall}: not a finite number up to 0")
        if self.measured and self.last_fall - fall < SLOWED * -self.last_fall / self.last_step:
            self.near = True
        self.last_step, self.last_fall = step, fall
        self.measured += 1
        new_minimum, reason = self._compare(step, fall)
        return TurnObservation(step, fall, new_minimum, reason)

    def _compare(self, step: int, fall: float) -> tuple[bool, str]:
        said = f"step {step}: confidence of the falling tokens {fall:.4f}"
        if self.confirmed:
            return False, f"{said}; their turn is already confirmed at step {self.theta_b_step}"
        if fall < self.lowest:
            self.lowest, self.theta_b_step, self.waited = fall, step, 0
            return True, f"{said} is a new minimum"
        if not self.shock_seen:
            return False, f"{said}: no token has fallen"
        self.waited += 1
        if self.waited < self.patience:
            return False, (
                f"{said} is above the minimum {self.lowest:.4f} of step {self.theta_b_step} "
                f"({self.waited} of {self.patience})"
            )
        self.confirmed_by = f"patience {self.patience}"
        return False, (
            f"{said}: {self.patience} steps without a new minimum confirm the turn at step "
            f"{self.theta_b_step} ({self.lowest:.4f})"
        )

    def state_dict(self) -> dict:
        """JSON-able; `load_state_dict` restores it exactly."""
        return dict(vars(self))

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)
