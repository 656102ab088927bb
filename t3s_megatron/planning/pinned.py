# SPDX-License-Identifier: Apache-2.0
"""How the copies of the weights lie in pinned memory of the host. The run and its plan use the same
arithmetic."""

from __future__ import annotations

#: torch rounds a pinned allocation up to a power of two; pieces of this size lose nothing by it.
PIECE = 2**30
#: No group is divided into smaller ones.
_SMALLEST = 2**20
#: Every tensor begins at a multiple of this, whatever its element size.
_ALIGNMENT = 256


def pack(sizes: list[int]) -> tuple[list[int], list[tuple[int, int]]]:
    """Pieces that hold tensors of these bytes: (bytes of each piece, (piece, first byte) of each
    tensor).

    Every piece is a power of two: `PIECE`, or for a larger tensor the next one, or less where less
    is left. The largest tensors are placed first, each where it fits.
    """
    needs = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes]
    numbers = sorted(range(len(sizes)), key=lambda number: -needs[number])
    pieces: list[int] = []
    places: dict[int, tuple[int, int]] = {}
    for group in _divided(numbers, needs, PIECE):
        start = 0
        for number in group:
            places[number] = len(pieces), start
            start += needs[number]
        pieces.append(_power_of_two(start))
    return pieces, [places[number] for number in range(len(sizes))]


def pinned_bytes(sizes: list[int]) -> int:
    """What torch takes from the host for tensors of these bytes."""
    return sum(pack(sizes)[0])


def _divided(numbers: list[int], needs: list[int], capacity: int) -> list[list[int]]:
    """Tensors (largest first) in groups of at most `capacity` bytes, or one that is larger with
    what fits beside it; a group that would leave much of its piece empty is divided again."""
    groups = _filled(numbers, needs, capacity)
    return [part for group in groups for part in _halved(group, needs)]


def _filled(numbers: list[int], needs: list[int], capacity: int) -> list[list[int]]:
    groups: list[list[int]] = []
    room: list[int] = []
    for number in numbers:
        need = needs[number]
        group = next((i for i, left in enumerate(room) if left >= need), None)
        if group is None:
            group = len(groups)
            groups.append([])
            room.append(max(capacity, _power_of_two(need)))
        groups[group].append(number)
        room[group] -= need
    return groups


def _halved(group: list[int], needs: list[int]) -> list[list[int]]:
    whole = _piece(group, needs)
    if whole <= _SMALLEST or len(_filled(group, needs, whole // 2)) == 1:
        return [group]
    parts = _divided(group, needs, whole // 2)
    return parts if sum(_piece(part, needs) for part in parts) < whole else [group]


def _piece(group: list[int], needs: list[int]) -> int:
    return _power_of_two(sum(needs[number] for number in group))


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length() if size else 0
