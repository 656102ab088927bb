# SPDX-License-Identifier: Apache-2.0
"""The weights of a folder, written by several processes at once, each its share of the shards."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from safetensors.torch import save_file

SHARD_BYTES = 2 * 10**9


def shard_file(shard: int, shards: int) -> str:
    """The name that `transformers` gives shard 0, 1, ... of `shards`."""
    return f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"


def shard_index(names: list[list[str]], total_bytes: int) -> dict:
    """The content of `model.safetensors.index.json`. `names`: of the tensors of each shard."""
    weight_map = {
        name: shard_file(shard, len(names)) for shard, inside in enumerate(names) for name in inside
    }
    return {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}


def host_copy(tensor: torch.Tensor) -> torch.Tensor:
    """A copy: what is exported may be a view of a buffer that is used again."""
    return tensor.detach().to("cpu", copy=True).contiguous()


class Shards:
    """What one process of `writers` has to write: shard s belongs to process s modulo `writers`.

    `take` only copies to the host, so that no process waits for another's disk while tensors are
    gathered; `write` is when all of them write.
    """

    def __init__(self, writer: int, writers: int, shard_bytes: int = SHARD_BYTES):
        self.writer, self.writers, self.shard_bytes = writer, writers, shard_bytes
        self.names: list[list[str]] = []  # of each shard
        self.total_bytes = 0
        self._mine: dict[int, dict[str, torch.Tensor]] = {}

    def take(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Every process is given every tensor, in the same order. Host memory: the share."""
        size = 0
        for name, tensor in tensors:
            bytes_ = tensor.numel() * tensor.element_size()
            if not self.names or (self.names[-1] and size + bytes_ > self.shard_bytes):
                self.names.append([])
                size = 0
            shard = len(self.names) - 1
            self.names[shard].append(name)
            size += bytes_
            self.total_bytes += bytes_
            if shard % self.writers == self.writer:
                self._mine.setdefault(shard, {})[name] = host_copy(tensor)

    def write(self, folder: str) -> None:
        """This process's shards; frees them."""
        for shard in sorted(self._mine):
            path = os.path.join(folder, shard_file(shard, len(self.names)))
            save_file(self._mine.pop(shard), path, metadata={"format": "pt"})

    def index(self) -> dict:
        """The content of `model.safetensors.index.json`, the same in every process."""
        return shard_index(self.names, self.total_bytes)
