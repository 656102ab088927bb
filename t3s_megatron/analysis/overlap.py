# SPDX-License-Identifier: Apache-2.0
"""How well a number of each token tells two groups apart: what "the groups overlap" means, in
numbers. float64 arithmetic over float32[n] values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Separation:
    """`auc`: the probability that a random token of the first group has the higher value, ties
    half: 0.5 is no separation, 0 and 1 a complete one. `best_threshold_accuracy`: balanced accuracy
    of the best single threshold, 0.5 is chance. `shared_area`: what the two histograms share, 1
    where they are equal. `first_mean`, `second_mean`: of the values."""

    auc: float
    best_threshold_accuracy: float
    shared_area: float
    first_mean: float
    second_mean: float


def separation(first: np.ndarray, second: np.ndarray, bins: int = 50) -> Separation:
    """Of two groups' values, neither of them empty. The histograms have `bins` bins of equal width
    between the lowest and the highest value of all."""
    first, second = np.sort(first.astype(np.float64)), np.sort(second.astype(np.float64))
    below = np.searchsorted(second, first, side="left")
    up_to = np.searchsorted(second, first, side="right")
    auc = float(((below + up_to) / 2).mean() / len(second))
    values = np.unique(np.concatenate([first, second]))
    share_first = np.searchsorted(first, values, side="right") / len(first)
    share_second = np.searchsorted(second, values, side="right") / len(second)
    apart = float(np.abs(share_first - share_second).max())
    edges = np.linspace(
        values[0], values[-1] if values[-1] > values[0] else values[0] + 1, bins + 1
    )
    of_first, of_second = (np.histogram(v, edges)[0] / len(v) for v in (first, second))
    return Separation(
        auc,
        (1 + apart) / 2,
        float(np.minimum(of_first, of_second).sum()),
        float(first.mean()),
        float(second.mean()),
    )
