# SPDX-License-Identifier: Apache-2.0
"""Tensors that many ranks hold in parts, put together again for ranks that hold other parts.

A global tensor is cut into boxes (tensor, pipeline and expert parallelism), and a rank may hold
only a range of its box (the distributed optimizer shards flat memory). `Piece` says which range of
which box stands where; `assemble` fills one piece from any others that cover it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Piece:
    """Elements [first, last), in row-major order, of one box of the global tensor `key`.

    `global_shape`, `offset` and `shape` (of the box) have one entry a dimension. `place` is where
    the piece begins in the flattened tensor that its rank holds.
    """

    key: str
    global_shape: Shape
    offset: Shape
    shape: Shape
    first: int
    last: int
    place: int = 0

    def to_list(self) -> list:
        """JSON-able; `Piece.from_list` takes it back."""
        shapes = [list(self.global_shape), list(self.offset), list(self.shape)]
        return [self.key, *shapes, self.first, self.last, self.place]

    @classmethod
    def from_list(cls, values: list) -> Piece:
        key, global_shape, offset, shape, first, last, place = values
        return cls(key, tuple(global_shape), tuple(offset), tuple(shape), first, last, place)

    def rows(self) -> tuple[Shape, Shape, int]:
        """(offset, shape, first element) of the smallest run of whole rows that holds the piece.

        A row is everything that shares an index of the first dimension longer than one. With many
        data-parallel ranks this is a small part of the box.
        """
        axis = next((i for i, size in enumerate(self.shape) if size > 1), None)
        if axis is None or self.first == self.last:
            return self.offset, self.shape, 0
        size = prod(self.shape[axis + 1 :])
        begin, end = self.first // size, -(-self.last // size)
        offset, shape = list(self.offset), list(self.shape)
        offset[axis] += begin
        shape[axis] = end - begin
        return tuple(offset), tuple(shape), begin * size

    def numbers(self, begin: int, end: int, device=None) -> torch.Tensor:
        """int64[end - begin]: places in the flattened global tensor of elements [begin, end) of the
        box."""
        inside = torch.arange(begin, end, device=device)
        place, stride = torch.zeros_like(inside), 1
        for size, offset, whole in zip(
            reversed(self.shape), reversed(self.offset), reversed(self.global_shape), strict=True
        ):
            place += (inside % size + offset) * stride
            inside = inside // size
            stride *= whole
        return place


Source = tuple[Piece, Callable[[], torch.Tensor]]


def assemble(wanted: Piece, sources: list[Source]) -> torch.Tensor:
    """The elements of `wanted`, flat, in the dtype of the sources.

    `sources`: (piece, function that returns its elements, flat); only those that are needed are
    read. Where several hold the same element (data-parallel replicas) they are equal, and one is
    used. ValueError when an element is nowhere, or the global shapes differ.
    """
    offset, shape, skipped = wanted.rows()
    result = None
    filled = torch.zeros(shape, dtype=torch.bool)
    for piece, read in sources:
        if piece.key != wanted.key:
            continue
        if piece.global_shape != wanted.global_shape:
            raise ValueError(
                f"{wanted.key}: saved as {list(piece.global_shape)}, here "
                f"{list(wanted.global_shape)}: it is another model (or another padded vocabulary: "
                "choose --make-vocab-size-divisible-by so that it is the same in both layouts)"
            )
        box_offset, box_shape, box_skipped = piece.rows()
        here = _overlap(offset, shape, box_offset, box_shape)
        if here is None or bool(filled[here[0]].all()):
            continue
        values = read()
        if result is None:
            result = torch.empty(shape, dtype=values.dtype)
        held = torch.zeros(prod(box_shape), dtype=torch.bool)
        box = torch.empty(prod(box_shape), dtype=values.dtype)
        place = slice(piece.first - box_skipped, piece.last - box_skipped)
        box[place] = values
        held[place] = True
        new = held.view(box_shape)[here[1]] & ~filled[here[0]]
        result[here[0]][new] = box.view(box_shape)[here[1]][new]
        filled[here[0]] |= new
    flat = slice(wanted.first - skipped, wanted.last - skipped)
    if not bool(filled.view(-1)[flat].all()):
        missing = int((~filled.view(-1)[flat]).sum())
        raise ValueError(f"{wanted.key}: {missing} of its elements are in none of the files")
    if result is None:
        return torch.empty(0)
    return result.view(-1)[flat]


def _overlap(
    a_offset: Shape, a_shape: Shape, b_offset: Shape, b_shape: Shape
) -> tuple[tuple[slice, ...], tuple[slice, ...]] | None:
    """Index of the common part in box a and in box b; None when there is none."""
    in_a, in_b = [], []
    for a, n, b, m in zip(a_offset, a_shape, b_offset, b_shape, strict=True):
        begin, end = max(a, b), min(a + n, b + m)
        if begin >= end:
            return None
        in_a.append(slice(begin - a, end - a))
        in_b.append(slice(begin - b, end - b))
    return tuple(in_a), tuple(in_b)
