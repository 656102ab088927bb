# SPDX-License-Identifier: Apache-2.0
"""A run's state on disk: what is committed comes back, what is damaged is named."""

from __future__ import annotations

import os
import random

import pytest
import torch

from t3s_megatron.data.run_state import StateFolder
from t3s_megatron.errors import MismatchError

WEIGHTS = {"a": torch.arange(5.0), "b": torch.ones(2, 3, dtype=torch.bfloat16)}


@pytest.fixture
def folder(tmp_path) -> StateFolder:
    return StateFolder(str(tmp_path / "state"))


def test_tensors_and_info_come_back(folder):
    checksum = folder.write_rank("theta_0", 3, WEIGHTS, {"steps": 7})
    tensors, info = folder.read_rank("theta_0", 3, checksum)
    assert info == {"steps": 7} and tensors.keys() == WEIGHTS.keys()
    for key, tensor in WEIGHTS.items():
        assert torch.equal(tensors[key], tensor) and tensors[key].dtype == tensor.dtype


def test_a_state_exists_only_once_it_is_committed(folder):
    folder.write_rank("iter_0000004", 0, WEIGHTS)
    assert folder.iterations() == []
    with pytest.raises(MismatchError, match="states of iterations: none.*--finetune"):
        folder.read(4)
    folder.commit(4, {"machine": {"phase": "profile"}})
    assert folder.iterations() == [4]
    assert folder.read(4)["machine"] == {"phase": "profile"}
    with pytest.raises(MismatchError, match="iteration 5 .*states of iterations: 4"):
        folder.read(5)


def test_every_damaged_byte_is_found_and_the_file_named(folder):
    checksum = folder.write_rank("theta_0", 0, WEIGHTS)
    path = os.path.join(folder.folder, "theta_0", "rank-00000.safetensors")
    with open(path, "rb") as file:
        whole = file.read()
    rng = random.Random(0)
    for place in rng.sample(range(len(whole)), 40):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        with open(path, "wb") as file:
            file.write(damaged)
        with pytest.raises(MismatchError, match="rank-00000.safetensors: damaged.*expected"):
            folder.read_rank("theta_0", 0, checksum)
    for cut in (0, 1, len(whole) - 1):
        with open(path, "wb") as file:
            file.write(whole[:cut])
        with pytest.raises(MismatchError, match="damaged"):
            folder.read_rank("theta_0", 0, checksum)


def test_a_missing_ranks_file_is_named(folder):
    checksum = folder.write_rank("theta_0", 0, WEIGHTS)
    with pytest.raises(MismatchError, match="rank-00001.safetensors: cannot be read"):
        folder.read_rank("theta_0", 1, checksum)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99}', "\udc80"])
def test_a_damaged_commit_is_named(folder, text):
    folder.commit(2, {})
    path = os.path.join(folder.folder, "iter_0000002", "state.json")
    with open(path, "w", errors="surrogateescape") as file:
        file.write(text)
    with pytest.raises(MismatchError, match="state.json"):
        folder.read(2)


def test_pruning_keeps_what_is_named_and_takes_the_commit_first(folder, monkeypatch):
    for iteration in (2, 4, 6):
        folder.write_rank(f"iter_{iteration:07d}", 0, WEIGHTS)
        folder.commit(iteration, {})
    for name in ("theta_0", "candidate-00001", "candidate-00003"):
        folder.write_rank(name, 0, WEIGHTS)
    folder.prune({4, 6}, {"theta_0", "candidate-00003"})
    assert sorted(os.listdir(folder.folder)) == [
        "candidate-00003", "iter_0000004", "iter_0000006", "theta_0",
    ]  # fmt: skip
    # A removal that is interrupted leaves nothing that could be taken for a state.
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    folder.prune({6}, set())
    assert folder.iterations() == [6]
    assert os.path.exists(os.path.join(folder.folder, "iter_0000004"))


def test_a_folder_that_is_not_there_has_nothing(folder):
    assert folder.iterations() == []
    folder.prune(set(), set())
