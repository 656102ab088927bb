# SPDX-License-Identifier: Apache-2.0
"""Answers: how they are drawn, what they are, and what a measurement asks of whoever gives them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

#: Seconds between two lines about progress.
EVERY = 30.0


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: temperature 0 is greedy; the seed of answer i is (seed, i)."""

    temperature: float
    max_new_tokens: int
    end_token: int
    seed: int
    vocab_size: int
    batch_size: int

    def seed_of(self, number: int) -> int:
        """The pair spread over one number: nearby seeds of torch's generator are independent."""
        return self.seed * 1_000_003 + number


@dataclass(frozen=True)
class Answer:
    """A generated response; `truncated`: it met the length limit before its end token;
    `unfinished`: generation ran out of time before either. `forwards`: of the student that set
    tokens of it, where one may set several; None where each sets one, or nobody counts. `blocks`:
    those that hold some of it or its end, of a student that answers by blocks."""

    text: str
    tokens: int
    truncated: bool
    unfinished: bool = False
    forwards: int | None = None
    blocks: int | None = None


class Generate(Protocol):
    """Whatever answers prompts."""

    def __call__(
        self,
        weights: Any,
        prompts: list[list[int]],
        sampling: Sampling,
        *,
        numbers: list[int],
        timeout: float | None,
    ) -> list[Answer]:
        """One answer to each prompt (token ids), by `weights` (of `Backend.take`), the seed of each
        from `sampling.seed` and its number. What is not answered within `timeout` seconds is
        `unfinished`. On the rank that verifies, answers have their texts; elsewhere "" stands for
        them."""


class Backend(Protocol):
    """Who answers with the weights of a run. `context`: what the training loop tells of itself.
    Everything is collective over the world."""

    @property
    def generate(self) -> Generate: ...

    def check(self, context: Any) -> None:
        """Before the first training step. T3SError when no right answer can be had."""

    def take(self, context: Any, *, step: int) -> Any:
        """The weights as they are now, in whatever form `generate` wants them. `step` of the phase:
        those of step 0 are theta_0."""

    def release(self, weights: Any) -> None:
        """`weights` are not asked again."""

    def close(self) -> None:
        """Leave nothing behind."""


class Progress:
    """A line in the log now and then while `total` answers are generated: `tell(line)` is called at
    most every `every` seconds, and not at all for what is done sooner."""

    def __init__(self, total: int, tell: Callable[[str], None], every: float = EVERY):
        self.total = total
        self.tell = tell
        self.every = every
        self.answers = self.tokens = 0
        self._started = self._told = time.monotonic()

    def add(self, answers: int, tokens: int) -> None:
        self.answers += answers
        self.tokens += tokens
        now = time.monotonic()
        if now - self._told >= self.every:
            self._told = now
            rate = self.tokens / (now - self._started)
            self.tell(f"{self.answers} of {self.total} answers, {rate:.0f} tokens/s")
