# SPDX-License-Identifier: Apache-2.0
"""How the tensors of a gated delta net, and of the gated attention between such layers, make up
Megatron's parameters.

Megatron has one projection for everything that a delta net takes of a token, and a rank's part of
it is its heads of each kind, one kind under the other (ssm/gated_delta_net/gdn.py,
`in_proj_split_names`): queries, keys, values, output gate z, beta b, decay a. Folders have the same
rows in several tensors and in other orders.

Shapes: i input features, g key heads, h value heads (the same number for each key head, standing
together), k and v sizes of a head of each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from t3s_megatron.huggingface.packing import (
    Packing,
    QueryKeyValue,
    cut_shape,
    cut_tensor,
    interleave,
    join,
)


def _sizes(config) -> tuple[int, int]:
    """Rows of all queries (or of all keys), and of all values (or of all gates)."""
    queries = config.linear_num_key_heads * config.linear_key_head_dim
    return queries, config.linear_num_value_heads * config.linear_value_head_dim


class _Sections(Packing):
    """Sections one under the other, each cut over ranks by its heads."""

    dim = 0

    def rows(self, config) -> list[int]:
        """Of each section of the whole parameter."""
        raise NotImplementedError

    def of_folder(self, config) -> list[int]:
        """Rows of each of the folder's tensors."""
        raise NotImplementedError

    def sections(self, tensors: list[torch.Tensor], config) -> list[torch.Tensor]:
        """The folder's tensors as whole sections."""
        raise NotImplementedError

    def tensors(self, sections: list[torch.Tensor], config) -> list[torch.Tensor]:
        """The inverse of `sections`."""
        raise NotImplementedError

    def fits(self, shapes, shape, size, config):
        rows = self.rows(config)
        if [first for first, *_ in shapes] != self.of_folder(config):
            return False
        if config.linear_num_key_heads % size or config.linear_num_value_heads % size:
            return False
        return all(cut_shape((sum(rows), *rest), 0, size) == shape for _, *rest in shapes)

    def read(self, sources, shape, part, config):
        whole = self.sections([source[:] for source in sources], config)
        return torch.cat([cut_tensor(section, 0, part) for section in whole])

    def unpack(self, parts, config):
        rows = [count // len(parts) for count in self.rows(config)]
        split = [part.split(rows) for part in parts]
        whole = [join(section, 0) for section in zip(*split, strict=True)]
        return self.tensors(whole, config)


class DeltaConvolution(_Sections):
    """The convolution over queries, keys and values [2 g k + h v, 1, width]: the same rows in both,
    of which a rank has its heads of each."""

    def rows(self, config):
        queries, values = _sizes(config)
        return [queries, queries, values]

    def of_folder(self, config):
        return [sum(self.rows(config))]

    def sections(self, tensors, config):
        return list(tensors[0].split(self.rows(config)))

    def tensors(self, sections, config):
        return [torch.cat(sections)]


class DeltaProjections(_Sections):
    """qkv [2 g k + h v, i], z [h v, i], b [h, i] and a [h, i], as Qwen3.5 has them."""

    def rows(self, config):
        queries, values = _sizes(config)
        heads = config.linear_num_value_heads
        return [queries, queries, values, values, heads, heads]

    def of_folder(self, config):
        q, k, v, *others = self.rows(config)
        return [q + k + v, *others]

    def sections(self, tensors, config):
        qkv, *others = tensors
        return [*qkv.split(self.rows(config)[:3]), *others]

    def tensors(self, sections, config):
        return [torch.cat(sections[:3]), *sections[3:]]


class DeltaProjectionsByKeyHead(DeltaProjections):
    """The same in two tensors, as Qwen3-Next has them: qkvz [2 g k + 2 h v, i], in which the query,
    key, values and gates of each key head stand together, and ba [2 h, i] likewise."""

    def of_folder(self, config):
        q, k, v, z, b, a = self.rows(config)
        return [q + k + v + z, b + a]

    def sections(self, tensors, config):
        rows = self.rows(config)
        qkvz, ba = tensors
        return [*_apart(qkvz, rows[:4], config), *_apart(ba, rows[4:], config)]

    def tensors(self, sections, config):
        groups = config.linear_num_key_heads
        return [interleave(sections[:4], groups), interleave(sections[4:], groups)]


def _apart(tensor: torch.Tensor, rows: Sequence[int], config) -> list[torch.Tensor]:
    """The inverse of `interleave` by key heads, into sections of `rows`."""
    groups, rest = config.linear_num_key_heads, tensor.shape[1:]
    by_head = tensor.reshape(groups, -1, *rest).split([count // groups for count in rows], dim=1)
    return [section.reshape(-1, *rest) for section in by_head]


class GatedQueryKeyValue(QueryKeyValue):
    """q [2 r g d, i], in which each head's gate follows its query, k [g d, i] and v [g d, i] in one
    parameter. There the queries of a key-value head stand together, then their gates, then its key
    and value (attention.py, `get_query_key_value_tensors`). Letters as in `packing`."""

    of_a_head = 2

    def together(self, tensors, groups):
        q, k, v = tensors
        size, rest = k.shape[0] // groups, k.shape[1:]
        queries, gates = (x.reshape(-1, *rest) for x in q.reshape(-1, 2, size, *rest).unbind(1))
        return interleave([queries, gates, k, v], groups)

    def unpack(self, parts, config):
        groups = config.num_key_value_heads
        queries = config.num_attention_heads // groups
        whole = join(parts, 0)
        rest = whole.shape[1:]
        heads = whole.view(groups, 2 * queries + 2, -1, *rest)
        q, gate = heads[:, :queries], heads[:, queries : 2 * queries]
        return [
            torch.stack((q, gate), dim=2).reshape(-1, *rest),
            heads[:, -2].reshape(-1, *rest),
            heads[:, -1].reshape(-1, *rest),
        ]


class AroundZero(Packing):
    """A norm's factor, which Megatron keeps as its difference from one (--apply-layernorm-1p) where
    the folder keeps the factor itself.

    In bfloat16 the difference is exact for factors from 0.5 on; of a smaller one it loses the last
    bits, at most 2**-9.
    """

    def read(self, sources, shape, part, config):
        return sources[0][:].float() - 1

    def unpack(self, parts, config):
        return [(parts[0].float() + 1).to(parts[0].dtype)]
