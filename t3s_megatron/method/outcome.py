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


@dataclass(frozen=True)
class Outcome:
    """`accuracy` is NaN for a void measurement.

    `marks`: one of RIGHT, WRONG and UNKNOWN for each answer, in the order of the answers' numbers:
    the `samples` answers to the first prompt, then those to the second, and so on. Empty where only
    the accuracy is known: such an outcome is compared, and never paired.
    """

    accuracy: float
    marks: str = ""
    samples: int = 1

    @property
    def void(self) -> bool:
        return not math.isfinite(self.accuracy)
