# SPDX-License-Identifier: Apache-2.0
"""What can become of one answer, and what a verifier is."""

from __future__ import annotations

import enum
from collections.abc import Callable


class Verdict(enum.StrEnum):
    """What became of one answer."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSEABLE = "unparseable"  # no answer found in the response, or none that can be compared
    TRUNCATED = "truncated"  # met the length limit before its end token: it has no answer
    TIMED_OUT = "timed_out"  # the verifier gave no verdict in time
    CRASHED = "crashed"  # the verifier raised, or its process died
    UNFINISHED = "unfinished"  # generation ran out of time
    SKIPPED = "skipped"  # not looked at, because the measurement was void already


class TooHard(Exception):
    """An answer that takes a verifier more time than it may. It is the answer's fault, and such an
    answer cannot be compared: a gold answer must not be like that."""


#: An answer that a fault has taken: it says nothing about the student.
FAILURES = (Verdict.TIMED_OUT, Verdict.CRASHED, Verdict.UNFINISHED)

#: (response text, gold answer, metadata of the sample) -> CORRECT, WRONG or UNPARSEABLE
Verifier = Callable[[str, str | None, dict | None], Verdict]
