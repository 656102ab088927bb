# SPDX-License-Identifier: Apache-2.0
"""The groups of target tokens that the paper tells apart: anchors and the others (Eq. 4), each in
an easy and a hard half (Appendix L). Flat arrays over n target tokens."""

from __future__ import annotations

import numpy as np

from t3s_megatron.errors import T3SError
from t3s_megatron.method.selection import anchors, delta_c

#: Names of the subsets of Appendix L, by the number that `subsets` gives a token.
SUBSETS = ("anchor-easy", "anchor-hard", "other-easy", "other-hard")


def subsets(c_b: np.ndarray, c_0: np.ndarray, tau: float = 0.0) -> np.ndarray:
    """int8[n]: the place in SUBSETS of each token. Hard is the half of its group with the lower
    log-prob at theta_0, ties by position; of an odd number the middle one is easy."""
    is_anchor = anchors(delta_c(c_b, c_0), tau)
    label = np.zeros(len(c_0), dtype=np.int8)
    for first, group in ((0, is_anchor), (2, ~is_anchor)):
        members = np.flatnonzero(group)
        by_confidence = members[np.argsort(c_0[members], kind="stable")]
        label[by_confidence] = first
        label[by_confidence[: len(members) // 2]] = first + 1
    return label


def require_both(is_anchor: np.ndarray) -> None:
    """T3SError where all tokens are in one group, so that there is nothing to compare."""
    count = int(is_anchor.sum())
    if not 0 < count < len(is_anchor):
        raise T3SError(
            f"{count} of {len(is_anchor)} target tokens are anchors: two groups are compared, and "
            "one is empty. Take another threshold, or log-probs of another theta_b"
        )
