# SPDX-License-Identifier: Apache-2.0
"""A model and its Megatron checkpoint without a training run around them."""

from __future__ import annotations

from collections.abc import Callable

import torch.distributed as dist
from megatron.training import get_args
from megatron.training.checkpointing import checkpoint_exists, load_checkpoint, save_checkpoint
from megatron.training.training import get_model

from t3s_megatron.errors import T3SError
from t3s_megatron.megatron.installation import check_installation
from t3s_megatron.megatron.model import model_provider
from t3s_megatron.megatron.releases import initialize


def build_model(args, extra_args_provider: Callable, args_defaults: dict) -> list:
    """The chunks of this rank, unwrapped. Starts the process groups. `args` and what they were
    parsed with (`releases.parse_arguments`). T3SError for what this installation lacks."""
    check_installation(args, trains=False)
    initialize(args, extra_args_provider, args_defaults)
    return get_model(model_provider, wrap_with_ddp=False)


def load_model(model: list) -> int:
    """The weights of `--load`; its iteration. T3SError when there is no checkpoint."""
    args = get_args()
    if not checkpoint_exists(args.load):
        raise T3SError(f"--load {args.load}: no Megatron checkpoint there")
    args.no_load_optim = args.no_load_rng = True
    args.finetune = False
    iteration, _ = load_checkpoint(model, None, None)
    return iteration


def save_model(model: list) -> None:
    """A checkpoint in `--save` that holds weights only, which Megatron calls a release."""
    args = get_args()
    args.no_save_optim = args.no_save_rng = True
    args.async_save = False
    save_checkpoint(0, model, None, None, 0, release=True)


def close() -> None:
    dist.barrier()
    dist.destroy_process_group()
