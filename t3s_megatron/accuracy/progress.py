# SPDX-License-Identifier: Apache-2.0
"""A line in the log now and then while answers are generated."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds between two lines.
EVERY = 30.0


class Progress:
    """Counts answers and tokens of `total` answers; `tell(line)` is called at most every `every`
    seconds, and not at all for what is done sooner."""

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
