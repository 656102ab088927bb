# SPDX-License-Identifier: Apache-2.0
"""Copies of the weights in pinned memory: what is asked of torch is a power of two anyway."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from t3s_megatron.planning.pinned import PIECE, pack, pinned_bytes

_SIZES = st.lists(st.integers(0, 3 * PIECE) | st.integers(0, 10_000), max_size=30)


def is_power_of_two(size: int) -> bool:
    return size & (size - 1) == 0


@given(_SIZES)
def test_every_tensor_has_a_place_of_its_own(sizes):
    pieces, places = pack(sizes)
    assert all(is_power_of_two(piece) for piece in pieces)
    taken: dict[int, list[tuple[int, int]]] = {}
    for size, (piece, start) in zip(sizes, places, strict=True):
        assert start % 256 == 0 and start + size <= pieces[piece]
        taken.setdefault(piece, []).append((start, start + size))
    for ends in taken.values():
        ends = sorted(end for end in ends if end[0] < end[1])
        assert all(first[1] <= second[0] for first, second in zip(ends, ends[1:], strict=False))


def test_rounding_costs_little_where_it_cost_a_third():
    """A stage of Qwen3-235B-A22B on one of its GPUs: float32 shards of the experts' matrices."""
    sizes = [50_331_648, 25_165_824] * 16 * 6  # bytes; each alone becomes 67.1 and 33.6 MB
    alone = sum(1 << (size - 1).bit_length() for size in sizes)
    assert alone / sum(sizes) > 1.33
    assert pinned_bytes(sizes) / sum(sizes) < 1.08
