# SPDX-License-Identifier: Apache-2.0
"""A world of any size in one process: torch's fake process group, whose collectives do nothing."""

from __future__ import annotations

import contextlib

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import (
    CudaRNGStatesTracker,
    model_parallel_cuda_manual_seed,
)
from torch.testing._internal.distributed.fake_pg import FakeStore


def install_fake_world() -> None:
    """Make this process fit for fake tensors. It changes torch and Megatron for good."""
    # Megatron asks the device for its generation before it builds grouped experts.
    torch.cuda.get_device_capability = lambda *args, **kwargs: (9, 0)
    # Compares the values of a random state, and fake tensors have none. Nothing is random here.
    CudaRNGStatesTracker.fork = contextlib.contextmanager(lambda self, name=None: (yield))
    # The optimizer gathers the keys of its parameter groups: all ranks would say the same.
    dist.all_gather_object = _everyone_says_the_same
    # Module.bfloat16 swaps fake tensors with their conversions, which Megatron's references to
    # them do not allow.
    torch.nn.Module.bfloat16 = _converts_in_place(torch.bfloat16)


def become(rank: int, args) -> None:
    """Rank `rank` of `args.world_size`, with Megatron's parallel groups."""
    if dist.is_initialized():
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=args.world_size)
    parallel_state.initialize_model_parallel(
        args.tensor_model_parallel_size,
        args.pipeline_model_parallel_size,
        args.virtual_pipeline_model_parallel_size,
        context_parallel_size=args.context_parallel_size,
        expert_model_parallel_size=args.expert_model_parallel_size,
        expert_tensor_parallel_size=args.expert_tensor_parallel_size,
        order="tp-cp-ep-pp-dp" if args.use_tp_pp_dp_mapping else "tp-cp-ep-dp-pp",
        create_gloo_process_groups=False,
    )
    model_parallel_cuda_manual_seed(args.seed)


def first_rank_of_stage(stage: int, args) -> int:
    """Pipeline stages are the outermost groups of ranks, or just inside data parallelism."""
    if args.use_tp_pp_dp_mapping:
        return stage * args.tensor_model_parallel_size * args.context_parallel_size
    return stage * args.world_size // args.pipeline_model_parallel_size


def _everyone_says_the_same(object_list, obj, group=None) -> None:
    object_list[:] = [obj] * len(object_list)


def _converts_in_place(dtype: torch.dtype):
    def convert(module):
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point() and tensor.dtype != dtype:
                tensor.data = tensor.data.to(dtype)
        return module

    return convert
