# SPDX-License-Identifier: Apache-2.0
"""Folders that are not shared, and data that differs, on two ranks that see other things."""

from __future__ import annotations

import os
import socket

import pytest
import torch.distributed as dist

from t3s_megatron.errors import T3SError
from t3s_megatron.megatron.nodes import (
    ranks_that_share,
    require_equal,
    require_shared_folder,
)

pytestmark = pytest.mark.child(processes=2)


def test_one_folder_for_both_is_accepted_and_left_empty(tmp_path):
    folder = str(tmp_path / "new" / "folder")
    require_shared_folder("--save", folder, patience=10)
    dist.barrier()
    assert os.listdir(folder) == []


def test_a_folder_of_each_nodes_own_is_refused_on_every_rank(tmp_path):
    node = tmp_path / f"node-{dist.get_rank()}"
    node.mkdir()
    os.chdir(node)  # each node's own disk, under one name
    with pytest.raises(T3SError, match=r"--save out is not shared: .*node-0 .*node-1\. Every"):
        require_shared_folder("--save", "out", patience=0.2)
    dist.barrier()
    assert os.listdir(tmp_path / "node-0/out") == []


def test_a_folder_that_cannot_be_made_is_refused_on_every_rank(tmp_path):
    if dist.get_rank() == 0:
        (tmp_path / "file").touch()
    dist.barrier()
    with pytest.raises(T3SError, match="--t3s-dir .*file/t3s: cannot be written by .*: .*Errno"):
        require_shared_folder("--t3s-dir", str(tmp_path / "file" / "t3s"))


def test_who_writes_a_folder_together(tmp_path, monkeypatch):
    """All ranks where it is one; of machines that have one each, the ranks of each."""
    assert ranks_that_share("--w", str(tmp_path / "one"), patience=10) == [0, 1]
    mine = str(tmp_path / f"machine-{dist.get_rank()}")
    with pytest.raises(T3SError, match=r"--w .*machine-.: .* not seen by another of the same mach"):
        ranks_that_share("--w", mine, patience=0.2)
    monkeypatch.setattr(socket, "gethostname", lambda: f"machine-{dist.get_rank()}")
    assert ranks_that_share("--w", str(tmp_path / "one"), patience=10) == [0, 1]
    assert ranks_that_share("--w", mine, patience=0.2) == [dist.get_rank()]
    dist.barrier()
    assert os.listdir(mine) == os.listdir(tmp_path / "one") == []


def test_equal_content_is_accepted_and_other_content_refused_on_every_rank():
    require_equal({"dataset fingerprint": "abc", "--t3s-patience": 5, "heldout": None})
    mine = "abc" if dist.get_rank() == 0 else "abd"
    with pytest.raises(T3SError, match=r"fingerprint is not the same .*: abc on .* abd on .*\. St"):
        require_equal({"--t3s-patience": 5, "dataset fingerprint": mine})
