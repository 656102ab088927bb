# SPDX-License-Identifier: Apache-2.0
"""Attention for CPU runs with context parallelism, packed rows or latent attention.

Megatron's own core attention refuses the first two (dot_product_attention.py:59, :153), takes heads
of one width only, and Transformer Engine's needs CUDA. With these, every layout can be tested
without a GPU. Memory is O(s^2): not for training at length.

For context parallelism, keys and values are gathered over the group. Megatron slices a sequence so
that causal work is balanced: it is cut in 2 * CP chunks and rank r holds chunks r and
2 * CP - 1 - r ("zigzag").
"""

from __future__ import annotations

import copy
import itertools

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel import copy_to_tensor_model_parallel_region
from megatron.core.transformer.dot_product_attention import DotProductAttention


def zigzag_positions(size: int, local_length: int) -> torch.Tensor:
    """Global positions held by rank 0, 1, ... in rank order. int64[size * local_length]."""
    half = local_length // 2
    return torch.cat(
        [
            torch.arange(chunk * half, (chunk + 1) * half)
            for rank in range(size)
            for chunk in (rank, 2 * size - 1 - rank)
        ]
    )


class _GatherOverContext(torch.autograd.Function):
    """Concatenate over the group along dim 0; the backward sums the gradient over the group.

    torch.distributed.nn.all_gather reduces over the default group when gloo is given a subgroup.
    """

    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        parts = [torch.empty_like(x) for _ in range(group.size())]
        dist.all_gather(parts, x.contiguous(), group=group)
        return torch.cat(parts, dim=0)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient, group=ctx.group)
        return gradient.chunk(ctx.group.size(), dim=0)[ctx.group.rank()].contiguous(), None


class ContextParallelAttention(DotProductAttention):
    """Causal attention over q, k, v of shape [s / CP, b, heads, head_dim]."""

    def __init__(self, config, *args, cp_comm_type=None, **kwargs):
        config = copy.copy(config)
        object.__setattr__(config, "context_parallel_size", 1)
        super().__init__(config, *args, **kwargs)

    def forward(self, query, key, value, attention_mask, attn_mask_type=None, **_unused):
        group = parallel_state.get_context_parallel_group()
        local = query.size(0)
        positions = zigzag_positions(group.size(), local)
        keys = _GatherOverContext.apply(key, group)
        values = _GatherOverContext.apply(value, group)
        repeats = query.size(2) // keys.size(2)
        if repeats > 1:  # grouped-query attention
            keys = keys.repeat_interleave(repeats, dim=2)
            values = values.repeat_interleave(repeats, dim=2)
        mine = positions[group.rank() * local : (group.rank() + 1) * local]
        visible = positions[None, :] <= mine[:, None]
        out = torch.nn.functional.scaled_dot_product_attention(
            query.permute(1, 2, 0, 3),
            keys.permute(1, 2, 0, 3),
            values.permute(1, 2, 0, 3),
            attn_mask=visible,
            scale=self.softmax_scale,
        )
        return out.permute(2, 0, 1, 3).reshape(local, query.size(1), -1)


class PackedAttention(DotProductAttention):
    """Megatron's own, segment by segment, over q, k, v of shape [t, heads, head_dim]; without
    `packed_seq_params` Megatron's own over [s, b, heads, head_dim]."""

    def forward(self, query, key, value, *args, packed_seq_params=None, **kwargs):
        if packed_seq_params is None:
            return super().forward(query, key, value, *args, **kwargs)
        boundaries = packed_seq_params.cu_seqlens_q.tolist()
        segments = [slice(*ends) for ends in itertools.pairwise(boundaries)]
        outputs = [
            super(PackedAttention, self).forward(
                *(x[segment].unsqueeze(1) for x in (query, key, value)), *args, **kwargs
            )
            for segment in segments
        ]
        return torch.cat(outputs)


class LatentAttention(DotProductAttention):
    """Causal attention over queries and keys of one width and values of another, as multi-head
    latent attention has them: [s, b, heads, width] to [s, b, heads * width], or segment by segment
    [t, heads, width] to [t, heads * width].

    With a key-value cache there are more keys than queries; the queries are the last.
    """

    # Megatron makes it twice: its common attention without the widths, the latent one with them.
    def __init__(self, *args, k_channels: int = 0, v_channels: int = 0, **kwargs):
        super().__init__(*args, **kwargs)

    def forward(self, query, key, value, *_mask, packed_seq_params=None, **_unused):
        if packed_seq_params is None:
            return self._attend(query, key, value)
        boundaries = packed_seq_params.cu_seqlens_q.tolist()
        return torch.cat(
            [
                self._attend(*(x[first:last].unsqueeze(1) for x in (query, key, value))).squeeze(1)
                for first, last in itertools.pairwise(boundaries)
            ]
        )

    def _attend(self, query, key, value):
        # The part that is rotated is one for all heads, also for those of other tensor-parallel
        # ranks, and Megatron's local layers leave their share out of its gradient
        # (multi_latent_attention.py:739).
        config = self.config
        content, rotated = key.split([config.qk_head_dim, config.qk_pos_emb_head_dim], dim=-1)
        key = torch.cat([content, copy_to_tensor_model_parallel_region(rotated)], dim=-1)
        queries, keys = query.size(0), key.size(0)
        visible = torch.ones(queries, keys, dtype=torch.bool, device=query.device)
        out = torch.nn.functional.scaled_dot_product_attention(
            query.permute(1, 2, 0, 3),
            key.permute(1, 2, 0, 3),
            value.permute(1, 2, 0, 3),
            attn_mask=visible.tril(keys - queries),
            dropout_p=self.config.attention_dropout if self.training else 0.0,
            scale=self.softmax_scale,
        )
        return out.permute(2, 0, 1, 3).reshape(queries, query.size(1), -1)
