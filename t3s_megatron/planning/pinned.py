# SPDX-License-Identifier: Apache-2.0
"""How the copies of the weights lie in pinned memory of the host. The run and its plan use the same
arithmetic."""

from __future__ import annotations

#: torch rounds a pinned allocation up to a power of two; pieces of this size lose nothing by it.
PIECE = 2**30
#: Every tensor begins at a multiple of this, whatever its element size.
_ALIGNMENT = 256


def pack(sizes: list[int]) -> tuple[list[int], list[tuple[int, int]]]:
    """Pieces that hold tensors of these bytes: (bytes of each piece, (piece, first byte) of each
    tensor).

    Every piece is a power of two: `PIECE`, or for a larger tensor the next one. The largest tensors
    are placed first, each where it fits, and no piece is larger than what is in it needs.
    """
    room: list[int] = []  # left in each piece
    pieces: list[int] = []
    places: dict[int, tuple[int, int]] = {}
    for number in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        need = -(-sizes[number] // _ALIGNMENT) * _ALIGNMENT
        piece = next((i for i, left in enumerate(room) if left >= need), None)
        if piece is None:
            piece = len(pieces)
            pieces.append(max(PIECE, _power_of_two(need)))
            room.append(pieces[-1])
        places[number] = piece, pieces[piece] - room[piece]
        room[piece] -= need
    filled = [_power_of_two(size - left) for size, left in zip(pieces, room, strict=True)]
    return filled, [places[number] for number in range(len(sizes))]


def pinned_bytes(sizes: list[int]) -> int:
    """What torch takes from the host for tensors of these bytes."""
    return sum(pack(sizes)[0])


def _power_of_two(size: int) -> int:
    return 1 << max(0, size - 1).bit_length() if size else 0
