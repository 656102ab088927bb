# SPDX-License-Identifier: Apache-2.0
"""Mathematical answers compared by what they mean, with math-verify (sympy underneath).

For a worker process with a deadline of its own: math-verify's timeouts are alarms of the main
thread and end in a BaseException, and switched off, as here, an expression can keep sympy busy for
ever (Math-Verify #22, #42, #55).
"""

from __future__ import annotations

import logging

import math_verify

from t3s_megatron.accuracy.extraction import boxed, final_answer, tagged

# It warns at each comparison that it has no timeout.
logging.getLogger("math_verify").setLevel(logging.ERROR)

# A boxed answer first, and only then whatever else looks like mathematics.
_HOW = (
    math_verify.LatexExtractionConfig(boxed_match_priority=0),
    math_verify.ExprExtractionConfig(),
)


def parse(text: str) -> list:
    """What the final answer of a response may mean: sympy expressions, or [] when it means nothing
    in mathematics."""
    answer = boxed(text)
    if answer is None:
        answer = tagged(text)
    if answer is None:
        return _parse(final_answer(text) or "")
    return _parse(f"\\boxed{{{answer}}}")


def same(gold: list, found: list) -> bool:
    """Whether one meaning of `found` is one of `gold`. Not symmetric: what is gold has the say over
    forms, as in x = 5 against 5."""
    return math_verify.verify(gold, found, timeout_seconds=None, raise_on_error=True)


def _parse(text: str) -> list:
    found = math_verify.parse(text, _HOW, fallback_mode="no_fallback", parsing_timeout=None)
    return [one for one in found if not isinstance(one, str)]
