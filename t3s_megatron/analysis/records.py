# SPDX-License-Identifier: Apache-2.0
"""trajectory.json: what `analysis.trajectory` has seen, a record each time that it looked;
beside it sketches-STEP.safetensors, where single tokens' gradients were looked at."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from t3s_megatron.data.durable import write_bytes
from t3s_megatron.errors import T3SError

TRAJECTORY = "trajectory.json"
FORMAT = 1


@dataclass(frozen=True)
class Seen:
    """`about`: model, layout, data, what was trained on. `records`: by step, in order; of each
    `step`, and `groups`, `gradients`, `one_step`, `sketches` as far as they were asked for."""

    path: str
    about: dict
    records: list[dict]

    @property
    def source(self) -> str:
        """What was trained on, and whose anchors were looked at."""
        objective = self.about["trained_on"]
        what = "plain fine-tuning" if objective is None else f"trained on {objective}"
        return f"{self.path}: {what}; anchors of {self.about['groups_of']}"

    def with_(self, what: str) -> list[dict]:
        """The records that have it. T3SError, saying what to ask for, where none has."""
        found = [record for record in self.records if what in record]
        if not found:
            asked = what.replace("_", "-")
            raise T3SError(f"{self.path}: {asked} was not looked at; run it with --analyse {asked}")
        return found


def read_trajectory(folder: str) -> Seen:
    """Of --analyse-output. T3SError for a folder without, or a file that is none."""
    path = os.path.join(folder, TRAJECTORY)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        if content["format"] != FORMAT:
            raise T3SError(f"{path}: of format {content['format']}, expected {FORMAT}; run it anew")
        records = content.pop("records")
        if not [record["groups"]["anchors"]["loss"] for record in records]:
            raise T3SError(f"{path}: nothing in it yet")
        return Seen(path, content, records)
    except T3SError:
        raise
    except FileNotFoundError as error:
        raise T3SError(
            f"{path}: no such file; `torchrun -m t3s_megatron.analysis.trajectory` with "
            f"--analyse-output {folder} writes it (docs/analyses.md)"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise T3SError(f"{path}: cannot be read as a trajectory ({error!r})") from error


class Sketches(NamedTuple):
    """`sketches` float32[n, k]: gradients of n tokens along k random directions. `target` int64[n]:
    their numbers in the corpus; `is_anchor` bool[n]."""

    sketches: np.ndarray
    target: np.ndarray
    is_anchor: np.ndarray


def _sketches_path(folder: str, step: int) -> str:
    return os.path.join(folder, f"sketches-{step}.safetensors")


def write_sketches(folder: str, step: int, found: Sketches) -> None:
    """Durable. WriteError where it cannot be written."""
    write_bytes(_sketches_path(folder, step), safetensors.numpy.save(found._asdict()))


def read_sketches(seen: Seen, step: int) -> Sketches:
    """T3SError for a file that is not there, or is none."""
    path = _sketches_path(os.path.dirname(seen.path), step)
    try:
        found = Sketches(**safetensors.numpy.load_file(path))
        if not len(found.sketches) == len(found.target) == len(found.is_anchor):
            raise ValueError("its arrays are of different lengths")
        return found
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise T3SError(f"{path}: cannot be read as sketches ({error!r})") from error
