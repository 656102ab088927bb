# SPDX-License-Identifier: Apache-2.0
"""Which target tokens stay in the loss (sections 3.3 and 3.4, Appendix K).

All arrays are flat over the target tokens of a corpus, in corpus order: n tokens.
"""

from __future__ import annotations

import numpy as np

MASKING_BASELINES = ("random", "mask-top-confidence", "mask-bottom-confidence")


def delta_c(c_b: np.ndarray, c_0: np.ndarray) -> np.ndarray:
    """Eq. 3: c_t(theta_b) - c_t(theta_0). float32[n], from two float32[n] of finite values."""
    if c_b.shape != c_0.shape:
        raise ValueError(f"c(theta_b) has shape {c_b.shape}, c(theta_0) has {c_0.shape}")
    _require_finite("theta_b", c_b)
    _require_finite("theta_0", c_0)
    return c_b.astype(np.float32) - c_0.astype(np.float32)


def _require_finite(name: str, values: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise ValueError(
            f"{bad.size} log-probs at {name} are not finite, the first is token {bad[0]}"
        )


def anchors(delta: np.ndarray, tau: float = 0.0) -> np.ndarray:
    """Eq. 4: bool[n], True for imitation-anchor tokens. Strict: a tie is not an anchor."""
    return delta > np.float32(tau)


def keep_mask(
    method: str,
    *,
    n: int,
    c_0: np.ndarray | None,
    c_b: np.ndarray | None,
    seed: int = 0,
    share: float | None = None,
    tau: float = 0.0,
) -> np.ndarray:
    """bool[n], True for tokens that stay in the loss (Eq. 5).

    `share` is the masked share of the baselines; None masks as many tokens as T3S would. `c_b` is
    not needed with a share, `c_0` not for a random mask with a share. ValueError for another number
    of tokens than n, log-probs that are not finite, a share outside 0 to 1 or of another method.
    """
    if share is not None and not (method in MASKING_BASELINES and 0 <= share <= 1):
        raise ValueError(f"a masked share of {share} does not apply to {method!r}")
    for name, values in (("theta_0", c_0), ("theta_b", c_b)):
        if values is not None and values.shape != (n,):
            raise ValueError(f"c({name}) has shape {values.shape}, the corpus has {n} tokens")
    if method in ("sft", "rrt"):
        return np.ones(n, dtype=bool)
    is_anchor: np.ndarray | None = None
    if share is None or method in ("t3s", "inverse"):
        if c_0 is None or c_b is None:
            raise ValueError(f"{method} needs log-probs at theta_0 and at theta_b")
        is_anchor = anchors(delta_c(c_b, c_0), tau)
    if is_anchor is not None and method in ("t3s", "inverse"):
        return is_anchor if method == "inverse" else ~is_anchor
    if method not in MASKING_BASELINES:
        raise ValueError(f"unknown method {method!r}")
    if is_anchor is not None:
        masked = int(is_anchor.sum())
    else:
        assert share is not None
        masked = round(share * n)
    keep = np.ones(n, dtype=bool)
    if method == "random":
        keep[np.random.default_rng(seed).permutation(n)[:masked]] = False
        return keep
    if c_0 is None:
        raise ValueError(f"{method} needs log-probs at theta_0")
    _require_finite("theta_0", c_0)  # a NaN would be sorted as if it were a confidence
    # Stable, so that ties are cut by position and the count is exact.
    by_confidence = np.argsort(c_0 if method == "mask-bottom-confidence" else -c_0, kind="stable")
    keep[by_confidence[:masked]] = False
    return keep


def selection_counts(keep: np.ndarray, delta: np.ndarray | None, tau: float = 0.0) -> dict:
    """Plain figures of a selection for the summary; those about anchors need `delta`."""
    counts = {
        "target_tokens": int(keep.size),
        "kept": int(keep.sum()),
        "masked": int((~keep).sum()),
        "masked_share": float((~keep).mean()),
    }
    if delta is None:
        return counts
    is_anchor = anchors(delta, tau)

    def mean(values):
        return float(values.mean()) if values.size else None

    return counts | {
        "anchors": int(is_anchor.sum()),
        "anchor_share": float(is_anchor.mean()),
        "ties": int((delta == np.float32(tau)).sum()),
        "mean_delta_anchor": mean(delta[is_anchor]),
        "mean_delta_other": mean(delta[~is_anchor]),
    }
