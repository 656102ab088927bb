# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or not there."""

from __future__ import annotations

import os

import pytest

from t3s_megatron.data.durable import check_folder, sha256_file, write_bytes
from t3s_megatron.errors import WriteError


def test_writes_replaces_and_makes_the_folder(tmp_path):
    path = tmp_path / "new" / "file"
    write_bytes(str(path), b"first, longer")
    write_bytes(str(path), b"second")
    assert path.read_bytes() == b"second"
    assert os.listdir(path.parent) == ["file"]


def test_a_relative_name_without_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_bytes("file", b"x")
    assert (tmp_path / "file").read_bytes() == b"x"


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, broken):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, broken, fail)
    # A run's files and those of commands: what a run goes on from is not promised here.
    told = r"/file: cannot be written \(disk full\)\. Make room.*start the same command again$"
    with pytest.raises(WriteError, match=told):
        write_bytes(str(path), b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_file_before_rename_before_folder(tmp_path, monkeypatch):
    """The order that survives a power cut."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(handle):
        is_folder = os.path.isdir(f"/proc/self/fd/{handle}")
        calls.append("folder" if is_folder else "file")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", lambda *a: (calls.append("rename"), replace(*a)))
    write_bytes(str(tmp_path / "file"), b"x")
    assert calls == ["file", "rename", "folder"]


def test_a_folder_is_made_and_left_empty(tmp_path):
    check_folder(str(tmp_path / "a" / "b"))
    assert os.listdir(tmp_path / "a" / "b") == []


@pytest.mark.parametrize("kind", ["under a file", "loop", "read-only"])
def test_a_folder_that_cannot_be_written_in(tmp_path, kind):
    folder = tmp_path / "folder"
    if kind == "under a file":
        (tmp_path / "file").write_text("")
        folder = tmp_path / "file" / "folder"
    elif kind == "loop":
        folder.symlink_to(folder)
    elif os.geteuid() == 0:
        folder = "/proc/self/t3s"  # root may write in any other folder
    else:
        folder.mkdir(mode=0o500)
    with pytest.raises(WriteError, match=f"{folder}.*cannot be written"):
        check_folder(str(folder))


def test_sha256_file(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(str(tmp_path / "file")) == known
