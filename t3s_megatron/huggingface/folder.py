# SPDX-License-Identifier: Apache-2.0
"""Reading and writing Hugging Face model folders.

A written folder appears under its name whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from t3s_megatron.data.durable import sync_path
from t3s_megatron.errors import DataError, MismatchError, WriteError
from t3s_megatron.huggingface.shards import host_copy, shard_file, shard_index

INDEX = "model.safetensors.index.json"
#: Written last into every exported folder; how a later export knows that it may replace one.
MARK = "t3s_export.json"
#: In a folder that is being written, so that one whose process died is known and removed.
_UNFINISHED = "t3s_export_unfinished"
_SHARD_BYTES = 5 * 10**9  # the size that `save_pretrained` cuts at

#: Whatever a tokenizer may consist of. transformers 5 would write other files than it has read,
#: which older readers do not know, so they are copied as they are.
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "merges.txt",
    "tokenizer.model", "added_tokens.json", "special_tokens_map.json", "chat_template.jinja",
    "chat_template.json",
)  # fmt: skip


def weight_files(folder: str) -> dict[str, str]:
    """Tensor name -> name of the safetensors file that holds it. Reads headers only.

    DataError when there are none, when one is damaged or missing, or when the index and the files
    disagree.
    """
    files = sorted(name for name in os.listdir(folder) if name.endswith(".safetensors"))
    index = os.path.join(folder, INDEX)
    indexed = None
    if os.path.isfile(index):
        try:
            with open(index) as file:
                indexed = json.load(file)["weight_map"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{index}: not an index of safetensors files ({error})") from error
        files = sorted(set(indexed.values()))
    if not files:
        raise DataError(f"{folder}: no safetensors files in it (other formats are not read)")
    found: dict[str, str] = {}
    for name in files:
        path = os.path.join(folder, name)
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                keys = list(file.keys())
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path}: missing or damaged ({error}): fetch it again") from error
        for key in keys:
            if key in found:
                raise DataError(f"{folder}: {key} is in both {found[key]} and {name}")
            found[key] = name
    if indexed is not None and found != indexed:
        wrong = sorted(set(found.items()) ^ set(indexed.items()))
        raise DataError(f"{index}: disagrees with the files about {wrong[0][0]}")
    return found


def check_target(folder: str) -> None:
    """Whether an export can go there, before a run that may take days.

    MismatchError when `folder` holds anything that an export has not made, or cannot be replaced
    because it is a mount point; WriteError when the place cannot be written to.
    """
    place = os.path.realpath(folder)
    if _is_mount_point(place):
        raise MismatchError(
            f"--t3s-hf-export {folder}: {place} is a mount point, and an export replaces its "
            f"folder as a whole: name one inside it, such as {os.path.join(folder, 'hf')}"
        )
    parent = os.path.dirname(place)
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    if not (os.path.isdir(parent) and os.access(parent, os.W_OK)):
        raise WriteError(
            f"--t3s-hf-export {folder}: {parent} is not a folder that can be written to"
        )
    if not _may_be_replaced(place):
        raise MismatchError(
            f"--t3s-hf-export {folder}: it is there already, and no earlier export: give a new "
            "name, or remove it"
        )


def _may_be_replaced(path: str, mark: str = MARK) -> bool:
    """Whether nothing is lost with `path`: it is not there, or empty, or an export with `mark`."""
    if not os.path.lexists(path):
        return True
    if os.path.islink(path) or not os.path.isdir(path):
        return False
    return not os.listdir(path) or os.path.isfile(os.path.join(path, mark))


def _is_mount_point(path: str) -> bool:
    """Whether something is mounted there, a folder of the same file system included."""
    if os.path.ismount(path):
        return True
    try:
        with open("/proc/self/mountinfo") as file:
            mounted = (line.split()[4] for line in file)
            return path in (name.encode().decode("unicode_escape") for name in mounted)
    except (OSError, UnicodeError, IndexError):  # not Linux
        return False


class FolderWriter:
    """A new folder under a temporary name beside its own. One process writes it.

    `commit` makes everything durable and gives it its name; until then, and after any failure,
    there is nothing under that name that was not there before. A link is resolved: what it leads to
    is replaced. MismatchError for anything in the way that no export has made.
    """

    def __init__(self, folder: str, shard_bytes: int = _SHARD_BYTES):
        self.folder = os.path.realpath(folder)
        self.shard_bytes = shard_bytes
        self.temporary = f"{self.folder}.tmp"
        self._remove(self.temporary, _UNFINISHED)  # of an export that was killed
        os.makedirs(self.temporary)
        self.write_json(_UNFINISHED, {})

    def write_weights(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, str]:
        """Shards and their index; holds one shard in host memory. Returns name -> file."""
        shards: list[list[str]] = []
        pending: dict[str, torch.Tensor] = {}
        size = total = 0

        def flush() -> None:
            shards.append(list(pending))
            path = os.path.join(self.temporary, f"shard-{len(shards)}")
            save_file(pending, path, metadata={"format": "pt"})
            pending.clear()

        for name, tensor in tensors:
            bytes_ = tensor.numel() * tensor.element_size()
            if pending and size + bytes_ > self.shard_bytes:
                flush()
                size = 0
            pending[name] = host_copy(tensor)
            size += bytes_
            total += bytes_
        flush()
        for i in range(len(shards)):
            os.rename(
                os.path.join(self.temporary, f"shard-{i + 1}"),
                os.path.join(self.temporary, shard_file(i, len(shards))),
            )
        index = shard_index(shards, total)
        self.write_json(INDEX, index)
        return index["weight_map"]

    def write_json(self, name: str, content: dict) -> None:
        with open(os.path.join(self.temporary, name), "w") as file:
            json.dump(content, file, indent=2)
            file.write("\n")

    def copy_from(self, folder: str, names: Iterable[str]) -> list[str]:
        """Those of `names` that are in `folder`."""
        there = [name for name in names if os.path.isfile(os.path.join(folder, name))]
        for name in there:
            shutil.copyfile(os.path.join(folder, name), os.path.join(self.temporary, name))
        return there

    def copy_code(self, folder: str) -> None:
        """The Python files of a folder whose model transformers does not know."""
        self.copy_from(folder, [name for name in os.listdir(folder) if name.endswith(".py")])

    def write_tokenizer(self, source: str, tokenizer) -> None:
        """The files of a tokenizer folder; of a name on the hub, what `tokenizer` saves."""
        if os.path.isdir(source):
            self.copy_from(source, _TOKENIZER_FILES)
        else:
            tokenizer.save_pretrained(self.temporary)

    def commit(self, mark: dict) -> None:
        """Durable, then under its name. An earlier export there is replaced.

        MismatchError when anything else has come there: it stays, and so does what was written.
        """
        if not _may_be_replaced(self.folder):
            raise MismatchError(
                f"{self.folder}: something has come there that no export has made, and it is left "
                f"as it is. What was written is complete, in {self.temporary}: rename it"
            )
        self.write_json(MARK, mark)
        os.unlink(os.path.join(self.temporary, _UNFINISHED))
        for name in os.listdir(self.temporary):
            sync_path(os.path.join(self.temporary, name))
        sync_path(self.temporary)
        old = None
        if os.path.isdir(self.folder):
            old = f"{self.folder}.old"
            self._remove(old, MARK)
            os.rename(self.folder, old)
        os.rename(self.temporary, self.folder)
        sync_path(os.path.dirname(self.folder))
        if old is not None:
            shutil.rmtree(old)

    @staticmethod
    def _remove(path: str, mark: str) -> None:
        """A folder that an export has left behind."""
        if not (_may_be_replaced(path, mark) or _may_be_replaced(path)):
            raise MismatchError(
                f"{path}: an export needs this name for a moment, and what is there was not made "
                "by one: give it another name, or remove it"
            )
        if os.path.lexists(path):
            shutil.rmtree(path)
