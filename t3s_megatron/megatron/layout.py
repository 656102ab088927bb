# SPDX-License-Identifier: Apache-2.0
"""Who is who among the ranks, and the few collectives of our own."""

from __future__ import annotations

import torch
import torch.distributed as dist
from megatron.core import mpu


def on_last_stage() -> bool:
    return mpu.is_pipeline_last_stage(ignore_virtual=True)


def speaks_for_its_samples() -> bool:
    """One rank for each part of the data: last stage, first of its tensor-parallel group."""
    return on_last_stage() and mpu.get_tensor_model_parallel_rank() == 0


def data_and_context_group():
    return mpu.get_data_parallel_group(with_context_parallel=True)


def root_rank() -> int:
    """Global rank that collects log-probs: last stage, first in every other dimension."""
    mine = torch.tensor(
        [
            dist.get_rank()
            if speaks_for_its_samples()
            and mpu.get_data_parallel_rank(with_context_parallel=True) == 0
            else -1
        ],
        dtype=torch.long,
        device=torch.cuda.current_device(),
    )
    dist.all_reduce(mine, op=dist.ReduceOp.MAX)
    return int(mine.item())


def broadcast(value, source: int):
    """A small Python object from global rank `source` to every rank of the world."""
    box = [value]
    dist.broadcast_object_list(box, src=source)
    return box[0]


def gather_over_data(value) -> list:
    """Small objects of the data-parallel group (without CP), in rank order, on every rank."""
    group = mpu.get_data_parallel_group()
    parts: list = [None] * group.size()
    dist.all_gather_object(parts, value, group=group)
    return parts


def gather_over_world(value) -> list:
    """Small objects of every rank, in rank order, on every rank."""
    parts = [None] * dist.get_world_size()
    dist.all_gather_object(parts, value)
    return parts


def barrier() -> None:
    dist.barrier()


def rank() -> int:
    return dist.get_rank()
