# SPDX-License-Identifier: Apache-2.0
"""Which sample is the k-th of a run: a seeded permutation for each epoch."""

from __future__ import annotations

import functools

import numpy as np


class EpochOrder:
    """Pure function of position. Each epoch holds every sample once; batches may span epochs, so
    nothing is dropped, and a resume or a rewind only has to know how many samples were consumed."""

    def __init__(self, n: int, seed: int):
        if n < 1:
            raise ValueError("an epoch needs at least one sample")
        self.n = n
        self.seed = seed
        # A batch touches at most a few epochs at a time.
        self._permutation = functools.lru_cache(maxsize=4)(self._make_permutation)

    def sample_at(self, position: int) -> int:
        """Sample index at 0-based `position` of the run."""
        epoch, place = divmod(position, self.n)
        return int(self._permutation(epoch)[place])

    def _make_permutation(self, epoch: int) -> np.ndarray:
        # Philox is counter-based: (seed, epoch) is the key, stable over numpy releases.
        bits = np.random.Philox(key=[self.seed & (2**64 - 1), epoch])
        # argsort of uniforms instead of Generator.permutation, whose algorithm may change.
        return np.argsort(bits.random_raw(self.n), kind="stable")
