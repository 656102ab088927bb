# SPDX-License-Identifier: Apache-2.0
"""A verifier that takes its time, else `numeric`: three answers of the student are longer than
torchrun's own patience."""

from __future__ import annotations

import os
import time

from t3s_megatron.accuracy.verdicts import Verdict
from t3s_megatron.accuracy.verifiers import make_verifier

_numeric = make_verifier("numeric")


def check(text: str, answer: str, metadata: dict) -> bool:
    """Says in the file SLOW that it was asked about the student, whose answers are sums that are
    written out; gold answers are not. It is slow for the first three."""
    if "=" in text:
        with open(os.environ["SLOW"], "a") as asked:
            asked.write(".")
        if os.path.getsize(os.environ["SLOW"]) <= 3:
            time.sleep(13)
    return _numeric(text, answer, metadata) is Verdict.CORRECT
