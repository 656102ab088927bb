# SPDX-License-Identifier: Apache-2.0
"""A verifier that takes its time: three answers are longer than torchrun's own patience."""

from __future__ import annotations

import os
import time


def check(text: str, answer: str, metadata: dict) -> bool:
    """Says in the file SLOW that it was asked. Always right: a start at 0 would end the run."""
    with open(os.environ["SLOW"], "w"):
        pass
    time.sleep(13)
    return True
