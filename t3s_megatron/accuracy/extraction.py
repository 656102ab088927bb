# SPDX-License-Identifier: Apache-2.0
"""Where in a response the final answer stands."""

from __future__ import annotations

import re
from fractions import Fraction

_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_SPOKEN = re.compile(r"(?:answer\s+is|####)\s*:?\s*([^\n]*)", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d[\d,]*)?")
_FRAC = re.compile(r"(-?)\\d?frac\{(-?\d+)\}\{(-?\d+)\}")


def boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{...}`, braces balanced; None when there is none."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    depth, first = 0, start + len(r"\boxed{")
    for i in range(first, len(text)):
        if text[i] == "{":
            depth += 1
        elif text[i] == "}":
            if depth == 0:
                return text[first:i]
            depth -= 1
    return None


def tagged(text: str) -> str | None:
    """Content of the last `<answer>...</answer>`."""
    found = _TAG.findall(text)
    return found[-1].strip() if found else None


def final_answer(text: str) -> str | None:
    """The last tagged answer, else the last boxed one, else what follows the last "answer is" or
    "####", else the last line that is not empty; None for an empty text."""
    for found in (tagged(text), boxed(text)):
        if found is not None:
            return found.strip()
    spoken = _SPOKEN.findall(text)
    if spoken and spoken[-1].strip():
        return spoken[-1].strip().rstrip(".")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else None


def number(text: str | None) -> Fraction | None:
    r"""An exact rational: integers with or without commas, decimals, a/b, \frac{a}{b}, percent."""
    if text is None:
        return None
    text = text.strip().strip("$").strip().rstrip(".")
    frac = _FRAC.fullmatch(text)
    try:
        if frac:
            value = Fraction(int(frac[2]), int(frac[3]))
            return -value if frac[1] else value
        percent = text.endswith(("%", r"\%"))
        plain = text.rstrip("%").rstrip("\\").replace(",", "").replace(" ", "")
        value = Fraction(plain)
        return value / 100 if percent else value
    except (ValueError, ZeroDivisionError):
        return None


def last_number(text: str) -> Fraction | None:
    found = _NUMBER.findall(text)
    return number(found[-1]) if found else None
