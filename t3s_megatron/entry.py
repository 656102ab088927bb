# SPDX-License-Identifier: Apache-2.0
"""One error, told once: by the first of the ranks that have it.

Ranks agree through the key-value store that torchrun's agent keeps for its workers. It is there
before the process group and outlives any rank, so it serves for an argument that every rank refuses
as well as for one rank's full disk. A job that was started without torchrun tells it on every rank.
"""

from __future__ import annotations

import hashlib
import os
import sys
from datetime import timedelta
from typing import NoReturn

from torch.distributed import DistError, PrefixStore, TCPStore

from t3s_megatron.errors import T3SError

_SECONDS = 10


def end_with(error: T3SError) -> NoReturn:
    """Tell it and end this process. The message is for a person; a traceback through Megatron would
    bury it."""
    if first_to_say(str(error)):
        print(f"t3s-megatron: error: {error}", file=sys.stderr, flush=True)
    sys.exit(2)


def first_to_say(message: str) -> bool:
    """Whether no other rank has said it yet."""
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
    store = _agents_store()
    try:
        return store is not None and store.add("said", 0) > 0
    except DistError:
        return False


def _agents_store():
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
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
