# SPDX-License-Identifier: Apache-2.0
"""trajectory.json: what `analysis.trajectory` has seen, a record each time that it looked."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from t3s_megatron.errors import T3SError

TRAJECTORY = "trajectory.json"
FORMAT = 1


@dataclass(frozen=True)
class Seen:
    """`about`: model, layout, data, what was trained on. `records`: by step, in order; of each
    `step`, and `groups`, `gradients`, `one_step` as far as they were asked for."""

    path: str
    about: dict
    records: list[dict]

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
