# SPDX-License-Identifier: Apache-2.0
"""A checkpoint that Megatron could not write, in the words of the rest of the run."""

from __future__ import annotations

from typing import NoReturn

from torch.distributed.checkpoint.api import CheckpointException

from t3s_megatron.errors import WriteError

#: What saving ends with on a full or read-only disk. The second is no Exception.
SAVE_FAILURES = (OSError, CheckpointException)


def tell_failed_save(error: BaseException, iteration: int) -> NoReturn:
    """Raise a WriteError for one of SAVE_FAILURES, or `error` itself on a rank that does not know
    the reason: Megatron gathers the reasons of all ranks on one, which tells them."""
    if isinstance(error, CheckpointException) and not error.failures:
        raise error
    raise write_error(error, f"its checkpoint of iteration {iteration}") from error


def write_error(error: BaseException, which: str = "its checkpoint") -> WriteError:
    reason = str(error).strip().splitlines()[-1]
    return WriteError(
        f"Megatron could not write {which} ({reason}). Make room, or make the --save folder "
        "writable, and start the same command again: it goes on from its last checkpoint"
    )
