# SPDX-License-Identifier: Apache-2.0
"""One error is told once among the ranks of a torchrun job."""

from __future__ import annotations

import subprocess
import sys

import pytest
from torch.distributed import TCPStore

from t3s_megatron import entry
from tests.support.launch import ROOT


@pytest.fixture
def agent(monkeypatch) -> TCPStore:
    """A store as torchrun's agent keeps it, and the environment that it gives to its workers."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    return store


def test_the_first_of_the_ranks_tells_it_and_every_error_is_told(agent):
    assert not entry.was_said()
    said = [entry.first_to_say(what) for what in ("full", "full", "gone", "full")]
    assert said == [True, False, True, False]
    assert entry.was_said()


def test_a_restarted_job_tells_it_again(agent, monkeypatch):
    assert entry.first_to_say("full")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert not entry.was_said() and entry.first_to_say("full")


@pytest.mark.parametrize("how", ["no torchrun", "no agent", "no address"])
def test_without_a_store_every_rank_tells_it(agent, how, monkeypatch):
    monkeypatch.setattr(entry, "_SECONDS", 0.1)
    if how == "no torchrun":
        monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE")
    elif how == "no agent":
        monkeypatch.setenv("MASTER_PORT", "1")
    else:
        monkeypatch.delenv("MASTER_ADDR")
    assert entry.first_to_say("full") and entry.first_to_say("full")
    assert not entry.was_said()


def test_the_script_is_light_to_import_again():
    """By Megatron's spawned counter of written files, on each rank."""
    heavy = (
        "import sys, t3s_megatron.pretrain; print({'torch', 'megatron', 'numpy'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "set()", done.stderr
