# SPDX-License-Identifier: Apache-2.0
"""Bytes of tensors, real or fake: what a forward pass saves, and the most that is there at once."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def storage_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Each storage once, whole, however many of the tensors are views of it."""
    sizes = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        sizes[storage._cdata] = storage.nbytes()
    return sum(sizes.values())


class SavedTensors:
    """Collects what autograd saves inside `recording()`, but for the storages of `ignored`."""

    def __init__(self, ignored: Iterable[torch.Tensor]):
        self._ignored = {tensor.untyped_storage()._cdata for tensor in ignored}
        self._kept: dict[int, torch.Tensor] = {}  # keeps a storage's number from being reused

    def recording(self) -> contextlib.AbstractContextManager:
        return torch.autograd.graph.saved_tensors_hooks(self._see, lambda tensor: tensor)

    def _see(self, tensor: torch.Tensor) -> torch.Tensor:
        number = tensor.untyped_storage()._cdata
        if number not in self._ignored:
            self._kept[number] = tensor
        return tensor

    def take(self) -> int:
        """Bytes seen since the last call; lets go of them."""
        size = storage_bytes(self._kept.values())
        self._kept.clear()
        return size


class LiveBytes(TorchDispatchMode):
    """`peak`: the most bytes that tensors made inside the mode have held at once."""

    def __init__(self, ignored: Iterable[torch.Tensor]):
        super().__init__()
        self.now = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in ignored}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf.untyped_storage())
        return result

    def _see(self, storage) -> None:
        number = storage._cdata
        if number in self._known:
            return
        self._known.add(number)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, number, size)

    def _gone(self, number: int, size: int) -> None:
        self._known.discard(number)
        self.now -= size
