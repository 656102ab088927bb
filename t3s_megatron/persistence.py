# SPDX-License-Identifier: Apache-2.0
"""A T3S run that dies and goes on: its state, saved with every Megatron checkpoint.

`save` runs on every rank before Megatron writes the checkpoint, and so before its tracker file
names it; `restore` runs before the first step of a resumed job. In between, Megatron itself brings
back weights, optimizer, schedule, sample counter and random state.

What never changes is written once: theta_0, and each candidate. States older than the checkpoint
that Megatron has last named are removed.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import numpy as np
import torch

from t3s_megatron.data.durable import sha256_file
from t3s_megatron.data.run_state import StateFolder
from t3s_megatron.data.selection_file import Selection
from t3s_megatron.data.stores import LogProbStore
from t3s_megatron.errors import MismatchError
from t3s_megatron.megatron import layout
from t3s_megatron.megatron.meter import StepTokens
from t3s_megatron.megatron.process import get_args, print_rank_0
from t3s_megatron.megatron.rewind import StartingPoint
from t3s_megatron.megatron.seam import CallbackContext
from t3s_megatron.megatron.weights import WeightSnapshot
from t3s_megatron.method.phases import Phase
from t3s_megatron.provenance import identity

if TYPE_CHECKING:
    from t3s_megatron.run import T3SRun

_THETA_0 = "theta_0"


class Persistence:
    """Of one run, on one rank. Everything here is collective over the world."""

    def __init__(self, run: T3SRun):
        self.run = run
        self.folder = StateFolder(os.path.join(run.config.dir, "state"))
        self.rank = layout.rank()
        # Checksums of this rank's files that are on disk already, by name.
        self.written: dict[str, str] = {}

    # -------------------------------------------------------------------------------------- save

    def save(self, iteration: int) -> None:
        """Commit the run's state of `iteration`; returns when it is durable."""
        run = self.run
        files = {}
        if run.theta_0 is not None:
            files[_THETA_0] = self._once(_THETA_0, *run.theta_0.to_file())
        if run.candidate is not None:
            assert run.machine.candidate_step is not None
            name = _candidate_name(run.machine.candidate_step)
            files[name] = self._once(name, run.candidate.tensors(), {})
        history = f"iter_{iteration:07d}"
        files[history] = self.folder.write_rank(history, self.rank, self._history())
        checksums = layout.gather_over_world(files)
        if run.is_root:
            self.folder.commit(iteration, self._state(checksums))
            # An asynchronous save may still be on its way between the two.
            oldest = _tracked_iteration(get_args().save) or 0
            kept, names = set(), set()
            for one in self.folder.iterations():
                if one >= oldest:
                    with contextlib.suppress(MismatchError):  # of an earlier run, and damaged
                        names |= set(self.folder.read(one)["checksums"][0])
                        kept.add(one)
            self.folder.prune(kept, names)
        layout.barrier()

    def _once(self, name: str, tensors: dict, info: dict) -> str:
        if name not in self.written:
            self.written[name] = self.folder.write_rank(name, self.rank, tensors, info)
        return self.written[name]

    def _history(self) -> dict[str, torch.Tensor]:
        history = self.run.meter.history
        empty = [StepTokens(np.zeros(0, np.int64), np.zeros(0, np.float32), 0)]
        return {
            "steps": torch.tensor([t.step for t in history], dtype=torch.int64),
            "sizes": torch.tensor([len(t.target) for t in history], dtype=torch.int64),
            "target": torch.from_numpy(np.concatenate([t.target for t in history or empty])),
            "c": torch.from_numpy(np.concatenate([t.c for t in history or empty])),
        }

    def _state(self, checksums: list[dict[str, str]]) -> dict:
        run = self.run
        made = ["selection"] if self._selected() else []
        if made and run.groups is not None:
            made += ["c_theta_0", "c_theta_b"]
        return {
            "identity": identity(run.prepared, get_args()),
            "machine": run.machine.state_dict(),
            "summary": run.summary.plain(),
            "checksums": checksums,
            "made": {name: sha256_file(self._made_path(name)) for name in made},
        }

    def _selected(self) -> bool:
        """Whether the run itself has made the selection that it trains with."""
        run = self.run
        return run.machine.phase is Phase.TARGETED and run.prepared.selection is None

    def _made_path(self, name: str) -> str:
        return os.path.join(self.run.config.dir, f"{name}.safetensors")

    # ----------------------------------------------------------------------------------- restore

    def restore(self, context: CallbackContext, iteration: int) -> None:
        """Make the run what it was when `iteration` was saved.

        MismatchError when the state is missing, damaged, or of another run: other data, tokenizer,
        model, layout, Megatron release or --t3s arguments.
        """
        run = self.run
        state = self.folder.read(iteration)
        self._check_identity(state["identity"])
        try:
            run.machine.load_state_dict(state["machine"])
        except ValueError as error:
            raise MismatchError(f"{self.folder.folder}: {error}") from None
        run.summary.content = state["summary"]
        mine = state["checksums"][self.rank]
        for name, checksum in mine.items():
            tensors, info = self.folder.read_rank(name, self.rank, checksum)
            if name == _THETA_0:
                run.theta_0 = StartingPoint.from_file(context, tensors, info)
                self.written[name] = checksum
            elif name.startswith("candidate-"):
                run.candidate = WeightSnapshot(context)
                run.candidate.load(tensors)
                self.written[name] = checksum
            else:
                run.meter.history = _steps(tensors)
        if self._selected():
            self._restore_selection(state["made"])
        print_rank_0(
            f"[t3s] resumed at iteration {iteration}: phase {run.machine.phase.value}, step "
            f"{run.machine.phase_step}, theta_b {run.machine.theta_b_step or 'not yet known'}"
        )

    def _check_identity(self, saved: dict) -> None:
        mine = identity(self.run.prepared, get_args())
        for what, expected in saved.items():
            if mine.get(what) != expected:
                raise MismatchError(
                    f"{self.folder.folder}: the saved run has {what} {expected}, this one has "
                    f"{mine.get(what)}. Resume with what it was started with, or start over from "
                    "its weights with --finetune and another --save."
                )

    def _restore_selection(self, made: dict[str, str]) -> None:
        run = self.run
        for name, checksum in made.items():
            path = self._made_path(name)
            found = sha256_file(path) if os.path.exists(path) else "nothing"
            if found != checksum:
                raise MismatchError(
                    f"{path}: expected checksum {checksum[:12]}, found {found[:12]}: it is not "
                    "the file that this run made; restore it, or start again"
                )
        corpus = run.prepared.corpus
        run.rows.use_selection(Selection.load(self._made_path("selection"), corpus).keep)
        if "c_theta_b" in made:
            c_0, c_b = (
                LogProbStore.load(self._made_path(name), corpus).c
                for name in ("c_theta_0", "c_theta_b")
            )
            run.group_tokens(c_0, c_b)


def _candidate_name(step: int) -> str:
    return f"candidate-{step:05d}"


def _steps(tensors: dict[str, torch.Tensor]) -> list[StepTokens]:
    ends = np.cumsum(tensors["sizes"].numpy())
    cut = ends[:-1]
    targets = np.split(tensors["target"].numpy(), cut) if len(ends) else []
    values = np.split(tensors["c"].numpy(), cut) if len(ends) else []
    steps = tensors["steps"].tolist()
    return [StepTokens(t, c, step) for step, t, c in zip(steps, targets, values, strict=True)]


def _tracked_iteration(save: str | None) -> int | None:
    """The checkpoint that Megatron would load now."""
    path = os.path.join(save or "", "latest_checkpointed_iteration.txt")
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):  # none yet, or "release"
        return None
