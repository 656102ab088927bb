# SPDX-License-Identifier: Apache-2.0
"""Which tokens of a sample are masked: a pure function of seed, sample and epoch (Eq. 9).

So every rank makes the same mask without being told, in every layout and arrangement, and a resumed
run goes on with the very masks that it would have had. The noise does not look at the method: two
runs of one seed differ in their forced tokens alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Noise:
    """`low`, `high`: a sample's rate is uniform between them, drawn anew every time it is drawn."""

    seed: int
    low: float
    high: float

    def masked(self, uid: str, epoch: int, n: int, forced: np.ndarray | None = None) -> np.ndarray:
        """bool[n], True for masked tokens among the `n` that may be masked, at least one.

        `epoch`: how often the sample was drawn before. `forced` bool[at most n]: of the first
        ones, those that are masked in any case.
        """
        uniform = self._uniform(uid, epoch, 1 + n)
        masked = uniform[1:] < self._rate(uniform)
        if forced is not None:
            masked[: len(forced)] |= forced
        if not masked.any():
            masked[uniform[1:].argmin()] = True
        return masked

    def rate(self, uid: str, epoch: int) -> float:
        """The rate at which `masked` masks this sample, before anything is forced."""
        return self._rate(self._uniform(uid, epoch, 1))

    def _rate(self, uniform: np.ndarray) -> float:
        return float(self.low + (self.high - self.low) * uniform[0])

    def _uniform(self, uid: str, epoch: int, n: int) -> np.ndarray:
        """float64[n] in [0, 1). By the sample's id and not its place, so that a part of the data
        has the masks that it has in all of it."""
        digest = hashlib.sha256(f"{uid}\0{epoch}".encode()).digest()
        key = [self.seed & (2**64 - 1), int.from_bytes(digest[:8], "little")]
        # Raw numbers only: stable over numpy releases. 53 bits, so that none is rounded to 1.
        return (np.random.Philox(key=key).random_raw(n) >> np.uint64(11)) * 2.0**-53
