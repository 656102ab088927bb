# SPDX-License-Identifier: Apache-2.0
"""Where in a response the final answer stands, and which number it is.

Responses come from a model in mid-training: everything here is total (None, never an exception) and
takes time linear in the text.
"""

from __future__ import annotations

import collections
import re
from fractions import Fraction

# Tempered dot: stops at the next tag, so an unclosed or repeated tag neither swallows the answer
# nor makes the search quadratic.
_TAG = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_SPOKEN = re.compile(r"\banswer\s+is\b|####", re.IGNORECASE)
_INTEGER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
# The exponent is bounded: Fraction("1e999999999") would compute that number and hang the run.
_DECIMAL = rf"(?:{_INTEGER}(?:\.\d+)?|(?<![\w.])\.\d+)(?:[eE][+-]?\d{{1,3}}(?!\d))?"
_NUMBER = re.compile(
    # A minus after a word, a digit or a bracket is a subtraction or a hyphen, not a sign.
    r"(?P<sign>(?<![\w)\]}])[-+])?"
    r"(?:\\[dt]?frac\{\s*(?P<top>-?\d+)\s*\}\{\s*(?P<bottom>-?\d+)\s*\}"
    rf"|(?P<value>{_DECIMAL})(?:\s*/\s*(?P<divisor>{_DECIMAL}))?)"
    r"(?P<percent>\s*\\?%)?",
    re.ASCII,
)

# Alone, or with a mark that sets it apart from the option's text. A bare "A" would be an article.
_LETTER = re.compile(
    r"(?:(?:option|choice|answer)\s*:?\s*)?"
    r"(?:\\(?:text|textbf|mathrm|mathbf)\s*\{\s*)?"
    r"[(\[]?(?P<letter>[A-Za-z])(?:\s*\})?"
    r"(?:[)\].:]+\**(?:\s.*)?)?\}?",
    re.IGNORECASE | re.DOTALL,
)


def boxed(text: str) -> str | None:
    r"""Content of the last `\boxed{...}` whose braces are balanced; None when there is none."""
    opening, end = r"\boxed{", len(text)
    while (start := text.rfind(opening, 0, end)) >= 0:
        first, depth = start + len(opening), 0
        for i in range(first, end):
            if text[i] == "{":
                depth += 1
            elif text[i] == "}":
                if depth == 0:
                    return text[first:i]
                depth -= 1
        end = start  # never closed; what follows it belongs to no earlier box either
    return None


def tagged(text: str) -> str | None:
    """Content of the last `<answer>...</answer>`; None when there is none."""
    found = _TAG.findall(text)
    return found[-1].strip() if found else None


def final_answer(text: str) -> str | None:
    """The last tagged answer, else the last boxed one, else the line after the last "answer is" or
    "####", else the last line that is not empty; None for an empty text."""
    for found in (tagged(text), boxed(text)):
        if found is not None:
            return found.strip()
    spoken = [match.end() for match in _SPOKEN.finditer(text)]
    if spoken:
        after = text[spoken[-1] :].lstrip(": \t\r\n")
        if after:
            return after.splitlines()[0].strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else None


def letter(text: str) -> str | None:
    r"""The option that all of `text` names, A to Z: "B", "(b)", "B.", "B) 42", "\text{B}", "option
    B: so it is". None when it is anything else, as "A or B" and "A big one" are."""
    match = _LETTER.fullmatch(text.strip(" \t\r\n*$."))
    return match["letter"].upper() if match else None


def number(text: str | None) -> Fraction | None:
    r"""All of `text` as an exact rational: integers with or without commas between thousands,
    decimals, a/b, \frac{a}{b}, per cent (50% is 1/2). None when it is anything else, as "1,2" or
    "3 1/2" are."""
    if text is None:
        return None
    text = _without_typography(text).strip().strip("$").strip().rstrip(".")
    return _value(_NUMBER.fullmatch(re.sub(r"^([-+])\s+", r"\1", text)))


def last_number(text: str) -> Fraction | None:
    """The last number in running text, read as `number` reads it."""
    found = collections.deque(_NUMBER.finditer(_without_typography(text)), maxlen=1)
    return _value(found[0]) if found else None


def _value(match: re.Match | None) -> Fraction | None:
    if match is None:
        return None
    try:
        if match["top"] is not None:
            value = Fraction(int(match["top"]), int(match["bottom"]))
        else:
            value = Fraction(match["value"].replace(",", ""))
            value /= Fraction((match["divisor"] or "1").replace(",", ""))
    except (ValueError, ZeroDivisionError):  # ValueError: more digits than Python converts
        return None
    value = -value if match["sign"] == "-" else value
    return value / 100 if match["percent"] else value


def _without_typography(text: str) -> str:
    r"""LaTeX's thin spaces and guarded commas, `\$`, and the Unicode minus sign."""
    for written, plain in (("{,}", ","), ("\\,", ""), ("\\!", ""), ("\\$", ""), ("\u2212", "-")):
        text = text.replace(written, plain)
    return text
