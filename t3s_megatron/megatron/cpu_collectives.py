# SPDX-License-Identifier: Apache-2.0
"""Collectives of unequal parts, which NCCL has and gloo has not.

With tensor-parallel experts Megatron gathers and scatters what each rank's tokens were routed to,
so the ranks' parts differ in their first dimension (core/tensor_parallel/mappings.py).
"""

from __future__ import annotations

import functools

import torch
import torch.distributed as dist


def install_uneven_collectives() -> None:
    """Let `all_gather` and `reduce_scatter` take lists of tensors of unequal lengths."""
    import torch.distributed.distributed_c10d as c10d

    dist.all_gather = c10d.all_gather = _uneven_all_gather(dist.all_gather)
    dist.reduce_scatter = c10d.reduce_scatter = _uneven_reduce_scatter(dist.reduce_scatter)


def _uneven_all_gather(original):
    @functools.wraps(original)
    def all_gather(tensor_list, tensor, group=None, async_op=False):
        lengths = [len(one) if one.dim() else 1 for one in tensor_list]
        if len(set(lengths)) < 2:
            return original(tensor_list, tensor, group=group, async_op=async_op)
        assert not async_op
        padded = tensor.new_zeros(max(lengths), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in lengths]
        original(parts, padded, group=group)
        for place, part, length in zip(tensor_list, parts, lengths, strict=True):
            place.copy_(part[:length])

    return all_gather


def _uneven_reduce_scatter(original):
    @functools.wraps(original)
    def reduce_scatter(output, input_list, op=dist.ReduceOp.SUM, group=None, async_op=False):
        lengths = [len(one) if one.dim() else 1 for one in input_list]
        if len(set(lengths)) < 2:
            return original(output, input_list, op=op, group=group, async_op=async_op)
        assert not async_op
        everything = torch.cat(input_list)
        dist.all_reduce(everything, op=op, group=group)
        output.copy_(everything.split(lengths)[dist.get_rank(group)])

    return reduce_scatter
