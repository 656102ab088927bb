# SPDX-License-Identifier: Apache-2.0
"""Which targets of a corpus are kept, looked up where that is known.

A mapped selection file, one bit each, is shared by the ranks of a node, and each unpacks what its
rows ask for; of whole samples that are left out their numbers are enough.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator

import numpy as np

from t3s_megatron.data.tables import slices_of


class KeptBits:
    """bool[n_target_tokens] as far as a run asks for it: by a slice, by numbers int64[k], as a sum,
    or as a whole.

    `packed` uint8: the bits of each sample from a byte of its own on, which `starts` int64[m]
    names; `offsets` int64[m + 1]: as of the corpus.
    """

    dtype = np.dtype(bool)

    def __init__(self, packed: np.ndarray, starts: np.ndarray, offsets: np.ndarray):
        self._packed = packed
        self._starts = starts
        self._offsets = offsets
        self.size = int(offsets[-1])
        self.shape = (self.size,)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, which: slice | np.ndarray) -> np.ndarray:
        if isinstance(which, slice):
            first, end, step = which.indices(self.size)
            if step == 1:
                return self._range(first, max(first, end))
            which = np.arange(first, end, step)
        which = np.asarray(which)
        sample = np.searchsorted(self._offsets, which, side="right") - 1
        place = which - self._offsets[sample]
        byte = self._packed[self._starts[sample] + place // 8]
        return (byte >> (7 - place % 8).astype(np.uint8)) & 1 == 1

    def _range(self, first: int, end: int) -> np.ndarray:
        """Those of the numbers from `first` on and before `end`."""
        if first == end:
            return np.zeros(0, dtype=bool)
        begin = int(np.searchsorted(self._offsets, first, side="right")) - 1
        last = int(np.searchsorted(self._offsets, end, side="left"))
        parts = []
        for sample in range(begin, last):
            offset, start = int(self._offsets[sample]), int(self._starts[sample])
            low, high = (
                max(first, offset) - offset,
                min(end, int(self._offsets[sample + 1])) - offset,
            )
            packed = self._packed[start + low // 8 : start + -(-high // 8)]
            bits = np.unpackbits(packed, count=high - low // 8 * 8)[low % 8 :]
            parts.append(bits.astype(bool))
        return np.concatenate(parts)

    def pieces(self) -> Iterator[np.ndarray]:
        """All of them in order, a few million at a time."""
        for some in slices_of(self.size):
            yield self[some]

    def sum(self) -> int:
        return sum(int(piece.sum()) for piece in self.pieces())

    def mean(self) -> float:
        return self.sum() / self.size

    def any(self) -> bool:
        return any(bool(piece.any()) for piece in self.pieces())

    def __invert__(self) -> np.ndarray:
        return ~np.asarray(self)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self._range(0, self.size).astype(dtype or bool, copy=False)


class KeptSamples:
    """bool[n_target_tokens], False for the targets of the samples `left_out`, as far as a step asks
    for it: by a slice, or by numbers int64[k]. `offsets` int64[m + 1]: as of the corpus."""

    dtype = np.dtype(bool)

    def __init__(self, offsets: np.ndarray, left_out: Collection[int]):
        self._offsets = offsets
        self._left_out = np.array(sorted(left_out), dtype=np.int64)
        self.size = int(offsets[-1])

    def __getitem__(self, which: slice | np.ndarray) -> np.ndarray:
        if isinstance(which, slice):
            which = np.arange(*which.indices(self.size))
        sample = np.searchsorted(self._offsets, which, side="right") - 1
        return ~np.isin(sample, self._left_out)


#: bool[n_target_tokens], or float32 of their weights.
Kept = np.ndarray | KeptBits | KeptSamples


def n_kept_of(keep: Kept | None, targets: slice | np.ndarray) -> int:
    """How many of these targets, a range or numbers int64[k], are kept; None keeps all."""
    if keep is not None:
        return int(np.count_nonzero(keep[targets]))
    return targets.stop - targets.start if isinstance(targets, slice) else len(targets)


def n_kept(keep: np.ndarray | KeptBits) -> int:
    """Targets that bool[n] keeps, or float32[n] gives a weight above 0."""
    return sum(n_kept_of(keep, some) for some in slices_of(keep.size))


def digest_of(keep: np.ndarray | KeptBits) -> str:
    """sha256 over the bits of bool[n], packed, or over the bytes of float32[n], in hexadecimal."""
    digest = hashlib.sha256()
    for some in slices_of(keep.size):
        values = keep[some]
        digest.update(np.packbits(values) if values.dtype == np.bool_ else values.tobytes())
    return digest.hexdigest()
