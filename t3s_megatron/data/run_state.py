# SPDX-License-Identifier: Apache-2.0
"""What a T3S run needs to go on after a restart, beside the Megatron checkpoint it belongs to.

    state/theta_0/rank-00003.safetensors          weights of each rank at step 0, written once
    state/candidate-00007/rank-00003.safetensors  the same at the lowest accuracy so far
    state/iter_0000012/rank-00003.safetensors     the log-probs the rank has seen
    state/iter_0000012/state.json                 the commit: phases, summary, and the checksum of
                                                  every file that belongs to this iteration

Files are written under a temporary name, synced and renamed; `state.json` comes last, after every
rank's files and before Megatron names the checkpoint. Nothing here is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from t3s_megatron.data.durable import replace_file, sha256_file, write_bytes
from t3s_megatron.errors import MismatchError

FORMAT = 1


class StateFolder:
    """`folder`: t3s/state, shared by all ranks."""

    def __init__(self, folder: str):
        self.folder = folder

    def write_rank(
        self, name: str, rank: int, tensors: dict[str, torch.Tensor], info: dict | None = None
    ) -> str:
        """Durable; returns the sha256 of the file. `tensors` on the host, `info` JSON-able."""
        path = self._rank_path(name, rank)
        metadata = {"t3s": json.dumps(info or {})}
        replace_file(path, lambda temporary: save_file(tensors, temporary, metadata))
        return sha256_file(path)

    def has_rank(self, name: str, rank: int) -> bool:
        return os.path.exists(self._rank_path(name, rank))

    def read_rank(
        self, name: str, rank: int, checksum: str
    ) -> tuple[dict[str, torch.Tensor], dict]:
        """MismatchError, naming the file, when it is missing or not the one that was committed."""
        path = self._rank_path(name, rank)
        try:
            found = sha256_file(path)
        except OSError as error:
            raise MismatchError(
                f"{path}: cannot be read ({error}), so this run cannot go on from its checkpoint; "
                f"restore the file, or start again in another --save folder"
            ) from None
        if found != checksum:
            raise MismatchError(
                f"{path}: damaged or from another run, expected checksum {checksum[:12]}, found "
                f"{found[:12]}; restore the file, or start again in another --save folder"
            )
        try:
            with safe_open(path, framework="pt") as file:
                info = json.loads(file.metadata()["t3s"])
                return {key: file.get_tensor(key) for key in file.keys()}, info  # noqa: SIM118
        except SafetensorError as error:  # cannot be, with the right checksum
            raise MismatchError(f"{path}: {error}") from None

    def commit(self, iteration: int, state: dict) -> None:
        """The last step of a save, on one rank, after every rank's `write_rank`."""
        content = {"format": FORMAT, "iteration": iteration, **state}
        text = json.dumps({"checksum": _checksum(content), **content}, allow_nan=False)
        write_bytes(os.path.join(self._iteration_folder(iteration), "state.json"), text.encode())

    def read(self, iteration: int) -> dict:
        """MismatchError when there is no committed state for this iteration."""
        path = os.path.join(self._iteration_folder(iteration), "state.json")
        try:
            with open(path, encoding="utf-8") as file:
                state = json.load(file)
            if not isinstance(state, dict) or state.get("format") != FORMAT:
                raise MismatchError(f"{path}: not a state of format {FORMAT}; start again")
            expected, found = state.pop("checksum", None), _checksum(state)
        except FileNotFoundError:
            have = ", ".join(map(str, self.iterations())) or "none"
            raise MismatchError(
                f"{path}: not there, so the checkpoint of iteration {iteration} cannot be gone on "
                f"from (states of iterations: {have}). To start over from its weights as theta_0, "
                "add --finetune."
            ) from None
        except MismatchError:
            raise
        except (OSError, ValueError, RecursionError) as error:  # ValueError: no JSON, no UTF-8
            raise MismatchError(f"{path}: damaged ({error}); restore it, or start again") from None
        if expected != found or state.get("iteration") != iteration:
            raise MismatchError(
                f"{path}: damaged or of another iteration, expected checksum {expected}, found "
                f"{found}; restore it, or start again in another --save folder"
            )
        return state

    def iterations(self) -> list[int]:
        """Of the committed states, in order."""
        if not os.path.isdir(self.folder):
            return []
        found = (re.fullmatch(r"iter_(\d+)", name) for name in os.listdir(self.folder))
        return sorted(
            int(match[1])
            for match in found
            if match and os.path.exists(os.path.join(self.folder, match[0], "state.json"))
        )

    def prune(self, keep: set[int], names: set[str]) -> None:
        """Remove the states of other iterations, and the weights that are not among `names`."""
        if not os.path.isdir(self.folder):
            return
        kept = {self._iteration_name(iteration) for iteration in keep} | names
        for name in os.listdir(self.folder):
            if name not in kept:
                # The commit goes first: what is left of a folder without one is never read.
                marker = os.path.join(self.folder, name, "state.json")
                if os.path.exists(marker):
                    os.unlink(marker)
                shutil.rmtree(os.path.join(self.folder, name), ignore_errors=True)

    def _rank_path(self, name: str, rank: int) -> str:
        return os.path.join(self.folder, name, f"rank-{rank:05d}.safetensors")

    def _iteration_folder(self, iteration: int) -> str:
        return os.path.join(self.folder, self._iteration_name(iteration))

    @staticmethod
    def _iteration_name(iteration: int) -> str:
        return f"iter_{iteration:07d}"


def _checksum(content: dict) -> str:
    """Of what JSON makes of it, and so the same before writing and after reading."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
