# SPDX-License-Identifier: Apache-2.0
"""A file that samples are added to, one a line, and that a kill cannot spoil.

A line is on the disk before `append` comes back. A line that a kill has torn has no end: it is cut
off when the file is opened again.
"""

from __future__ import annotations

import fcntl
import json
import os
from types import TracebackType

from t3s_megatron.data.durable import sync_path
from t3s_megatron.data.files import raw_rows
from t3s_megatron.errors import DataError, T3SError, WriteError

_BLOCK = 2**16


class SampleFile:
    """The file `path`, made if it is not there, for this process alone.

    T3SError when another process has it open, WriteError when it cannot be written. `torn`: bytes
    that were cut off.
    """

    def __init__(self, path: str):
        self.path = path
        is_new = not os.path.exists(path)
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise WriteError(f"{path}: cannot be written ({error.strerror})") from None
        try:
            self._lock()
            if is_new:
                sync_path(os.path.dirname(os.path.abspath(path)))
            self.torn = self._cut_off_what_is_torn()
        except OSError as error:
            self.close()
            raise WriteError(f"{path}: cannot be written ({error.strerror})") from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> SampleFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._handle)

    def rows(self) -> list[tuple[str, dict]]:
        """(file and line, what stands there). DataError for a line that is no JSON object."""
        if not os.path.getsize(self.path):
            return []
        found = []
        for where, row in raw_rows(self.path, ""):
            if not isinstance(row, dict):
                raise DataError(f"{where}: not a sample; take the line out, it is asked for again")
            found.append((where, row))
        return found

    def append(self, row: dict) -> None:
        """WriteError when it cannot be written whole: what there is of it is cut off next time."""
        line = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode()
        try:
            if os.write(self._handle, line) < len(line):
                raise OSError(None, "only a part of the line was written, the disk may be full")
            os.fsync(self._handle)
        except OSError as error:
            raise WriteError(
                f"{self.path}: cannot be written ({error.strerror}). Make room, and start the same "
                "command again: it asks for what is missing"
            ) from None

    def _lock(self) -> None:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise T3SError(
                f"{self.path}: another process is writing to it; two would ask for the same samples"
            ) from None

    def _cut_off_what_is_torn(self) -> int:
        size = os.fstat(self._handle).st_size
        end = size
        while end:
            start = max(0, end - _BLOCK)
            found = os.pread(self._handle, end - start, start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end < size:
            os.ftruncate(self._handle, end)
            os.fsync(self._handle)
        return size - end
