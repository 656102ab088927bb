# SPDX-License-Identifier: Apache-2.0
"""The run's arguments through Megatron's parser and validation, at any world size."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable

from t3s_megatron.errors import T3SError
from t3s_megatron.megatron.releases import reason_of


def read_arguments(argv: list[str], world_size: int, extra_args_provider: Callable):
    """Megatron's validated namespace of rank 0, with `padded_vocab_size` set if anything says it.

    T3SError when Megatron refuses the arguments: with its own reason.
    """
    from megatron.training.arguments import parse_args, validate_args

    os.environ.update(WORLD_SIZE=str(world_size), RANK="0", LOCAL_RANK="0")
    # Megatron asks for it before Blackwell; it has no part in what is planned.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    before, sys.argv = sys.argv, ["pretrain", *argv]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            args = parse_args(extra_args_provider)
            validate_args(args, {})
    except SystemExit:
        raise T3SError(f"Megatron's parser: {_last_line(said)}") from None
    except (AssertionError, ValueError, RuntimeError) as error:
        raise T3SError(
            f"Megatron refuses these arguments for {world_size} GPUs: {reason_of(error)}"
        ) from error
    finally:
        sys.argv = before
    return args


def _last_line(said: io.StringIO) -> str:
    lines = [line for line in said.getvalue().splitlines() if line.strip()]
    return lines[-1] if lines else "it ended without a word"
