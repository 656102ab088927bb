# SPDX-License-Identifier: Apache-2.0
"""Whether one measurement is above another by more than chance, paired by prompt.

For each prompt, take how many more of its answers were right now than then. If nothing has changed,
an answer of now and the answer of then that has its number are exchangeable, so each prompt's
difference is as likely to have the other sign. The exact sign-flip test compares the sum of the
differences with its distribution over all 2^n choices of signs. With one answer a prompt this is
the exact test of McNemar: the binomial tail of the prompts that changed.

With several answers it takes the prompt for the unit, not the answer: answers to one prompt move
together, and to count each as one of its own would overstate what is known. A sign test of the
counts would hold as well, but would give a prompt that went from 0 to 4 right answers the weight of
one that went from 2 to 3.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable

import numpy as np

from t3s_megatron.method.outcome import RIGHT, WRONG, Outcome


def gains(now: Outcome, then: Outcome) -> list[int]:
    """For each prompt, right answers of `now` minus those of `then`, over the answers that are
    known in both. ValueError for outcomes of other prompts or numbers of answers."""
    if (len(now.marks), now.samples) != (len(then.marks), then.samples):
        raise ValueError(
            f"{len(now.marks)} answers, {now.samples} a prompt, cannot be paired with "
            f"{len(then.marks)}, {then.samples} a prompt"
        )
    known = (RIGHT, WRONG)
    differences = [
        (a == RIGHT) - (b == RIGHT) if a in known and b in known else 0
        for a, b in zip(now.marks, then.marks, strict=True)
    ]
    starts = range(0, len(differences), now.samples)
    return [sum(differences[first : first + now.samples]) for first in starts]


@functools.lru_cache(maxsize=2**16)  # rules of a detector compare the same outcomes
def p_above(now: Outcome, then: Outcome) -> float:
    """One-sided p-value of "`now` is above `then`": how often signs drawn at random give a sum of
    gains as large as this one. 1.0 where no prompt changed."""
    return sign_flip_tail(gains(now, then))


def sign_flip_tail(differences: Iterable[int]) -> float:
    """P(sum of s_i d_i >= sum of d_i) over independent, fair signs s_i."""
    differences = [d for d in differences if d]
    # Flipping leaves sum |d| as it is, so the positive part alone decides. A prompt of size |d|
    # adds |d| or nothing to it: the sum over the prompts of one size is |d| times a binomial.
    distribution = np.ones(1)
    for size, n in sorted(Counter(map(abs, differences)).items()):
        spread = np.zeros(size * n + 1)
        spread[::size] = _fair_coins(n)
        distribution = np.convolve(distribution, spread)
    return float(distribution[sum(d for d in differences if d > 0) :].sum())


@functools.lru_cache(maxsize=1024)
def _fair_coins(n: int) -> np.ndarray:
    """float64[n + 1]: probabilities of 0 ... n heads."""
    return np.array([math.comb(n, k) / 2**n for k in range(n + 1)])
