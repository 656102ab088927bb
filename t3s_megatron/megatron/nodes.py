# SPDX-License-Identifier: Apache-2.0
"""What a job over several nodes takes for granted, checked before it trains.

The folders of checkpoints and of `--t3s-dir` have to be the same for every node: ranks write their
own files there, one rank commits for all, and a restarted rank may find itself on another node. The
data may be a copy on each node, and has to be the same everywhere: each rank makes its own rows.
"""

from __future__ import annotations

import os
import socket
import time
import uuid

from t3s_megatron.data.durable import write_bytes
from t3s_megatron.errors import T3SError, WriteError
from t3s_megatron.megatron import layout

#: How long a network file system may take to show another node's new file.
_PATIENCE_SECONDS = 10.0


def require_shared_folder(argument: str, folder: str, patience: float = _PATIENCE_SECONDS) -> None:
    """Collective over the world. T3SError, on every rank and with the nodes named, when `folder`
    is not one and the same for all of them, or cannot be written by global rank 0."""
    token = layout.broadcast(uuid.uuid4().hex, 0)
    probe = os.path.join(folder, f".t3s-probe-{token}")
    problem = None
    if layout.rank() == 0:
        try:
            write_bytes(probe, token.encode())
        except WriteError as error:
            problem = f"{argument} {folder}: cannot be written by {_node()}: {error}"
    problem = layout.broadcast(problem, 0)
    if problem is None:
        seen = layout.gather_over_world((_node(), _appears(probe, patience)))
        if layout.rank() == 0:
            os.unlink(probe)
        blind = sorted({node for node, sees in seen if not sees})
        if blind:
            problem = (
                f"{argument} {folder} is not shared: what {seen[0][0]} (rank 0) writes there is "
                f"not seen by {_some(blind)}. Every node needs the same folder, at the same path: "
                "name one on a file system that they share"
            )
    if problem is not None:
        raise T3SError(problem)


def ranks_that_share(argument: str, folder: str, patience: float = _PATIENCE_SECONDS) -> list[int]:
    """Collective over the world: the ranks, in order, that find in `folder` what this rank does.
    All of them where it is one for all nodes; else those of this node.

    T3SError on every rank when some rank of a node does not see its node's folder, or the node's
    first rank cannot write it.
    """
    hosts = layout.gather_over_world(socket.gethostname())
    mine = [rank for rank, host in enumerate(hosts) if host == hosts[layout.rank()]]
    token = layout.broadcast(uuid.uuid4().hex, 0)
    first = layout.rank() == mine[0]
    probe = os.path.join(folder, f".t3s-probe-{token}-")
    layout.together(lambda: write_bytes(f"{probe}{mine[0]}", b"") if first else None)
    of_node = _appears(f"{probe}{mine[0]}", patience)
    # Another node's probe needs time to appear, where it does, as little as its own node's.
    of_all = _appears(f"{probe}0", patience if of_node else 0.0)
    seen = layout.gather_over_world((_node(), of_node, of_all))
    if first:
        os.unlink(f"{probe}{mine[0]}")
    if blind := sorted({node for node, sees, _ in seen if not sees}):
        raise T3SError(
            f"{argument} {folder}: what a rank of {_some(blind)} writes there is not seen by "
            "another of the same machine. Name a folder that all processes of a node share"
        )
    return list(range(len(hosts))) if all(sees for _, _, sees in seen) else mine


def require_equal(what: dict[str, object]) -> None:
    """Collective over the world. T3SError on every rank when one of these is not the same on all
    ranks as on global rank 0. Values are JSON-able and have their own `==`."""
    seen = layout.gather_over_world((_node(), what))
    first, expected = seen[0]
    for name in expected:
        others = {node: found[name] for node, found in seen if found[name] != expected[name]}
        if others:
            raise T3SError(
                f"{name} is not the same on every node: {expected[name]} on {first} (rank 0), "
                f"{next(iter(others.values()))} on {_some(sorted(others))}. Start every node with "
                "the same command, release, data and tokenizer"
            )


def _appears(path: str, patience: float) -> bool:
    """Whether the file is there within `patience` seconds."""
    give_up = time.monotonic() + patience
    while not os.path.exists(path):
        if time.monotonic() > give_up:
            return False
        time.sleep(0.1)
    return True


def _node() -> str:
    return f"{socket.gethostname()}:{os.getcwd()}"


def _some(nodes: list[str]) -> str:
    return ", ".join(nodes[:3]) + (f" and {len(nodes) - 3} more" if len(nodes) > 3 else "")
