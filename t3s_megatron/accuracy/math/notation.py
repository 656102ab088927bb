# SPDX-License-Identifier: Apache-2.0
"""Notations that say the same, in one that the engine reads."""

from __future__ import annotations

import re

#: Stands before each word that was set as text, in `\text{cm}`: it is no product of letters.
WORD = "\u00a7"

_PLAIN = (
    ("\u2212", "-"), ("\u2013", "-"), ("\u00d7", r"\times "), ("\u00b7", r"\cdot "),
    ("\u22c5", r"\cdot "), ("\u00f7", "/"), ("\u00b0", r"^\circ "), ("\u03c0", r"\pi "),
    ("\u00b2", "^2"), ("\u00b3", "^3"), ("\u2264", r"\le "), ("\u2265", r"\ge "),
    ("\u2260", r"\ne "), ("\u221e", r"\infty "), ("\u2026", r"\ldots "), ("\u222a", r"\cup "),
    ("\u2261", r"\equiv "), ("\u00bd", r"\frac{1}{2}"), ("\u2009", r"\,"), ("\u202f", r"\,"),
    ("\u00a0", " "), ("\u27e8", r"\langle "), ("\u27e9", r"\rangle "), (r"\displaystyle", ""),
    (r"\dfrac", r"\frac"), (r"\tfrac", r"\frac"), (r"\lbrace", r"\{"), (r"\rbrace", r"\}"),
    (r"\quad", " "), (r"\qquad", " "), ("~", " "), (r"\dots", r"\ldots"), (r"\cdots", r"\ldots"),
    (r"^{\circ}", r"^\circ "), (r"^ \circ", r"^\circ "), (r"\degree", r"^\circ "),
    (r"\varnothing", r"\emptyset"), (r"\mod ", r"\bmod "),
)  # fmt: skip
_SIZES_AND_SPACES = re.compile(r"\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])|(?<!\\)\\([!;: ])")
_SET_AS_TEXT = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox|operatorname|rm)\s*\{([^{}]*)\}"
)
_GROUPS = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:\\,|\{,\}| |,)\d{3})+(?!\d)")
_SCIENTIFIC = re.compile(r"(?<![\w\\}])(\d+(?:\.\d*)?|\.\d+)[eE]([+-]?\d{1,9})(?!\w)")
_MIXED = re.compile(r"(?<![\w.}^_/])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\w/.])")
_DEGREES_IN = re.compile(r"(\\(?:sin|cos|tan|cot|sec|csc)\b[^,;=]*?)(\d+(?:\.\d+)?)\s*\^\\circ ?")
_NAMES = "ln|log|lg|exp|sin|cos|tan|cot|arcsin|arccos|arctan"
_NAMED_FUNCTION = re.compile(rf"(?<![\\A-Za-z{WORD}]){WORD}?({_NAMES})(?![A-Za-z])")
_NAMED_BASE = re.compile(r"\\log\s*_\s*(?:\{\s*(\w+)\s*\}|(\d+)(?=\s*\()|(\w))")
_ISO = {"lg": 10, "lb": 2}  # ISO 80000-2
_FULL_WIDTH = {0xFF01 + n: 0x21 + n for n in range(94)}
_REPEATING = re.compile(
    r"(?<![\w.])(\d{0,30})\.(\d{0,30})\\(?:overline|bar|dot)\s*(?:\{(\d{1,30})\}|(\d))"
)
_ORDINAL = re.compile(
    rf"(?<![\w.])(\d+)(?:\^\s*\{{\s*{WORD}?(?:st|nd|rd|th)\s*\}}|{WORD}?(?:st|nd|rd|th)\b)"
)
_EMPTY_SET = re.compile(r"\\\{\s*\\\}")
_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
).split()


def tidy(text: str) -> str:
    """`text` without what only looks different. Total, and linear in the text."""
    text = _unwrapped(text.translate(_FULL_WIDTH).strip())
    text = _SIZES_AND_SPACES.sub(lambda match: " " if (match[1] or "!") != "!" else "", text)
    for written, plain in _PLAIN:
        text = text.replace(written, plain)
    text = _SET_AS_TEXT.sub(_words, text)
    text = _ORDINAL.sub(r"\1", text)
    text = _EMPTY_SET.sub(r"\\emptyset ", text)
    text = _REPEATING.sub(_repeating, text)
    text = _NAMED_FUNCTION.sub(r"\\\1", text)
    text = re.sub(r"\\(l[gb])\b", lambda match: rf"\log_{{{_ISO[match[1]]}}}", text)
    text = _NAMED_BASE.sub(_logarithm, text)
    text = _GROUPS.sub(lambda match: re.sub(r"\D", "", match[0]), text)
    text = text.replace("{,}", ".").replace(r"\,", " ")
    text = _SCIENTIFIC.sub(r"\1 \\times 10^{\2}", text)
    text = _MIXED.sub(r"(\1+\\frac{\2}{\3})", text)
    text = re.sub(r"\\langle\b(.*)\\rangle\b", r"(\1)", text)
    text = re.sub(r"\\?\bsqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = _DEGREES_IN.sub(r"\1{\\frac{\2 \\pi}{180}}", text)
    text = re.sub(r"(?<=[^\s\d])\s*\.\s*$|(?<=\d)\.\s*$", "", text).strip()
    word = text.replace(WORD, "").strip().lower()
    return str(_NUMBERS.index(word)) if word in _NUMBERS else " ".join(text.split())


def _unwrapped(text: str) -> str:
    for opening, closing in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        inside = text.removesuffix(".").strip()
        if len(inside) > len(opening + closing) and inside.startswith(opening):
            inner = inside.removeprefix(opening).removesuffix(closing)
            if inside.endswith(closing) and closing not in inner and not inner.endswith("\\"):
                return inner.strip()
    return text


def _logarithm(match: re.Match) -> str:
    base = match[1] or match[2] or match[3]
    return r"\ln " if base == "e" else rf"\log_{{{base}}}"


def _repeating(match: re.Match) -> str:
    """0.1 with 6 over and over, as 15/90."""
    whole, before, over = match[1], match[2], match[3] or match[4]
    top = int(whole + before + over) - int(whole + before or "0")
    return rf"\frac{{{top}}}{{{(10 ** len(over) - 1) * 10 ** len(before)}}}"


def _words(match: re.Match) -> str:
    """Each word marked as one, numbers and signs as they are."""
    inside = re.sub(r"[A-Za-z]+", lambda word: WORD + word[0], match[1])
    return f" {inside} " if inside.strip() != inside or " " in inside else inside


def top_level(text: str, separators: re.Pattern) -> list[str]:
    """`text` split where a separator stands in no bracket."""
    parts, start, depth, i = [], 0, 0, 0
    while i < len(text):
        if text[i] == "\\" and i + 1 < len(text) and text[i + 1] in "{}":
            depth += 1 if text[i + 1] == "{" else -1
            i += 2
            continue
        depth += (text[i] in "([{") - (text[i] in ")]}")
        match = separators.match(text, i) if depth == 0 else None
        if match and match.end() > i:
            parts.append(text[start:i])
            start = i = match.end()
            continue
        i += 1
    return [part.strip() for part in (*parts, text[start:])]


def bracketed(text: str) -> tuple[str, str, str] | None:
    r"""(opening, inside, closing) where one pair of brackets holds all of `text`; `\{` is a bracket
    of sets."""
    for opening, closing in ((r"\{", r"\}"), ("(", ")"), ("[", "]"), ("(", "]"), ("[", ")")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > len(opening):
            inside = text[len(opening) : len(text) - len(closing)]
            if not inside.endswith("\\") and _balanced(inside):
                return opening, inside.strip(), closing
    return None


def _balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return False
    return depth == 0
