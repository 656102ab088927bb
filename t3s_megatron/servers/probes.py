# SPDX-License-Identifier: Apache-2.0
"""Does a server answer as the live weights do? A few prompts, answered greedily by both.

Two questions are asked of the answers. Are they those of the live weights at all: another model,
tokenizer or template gives other answers from the first words on. And are they those of *these*
weights: where the live model answers some prompt otherwise than it did at an earlier step, a server
that still holds that step's weights repeats the old answer. Only such prompts can tell; while
training has not yet changed any short greedy answer, none does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PROBES = 16
PROBE_TOKENS = 32


@dataclass(frozen=True)
class Finding:
    """`agreement`: see below; `telling`: probes that tell these weights from earlier ones; `fault`:
    why the answers cannot be those of the live weights, None when they can."""

    agreement: float
    telling: int
    fault: str | None

    def describe(self, probes: int) -> str:
        return (
            f"agreement {self.agreement:.2f} over {probes} greedy answers, of which {self.telling} "
            "tell these weights from earlier ones"
        )


def agreement(expected: Sequence[str], found: Sequence[str]) -> float:
    """Mean share of a text, from its beginning, that two answers have in common."""
    return sum(_common(a, b) for a, b in zip(expected, found, strict=True)) / len(expected)


def _common(a: str, b: str) -> float:
    longest = max(len(a), len(b))
    if longest == 0:
        return 1.0
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i / longest
    return min(len(a), len(b)) / longest


def compare(
    expected: Sequence[str],
    found: Sequence[str],
    earlier: Mapping[str, Sequence[str]],
    least: float,
) -> Finding:
    """`expected`: the live weights' answers, `found`: the server's, `earlier`: what the live
    weights answered at earlier times, by their names. `least`: the lowest agreement that is
    believed; engines round differently, and an answer that has taken another word goes on
    otherwise."""
    agreed = agreement(expected, found)
    telling = {
        name: [i for i in range(len(expected)) if expected[i] != before[i]]
        for name, before in earlier.items()
    }
    fault = None
    if agreed < least:
        fault = f"its greedy answers agree with the live weights' to {agreed:.2f} (of {least:g})"
    for name, places in telling.items():
        now = sum(found[i] == expected[i] for i in places)
        then = sum(found[i] == earlier[name][i] for i in places)
        if then > now:
            fault = (
                f"{then} of {len(places)} greedy answers that have changed are still those of "
                f"{name}, and {now} are new: it has not loaded the weights it was given"
            )
    return Finding(agreed, max(map(len, telling.values()), default=0), fault)
