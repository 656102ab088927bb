# SPDX-License-Identifier: Apache-2.0
"""The children that these tests run in (conftest.py) leave no process behind."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest


@pytest.fixture
def file(tmp_path) -> Path:
    """Where the child writes the number of the process that it starts."""
    path = tmp_path / "pid"
    yield path
    deadline = time.monotonic() + 10
    while is_running(int(path.read_text())) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(int(path.read_text()))


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.child
def test_what_megatron_starts_for_a_checkpoint_ends_with_the_child(file):
    from megatron.core.dist_checkpointing.strategies.filesystem_async import get_write_results_queue

    get_write_results_queue()
    (process,) = multiprocessing.active_children()
    file.write_text(str(process.pid))
