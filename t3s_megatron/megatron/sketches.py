# SPDX-License-Identifier: Apache-2.0
"""Random directions in the space of all parameters, and what gradients are along them, without a
direction ever being there as a whole.

An element of a parameter is known by the name of its tensor in a checkpoint and by its place in it,
the same in every layout; a hash of the two says which of `DIRECTIONS` directions it belongs to, and
with which sign. So every direction is a random vector of signs over its own random part of the
parameters (a count sketch: Charikar, Chen and Farach-Colton 2002), directions are orthogonal, a
projection on all of them costs one pass over a gradient, and scalar products of projections are
those of the gradients in expectation, with a deviation of at most sqrt(2 / DIRECTIONS) of the
product of both norms.
"""

from __future__ import annotations

import hashlib

import torch

from t3s_megatron.data.pieces import Piece
from t3s_megatron.megatron.seam import CallbackContext
from t3s_megatron.megatron.sharding import weight_pieces
from t3s_megatron.megatron.weights import main_parameters

#: How many directions: what two unlike gradients seem to have in common is 0.03 of their norms.
DIRECTIONS = 1024
#: Elements that are hashed at a time, with a few int64 each.
_AT_ONCE = 2**20

# The finalizer of splitmix64 (Steele, Lea and Flood 2014), as signed numbers.
_FACTORS = (0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64)
_SHIFTS = (30, 27, 31)


class Directions:
    """Directions over the main parameters of this rank."""

    def __init__(self, context: CallbackContext):
        pieces = weight_pieces(context)
        self._parameters = main_parameters(context.optimizer)
        self._pieces: list[list[Piece]] = [
            pieces[f"parameter.{i}"] or [] for i in range(len(self._parameters))
        ]

    @torch.no_grad()
    def project(self, gradients: list[torch.Tensor]) -> torch.Tensor:
        """float64[DIRECTIONS] on their device: the part that these gradients have in the sketch.
        `gradients`: the very tensors of `.grad` of main parameters, some or all of this rank's."""
        device = torch.cuda.current_device()
        sums = torch.zeros(DIRECTIONS, dtype=torch.float64, device=device)
        wanted = {id(gradient): gradient for gradient in gradients}
        for parameter, pieces in zip(self._parameters, self._pieces, strict=True):
            gradient = wanted.pop(id(parameter.grad), None)
            if gradient is None:
                continue
            flat = gradient.reshape(-1)
            for piece in pieces:
                for first in range(piece.first, piece.last, _AT_ONCE):
                    last = min(first + _AT_ONCE, piece.last)
                    direction, sign = direction_of(piece.key, piece.numbers(first, last, device))
                    begin = piece.place + first - piece.first
                    some = flat[begin : begin + last - first].double()
                    sums.index_add_(0, direction, some * sign)
        assert not wanted, "a gradient of no main parameter"
        return sums


def direction_of(key: str, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(int64[n] below DIRECTIONS, float64[n] of signs) of elements of the global tensor `key`.
    `numbers` int64[n]: their places in it, in row-major order."""
    start = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little", signed=True)
    x = numbers + start  # wraps around, as every sum and product here
    for shift, factor in zip(_SHIFTS, (*_FACTORS, None), strict=True):
        x = x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))  # a shift of signed numbers keeps signs
        if factor is not None:
            x = x * factor
    return x & (DIRECTIONS - 1), 1 - 2 * ((x >> 32) & 1).double()
