# SPDX-License-Identifier: Apache-2.0
"""`t3s/summary.json`: one file that says what a run did and what came of it."""

from __future__ import annotations

import json
import math
import time

from t3s_megatron.data.durable import write_bytes

FORMAT = 2


class Summary:
    """Collected as the run goes, written whenever something of weight has been added.

    `skipped_samples`: those that --t3s-non-finite skip has left out; `empty_steps`: steps in which
    no token of the batch was kept, which change nothing.

    `theta_b_evidence`: `method.evidence`, where theta_b is a minimum of accuracy.

    `confidence`: the fall of the falling tokens by step, and `turn_step` its lowest point, where
    --t3s-signal watches it.

    `noise`: `method.noise.ScoringNoise`, of a sample of tokens that was scored twice.

    `masked_losses`: of each step of a diffusion student, the rate of its noise and the losses of
    its masked tokens, apart for those that are masked every time, for those that fell in the
    selector, and for the end tokens that fill blocks; `targeting`: what was forced into its masks.

    `measurements` are the accuracies on training prompts by step; `evaluations` those asked for
    with --t3s-report-temperatures at named weights (theta_0, theta_f, theta_rrt, theta_t3s, ...);
    `heldout` those of --t3s-heldout-interval.
    """

    def __init__(self, path: str | None):
        self.path = path  # None on the ranks that do not write
        self.started = time.time()
        self.content: dict = {
            "format": FORMAT,
            "finished": False,
            "method": None,
            "theta_b_step": None,
            "theta_b_reason": None,
            "theta_b_evidence": None,
            "turn_step": None,
            "measurements": [],
            "confidence": [],
            "evaluations": [],
            "heldout": [],
            "tokens": {},
            "noise": None,
            "skipped_samples": [],
            "empty_steps": 0,
            "figure_4": [],
            "masked_losses": [],
            "phases": [],
            "seconds": {},
            "log": [],
        }

    def add_seconds(self, what: str, seconds: float) -> None:
        """Accumulate under `seconds`: generation, scoring, rewind, verification."""
        self.content["seconds"][what] = self.content["seconds"].get(what, 0.0) + seconds

    def update(self, **values) -> None:
        self.content.update(values)

    def append(self, key: str, value) -> None:
        to_dict = getattr(value, "to_dict", None)
        self.content[key].append(value if to_dict is None else to_dict())

    def plain(self) -> dict:
        """The content as JSON has it."""
        seconds = self.content["seconds"] | {"run": time.time() - self.started}
        # Rounded here and not when added: many small parts would vanish one by one.
        rounded = {what: round(spent, 4) for what, spent in seconds.items()}
        return _plain(self.content | {"seconds": rounded})

    def write(self) -> None:
        if self.path is None:
            return
        text = json.dumps(self.plain(), indent=1, allow_nan=False)
        write_bytes(self.path, text.encode())


def _plain(value):
    """JSON without NaN: a figure that does not exist is null."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if hasattr(value, "item"):
        return _plain(value.item())
    return value
