# SPDX-License-Identifier: Apache-2.0
"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable

from safetensors import SafetensorError

from t3s_megatron.errors import WriteError


def write_bytes(path: str, data: bytes) -> None:
    """Write to a temporary name beside `path`, fsync, rename, fsync the directory.

    WriteError when the disk is full, the folder cannot be written, ...: `path` is as it was.
    """

    def write(temporary: str) -> None:
        with open(temporary, "wb") as file:
            file.write(data)

    replace_file(path, write)


def replace_file(path: str, write: Callable[[str], None]) -> None:
    """`write(temporary name)` has to make the file; then it is synced and renamed to `path`.

    WriteError as for `write_bytes`.
    """
    temporary = f"{path}.tmp-{os.getpid()}"
    try:
        directory = _make_directory(path)
        write(temporary)
        sync_path(temporary)
        os.replace(temporary, path)
        sync_path(directory)
    except (OSError, SafetensorError) as error:
        raise WriteError(
            f"{path}: cannot be written ({error}). Make room, or make its folder writable, and "
            "start the same command again"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)


def check_folder(folder: str) -> None:
    """Make `folder`, if it is not there, and see that a file can be written in it. WriteError."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"probe")
    except OSError as error:
        raise WriteError(
            f"{folder}: cannot be written in ({error.strerror}). Make room, or make it writable"
        ) from None


def _make_directory(path: str) -> str:
    """Of the file `path`, durable."""
    directory = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(directory):
        os.makedirs(directory, exist_ok=True)
        sync_path(os.path.dirname(directory))
    return directory


def sync_path(path: str) -> None:
    """fsync a file, or a directory: its names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_file(path: str) -> str:
    """Hex digest of the bytes of a file. OSError when it cannot be read."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
