# SPDX-License-Identifier: Apache-2.0
"""What a T3S run needs to go on after a restart, beside the Megatron checkpoint it belongs to.

    state/theta_0-CUT/rank-00003.safetensors          weights of each rank at step 0, written once
    state/candidate-00007-CUT/rank-00003.safetensors  the same at the lowest accuracy so far
    state/in_flight-00012-CUT/rank-00003.safetensors  the same at a step whose accuracy is not known
    state/iter_0000012/rank-00003.safetensors         the log-probs the rank has seen
    state/iter_0000012/state.json                     the commit: phases, summary, and the checksum
                                                      of every file that belongs to this iteration

CUT names how the weights are cut up among the ranks. A job in another layout puts its own parts
together from those files (`read_pieces`) and later writes them under its own CUT.

Files are written under a temporary name, synced and renamed; `state.json` comes last, after every
rank's files and before Megatron names the checkpoint. Nothing here is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from functools import partial

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from t3s_megatron.data.durable import replace_file, sha256_file, write_bytes
from t3s_megatron.data.pieces import Piece, Source, assemble
from t3s_megatron.errors import MismatchError

FORMAT = 4


class RankFile:
    """One rank's file of a committed state.

    MismatchError, naming the file, when it is missing or not the one that was committed. `lazily`:
    the checksum is compared before the first tensor is read, and not before; a rank of a large job
    looks at the headers of many files and at the tensors of few.
    """

    def __init__(self, path: str, checksum: str, lazily: bool = False):
        self.path = path
        self._checksum = checksum
        self._verified = False
        if not lazily:
            self._verify()
        with self._open() as file:
            self.names = list(file.keys())
            try:
                self.info = json.loads(file.metadata()["t3s"])
            except (KeyError, TypeError, json.JSONDecodeError) as error:
                raise self._damaged(f"no header ({error!r})") from None

    def read(self, name: str) -> torch.Tensor:
        self._verify()
        with self._open() as file:
            return file.get_tensor(name)

    def read_range(self, name: str, piece: Piece) -> torch.Tensor:
        """The elements of `piece`, flat, out of the tensor that holds them."""
        return self.read(name).view(-1)[piece.place : piece.place + piece.last - piece.first]

    def _verify(self) -> None:
        if self._verified:
            return
        try:
            found = sha256_file(self.path)
        except OSError as error:
            raise self._unreadable(error) from None
        if found != self._checksum:
            raise self._damaged(f"checksum {found[:12]}")
        self._verified = True

    def _open(self):
        try:
            return safe_open(self.path, framework="pt")
        except SafetensorError as error:
            raise self._damaged(str(error)) from None
        except OSError as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: OSError) -> MismatchError:
        return MismatchError(
            f"{self.path}: cannot be read ({error}), so this run cannot go on from its checkpoint; "
            "restore the file, or start again in another --save folder"
        )

    def _damaged(self, found: str) -> MismatchError:
        return MismatchError(
            f"{self.path}: damaged or from another run, expected checksum "
            f"{self._checksum[:12]}, found {found}; restore the file, or start again in another "
            "--save folder"
        )


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
        file = RankFile(self._rank_path(name, rank), checksum)
        return {key: file.read(key) for key in file.names}, file.info

    def read_pieces(
        self, name: str, checksums: list[str], wanted: dict[str, list[Piece]]
    ) -> dict[str, torch.Tensor]:
        """Flat tensors made of `wanted`, by name, out of the files of all the ranks that saved.

        `checksums`: one for each of those ranks. Files have an info entry "pieces": for each
        tensor, what it holds of the global tensors. MismatchError when a needed file is damaged,
        or an element of `wanted` is in none.
        """
        sources: dict[str, list[Source]] = {}
        for rank, checksum in enumerate(checksums):
            file = RankFile(self._rank_path(name, rank), checksum, lazily=True)
            for tensor, pieces in file.info["pieces"].items():
                for piece in map(Piece.from_list, pieces or ()):
                    read = partial(file.read_range, tensor, piece)
                    sources.setdefault(piece.key, []).append((piece, read))
        found = {}
        for tensor, pieces in wanted.items():
            try:
                parts = [assemble(piece, sources.get(piece.key, [])) for piece in pieces]
            except ValueError as error:
                raise MismatchError(f"{os.path.join(self.folder, name)}: {error}") from None
            found[tensor] = torch.cat(parts)
        return found

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
                f"from (states of iterations: {have}). Restore it, or go on from an iteration that "
                "has one (--ckpt-step). Another run from its weights as theta_0 takes --finetune "
                "and another --save"
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
