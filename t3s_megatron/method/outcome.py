# SPDX-License-Identifier: Apache-2.0
"""What an accuracy measurement tells the detector: its accuracy, and what became of each answer.

Every measurement of a run asks the same prompts with the same seeds, so two outcomes are paired
answer by answer. One character an answer is all that a paired test needs, and small enough to be
kept in the summary for whoever wants to redo it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

RIGHT = "1"
WRONG = "0"
#: A fault took the answer, or the verifier: nobody knows whether it was right.
UNKNOWN = "?"
#: The measurement ended before its turn came.
NOT_ASKED = "-"


@dataclass(frozen=True)
class Outcome:
    """`accuracy` is NaN for a void measurement.

    `marks`: one of RIGHT, WRONG, UNKNOWN and NOT_ASKED for each answer, in the order of their
    numbers: the `samples` answers to the first prompt, then those to the second, and so on. Empty
    where only the accuracy is known: such an outcome is compared, and never paired.

    `cut_off`: how many of the answers that are not right met the length limit before their end.
    """

    accuracy: float
    marks: str = ""
    samples: int = 1
    cut_off: int = 0

    @property
    def ended_early(self) -> bool:
        """The accuracy is an estimate over what was asked: it may be the lowest by chance of that
        choice, and is never taken for a minimum."""
        return NOT_ASKED in self.marks

    @property
    def void(self) -> bool:
        return not math.isfinite(self.accuracy)
