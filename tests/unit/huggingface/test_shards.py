# SPDX-License-Identifier: Apache-2.0
"""Shards written by several processes are the folder that one process would have written."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from t3s_megatron.huggingface.folder import INDEX, weight_files
from t3s_megatron.huggingface.shards import Shards


def tensors():
    generator = torch.Generator().manual_seed(0)
    buffer = torch.empty(600)
    for i, size in enumerate([10, 300, 600, 20, 20, 500, 1]):
        view = buffer[:size]
        view.copy_(torch.rand(size, generator=generator))
        yield f"layer.{i}", view  # overwritten by the next one, as a gather's buffer is


@pytest.mark.parametrize("writers", [1, 2, 5])
@pytest.mark.parametrize(("shard_bytes", "shards"), [(10**9, 1), (2400, 3), (1, 7)])
def test_every_tensor_is_in_one_file_and_the_index_knows_which(
    tmp_path, writers, shard_bytes, shards
):
    parts = [Shards(i, writers, shard_bytes) for i in range(writers)]
    for part in parts:
        part.take(tensors())
    for part in parts:
        part.write(str(tmp_path))
        part.write(str(tmp_path))  # nothing is left to write
    assert len({json.dumps(part.index()) for part in parts}) == 1
    (tmp_path / INDEX).write_text(json.dumps(parts[0].index()))
    assert len(list(tmp_path.glob("*.safetensors"))) == shards
    files = weight_files(str(tmp_path))  # compares files and index
    for name, tensor in tensors():
        assert torch.equal(load_file(tmp_path / files[name])[name], tensor), name
    assert parts[0].index()["metadata"]["total_size"] == 4 * 1451
