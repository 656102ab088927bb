# SPDX-License-Identifier: Apache-2.0
"""How a process begins, with its device before Megatron, and how it ends: one error, told once.

Ranks agree on who tells it through the key-value store that torchrun's agent keeps for its workers.
It is there before the process group and outlives any rank, so it serves for an argument that every
rank refuses as well as for one rank's full disk. A job that was started without torchrun tells it
on every rank.

Nothing of torch or Megatron is imported at the top: the CPU layer has to be there before Megatron's
seam and torch's checkpoint package. And a process that Megatron spawns on each rank, to count what
its checkpoint writers have written, imports the script that was started: all of it would be there
twice, in the memory of every rank.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import NoReturn

from t3s_megatron.errors import T3SError

_SECONDS = 10


def start_process(argv: list[str]) -> None:
    """Prepare this process for the device that `argv` asks for, and import Megatron.

    T3SError for an unsupported release, before anything else of it is used.
    """
    from t3s_megatron.megatron.device import (
        choose_device,
        install_megatron_layer,
        install_torch_layer,
    )
    from t3s_megatron.megatron.installation import repair_installation
    from t3s_megatron.megatron.releases import megatron_series

    on_cpu = choose_device(argv) == "cpu"
    if on_cpu:
        import torch

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        install_torch_layer()
    megatron_series()
    repair_installation()
    if on_cpu:
        install_megatron_layer()


@contextlib.contextmanager
def one_error() -> Iterator[None]:
    """End this process with status 2 when the work inside fails, and with one message among all
    ranks for what a person can act on. Anything else is raised as it is."""
    try:
        yield
    except T3SError as error:
        end_with(error)
    except Exception as error:
        # Ranks that lose a peer to an error of its own have nothing to add to it.
        if not was_said():
            raise
        print(f"t3s-megatron: ended with it ({type(error).__name__})", file=sys.stderr, flush=True)
        sys.exit(2)
    except (SystemExit, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # torch's CheckpointException is no Exception
        _end_with_checkpoint(error)


def _end_with_checkpoint(error: BaseException) -> NoReturn:
    """End after a save that failed on another rank, which alone knows the reason and tells it; or
    after an asynchronous one, which ends outside of the seam."""
    from torch.distributed.checkpoint.api import CheckpointException

    from t3s_megatron.megatron.seam import write_error

    if not isinstance(error, CheckpointException) or error.args[0] != "write":
        raise error
    if not error.failures:
        sys.exit(2)
    end_with(write_error(error))


def end_with(error: T3SError) -> NoReturn:
    """Tell it and end this process. The message is for a person; a traceback through Megatron would
    bury it."""
    if first_to_say(str(error)):
        print(f"t3s-megatron: error: {error}", file=sys.stderr, flush=True)
    sys.exit(2)


def first_to_say(message: str) -> bool:
    """Whether no other rank has said it yet."""
    from torch.distributed import DistError

    store = _agents_store()
    if store is None:
        return True
    try:
        store.add("said", 1)
        return store.add(hashlib.sha256(message.encode()).hexdigest(), 1) == 1
    except DistError:  # the agent is on its way out: rather twice than never
        return True


def was_said() -> bool:
    """Whether any rank has said anything."""
    from torch.distributed import DistError

    store = _agents_store()
    try:
        return store is not None and store.add("said", 0) > 0
    except DistError:
        return False


def _agents_store():
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    from torch.distributed import DistError, PrefixStore, TCPStore

    try:
        store = TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=timedelta(seconds=_SECONDS),
        )
    except (DistError, KeyError, ValueError):
        return None
    # A restarted job has a voice of its own.
    return PrefixStore(f"t3s/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
