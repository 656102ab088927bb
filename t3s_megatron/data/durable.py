# SPDX-License-Identifier: Apache-2.0
"""Files that are either whole or not there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable


def write_bytes(path: str, data: bytes) -> None:
    """Write to a temporary name beside `path`, fsync, rename, fsync the directory."""

    def write(temporary: str) -> None:
        with open(temporary, "wb") as file:
            file.write(data)

    replace_file(path, write)


def replace_file(path: str, write: Callable[[str], None]) -> None:
    """`write(temporary name)` has to make the file; then it is synced and renamed to `path`."""
    directory = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(directory):
        os.makedirs(directory, exist_ok=True)
        sync_path(os.path.dirname(directory))
    temporary = f"{path}.tmp-{os.getpid()}"
    try:
        write(temporary)
        sync_path(temporary)
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    sync_path(directory)


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
