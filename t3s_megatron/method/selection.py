# SPDX-License-Identifier: Apache-2.0
"""Which target tokens stay in the loss, or with what weight (sections 3.3 and 3.4, Appendix K).

All arrays are flat over the target tokens of a corpus, in corpus order: n tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

#: Tokens that are looked at together where temporary arrays are as large as what is looked at.
_AT_ONCE = 2**22


def pieces_of(n: int) -> Iterator[slice]:
    """Slices of n tokens, some millions each."""
    for first in range(0, n, _AT_ONCE):
        yield slice(first, min(first + _AT_ONCE, n))


def delta_c(c_b: np.ndarray, c_0: np.ndarray) -> np.ndarray:
    """Eq. 3: c_t(theta_b) - c_t(theta_0). float32[n], from two float32[n] of finite values."""
    if c_b.shape != c_0.shape:
        raise ValueError(f"c(theta_b) has shape {c_b.shape}, c(theta_0) has {c_0.shape}")
    _require_finite(READABLE["theta_b"], c_b)
    _require_finite(READABLE["theta_0"], c_0)
    return c_b.astype(np.float32, copy=False) - c_0.astype(np.float32, copy=False)


def _require_finite(what: str, values: np.ndarray) -> None:
    if not all(np.isfinite(values[some]).all() for some in pieces_of(values.size)):
        bad = np.flatnonzero(~np.isfinite(values))
        raise ValueError(f"{bad.size} {what} are not finite, the first is token {bad[0]}")


def anchors(delta: np.ndarray, tau: float = 0.0) -> np.ndarray:
    """Eq. 4: bool[n], True for imitation-anchor tokens. Strict: a tie is not an anchor."""
    return delta > np.float32(tau)


#: What is needed to tell anchors and the others apart.
ANCHORS = ("theta_0", "theta_b")

#: What a method may read of each token, all float32[n].
READABLE = {
    "theta_0": "log-probs at theta_0",
    "theta_b": "log-probs at theta_b",
    "reference": "log-probs of a reference",
    "entropy": "entropies at theta_0",
}


@dataclass(frozen=True)
class Scored:
    """Target tokens of one teacher, as a selecting method sees them: n of them.

    `values`: by name of READABLE, those that are there. `share`: the share that a baseline masks,
    None for as many as T3S would; `tau`: as in Eq. 4; `seed`: of whatever is drawn; `temperature`:
    of soft weights, in nats.
    """

    n: int
    values: Mapping[str, np.ndarray]
    share: float | None
    tau: float
    seed: int
    temperature: float | None = None

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
        if self.share is not None:
            return round(self.share * self.n)
        c_b, c_0 = self.at("theta_b"), self.at("theta_0")
        pieces = pieces_of(self.n)
        return sum(int(anchors(c_b[some] - c_0[some], self.tau).sum()) for some in pieces)

    def at(self, what: str) -> np.ndarray:
        """One of READABLE, float32[n]. ValueError for a value that is not finite."""
        values = self.values[what]
        _require_finite(READABLE[what], values)  # a NaN would be sorted as if it were a confidence
        return values


@dataclass(frozen=True)
class Method:
    """What a run may train with, and so an entry of `METHODS`; `help` says it in a few words.

    `keep`: from scored tokens to bool[n], True for those that stay in the loss, or to float32[n],
    the weight of each; None for a method that trains on all samples, to theta_f. `needs`: what of
    READABLE it reads. `baseline`: it masks as many tokens as T3S would, or --t3s-mask-share of
    them, for which theta_b is needed only if `needs` names it. `transfers`: theta_0 + (theta_f -
    theta_b) takes the place of theta_f (section 2.2). `requires`: fields of `MethodOptions` that
    have to be given, and mean nothing to a method that does not name them.

    What has no profile may change the loss of each step instead. `weigh`: from p, the probability
    of each token at the live weights (an array or tensor, no gradient flows through it), and
    --t3s-min-probability, to a factor of its loss. `leaves_out`: from float64[m], how far the mean
    log-prob of each of the step's m samples has risen above theta_0's, and --t3s-mask-share, to
    bool[m], the samples that do not count in the step.
    """

    name: str
    help: str
    keep: Callable[[Scored], np.ndarray] | None = None
    needs: tuple[str, ...] = ()
    baseline: bool = False
    transfers: bool = False
    requires: tuple[str, ...] = ()
    weigh: Callable[[Any, Any], Any] | None = None
    leaves_out: Callable[[np.ndarray, float], np.ndarray] | None = None

    @property
    def selects(self) -> bool:
        """It rewinds to theta_0, and trains with a selection from there."""
        return self.keep is not None

    @property
    def decides_alone(self) -> bool:
        """Whether a token stays depends on its own values, and not on which others there are:
        `keep` may be asked of some tokens at a time."""
        return self.selects and not self.baseline

    @property
    def has_theta_b(self) -> bool:
        """Something is done with the weights of the bottleneck."""
        return self.selects or self.transfers

    def takes(self, option: str) -> bool:
        """Whether this field of `MethodOptions`, which is of some methods only, is of this one."""
        return option in self.requires or (self.baseline and option == "mask_share")

    def reads(self, share: float | None) -> tuple[str, ...]:
        """What of READABLE it reads, where a baseline masks this `share`."""
        if self.baseline and share is None:
            return (*ANCHORS, *(what for what in self.needs if what not in ANCHORS))
        return self.needs


def _masked_at_random(tokens: Scored) -> np.ndarray:
    order = np.random.default_rng(tokens.seed).permutation(tokens.n)
    return _without(order[: tokens.masked], tokens.n)


def lowest(values: np.ndarray, count: int) -> np.ndarray:
    """bool[n]: `count` of n values, or all, that are the lowest. Ties are cut by position, so that
    the count is exact: as a stable sort would do it, with a copy of the values and no order of
    them."""
    count = min(count, values.size)
    if count == 0:
        return np.zeros(values.size, dtype=bool)
    bound = np.partition(values, count - 1)[count - 1]
    found = values <= bound
    ties = np.flatnonzero(values == bound)
    lower = int(found.sum()) - len(ties)
    found[ties[count - lower :]] = False
    return found


def _without_lowest(values: np.ndarray, tokens: Scored) -> np.ndarray:
    return ~lowest(values, tokens.masked)


def _without(masked: np.ndarray, n: int) -> np.ndarray:
    keep = np.ones(n, dtype=bool)
    keep[masked] = False
    return keep


def _excess_loss(tokens: Scored) -> np.ndarray:
    """Rho-1's score, at theta_0: L_theta_0 - L_ref = c_ref - c_theta_0."""
    return tokens.at("reference") - tokens.at("theta_0")


def _soft_weights(tokens: Scored) -> np.ndarray:
    """sigmoid((tau - delta_c) / T): 1 for what fell far, 1/2 at tau, T3S's mask as T goes to 0."""
    assert tokens.temperature is not None  # `requires` names it
    rise = (tokens.delta.astype(np.float64) - tokens.tau) / tokens.temperature
    return np.exp(-np.logaddexp(0.0, rise)).astype(np.float32)


def _best_fitted(rise: np.ndarray, share: float) -> np.ndarray:
    """TailSFT, Algorithm 1: round(share * m) samples whose loss has fallen furthest, one stays."""
    count = min(round(share * len(rise)), len(rise) - 1)
    left_out = np.zeros(len(rise), dtype=bool)
    left_out[np.argsort(-rise, kind="stable")[:count]] = True
    return left_out


_SAME_SHARE = "mask the same share of tokens as t3s, or --t3s-mask-share"

#: Every value of --t3s-method; all that the rest of the package knows of one stands here.
#: docs/selections.md has the formula and the source of each.
METHODS = {
    method.name: method
    for method in (
        Method("t3s", "mask the anchors", lambda tokens: ~tokens.anchors, ANCHORS),
        Method("rrt", "theta_0 + (theta_f - theta_b)", transfers=True),
        Method("sft", "plain fine-tuning"),
        Method(
            "inverse", "train on the anchors only (-T3S)", lambda tokens: tokens.anchors, ANCHORS
        ),
        Method(
            "t3s-soft",
            "weigh each token by sigmoid((tau - delta_c) / --t3s-soft-temperature)",
            _soft_weights,
            ANCHORS,
            requires=("soft_temperature",),
        ),
        Method("random", _SAME_SHARE, _masked_at_random, baseline=True),
        Method(
            "mask-top-confidence",
            _SAME_SHARE,
            lambda tokens: _without_lowest(-tokens.at("theta_0"), tokens),
            ("theta_0",),
            baseline=True,
        ),
        Method(
            "mask-bottom-confidence",
            _SAME_SHARE,
            lambda tokens: _without_lowest(tokens.at("theta_0"), tokens),
            ("theta_0",),
            baseline=True,
        ),
        Method(
            "keep-top-delta",
            "keep the tokens with the largest delta_c (Rho-1, TokenCleaning with theta_b as the "
            "reference), as many as t3s keeps, or all but --t3s-mask-share",
            lambda tokens: _without_lowest(tokens.delta, tokens),
            ANCHORS,
            baseline=True,
        ),
        Method(
            "keep-top-entropy",
            "keep the tokens with the highest entropy at theta_0, as many as t3s keeps, or all "
            "but --t3s-mask-share",
            lambda tokens: _without_lowest(tokens.at("entropy"), tokens),
            ("entropy",),
            baseline=True,
        ),
        Method(
            "rho",
            "keep the tokens with the largest excess loss over --t3s-reference at theta_0 (Rho-1), "
            "as many as t3s keeps, or all but --t3s-mask-share",
            lambda tokens: _without_lowest(_excess_loss(tokens), tokens),
            ("theta_0", "reference"),
            baseline=True,
            requires=("reference",),
        ),
        Method(
            "dft",
            "plain fine-tuning with each token's loss times its probability (DFT)",
            weigh=lambda p, _: p,
        ),
        Method(
            "profit",
            "plain fine-tuning on the tokens whose probability is at least --t3s-min-probability "
            "(ProFit)",
            requires=("min_probability",),
            weigh=lambda p, least: p >= least,
        ),
        Method(
            "tail-sft",
            "plain fine-tuning without the --t3s-mask-share of each step's samples whose loss has "
            "fallen furthest below theta_0's (TailSFT)",
            needs=("theta_0",),
            requires=("mask_share",),
            leaves_out=_best_fitted,
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
    c_ref: np.ndarray | None = None,
    entropy: np.ndarray | None = None,
    temperature: float | None = None,
) -> np.ndarray:
    """bool[n], True for tokens that stay in the loss (Eq. 5); or float32[n], their weights.

    `share` is the masked share of the baselines; None masks as many tokens as T3S would. Only that
    of READABLE is needed which the method's `reads` names: `c_0`, `c_b`, `c_ref` and `entropy`,
    float32[n]. ValueError for an unknown method, another number of tokens than n, values that are
    missing or not finite, a share outside 0 to 1 or of another method, a temperature of another
    method, or none.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}")
    chosen = METHODS[method]
    if share is not None and not (chosen.baseline and 0 <= share <= 1):
        raise ValueError(f"a masked share of {share} does not apply to {method!r}")
    if chosen.takes("soft_temperature") != (temperature is not None and temperature > 0):
        raise ValueError(f"a temperature of {temperature} does not apply to {method!r}")
    given = {"theta_0": c_0, "theta_b": c_b, "reference": c_ref, "entropy": entropy}
    there = {what: values for what, values in given.items() if values is not None}
    for what, values in there.items():
        if values.shape != (n,):
            raise ValueError(f"{READABLE[what]}: {values.shape}, and the corpus has {n} tokens")
    if chosen.keep is None:
        return np.ones(n, dtype=bool)
    missing = [READABLE[what] for what in chosen.reads(share) if what not in there]
    if missing:
        raise ValueError(f"{method} needs {' and '.join(missing)}")
    return chosen.keep(Scored(n, there, share, tau, seed, temperature))
