# SPDX-License-Identifier: Apache-2.0
"""The globals of a running Megatron process that the rest of the package asks for."""

from __future__ import annotations

from megatron.training import (
    get_args,
    get_tensorboard_writer,
    get_wandb_writer,
    print_rank_0,
    set_startup_timestamps,
)
from megatron.training.checkpointing import checkpoint_exists

__all__ = [
    "checkpoint_exists",
    "get_args",
    "get_tensorboard_writer",
    "get_wandb_writer",
    "print_rank_0",
    "set_startup_timestamps",
]
