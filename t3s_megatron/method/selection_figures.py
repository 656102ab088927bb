# SPDX-License-Identifier: Apache-2.0
"""Where in the responses a selection masks, and how far two selections agree.

Flat arrays over n target tokens, sample after sample, as everywhere in this room.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TENTHS = 10


def tenths(sizes: np.ndarray) -> np.ndarray:
    """int64[n]: in which tenth of its response, 0 to 9, each target stands. `sizes` int64[m]: the
    numbers of targets of the samples. Of a response of fewer than ten tokens some are empty."""
    sizes = np.asarray(sizes, dtype=np.int64)
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    position = np.arange(int(sizes.sum()), dtype=np.int64) - starts
    return position * TENTHS // np.repeat(sizes, sizes)


def shares_by(group: np.ndarray, marked: np.ndarray, count: int) -> list[float | None]:
    """The share of `marked` (bool[n]) within each of `count` groups; `group` int64[n] names a
    token's. None for an empty one."""
    of_all = np.bincount(group, minlength=count)
    of_marked = np.bincount(group[marked], minlength=count)
    return [float(k / n) if n else None for k, n in zip(of_marked, of_all, strict=True)]


@dataclass(frozen=True)
class Difference:
    """How two selections of the same tokens differ. `share`: of tokens that one keeps and the
    other masks; `jaccard`: tokens that both mask over those that either masks, None where neither
    masks any; `only_a`, `only_b`: tokens that one masks alone; `by_tenth`: `share` by place."""

    tokens: int
    share: float
    jaccard: float | None
    only_a: int
    only_b: int
    by_tenth: list[float | None]


def difference(a: np.ndarray, b: np.ndarray, sizes: np.ndarray) -> Difference:
    """`a`, `b`: bool[n], True where a token stays. ValueError when they have other lengths."""
    if not a.shape == b.shape == (int(sizes.sum()),):
        raise ValueError(f"selections of {a.shape} and {b.shape} for {int(sizes.sum())} tokens")
    either = int((~a | ~b).sum())
    return Difference(
        tokens=a.size,
        share=float((a != b).mean()),
        jaccard=int((~a & ~b).sum()) / either if either else None,
        only_a=int((~a & b).sum()),
        only_b=int((a & ~b).sum()),
        by_tenth=shares_by(tenths(sizes), a != b, TENTHS),
    )
