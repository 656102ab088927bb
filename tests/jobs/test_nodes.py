# SPDX-License-Identifier: Apache-2.0
"""Several nodes: torchrun agents that meet at a c10d rendezvous, each in a working directory of its
own, with nothing in common but the output folder, the data and the student.

On one machine, so over the loopback and on one file system. A node dies as a machine does: SIGKILL
to its agent and its worker.
"""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from tests.support.launch import agents
from tests.support.resumable import assert_same


@pytest.fixture
def command(start):
    """The job of two processes (data-parallel, bf16, distributed optimizer, overlaps)."""
    return lambda folder: start("two", folder)


@pytest.fixture
def one_agent(uninterrupted) -> str:
    """Folder of the same job under one agent with two workers."""
    return uninterrupted("two")


@pytest.fixture
def nodes(tmp_path) -> list[Path]:
    folders = [tmp_path / "node-0", tmp_path / "node-1"]
    for folder in folders:
        folder.mkdir()
    return folders


def test_two_nodes_end_as_one_does(tmp_path, nodes, command, one_agent):
    with agents(command(tmp_path / "run"), nodes) as start:
        first, second = start(0), start(1)
        outputs = first.end() + second.end()
    assert "[t3s] Megatron runs through the callback seam" in outputs
    assert_same(one_agent, str(tmp_path / "run"))
    assert [list(node.iterdir()) for node in nodes] == [[], []]  # nothing on a local disk


def test_a_node_that_dies_and_comes_back_changes_nothing(tmp_path, nodes, command, one_agent):
    kill = {"KILL_AT": "in targeted training", "KILL_RANK": "1", "KILL_AGENT": "1"}
    job = dict(
        module="tests.jobs.killed_job",
        restarts=1,
        environment=kill | {"KILL_MARK": str(tmp_path / "killed")},
    )
    with agents(command(tmp_path / "run"), nodes, **job) as start:
        living, dying = start(0), start(1)
        dying.end(expect=-signal.SIGKILL)
        assert (tmp_path / "killed.1").exists(), "the point was never reached"
        returned = start(1)
        outputs = living.end() + returned.end()
    assert "resumed at iteration" in outputs
    assert_same(one_agent, str(tmp_path / "run"))


def test_a_folder_that_is_not_shared_is_refused_before_training(tmp_path, nodes, command):
    arguments = command(tmp_path / "run")
    with agents([*arguments, "--t3s-dir", "t3s"], nodes) as start:
        first, second = start(0), start(1)
        outputs = first.end(expect=1), second.end(expect=1)
    for output in outputs:
        assert "t3s-megatron: error: --t3s-dir t3s is not shared: what " in output
        assert f"{nodes[1]}. Every node needs the same folder" in output
    assert not list((tmp_path / "run").glob("iter_*"))


def test_nodes_with_different_data_are_refused_before_training(tmp_path, nodes, command, task):
    for node in nodes:
        shutil.copy(task[0], node / "mine.jsonl")
    lines = (nodes[1] / "mine.jsonl").read_text().splitlines(keepends=True)
    (nodes[1] / "mine.jsonl").write_text("".join(reversed(lines)))
    with agents([*command(tmp_path / "run"), "--t3s-data", "mine.jsonl"], nodes) as start:
        first, second = start(0), start(1)
        outputs = first.end(expect=1), second.end(expect=1)
    for output in outputs:
        assert "t3s-megatron: error: dataset fingerprint is not the same on every node" in output
