# SPDX-License-Identifier: Apache-2.0
"""Curves of a T3S run, to the TensorBoard and wandb writers that Megatron opened.

Both exist on one rank only (the last of the world); everywhere else the writers are None and
nothing happens. All steps are Megatron iterations, which never go back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from t3s_megatron.accuracy.measurement import Measurement


def measurement_figures(measured: Measurement) -> dict[str, float | None]:
    """Curves of an accuracy measurement; a void one has no accuracy, and only students that answer
    by blocks have forwards and blocks."""
    forwards, blocks = measured.forwards, measured.blocks
    return {
        "accuracy": measured.accuracy,
        "accuracy_standard_error": measured.standard_error,
        "truncated_share": measured.truncated / measured.total,
        "answer_tokens": measured.generated_tokens / measured.total,
        "answer_forwards": None if forwards is None else forwards / measured.total,
        "tokens_per_forward": measured.tokens_per_forward,
        "answer_blocks": None if blocks is None else blocks / measured.total,
        "answers_timed_out": measured.timed_out,
        "answers_crashed": measured.crashed,
        "answers_unfinished": measured.unfinished,
        "answers_unparseable": measured.unparseable,
        "measurement_retries": measured.retries,
        "measurement_void": float(measured.void),
    }


class Curves:
    def __init__(self, tensorboard=None, wandb=None):
        self.tensorboard = tensorboard
        self.wandb = wandb

    def scalars(
        self, values: Mapping[str, float | None], iteration: int, teacher: str | None = None
    ) -> None:
        """`values` without the `t3s/` prefix; non-finite ones (an empty group) are left out.
        `teacher`: whose curves they are, where there are several."""
        for name, value in values.items():
            if value is None or not math.isfinite(value):
                continue
            curve = _curve(name, teacher)
            if self.tensorboard is not None:
                self.tensorboard.add_scalar(curve, value, iteration)
            if self.wandb is not None:
                self.wandb.log({curve: value}, iteration)

    def histogram(
        self, name: str, values: np.ndarray, iteration: int, teacher: str | None = None
    ) -> None:
        values = values[np.isfinite(values)]  # TensorBoard has no bin for anything else
        if self.tensorboard is not None and values.size:
            self.tensorboard.add_histogram(_curve(name, teacher), values, iteration)

    def page(self, html: str) -> None:
        """The page of the finished run (`monitor.page`), as an artifact of wandb's."""
        if self.wandb is None:
            return
        artifact = self.wandb.Artifact(f"t3s-report-{self.wandb.run.id}", type="report")
        with artifact.new_file("report.html", mode="w", encoding="utf-8") as file:
            file.write(html)
        self.wandb.log_artifact(artifact)

    def flush(self) -> None:
        if self.tensorboard is not None:
            self.tensorboard.flush()


def _curve(name: str, teacher: str | None) -> str:
    return f"t3s/{name}" if teacher is None else f"t3s/{name}/{teacher}"
