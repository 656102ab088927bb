# SPDX-License-Identifier: Apache-2.0
"""Which target tokens stay in the loss (sections 3.3 and 3.4, Appendix K).

All arrays are flat over the target tokens of a corpus, in corpus order: n tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


def delta_c(c_b: np.ndarray, c_0: np.ndarray) -> np.ndarray:
    """Eq. 3: c_t(theta_b) - c_t(theta_0). float32[n], from two float32[n] of finite values."""
    if c_b.shape != c_0.shape:
        raise ValueError(f"c(theta_b) has shape {c_b.shape}, c(theta_0) has {c_0.shape}")
    _require_finite("theta_b", c_b)
    _require_finite("theta_0", c_0)
    return c_b.astype(np.float32, copy=False) - c_0.astype(np.float32, copy=False)


def _require_finite(name: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        bad = np.flatnonzero(~np.isfinite(values))
        raise ValueError(
            f"{bad.size} log-probs at {name} are not finite, the first is token {bad[0]}"
        )


def anchors(delta: np.ndarray, tau: float = 0.0) -> np.ndarray:
    """Eq. 4: bool[n], True for imitation-anchor tokens. Strict: a tie is not an anchor."""
    return delta > np.float32(tau)


#: Weights at which log-probs are needed to tell anchors and the others apart.
ANCHORS = ("theta_0", "theta_b")


@dataclass(frozen=True)
class Scored:
    """Target tokens of one teacher, as a masking method sees them: n of them.

    `c_0`, `c_b`: float32[n], log-probs at theta_0 and theta_b, each there if the method's `needs`
    names it. `share`: the share that a baseline masks, None for as many as T3S would; `tau`: as in
    Eq. 4; `seed`: of whatever is drawn.
    """

    n: int
    c_0: np.ndarray | None
    c_b: np.ndarray | None
    share: float | None
    tau: float
    seed: int

    @property
    def delta(self) -> np.ndarray:
        """float32[n], Eq. 3."""
        return delta_c(self.at("theta_b"), self.at("theta_0"))

    @property
    def anchors(self) -> np.ndarray:
        """bool[n], Eq. 4."""
        return anchors(self.delta, self.tau)

    @property
    def masked(self) -> int:
        """How many tokens a baseline masks."""
        return int(self.anchors.sum()) if self.share is None else round(self.share * self.n)

    def at(self, weights: str) -> np.ndarray:
        """Log-probs at these weights. ValueError for one that is not finite."""
        c = {"theta_0": self.c_0, "theta_b": self.c_b}[weights]
        assert c is not None  # `needs` did not name it
        _require_finite(weights, c)  # a NaN would be sorted as if it were a confidence
        return c


@dataclass(frozen=True)
class Method:
    """What a run may train with, and so an entry of `METHODS`; `help` says it in a few words.

    `keep`: from scored tokens to bool[n], True for those that stay in the loss; None for a method
    that trains on all of them, to theta_f. `needs`: weights at which it reads log-probs.
    `baseline`: it masks as many tokens as T3S would, or --t3s-mask-share of them, for which theta_b
    is needed only if `needs` names it. `transfers`: theta_0 + (theta_f - theta_b) takes the place
    of theta_f (section 2.2).
    """

    name: str
    help: str
    keep: Callable[[Scored], np.ndarray] | None = None
    needs: tuple[str, ...] = ()
    baseline: bool = False
    transfers: bool = False

    @property
    def selects(self) -> bool:
        """It rewinds to theta_0, and trains with a selection from there."""
        return self.keep is not None

    @property
    def has_theta_b(self) -> bool:
        """Something is done with the weights of the bottleneck."""
        return self.selects or self.transfers

    def reads(self, share: float | None) -> tuple[str, ...]:
        """Weights at which it needs log-probs, where a baseline masks this `share`."""
        return ANCHORS if self.baseline and share is None else self.needs


def _masked_at_random(tokens: Scored) -> np.ndarray:
    order = np.random.default_rng(tokens.seed).permutation(tokens.n)
    return _without(order[: tokens.masked], tokens.n)


def _masked_by_confidence(tokens: Scored, sign: int) -> np.ndarray:
    """Without the tokens whose `sign` times c(theta_0) is lowest."""
    # Stable, so that ties are cut by position and the count is exact.
    order = np.argsort(sign * tokens.at("theta_0"), kind="stable")
    return _without(order[: tokens.masked], tokens.n)


def _masked_by_delta(tokens: Scored) -> np.ndarray:
    """Without the tokens whose delta_c is lowest: those that stay are the top share by delta_c."""
    # Stable, so that ties are cut by position and the count is exact.
    return _without(np.argsort(tokens.delta, kind="stable")[: tokens.masked], tokens.n)


def _without(masked: np.ndarray, n: int) -> np.ndarray:
    keep = np.ones(n, dtype=bool)
    keep[masked] = False
    return keep


_SAME_SHARE = "mask the same share of tokens as t3s, or --t3s-mask-share"

#: Every value of --t3s-method; all that the rest of the package knows of one stands here.
METHODS = {
    method.name: method
    for method in (
        Method("t3s", "mask the anchors", lambda tokens: ~tokens.anchors, ANCHORS),
        Method("rrt", "theta_0 + (theta_f - theta_b)", transfers=True),
        Method("sft", "plain fine-tuning"),
        Method(
            "inverse", "train on the anchors only (-T3S)", lambda tokens: tokens.anchors, ANCHORS
        ),
        Method("random", _SAME_SHARE, _masked_at_random, baseline=True),
        Method(
            "mask-top-confidence",
            _SAME_SHARE,
            lambda tokens: _masked_by_confidence(tokens, -1),
            ("theta_0",),
            baseline=True,
        ),
        Method(
            "mask-bottom-confidence",
            _SAME_SHARE,
            lambda tokens: _masked_by_confidence(tokens, 1),
            ("theta_0",),
            baseline=True,
        ),
        Method(
            "keep-top-delta",
            "keep the tokens with the largest delta_c (Rho-1, TokenCleaning with theta_b as the "
            "reference), as many as t3s keeps, or all but --t3s-mask-share",
            _masked_by_delta,
            ANCHORS,
            baseline=True,
        ),
    )
}

MASKING_BASELINES = tuple(method.name for method in METHODS.values() if method.baseline)


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

    `share` is the masked share of the baselines; None masks as many tokens as T3S would. With a
    share only the log-probs are needed that the method's `needs` names. ValueError for an unknown
    method, another number of tokens than n, log-probs that are missing or not finite, a share
    outside 0 to 1 or of another method.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}")
    chosen = METHODS[method]
    if share is not None and not (chosen.baseline and 0 <= share <= 1):
        raise ValueError(f"a masked share of {share} does not apply to {method!r}")
    for name, values in (("theta_0", c_0), ("theta_b", c_b)):
        if values is not None and values.shape != (n,):
            raise ValueError(f"c({name}) has shape {values.shape}, the corpus has {n} tokens")
    if chosen.keep is None:
        return np.ones(n, dtype=bool)
    there = {"theta_0": c_0 is not None, "theta_b": c_b is not None}
    missing = [weights for weights in chosen.reads(share) if not there[weights]]
    if missing:
        raise ValueError(f"{method} needs log-probs at {' and at '.join(missing)}")
    return chosen.keep(Scored(n, c_0, c_b, share, tau, seed))


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
