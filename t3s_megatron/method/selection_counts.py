# SPDX-License-Identifier: Apache-2.0
"""How many tokens a selection keeps, and what of them are anchors."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from t3s_megatron.method.selection import anchors, pieces_of


class Sliced(Protocol):
    """What gives its values a slice at a time: an array, or a file's bits."""

    @property
    def size(self) -> int: ...

    def __getitem__(self, some: slice, /) -> np.ndarray: ...


class SelectionCounts:
    """Plain figures of a selection for the summary, of all its tokens or of some after others.

    A token is kept where its weight is not 0. `tau`: as in Eq. 4.
    """

    def __init__(self, tau: float = 0.0):
        self._tau = tau
        self._n = self._kept = self._scored = self._anchors = self._ties = 0
        self._weight: float | None = None  # float64 sums
        self._of_anchors = self._of_others = 0.0

    def add(self, keep: Sliced, delta: np.ndarray | None = None) -> None:
        """Some more of them: `keep` bool[k] or float32[k] of weights, `delta` float32[k]; without
        it nothing is said of anchors."""
        for some in pieces_of(keep.size):
            self._add(keep[some], None if delta is None else delta[some])

    def _add(self, keep: np.ndarray, delta: np.ndarray | None) -> None:
        self._n += keep.size
        self._kept += int(np.count_nonzero(keep))
        if keep.dtype != np.bool_:
            self._weight = (self._weight or 0.0) + float(keep.sum(dtype=np.float64))
        if delta is None:
            return
        is_anchor = anchors(delta, self._tau)
        self._scored += delta.size
        self._anchors += int(is_anchor.sum())
        self._ties += int((delta == np.float32(self._tau)).sum())
        self._of_anchors += float(delta.sum(dtype=np.float64, where=is_anchor))
        self._of_others += float(delta.sum(dtype=np.float64, where=~is_anchor))

    def to_dict(self) -> dict:
        """Those about anchors where every token had a delta; that of weights where there are
        some."""

        def share(part: float, of: int) -> float | None:
            return part / of if of else None

        counts: dict = {
            "target_tokens": self._n,
            "kept": self._kept,
            "masked": self._n - self._kept,
            "masked_share": share(self._n - self._kept, self._n),
        }
        if self._weight is not None:
            counts |= {"mean_weight": share(self._weight, self._kept)}
        if self._scored < self._n or not self._n:
            return counts
        return counts | {
            "anchors": self._anchors,
            "anchor_share": share(self._anchors, self._n),
            "ties": self._ties,
            "mean_delta_anchor": share(self._of_anchors, self._anchors),
            "mean_delta_other": share(self._of_others, self._n - self._anchors),
        }


def selection_counts(keep: Sliced, delta: np.ndarray | None, tau: float = 0.0) -> dict:
    """`SelectionCounts` of all tokens at once."""
    counts = SelectionCounts(tau)
    counts.add(keep, delta)
    return counts.to_dict()
