# SPDX-License-Identifier: Apache-2.0
"""Folders are read as they are, and written whole or not at all."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from t3s_megatron.errors import DataError, MismatchError, T3SError
from t3s_megatron.huggingface import folder as module
from t3s_megatron.huggingface.folder import (
    INDEX,
    MARK,
    FolderWriter,
    check_target,
    weight_files,
)

TENSORS = {f"t{i}": torch.full((10,), float(i)) for i in range(5)}  # 40 bytes each


def write(folder, value: float = 0.0, shard_bytes: int = 100) -> FolderWriter:
    writer = FolderWriter(str(folder), shard_bytes)
    writer.write_weights((name, tensor + value) for name, tensor in TENSORS.items())
    writer.write_json("config.json", {"model_type": "qwen3"})
    return writer


def read(folder) -> dict[str, torch.Tensor]:
    files = set(weight_files(str(folder)).values())
    return {k: v for name in files for k, v in load_file(os.path.join(folder, name)).items()}


def test_shards_and_index(tmp_path):
    write(tmp_path / "out").commit({})
    files = weight_files(str(tmp_path / "out"))
    assert sorted(set(files.values())) == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert [files[f"t{i}"][10] for i in range(5)] == ["1", "1", "2", "2", "3"]
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert index["metadata"]["total_size"] == 200 and index["weight_map"] == files
    assert all(torch.equal(v, TENSORS[k]) for k, v in read(tmp_path / "out").items())


def test_what_is_yielded_may_be_overwritten_afterwards(tmp_path):
    buffer = torch.zeros(10)

    def reused():
        for i in range(3):
            buffer.fill_(i)
            yield f"t{i}", buffer

    writer = FolderWriter(str(tmp_path / "out"))
    writer.write_weights(reused())
    writer.commit({})
    assert [int(read(tmp_path / "out")[f"t{i}"][0]) for i in range(3)] == [0, 1, 2]


def test_nothing_is_there_before_the_commit(tmp_path):
    write(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    write(tmp_path / "out", value=1).commit({})  # after a kill: what was half written is gone
    assert float(read(tmp_path / "out")["t0"][0]) == 1
    assert os.listdir(tmp_path) == ["out"]


def test_an_earlier_export_stands_until_the_next_is_durable(tmp_path, monkeypatch):
    write(tmp_path / "out", value=1).commit({})
    writer = write(tmp_path / "out", value=2)

    def disk_full(path):
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(module, "sync_path", disk_full)
        with pytest.raises(OSError, match="No space left"):
            writer.commit({})
    assert float(read(tmp_path / "out")["t0"][0]) == 1
    write(tmp_path / "out", value=3).commit({})
    assert float(read(tmp_path / "out")["t0"][0]) == 3
    assert os.listdir(tmp_path) == ["out"]


def test_only_an_export_may_be_replaced(tmp_path):
    check_target(str(tmp_path / "new"))
    (tmp_path / "empty").mkdir()
    check_target(str(tmp_path / "empty"))
    write(tmp_path / "out").commit({})
    check_target(str(tmp_path / "out"))
    (tmp_path / "out" / MARK).unlink()
    (tmp_path / "file").write_text("")
    with pytest.raises(T3SError, match="file is not a folder that can be written to"):
        check_target(str(tmp_path / "file" / "new" / "name"))
    check_target(str(tmp_path / "not" / "yet" / "there"))
    for name in ("out", "file"):
        with pytest.raises(MismatchError, match=f"{name}: it is there already, and no earlier"):
            check_target(str(tmp_path / name))


def test_nothing_that_no_export_has_made_is_removed(tmp_path):
    """NVIDIA-NeMo/Megatron-Bridge #339, huggingface/transformers #25129."""
    writer = write(tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "latest_checkpointed_iteration.txt").write_text("8")
    with pytest.raises(MismatchError, match="left as it is.*is complete, in .*out.tmp: rename it"):
        writer.commit({})
    assert os.listdir(tmp_path / "out") == ["latest_checkpointed_iteration.txt"]
    assert float(read(tmp_path / "out.tmp")["t0"][0]) == 0
    write(tmp_path / "other").commit({})
    for name in ("other.tmp", "other.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("")
        with pytest.raises(MismatchError, match=f"{name}: an export needs this name"):
            write(tmp_path / "other").commit({})
        (tmp_path / name / "thesis.tex").unlink()


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    """kevinzakka/torchkit #9."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "exp").symlink_to(tmp_path / "disk")
    (tmp_path / "dangling").symlink_to(tmp_path / "big" / "hf")
    (tmp_path / "big").mkdir()
    for value in (1, 2):
        for link, place in (("exp", "disk"), ("dangling", "big/hf")):
            check_target(str(tmp_path / link))
            write(tmp_path / link, value=value).commit({})
            assert (tmp_path / link).is_symlink()
            assert float(read(tmp_path / place)["t0"][0]) == value


def test_a_mount_point_is_refused_before_the_run():
    with pytest.raises(MismatchError, match="/proc is a mount point.*such as /proc/hf"):
        check_target("/proc")


def test_damaged_weights_are_named(tmp_path):
    with pytest.raises(DataError, match="no safetensors files"):
        weight_files(str(tmp_path))
    out = tmp_path / "out"
    write(out).commit({})
    second = out / "model-00002-of-00003.safetensors"
    whole = second.read_bytes()
    second.write_bytes(whole[:-8])
    with pytest.raises(DataError, match="model-00002-of-00003.safetensors: missing or damaged"):
        weight_files(str(out))
    second.unlink()
    with pytest.raises(DataError, match="model-00002-of-00003.safetensors: missing or damaged"):
        weight_files(str(out))
    second.write_bytes(whole)
    index = json.loads((out / INDEX).read_text())
    index["weight_map"]["t9"] = "model-00001-of-00003.safetensors"
    (out / INDEX).write_text(json.dumps(index))
    with pytest.raises(DataError, match="disagrees with the files about t9"):
        weight_files(str(out))
    (out / INDEX).write_text("[]")
    with pytest.raises(DataError, match="not an index"):
        weight_files(str(out))


def test_what_is_no_safetensors_is_named(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(DataError, match="no safetensors files in it .other formats"):
        weight_files(str(tmp_path))
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    (tmp_path / "model.safetensors").write_text(pointer)
    with pytest.raises(DataError, match="model.safetensors: missing or damaged.*fetch it again"):
        weight_files(str(tmp_path))


def test_a_tensor_in_two_files(tmp_path):
    for name in ("a", "b"):
        save_file({"t": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(DataError, match="t is in both a.safetensors and b.safetensors"):
        weight_files(str(tmp_path))
