# SPDX-License-Identifier: Apache-2.0
"""Which target tokens are masked every time, whatever the noise (Eq. 8), and how many they are.

All arrays are flat over the target tokens of one teacher: n tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from t3s_megatron.method.selection import lowest

#: Thresholds of Table 11.
TAUS = (0.0, 0.1, 0.2, 0.3, 0.4)


def dropped(delta: np.ndarray, tau: float) -> np.ndarray:
    """Eq. 8: bool[n], True for the tokens that fell in the selector by more than tau. Strict: a tie
    did not."""
    return delta < np.float32(-tau)


@dataclass(frozen=True)
class Fallen:
    """What a selector says of the target tokens. `c_0`, `delta`: float32[n], log-probs at its
    theta_0 and their change to its theta_b; `tau`: as in Eq. 8; `seed`: of what is drawn."""

    c_0: np.ndarray
    delta: np.ndarray
    tau: float
    seed: int

    @property
    def dropped(self) -> np.ndarray:
        """bool[n], B of Eq. 8."""
        return dropped(self.delta, self.tau)

    @property
    def count(self) -> int:
        """How many fell."""
        return int(self.dropped.sum())


@dataclass(frozen=True)
class Forcing:
    """A way to choose the forced tokens: `choose` makes bool[n], None forces none."""

    name: str
    choose: Callable[[Fallen], np.ndarray] | None

    @property
    def needs_selector(self) -> bool:
        return self.choose is not None


def _at_random(fallen: Fallen) -> np.ndarray:
    """As many as fell. Stable over numpy releases: raw numbers only."""
    n = len(fallen.delta)
    drawn = np.random.Philox(key=[fallen.seed & (2**64 - 1), 0]).random_raw(n)
    return lowest(drawn, fallen.count)


def _least_confident(fallen: Fallen) -> np.ndarray:
    """As many as fell, those of lowest c(theta_0): Appendix K's static control, carried over."""
    return lowest(fallen.c_0, fallen.count)


#: Values of --t3s-method that a diffusion student may be trained with.
FORCED = {
    forcing.name: forcing
    for forcing in (
        Forcing("sft", None),
        Forcing("t3s", lambda fallen: fallen.dropped),
        Forcing("random", _at_random),
        Forcing("mask-bottom-confidence", _least_confident),
        Forcing("inverse", lambda fallen: fallen.delta > np.float32(fallen.tau)),
    )
}


def shares_by_tau(delta: np.ndarray) -> dict[str, float]:
    """The share of target tokens that fell, at each of TAUS: the middle column of Table 11."""
    return {f"{tau:g}": float(dropped(delta, tau).mean()) for tau in TAUS}


def shares_by_place(which: np.ndarray, sizes: np.ndarray, parts: int = 4) -> list[float]:
    """How those of `which` (bool[n]) are spread over the response: the share of them in each of
    `parts` of it, first to last. `sizes` int64: targets of each sample, in order. Zeros for none.
    """
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    place = (np.arange(len(which)) - starts) * parts // np.repeat(sizes, sizes)
    counts = np.bincount(place[which], minlength=parts)
    return [float(count) / max(1, int(counts.sum())) for count in counts]
