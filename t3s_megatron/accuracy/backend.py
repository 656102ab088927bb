# SPDX-License-Identifier: Apache-2.0
"""What a measurement asks of whoever answers."""

from __future__ import annotations

from typing import Any, Protocol

from t3s_megatron.accuracy.measurement import Answer
from t3s_megatron.megatron.generation import Sampling
from t3s_megatron.megatron.seam import CallbackContext


class Backend(Protocol):
    """Everything is collective over the world."""

    def check(self, context: CallbackContext) -> None:
        """Before the first training step. T3SError when no right answer can be had."""

    def take(self, context: CallbackContext, *, step: int) -> Any:
        """The weights as they are now, in whatever form `generate` wants them. `step` of the phase:
        those of step 0 are theta_0."""

    def generate(
        self,
        weights: Any,
        prompts: list[list[int]],
        sampling: Sampling,
        *,
        numbers: list[int],
        timeout: float | None,
    ) -> list[Answer]:
        """One answer to each prompt (token ids), by `weights` (of `take`), the seed of each from
        `sampling.seed` and its number. What is not answered within `timeout` seconds is
        `unfinished`. On the rank that verifies, answers have their texts; elsewhere "" stands for
        them."""

    def release(self, weights: Any) -> None:
        """`weights` are not asked again."""

    def close(self) -> None:
        """Leave nothing behind."""
