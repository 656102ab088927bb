# SPDX-License-Identifier: Apache-2.0
"""Random choices that depend on a seed and on what is chosen from, and on nothing else.

Each candidate gets a number out of the seed and its own identity, and the smallest win: uniformly,
and the same in whatever order the candidates come, with whatever others beside them.
"""

from __future__ import annotations

import hashlib
import json


def draw(seed: int, *identity: str | int | None) -> int:
    """A uniform integer below 2**256."""
    # JSON keeps ("ab", "c") and ("a", "bc") apart.
    text = json.dumps([seed, *identity], ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(text.encode()).digest())


def draw_seed(seed: int, *identity: str | int | None) -> int:
    """A seed for somebody else's generator: below 2**31, which every server takes."""
    return draw(seed, *identity) >> (256 - 31)
