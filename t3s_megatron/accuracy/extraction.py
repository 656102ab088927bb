# SPDX-License-Identifier: Apache-2.0
"""Where in a response the final answer stands, and which number it is.

Responses come from a model in mid-training: everything here is total (None, never an exception) and
takes time linear in the text.
"""

from __future__ import annotations

import collections
import re
from fractions import Fraction
from typing import NamedTuple

# Tempered dot: stops at the next tag, so an unclosed or repeated tag neither swallows the answer
# nor makes the search quadratic.
_TAG = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL | re.IGNORECASE)
# TeX takes one token where there is no brace; students mean the number or the letter.
_BOX = re.compile(
    r"\\(?:boxed|fbox)\s*(?:(?P<brace>\{)|(?P<bare>-?\d[\d.,/]*\d|-?\d|[A-Za-z](?!\w)))"
)
# Between boxes of one answer: "\boxed{1} or x = \boxed{2}".
_JOINED = re.compile(
    r"[\s$]*(?:(?:[,;&]|and|or|\\(?:text|mathrm)\{\s*(?:and|or)\s*\}|\\quad|\\[ ,;])[\s$]*)+"
    r"(?:\\?[A-Za-z]\w{0,3}(?:_\{?\w{1,3}\}?)?\s*=[\s$]*)?"
)
# How an answer is announced. Chinese and Korean, because models are that answer so.
_IS = r"(?:is\b|[:\uff1a=]|must\sbe\b|should\sbe\b|would\sbe\b|has\sto\sbe\b|seems\sto\sbe\b)"
_ELSEWHERE = (
    r"####|\u7b54\u6848\s*(?:[\u662f\u4e3a\u70ba:\uff1a])|\uc815\ub2f5\s*(?:[\uc740\ub294:\uff1a])"
)
_SPOKEN = re.compile(rf"\banswer\b[*_]*\s*{_IS}|{_ELSEWHERE}", re.IGNORECASE)
_OPTION = re.compile(rf"\b(?:answer|option|choice)\b[*_]*\s*{_IS}|{_ELSEWHERE}", re.IGNORECASE)
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
    r"(?:[)\].:\u3002]+\**(?:\s.*)?|,?\s+(?:because|since|as|which|\u2013|\u2014|-)\s.*)?\}?",
    re.IGNORECASE | re.DOTALL,
)


class Marked(NamedTuple):
    """What stands between marks. `content`: None where they do not close, so that nobody can say
    what is between them; `end`: where the marks end in the text."""

    content: str | None
    end: int


def last_box(text: str) -> Marked | None:
    r"""The last `\boxed{...}` or `\fbox{...}`; several that are joined by "and", "or" or a comma
    are one answer. None where there is none. Never an earlier one than the last: what a response
    went on from is not its answer."""
    openings = list(_BOX.finditer(text))
    if not openings:
        return None
    content, end = _closed(text, openings[-1], len(text))
    if content is None:
        return Marked(None, end)
    contents, start = [content], openings[-1].start()
    for opening in reversed(openings[:-1]):
        earlier, closed = _closed(text, opening, start)
        if earlier is None or not _JOINED.fullmatch(text, closed, start):
            break
        contents.append(earlier)
        start = opening.start()
    return Marked(", ".join(reversed(contents)), end)


def _closed(text: str, opening: re.Match, end: int) -> tuple[str | None, int]:
    """(content of the box, where it ends); (None, `end`) when it does not close before `end`."""
    if opening["brace"] is None:
        return opening["bare"], opening.end()
    depth, escaped = 0, False
    for i in range(opening.end(), end):
        character = text[i]
        if escaped:  # of \{ and \}, which pair up with anything
            escaped = False
        elif character == "\\":
            escaped = True
        elif character == "{":
            depth += 1
        elif character == "}":
            if depth == 0:
                return text[opening.end() : i], i + 1
            depth -= 1
    return None, end


def last_tag(text: str) -> Marked | None:
    """The last `<answer>...</answer>`; None when there is none."""
    last = collections.deque(_TAG.finditer(text), maxlen=1)
    return Marked(last[0][1].strip(), last[0].end()) if last else None


def boxed(text: str) -> str | None:
    """The content of `last_box`; None where there is none, or none that closes."""
    found = last_box(text)
    return found.content if found else None


def marked(text: str, *, box_first: bool = False) -> Marked | None:
    r"""The last tagged answer, else the last boxed one (or the other way round); of
    `<answer>\boxed{5}</answer>` what is in both. None where nothing is marked."""
    readers = (last_box, last_tag) if box_first else (last_tag, last_box)
    for read in readers:
        found = read(text)
        if found is not None:
            inner = next(filter(None, (other(found.content or "") for other in readers)), None)
            return found if inner is None else Marked(inner.content, found.end)
    return None


def final_answer(text: str, *, box_first: bool = False) -> str | None:
    """What is `marked`, else the line after the last "answer is" or "####", else the last line that
    is not empty; None for an empty text, and where the marks do not close."""
    found = marked(text, box_first=box_first)
    if found is not None:
        return None if found.content is None else found.content.strip()
    after = _after(_SPOKEN, text)
    if after:
        return after.splitlines()[0].strip().strip("*").strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else None


def final_letter(text: str) -> str | None:
    """The option that a response ends with: of what is marked and what is announced after it, the
    last that names one; else its last line."""
    found = marked(text)
    after = _after(_OPTION, text)
    spoken = letter(after.splitlines()[0]) if after else None
    if found is None:
        return spoken or letter(final_answer(text) or "")
    if spoken is not None and len(text) - len(after) > found.end:
        return spoken
    chosen = None if found.content is None else letter(found.content)
    return chosen or (None if found.content is None else spoken)


def final_number(text: str) -> Fraction | None:
    """The number that is marked; else the one after the last "answer is" or "####", of the first
    sentence there; else the last one of the text."""
    found = marked(text, box_first=True)
    if found is not None:
        return number(found.content)
    after = _after(_SPOKEN, text)
    if after:
        sentence = re.split(r"\.(?:\s|$)|\n", after, maxsplit=1)[0].rpartition("=")[2]
        match = _NUMBER.search(_without_typography(sentence))
        if match:
            return _value(match)
    return last_number(text)


def _after(announcement: re.Pattern, text: str) -> str:
    """What follows the last announcement, without the marks around it; "" where there is none."""
    last = collections.deque(announcement.finditer(text), maxlen=1)
    return text[last[0].end() :].lstrip(":\uff1a* \t\r\n") if last else ""


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
    r"""LaTeX's thin spaces and guarded commas (a decimal one, where no thousands follow), `\$`, and
    the Unicode minus sign."""
    text = re.sub(r"\{,\}(?!\d{3}(?!\d))", ".", text)
    for written, plain in (("{,}", ","), ("\\,", ""), ("\\!", ""), ("\\$", ""), ("\u2212", "-")):
        text = text.replace(written, plain)
    return text
