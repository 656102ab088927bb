# SPDX-License-Identifier: Apache-2.0
"""Megatron's checkpoints of one run, of which only the newest stay (`--t3s-keep-checkpoints`).

Only what the run itself has saved is ever removed, and only once Megatron's tracker names a newer
one: a checkpoint that is being written, another run's in the same folder, a link and whatever else
lies there stay. Megatron's own --save-retain-interval keeps one, and nothing to fall back on when
that one is damaged.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable

_REMOVED = ".removed"


class OwnCheckpoints:
    """The checkpoints in `folder` that this run has saved, on the rank that writes. `most`: how
    many stay, the one about to be written included; None: all."""

    def __init__(self, folder: str | None, most: int | None):
        self.folder, self.most = folder, most
        self._saved: list[int] = []

    def restore(self, iterations: Iterable[int]) -> None:
        """Those that the run had saved before it was started again."""
        self._saved = list(iterations)

    def begin(self, iteration: int) -> list[int]:
        """Iterations that the run has saved and that are there, oldest first, and the one that is
        written next: what a state has to remember."""
        there = [i for i in self._saved if self._is_there(i) or self._is_half_removed(i)]
        self._saved = [i for i in there if i != iteration] + [iteration]
        return list(self._saved)

    def remove_old(self, named: int | None, of_profile: int | None = None) -> list[str]:
        """Make room for the checkpoint that is written next. `named`: the iteration that Megatron's
        tracker names now; `of_profile`: one that stays besides, for plain fine-tuning to go on
        from. Returns what could not be removed, in words; those stay."""
        if self.most is None or named is None:
            return []
        half = [i for i in self._saved if self._is_half_removed(i)]
        # What is newer than the tracker says may not be whole yet.
        whole = [i for i in self._saved[:-1] if i <= named and self._is_there(i)]
        whole = [i for i in whole if i != of_profile]
        failed = []
        for iteration in half + whole[: -(self.most - 1)]:
            try:
                self._remove(iteration)
            except OSError as error:
                failed.append(f"{self._path(iteration)}: cannot be removed ({error}); it stays")
                self._saved.remove(iteration)
        return failed

    def _remove(self, iteration: int) -> None:
        path = self._path(iteration)
        if self._is_there(iteration):  # under its name it is whole, or not there
            os.rename(path, path + _REMOVED)
        shutil.rmtree(path + _REMOVED)

    def _is_there(self, iteration: int) -> bool:
        path = self._path(iteration)
        return os.path.isdir(path) and not os.path.islink(path)

    def _is_half_removed(self, iteration: int) -> bool:
        return os.path.isdir(self._path(iteration) + _REMOVED)

    def _path(self, iteration: int) -> str:
        return os.path.join(self.folder or "", f"iter_{iteration:07d}")
