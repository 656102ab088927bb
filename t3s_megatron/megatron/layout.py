# SPDX-License-Identifier: Apache-2.0
"""Who is who among the ranks, and the few collectives of our own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import mpu

from t3s_megatron.errors import T3SError, WriteError


def on_last_stage() -> bool:
    return mpu.is_pipeline_last_stage(ignore_virtual=True)


def speaks_for_its_samples() -> bool:
    """One rank for each part of the data: last stage, first of its tensor-parallel group."""
    return on_last_stage() and mpu.get_tensor_model_parallel_rank() == 0


def collects_over_data() -> bool:
    """One rank of each group that sums figures over the data: last stage, first in DP and CP."""
    return on_last_stage() and mpu.get_data_parallel_rank(with_context_parallel=True) == 0


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


def together(work: Callable[[], Any]) -> list:
    """`work()` on every rank: its (small) results in rank order, on every rank.

    When it raises a T3SError or an OSError on some, every rank raises the first of them as a
    T3SError: none goes on to wait for a rank that has given up.
    """
    mine, failure = None, None
    try:
        mine = work()
    except T3SError as error:
        failure = error
    except OSError as error:
        failure = WriteError(str(error))
    parts = gather_over_world((mine, failure))
    for _, failed in parts:
        if failed is not None:
            raise failed
    return [result for result, _ in parts]


@contextlib.contextmanager
def failures_named(what: str) -> Iterator[None]:
    """Around what all ranks do together: an exception of one rank alone says which it was. The
    others wait for it, until its launcher ends them with it."""
    try:
        yield
    except T3SError:  # on every rank
        raise
    except Exception as error:
        error.add_note(f"[t3s] rank {rank()} failed while it {what}")
        raise


def rank() -> int:
    return dist.get_rank()
