# SPDX-License-Identifier: Apache-2.0
"""`t3s/progress.json`: where a run is, after each training step, for whoever watches it.

Small, and of no use once the run has ended: what is worth keeping is in the summary.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from dataclasses import asdict, dataclass

FILE = "progress.json"
#: The rate of a run is that of its last steps: the first ones compile and warm up.
_STEPS = 10


@dataclass(frozen=True)
class Reached:
    """`step`: of the phase; `iteration`: training steps in all, of `train_iters` at the most;
    `budget`: --train-iters, the steps of its last phase; `step_seconds`: of a step without
    measurements, the mean of the last ones; `time`: when the last one ended, since the epoch."""

    phase: str
    step: int
    iteration: int
    train_iters: int
    budget: int
    step_seconds: float
    time: float


class Progress:
    """Writes the file into `folder`; None on the ranks that do not write. `budget`: of the run."""

    def __init__(self, folder: str | None, budget: int):
        self.budget = budget
        self.path = folder and os.path.join(folder, FILE)
        self._seconds: deque[float] = deque(maxlen=_STEPS)

    def write(
        self, phase: str, step: int, iteration: int, train_iters: int, seconds: float
    ) -> None:
        """A step is done. Not durable, and never a reason for a run to stop."""
        self._seconds.append(seconds)
        if self.path is None:
            return
        mean = sum(self._seconds) / len(self._seconds)
        reached = Reached(phase, step, iteration, train_iters, self.budget, mean, time.time())
        temporary = f"{self.path}.tmp"
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(asdict(reached), file)
            os.replace(temporary, self.path)
        except OSError:  # a full disk shows at the next checkpoint
            return


def read_progress(folder: str) -> Reached | None:
    """Where the run of this `t3s/` folder is; None before its first step."""
    try:
        with open(os.path.join(folder, FILE), encoding="utf-8") as file:
            return Reached(**json.load(file))
    except (OSError, ValueError, TypeError):
        return None
