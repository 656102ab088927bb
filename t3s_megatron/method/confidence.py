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

import numpy as np

from t3s_megatron.method.patience import Observation, PatientMinimum
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


class ConfidenceDetector(PatientMinimum):
    """Argmin of the fall over the steps, confirmed by patience. ValueError on misuse.

    There is no turn before something has fallen. `near`: the fall has slowed, or turned. No fall is
    void.
    """

    def __init__(self, patience: int):
        super().__init__(patience, first_step=1)
        self.last_fall = 0.0
        self.lowest = 0.0
        self.near = False

    def observe(self, step: int, fall: float) -> Observation:
        """The fall after `step` training steps, at least 1 and increasing."""
        before = self.last_step
        self._come_to(step)
        if not math.isfinite(fall) or fall > 0:
            raise ValueError(f"the fall of step {step} is {fall}: not a finite number up to 0")
        if self.measured and self.last_fall - fall < SLOWED * -self.last_fall / before:
            self.near = True
        self.last_fall = fall
        self.measured += 1
        new_minimum, reason = self._compare(step, fall)
        return Observation(step, fall, new_minimum, reason)

    def _compare(self, step: int, fall: float) -> tuple[bool, str]:
        said = f"step {step}: confidence of the falling tokens {fall:.4f}"
        if self.confirmed:
            return False, f"{said}; their turn is already confirmed at step {self.theta_b_step}"
        if fall < self.lowest:
            self._take(step)
            self.lowest = fall
            return True, f"{said} is a new minimum"
        if not self.shock_seen:
            return False, f"{said}: no token has fallen"
        if self._wait():
            return False, (
                f"{said}: {self.patience} steps without a new minimum confirm the turn at step "
                f"{self.theta_b_step} ({self.lowest:.4f})"
            )
        return False, (
            f"{said} is above the minimum {self.lowest:.4f} of step {self.theta_b_step} "
            f"({self.waited} of {self.patience})"
        )
