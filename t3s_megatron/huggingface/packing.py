# SPDX-License-Identifier: Apache-2.0
"""How tensors of a Hugging Face folder make up one parameter of Megatron's, and how it is cut.

Shapes: o output features, i input features, g key-value heads, r query heads for each of them,
d head size. A linear layer's weight is [o, i] in both; what differs is which tensors stand in one
parameter, in which order of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """One of `size` equal parts of a parameter: that of tensor-parallel rank `rank`."""

    rank: int
    size: int


WHOLE = Part(0, 1)


class Packing:
    """One tensor, one parameter, the same on every tensor-parallel rank.

    `config`: of the folder; `shape`: of one rank's parameter. A source is an open tensor of a
    safetensors file, of which only what is indexed is read.
    """

    #: The dimension that is cut over tensor-parallel ranks.
    dim: int | None = None

    def is_cut(self, parameter: torch.Tensor) -> bool:
        """Whether this parameter is, where `dim` says how."""
        return True

    def fits(self, shapes: Sequence[Shape], shape: Shape, size: int, config) -> bool:
        """Whether tensors of `shapes`, cut over `size` ranks, are parameters of `shape`."""
        return len(shapes) == 1 and cut_shape(shapes[0], self.dim, size) == shape

    def read(self, sources: Sequence[Any], shape: Shape, part: Part, config) -> torch.Tensor:
        """This part of the parameter."""
        return cut_tensor(sources[0], self.dim, part)

    def unpack(self, parts: Sequence[torch.Tensor], config) -> list[torch.Tensor]:
        """The folder's tensors of a parameter, whose parts are in the order of the ranks."""
        return [join(parts, self.dim)]


class Column(Packing):
    """Cut by output features, as Megatron's column-parallel layers are."""

    dim = 0


class ColumnOrWhole(Packing):
    """Cut by output features in Megatron's local layers, the same on every rank in Transformer
    Engine's: the down projections of latent attention."""

    dim = 0

    def is_cut(self, parameter):
        return bool(getattr(parameter, "tensor_model_parallel", False))


class Row(Packing):
    """Cut by input features, as Megatron's row-parallel layers are."""

    dim = 1


class Vocabulary(Packing):
    """Rows of the embedding or the output layer [vocabulary, hidden]: Megatron's may have more than
    the folder's, and those are zeros."""

    dim = 0

    def fits(self, shapes, shape, size, config):
        ((rows, *rest),) = shapes
        return rows == config.vocab_size <= shape[0] * size and tuple(rest) == shape[1:]

    def read(self, sources, shape, part, config):
        rows = config.vocab_size
        found = sources[0][min(rows, part.rank * shape[0]) : min(rows, (part.rank + 1) * shape[0])]
        missing = shape[0] - found.shape[0]
        return torch.cat((found, found.new_zeros(missing, *shape[1:]))) if missing else found

    def unpack(self, parts, config):
        return [join(parts, 0)[: config.vocab_size]]


class GateUp(Packing):
    """gate [o, i] over up [o, i] in one parameter [2 o, i]; a rank has its rows of both."""

    dim = 0

    def fits(self, shapes, shape, size, config):
        gate, up = (cut_shape(each, 0, size) for each in shapes)
        return gate is not None and gate == up and (2 * gate[0], *gate[1:]) == shape

    def read(self, sources, shape, part, config):
        return torch.cat([cut_tensor(source, 0, part) for source in sources])

    def unpack(self, parts, config):
        halves = [part.chunk(2) for part in parts]
        return [join(half, 0) for half in zip(*halves, strict=True)]


class Transposed(Packing):
    """[i, o] in the folder, as experts that stand in one tensor are; cut by input features."""

    dim = 1

    def fits(self, shapes, shape, size, config):
        return len(shapes) == 1 and cut_shape(shapes[0][::-1], self.dim, size) == shape

    def read(self, sources, shape, part, config):
        return cut_tensor(sources[0][:].t(), self.dim, part)

    def unpack(self, parts, config):
        return [join(parts, self.dim).t()]


class GateUpInTurns(Packing):
    """gate and up in turns, [i, 2 o] or a bias [2 o], as `GateUp` has them: [2 o, i] or [2 o]."""

    dim = 0

    def fits(self, shapes, shape, size, config):
        half = cut_shape(shapes[0][::-1], 0, 2 * size)
        return half is not None and (2 * half[0], *half[1:]) == shape

    def read(self, sources, shape, part, config):
        rows = sources[0][:].t()
        return torch.cat([cut_tensor(rows[first::2], 0, part) for first in (0, 1)])

    def unpack(self, parts, config):
        halves = GateUp().unpack(parts, config)
        return [torch.stack(halves, dim=1).flatten(0, 1).t()]


class QueryKeyValue(Packing):
    """q [g r d, i], k [g d, i] and v [g d, i] in one parameter, in which the r + 2 heads of each
    key-value head stand together; biases likewise, without i."""

    dim = 0
    #: Heads in q for each head of attention.
    of_a_head = 1

    def fits(self, shapes, shape, size, config):
        (q, *qs), (k, *ks), (v, *vs) = shapes
        groups, heads = config.num_key_value_heads, self.of_a_head * config.num_attention_heads
        if k != v or qs != ks or ks != vs or k % groups or q * groups != k * heads:
            return False
        return cut_shape((q + k + v, *qs), 0, size) == shape

    def read(self, sources, shape, part, config):
        groups = config.num_key_value_heads
        if groups % part.size:  # several ranks share a key-value head
            whole = self.together([source[:] for source in sources], groups)
            return cut_tensor(whole, 0, part)
        return self.together(
            [cut_tensor(source, 0, part) for source in sources], groups // part.size
        )

    def together(self, tensors: Sequence[torch.Tensor], groups: int) -> torch.Tensor:
        """q, k and v of so many key-value heads as Megatron has them."""
        return interleave(tensors, groups)

    def unpack(self, parts, config):
        groups = config.num_key_value_heads
        queries = config.num_attention_heads // groups
        whole = join(parts, 0)
        heads = whole.view(groups, queries + 2, -1, *whole.shape[1:])
        return [
            heads[:, which].reshape(-1, *whole.shape[1:])
            for which in (slice(queries), slice(queries, -1), slice(-1, None))
        ]


class QueryKeyValueInOne(Packing):
    """q, k and v as of `QueryKeyValue`, one under the other in one tensor of the folder."""

    dim = 0

    def fits(self, shapes, shape, size, config):
        ((rows, *rest),) = shapes
        heads, groups = config.num_attention_heads, config.num_key_value_heads
        return rows % (heads + 2 * groups) == 0 and cut_shape((rows, *rest), 0, size) == shape

    def read(self, sources, shape, part, config):
        groups = config.num_key_value_heads
        of_q, of_k = config.num_attention_heads, groups
        tensor = sources[0][:]
        size = tensor.shape[0] // (of_q + 2 * of_k)
        parts = tensor.split([of_q * size, of_k * size, of_k * size])
        return cut_tensor(interleave(parts, groups), 0, part)

    def unpack(self, parts, config):
        return [torch.cat(QueryKeyValue().unpack(parts, config))]


def interleave(tensors: Sequence[torch.Tensor], groups: int) -> torch.Tensor:
    """Tensors [n_i, ...] as one [sum n_i, ...], in which the rows of each of so many groups stand
    together, those of the first tensor first."""
    rest = tensors[0].shape[1:]
    parts = [tensor.reshape(groups, -1, *rest) for tensor in tensors]
    return torch.cat(parts, dim=1).reshape(-1, *rest)


def cut_shape(shape: Shape, dim: int | None, size: int) -> Shape | None:
    """Shape of a rank's part, `dim` cut over `size` ranks (None: whole); None if it cannot be."""
    if dim is None:
        return tuple(shape)
    if dim >= len(shape) or shape[dim] % size:
        return None
    return (*shape[:dim], shape[dim] // size, *shape[dim + 1 :])


def cut_tensor(source, dim: int | None, part: Part) -> torch.Tensor:
    """A rank's part of a tensor, or of an open one, of which only that is read."""
    if dim is None or part.size == 1:
        return source[:]
    shape = source.shape if isinstance(source, torch.Tensor) else source.get_shape()
    each = shape[dim] // part.size
    mine = slice(part.rank * each, (part.rank + 1) * each)
    return source[mine] if dim == 0 else source[:, mine]


def join(parts: Sequence[torch.Tensor], dim: int | None) -> torch.Tensor:
    """The inverse of `cut_tensor`, of the parts of all ranks."""
    return parts[0] if dim is None or len(parts) == 1 else torch.cat(list(parts), dim=dim)
