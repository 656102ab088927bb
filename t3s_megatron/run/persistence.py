# SPDX-License-Identifier: Apache-2.0
"""A T3S run that dies and goes on: its state, saved with every Megatron checkpoint.

`save` runs on every rank before Megatron writes the checkpoint, and so before its tracker file
names it; `restore` runs before the first step of a resumed job. In between, Megatron itself brings
back weights, optimizer, schedule, sample counter and random state.

What never changes is written once: theta_0, each candidate, and the weights of steps whose
measurement is in flight; a save waits for the outcomes of those. States older than the checkpoint
that Megatron has last named are removed, and with `--t3s-keep-checkpoints` its older checkpoints,
but for the last one of the profile, whose state loses its weights: plain fine-tuning may go on from
there (`t3s-megatron branch`).

A job may come back in another layout. Weights are then put together from the files of all the
ranks that saved (`data.pieces`), and log-probs are handed to the rank that collects them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os

import numpy as np
import torch

from t3s_megatron.data.durable import sha256_file
from t3s_megatron.data.pieces import Piece
from t3s_megatron.data.run_state import StateFolder
from t3s_megatron.data.selection_file import map_kept
from t3s_megatron.errors import MismatchError
from t3s_megatron.megatron import layout
from t3s_megatron.megatron.meter import StepTokens
from t3s_megatron.megatron.process import get_args
from t3s_megatron.megatron.rewind import StartingPoint
from t3s_megatron.megatron.seam import CallbackContext
from t3s_megatron.megatron.sharding import cut, to_json, weight_pieces
from t3s_megatron.megatron.student import tracked_iteration
from t3s_megatron.megatron.weights import WeightSnapshot
from t3s_megatron.method.branching import unlike_plain_fine_tuning
from t3s_megatron.method.phases import Phase
from t3s_megatron.monitor.journal import Journal
from t3s_megatron.options import all_values
from t3s_megatron.run.continuation import check_identity
from t3s_megatron.run.identity import identity, parallel_layout
from t3s_megatron.run.in_flight import Flight, Result
from t3s_megatron.run.inputs import Inputs
from t3s_megatron.run.own_checkpoints import OwnCheckpoints
from t3s_megatron.run.selector import Selector
from t3s_megatron.run.state import RunState


class Persistence:
    """Saves and restores the state of one run, and what it has said, on one rank. `selector` knows
    the files that the run makes beside them. Everything here is collective over the world."""

    def __init__(
        self,
        inputs: Inputs,
        state: RunState,
        selector: Selector,
        journal: Journal,
        context: CallbackContext,
    ):
        self.inputs = inputs
        self.state = state
        self.selector = selector
        self.journal = journal
        self.is_root = selector.is_root
        self.pieces = weight_pieces(context)
        self.cut = cut(self.pieces)
        self.folder = StateFolder(os.path.join(inputs.config.dir, "state"))
        self.rank = layout.rank()
        self.checkpoints = OwnCheckpoints(get_args().save, inputs.config.keep_checkpoints)
        # Checksums of this rank's files that are on disk already, by name.
        self.written: dict[str, str] = {}

    # -------------------------------------------------------------------------------------- save

    def save(self, iteration: int) -> None:
        """Commit the run's state of `iteration`; returns when it is durable.

        WriteError on every rank when one of them cannot write: no rank is left waiting.
        """
        checksums = layout.together(lambda: self._write(iteration))
        layout.together(lambda: self._commit(iteration, checksums) if self.is_root else None)

    def _write(self, iteration: int) -> dict[str, str]:
        """The files of this rank; returns their checksums by name."""
        state, machine = self.state, self.state.machine
        files = {}
        if state.theta_0 is not None:
            name = f"theta_0-{self.cut}"
            files[name] = self._once(name, *state.theta_0.to_file())
        if state.candidate is not None and machine.candidate_step is not None:
            # By the iteration: the profiles of two teachers may have candidates of the same step.
            made_at = machine.offset + machine.candidate_step
            name = f"candidate-{made_at:05d}-{self.cut}"
            files[name] = self._once(name, state.candidate.tensors(), {})
        for step, weights in state.weights_in_flight.items():
            name = f"in_flight-{machine.offset + step:05d}-{self.cut}"
            files[name] = self._once(name, weights.tensors(), {})
        name = f"iter_{iteration:07d}"
        speaks = {"speaks": layout.speaks_for_its_samples()}
        files[name] = self.folder.write_rank(name, self.rank, self._history(), speaks)
        return files

    def _commit(self, iteration: int, checksums: list[dict[str, str]]) -> None:
        checkpoints = self.checkpoints.begin(iteration)
        self.folder.commit(iteration, self._content(checksums) | {"checkpoints": checkpoints})
        # An asynchronous save may still be on its way between the two.
        named, of_profile = tracked_iteration(get_args().save), self._last_of_profile()
        self._prune(iteration, named or 0, of_profile)
        # Before Megatron writes this one, so that the disk never holds more.
        for line in self.checkpoints.remove_old(named, of_profile):
            self.journal.tell(line)

    def _prune(self, iteration: int, oldest: int, of_profile: int | None) -> None:
        kept, names = set(), set()
        for one in self.folder.iterations():
            # A shorter run may be saved over a longer one, which Megatron still names.
            needed = one >= oldest or one == iteration
            if needed or one == of_profile:
                with contextlib.suppress(MismatchError):  # of an earlier run, and damaged
                    files = set(self.folder.read(one)["checksums"][0])
                    names |= files if needed else set()
                    kept.add(one)
        self.folder.prune(kept, names)

    def _last_of_profile(self) -> int | None:
        """The last saved iteration of a profile that has ended from which plain fine-tuning can go
        on: before its last step, and before the profile's bound, which is measured for that reason.
        None where there is none, its measurements are others than those of plain fine-tuning, or
        several teachers have a profile each."""
        machine = self.state.machine
        asked = dataclasses.asdict(machine.options)
        if len(machine.profiles) > 1 or not machine.records or unlike_plain_fine_tuning(asked):
            return None
        first = machine.records[0]
        if first["phase"] != Phase.PROFILE.value:
            return None
        bound = min(machine.options.last_profile_step, machine.options.budget)
        last = min(first["last_iteration"], bound - 1)
        return max((one for one in self.folder.iterations() if one <= last), default=None)

    def _once(self, name: str, tensors: dict, info: dict) -> str:
        # Once, and again when someone has removed it: a state is of use only with all its files.
        if name not in self.written or not self.folder.has_rank(name, self.rank):
            info = info | {"pieces": to_json(self.pieces)}
            self.written[name] = self.folder.write_rank(name, self.rank, tensors, info)
        return self.written[name]

    def _history(self) -> dict[str, torch.Tensor]:
        history = self.state.history
        empty = [StepTokens(np.zeros(0, np.int64), np.zeros(0, np.float32), 0)]
        # What the profile's confidence is compared with: on the root rank.
        machine, c_0 = self.state.machine, None
        if machine.phase is Phase.PROFILE:
            c_0 = self.state.c_0.get(machine.profile.teacher)
        return {
            "c_0": torch.from_numpy(empty[0].c if c_0 is None else c_0),
            "steps": torch.tensor([t.step for t in history], dtype=torch.int64),
            "sizes": torch.tensor([len(t.target) for t in history], dtype=torch.int64),
            "target": torch.from_numpy(np.concatenate([t.target for t in history or empty])),
            "c": torch.from_numpy(np.concatenate([t.c for t in history or empty])),
        }

    def _content(self, checksums: list[dict[str, str]]) -> dict:
        state = self.state
        return {
            "identity": identity(self.inputs),
            "layout": parallel_layout(get_args()),
            "machine": state.machine.state_dict(),
            "in_flight": [flight.result().to_state() for flight in state.flights],
            "excluded": sorted(state.rows.excluded),
            "summary": self.journal.to_state(),
            "checksums": checksums,
            "made": {name: self._made_checksum(name) for name in self._made()},
        }

    def _made(self) -> list[str]:
        """Files that the run has made beside its state and goes on with."""
        machine, names = self.state.machine, ["selection"] if self._selected() else []
        if machine.phase is Phase.PROFILE and machine.total_steps:
            names += self.selector.theta_0_names()
        if machine.phase in (Phase.PROFILE, Phase.TARGETED):
            for profile in machine.profiles:
                names += self.selector.store_names(profile)
        return names

    def _selected(self) -> bool:
        """Whether the run itself has made the selection that it trains with."""
        targeted = self.state.machine.phase is Phase.TARGETED
        return targeted and not self.inputs.config.selected_before

    def _made_checksum(self, name: str) -> str:
        path = self.selector.path(name)
        try:
            return sha256_file(path)
        except OSError as error:
            raise MismatchError(
                f"{path}: was written by this run and has gone ({error}); restore it, or start "
                "again in another --save folder"
            ) from None

    # ----------------------------------------------------------------------------------- restore

    def restore(self, context: CallbackContext, iteration: int) -> None:
        """Make the run what it was when `iteration` was saved.

        MismatchError when the state is missing, damaged, or of another run: other data, tokenizer,
        model, Megatron release or --t3s arguments.
        """
        state, machine = self.state, self.state.machine
        saved = self.folder.read(iteration)
        check_identity(self.folder, saved["identity"], self.inputs, get_args())
        try:
            machine.load_state_dict(saved["machine"])
        except ValueError as error:
            raise MismatchError(f"{self.folder.folder}: {error}") from None
        # The same on every rank: what was waited for is known.
        state.flights.extend(
            Flight(None, Result.from_state(result)) for result in saved["in_flight"]
        )
        state.rows.exclude(saved["excluded"])
        self.journal.restore(saved["summary"])
        self.checkpoints.restore(saved["checkpoints"])
        self.journal.note(None, arguments=all_values(self.inputs.config))
        here = parallel_layout(get_args())
        same_layout = saved["layout"] == here
        for name in saved["checksums"][0]:
            checksums = [of_rank[name] for of_rank in saved["checksums"]]
            if name.startswith("iter_"):
                state.history = self._read_history(name, checksums, same_layout)
                c_0 = self._read_c_0(name, checksums, same_layout) if self.is_root else None
                if c_0 is not None:
                    state.c_0[machine.profile.teacher] = c_0
                continue
            # Whether this rank's file holds this rank's weights.
            mine = name.endswith(f"-{self.cut}")
            is_theta_0 = name.startswith("theta_0-")
            written: dict[str, torch.Tensor] = {}
            info: dict = {}
            if mine or is_theta_0:  # once: it may be gigabytes
                source = self.rank if mine or same_layout else 0
                written, info = self.folder.read_rank(name, source, checksums[source])
            if mine:
                self.written[name] = checksums[self.rank]
            weights = written if mine else self.folder.read_pieces(name, checksums, self._wanted())
            if is_theta_0:
                # Which random numbers a rank draws depends on its place in the layout.
                random = written if same_layout else None
                state.theta_0 = StartingPoint.from_file(context, weights, info, random)
                continue
            snapshot = WeightSnapshot(context)
            snapshot.load(weights)
            if name.startswith("in_flight-"):
                iteration_of = int(name.split("-")[1])
                state.weights_in_flight[iteration_of - machine.offset] = snapshot
            else:
                state.candidate = snapshot
        self._restore_made(saved["made"])
        whose = "" if machine.teacher is None else f" of teacher {machine.teacher}"
        self.journal.tell(
            f"resumed at iteration {iteration}: phase {machine.phase.value}{whose}, step "
            f"{machine.phase_step}, theta_b {machine.theta_b_step or 'not yet known'}"
        )
        if not same_layout:
            changes = [
                f"{key} {was} -> {here[key]}"
                for key, was in saved["layout"].items()
                if was != here[key]
            ]
            self.journal.say(
                f"resumed at iteration {iteration} in another layout: {', '.join(changes)}"
            )
            self.journal.note(None, layout=here)

    def _wanted(self) -> dict[str, list[Piece]]:
        """What this rank's `WeightSnapshot` is made of, where files are cut up in another way."""
        return {tensor: pieces for tensor, pieces in self.pieces.items() if pieces is not None}

    def _read_history(self, name: str, checksums: list[str], same_layout: bool) -> list[StepTokens]:
        if same_layout:
            tensors, _ = self.folder.read_rank(name, self.rank, checksums[self.rank])
            return _steps(tensors)
        # Each token once, and at one rank of each group that sums over the data.
        parts = []
        for rank, checksum in enumerate(checksums):
            tensors, info = self.folder.read_rank(name, rank, checksum)
            if info["speaks"]:
                parts.append(_steps(tensors))
        mine = layout.collects_over_data()
        return [
            StepTokens(
                np.concatenate([one.target for one in ranks if mine] or [np.zeros(0, np.int64)]),
                np.concatenate([one.c for one in ranks if mine] or [np.zeros(0, np.float32)]),
                ranks[0].step,
            )
            for ranks in zip(*parts, strict=True)
        ]

    def _read_c_0(self, name: str, checksums: list[str], same_layout: bool) -> np.ndarray | None:
        for rank in [self.rank] if same_layout else range(len(checksums)):
            c_0 = self.folder.read_rank(name, rank, checksums[rank])[0]["c_0"].numpy()
            if c_0.size:
                return c_0
        return None

    def _restore_made(self, made: dict[str, str]) -> None:
        state, selector = self.state, self.selector
        for name, checksum in made.items():
            path = selector.path(name)
            found = sha256_file(path) if os.path.exists(path) else "nothing"
            if found != checksum:
                raise MismatchError(
                    f"{path}: expected checksum {checksum[:12]}, found {found[:12]}: it is not "
                    "the file that this run made; restore it, or start again"
                )
        if set(selector.theta_0_names()) & set(made):
            selector.restore_theta_0()
        known = [p for p in state.machine.profiles if set(selector.store_names(p)) & set(made)]
        for profile in known:
            selector.restore_profile(profile)
        if "selection" in made:
            state.rows.use_selection(map_kept(selector.path("selection"), self.inputs.corpus))
            if known:
                state.groups = selector.groups


def _steps(tensors: dict[str, torch.Tensor]) -> list[StepTokens]:
    ends = np.cumsum(tensors["sizes"].numpy())
    cut = ends[:-1]
    targets = np.split(tensors["target"].numpy(), cut) if len(ends) else []
    values = np.split(tensors["c"].numpy(), cut) if len(ends) else []
    steps = tensors["steps"].tolist()
    return [StepTokens(t, c, step) for step, t, c in zip(steps, targets, values, strict=True)]
