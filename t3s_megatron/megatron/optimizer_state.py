# SPDX-License-Identifier: Apache-2.0
"""Optimizer state of each parameter in a checkpoint that can be resumed in another layout.

With `--dist-ckpt-optim-fully-reshardable` Megatron gathers the distributed optimizer's buffers and
cuts them into parameters. It gathers them without what pads the end of a bucket, and cuts them
where the parameters stand with it (distrib_optimizer.py:1393 and :1789, megatron-core 0.19.2). So
where a bucket that is not the last has padding, every parameter behind it is saved with numbers of
its neighbours, the last filled up with zeros, and a resumed run is ruined by its next step. Buckets
are padded to multiples of the data-parallel size and of 128: with a hidden size of 576 or 2880, or
on three nodes.
"""

from __future__ import annotations

import functools
from itertools import accumulate
from types import ModuleType

import torch


def save_states_with_their_parameters(distributed: ModuleType) -> None:
    """Cut what Megatron gathers where the parameters are. Idempotent. `distributed`: its module
    distrib_optimizer; a release that has no such format is left as it is."""
    kind = distributed.DistributedOptimizer
    cut = getattr(kind, "sharded_param_state_fully_reshardable", None)
    if cut is None or hasattr(cut, "__wrapped__"):
        return

    @functools.wraps(cut)
    def cut_in_place(self, *args, **kwargs):
        gather = self.get_parameter_state_dp_zero

        def gather_with_padding(*args, **kwargs):
            return _with_padding(self.buffers, gather(*args, **kwargs))

        self.get_parameter_state_dp_zero = gather_with_padding
        try:
            return cut(self, *args, **kwargs)
        finally:
            del self.get_parameter_state_dp_zero

    kind.sharded_param_state_fully_reshardable = cut_in_place


def _with_padding(buffers: list, state: dict | None) -> dict | None:
    """`state[number of the buffer][its dtype][name]` with the padding of all buckets; None on a
    rank that has gathered nothing."""
    for number, buffer in enumerate(buffers):
        if state is not None and not _is_in_place(buffer):
            for tensors in state[number].values():
                for name, values in tensors.items():
                    if isinstance(values, torch.Tensor):
                        tensors[name] = _spread(values, buffer)
    return state


def _is_in_place(buffer) -> bool:
    ends = accumulate(bucket.numel_unpadded for bucket in buffer.buckets[:-1])
    return all(bucket.offset == end for bucket, end in zip(buffer.buckets[1:], ends, strict=True))


def _spread(values: torch.Tensor, buffer) -> torch.Tensor:
    """[places with padding] of [places without]."""
    sizes = [bucket.numel_unpadded for bucket in buffer.buckets]
    whole = values.new_zeros(buffer.numel)
    for bucket, size, part in zip(buffer.buckets, sizes, values.split(sizes), strict=True):
        whole[bucket.offset : bucket.offset + size] = part
    return whole
