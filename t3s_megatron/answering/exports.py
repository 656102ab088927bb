# SPDX-License-Identifier: Apache-2.0
"""The live weights as Hugging Face folders that a server loads, one for each measurement.

Every rank writes its share of the shards; where each node has a folder of its own, which has to
hold all of them, of its node's. A folder appears under its name whole, and no name is
used twice, in this run or after a restart: a server that keeps models by name cannot mistake one
for another.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid

from safetensors import SafetensorError

import t3s_megatron
from t3s_megatron.data.tokenizing import pad_token
from t3s_megatron.errors import WriteError
from t3s_megatron.huggingface.folder import INDEX, FolderWriter
from t3s_megatron.huggingface.shards import Shards
from t3s_megatron.megatron import layout
from t3s_megatron.megatron.hf_folders import exported_config
from t3s_megatron.megatron.hf_weights import export_weights
from t3s_megatron.megatron.nodes import ranks_that_share, require_shared_folder

_NAME = re.compile(r"weights-\d{7}-[0-9a-f]{8}(\.tmp)?")
_ARGUMENT = "--t3s-server-weights"


class Exports:
    """The folders of a run, inside `folder`. `args`: Megatron's; `tokenizer`: of its
    --tokenizer-model. `of_each_node`: it may be another one on each node, and in memory, so that
    only folders in use are kept. Everything is collective over the world; WriteError on every rank
    when one of them cannot write."""

    def __init__(self, args, tokenizer, folder: str, *, of_each_node: bool = False):
        self.args = args
        self.tokenizer = tokenizer
        self.folder = os.path.abspath(folder)
        self.of_each_node = of_each_node
        if of_each_node:
            self.writers = ranks_that_share(_ARGUMENT, self.folder)
        else:
            require_shared_folder(_ARGUMENT, self.folder)
            self.writers = list(range(args.world_size))
        self._there: list[str] = []  # the same on every rank
        # Of a process of this run that has died.
        self._on_first_writer(lambda: self._remove(self._found()))

    def write(self, model: list, iteration: int, keep: set[str]) -> str:
        """The weights of `model` as a new folder; its path. Of the earlier ones, those in `keep`
        stay, and the last but where each node has its own."""
        args = self.args
        self._prune(keep if self.of_each_node else keep | set(self._there[-1:]))
        nonce = layout.broadcast(uuid.uuid4().hex[:8], 0)
        path = os.path.join(self.folder, f"weights-{iteration:07d}-{nonce}")
        config, written = exported_config(args, args.t3s_hf_model, "--t3s-generation server")
        shards = Shards(self.writers.index(layout.rank()), len(self.writers))
        shards.take(export_weights(model, config))
        writers: list[FolderWriter] = []
        self._on_first_writer(lambda: writers.append(FolderWriter(path)))
        self._together(lambda: shards.write(f"{path}.tmp"))
        self._on_first_writer(lambda: self._commit(writers[0], shards, written, iteration))
        self._there.append(path)
        return path

    def _commit(self, writer: FolderWriter, shards: Shards, config: dict, iteration: int) -> None:
        writer.write_json(INDEX, shards.index())
        writer.write_json("config.json", config)
        writer.write_tokenizer(self.args.tokenizer_model, self.tokenizer)
        if self.args.t3s_hf_model is not None:
            writer.copy_code(self.args.t3s_hf_model)
        # A server takes its defaults from here: nothing but the temperature may shape what is
        # drawn, and an answer ends where the live model's ends.
        writer.write_json(
            "generation_config.json",
            {
                "do_sample": True,
                "temperature": 1.0,
                "top_k": 0,
                "top_p": 1.0,
                "eos_token_id": self.tokenizer.eos_token_id,
                "pad_token_id": pad_token(self.tokenizer),
            },
        )
        writer.commit({"t3s_megatron": t3s_megatron.__version__, "iteration": iteration})

    def remove_all(self) -> None:
        self._prune(set())

    def _prune(self, keep: set[str]) -> None:
        gone = [path for path in self._there if path not in keep]
        self._there = [path for path in self._there if path in keep]
        self._on_first_writer(lambda: self._remove(gone))

    def _found(self) -> list[str]:
        return [
            os.path.join(self.folder, name)
            for name in os.listdir(self.folder)
            if _NAME.fullmatch(name)
        ]

    @staticmethod
    def _remove(paths: list[str]) -> None:
        for path in paths:
            shutil.rmtree(path, ignore_errors=True)

    def _on_first_writer(self, work) -> None:
        self._together(lambda: work() if layout.rank() == self.writers[0] else None)

    def _together(self, work) -> None:
        def reported() -> None:
            try:
                work()
            except (OSError, SafetensorError) as error:
                raise WriteError(
                    f"{_ARGUMENT} {self.folder}: cannot be written ({error}). Start the job again "
                    "when it can: it goes on from its last checkpoint"
                ) from error

        layout.together(reported)
