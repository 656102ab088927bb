# SPDX-License-Identifier: Apache-2.0
"""How far c_t is rounding, and which anchors that could decide.

Two passes at the same weights, one with rows of other lengths and another attention, differ by
nothing but the order in which kernels sum and where they round. delta_c is the difference of two
passes as well, so where it is smaller than that, its sign says little about the student.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from t3s_megatron.method.selection import anchors

#: Of the differences between the two passes: what delta_c has to be above to be believed.
_LEVEL = 0.9


@dataclass(frozen=True)
class ScoringNoise:
    """`tokens`: scored twice; `median` and `level` (90 %): of their |c - c'|.

    Of all tokens, with the threshold tau of the run: `unsure_anchors`, the share of the anchors
    whose delta_c - tau is at most `level`; `wrong`, the share of the tokens that are expected on
    the wrong side of tau.
    """

    tokens: int
    median: float
    level: float
    unsure_anchors: float
    wrong: float

    @property
    def threshold(self) -> float:
        """--t3s-anchor-threshold at which nine anchors in ten are not noise: `level`, rounded up to
        two digits."""
        if not self.level:
            return 0.0
        digit = 10.0 ** (np.floor(np.log10(self.level)) - 1)
        return float(f"{np.ceil(self.level / digit) * digit:.2g}")

    def to_dict(self) -> dict:
        return asdict(self) | {"threshold": self.threshold}

    def describe(self) -> str:
        """A line for a person."""
        if not self.level:
            return (
                f"{self.tokens} tokens scored twice, summed in another order, have the same "
                "log-probs: the noise of c_t is not known from this"
            )
        return (
            f"{self.tokens} tokens scored twice, summed in another order, differ by "
            f"{self.median:.2g} (median), 90 % of them by at most {self.level:.2g}: as near to the "
            f"threshold are {self.unsure_anchors:.1%} of the anchors, and {self.wrong:.1%} of all "
            f"tokens are expected on its wrong side. --t3s-anchor-threshold {self.threshold:g} "
            "masks only what is above that"
        )


def scoring_noise(
    c: np.ndarray, again: np.ndarray, deltas: Iterable[np.ndarray], tau: float = 0.0
) -> ScoringNoise | None:
    """The noise of a run's c_t, from the tokens that were scored twice, float32[k] each, and
    delta_c of all its tokens in pieces, float32[any] each. None when nothing was scored twice, and
    where one of the two is not finite the token does not count."""
    twice = np.isfinite(again) & np.isfinite(c)
    noise = np.sort(np.abs(c[twice].astype(np.float64) - again[twice]))
    if not noise.size:
        return None
    level = float(np.quantile(noise, _LEVEL))
    n, n_anchors, unsure, larger = 0, 0, 0, 0.0
    for piece in deltas:
        n += piece.size
        distance = np.abs(piece.astype(np.float64) - tau)
        is_anchor = anchors(piece, tau)
        n_anchors += int(is_anchor.sum())
        unsure += int((distance[is_anchor] <= level).sum())
        # Differences are as often above as below: half of those that are larger cross over.
        larger += float((1 - np.searchsorted(noise, distance, side="right") / noise.size).sum())
    return ScoringNoise(
        tokens=int(noise.size),
        median=float(np.median(noise)),
        level=level,
        unsure_anchors=unsure / n_anchors if n_anchors else 0.0,
        wrong=larger / n / 2 if n else 0.0,
    )
