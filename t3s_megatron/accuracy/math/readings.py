# SPDX-License-Identifier: Apache-2.0
"""What an answer says besides its value: time of day, modulus, base, unit, per cent, words."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from t3s_megatron.accuracy.math.notation import WORD
from t3s_megatron.accuracy.math.units import SCALES, Unit, is_known, read_unit

_CLOCK = re.compile(
    rf"(\d{{1,2}})(?::([0-5]\d))?(?::([0-5]\d))?\s*(?:{WORD}?([apAP])\.?\s*{WORD}?[mM]\b\.?)?"
)
_BASE = re.compile(
    rf"\(?{WORD}?([0-9A-Za-z]+)\)?\s*(?:_\s*\{{?\s*{WORD}?(\w+)\s*\}}?"
    rf"|\(?\s*(?:{WORD}?in\s+)?{WORD}?base\s*{WORD}?(\w+)\s*\)?)"
)
_MODULUS = re.compile(
    rf"(?P<bare>\s\\bmod|\s{WORD}?mod(?:ulo)?\b)|\\pmod|\(\s*(?:\\bmod|\\mod|{WORD}?mod(?:ulo)?)\b"
)
_PROSE = frozenset(
    "not no none is are isn't or if than least most cannot can't impossible unless except never "
    "undefined only both either neither exist does exists more less about approximately but".split()
)
# Possessive: what a word has taken it does not give back, or a long one would take for ever.
_UNIT = rf"(?:/|\\cdot|\*|-)?\s*+{WORD}?[A-Za-z]++\.?(?:\s*\^\s*\{{?-?\d\}}?)?\s*+"
_TAIL = re.compile(
    r"(?P<value>.*[\d)}!]|.*\\pi|[A-Za-z])\s*(?P<tail>(?<=[\d)}!\sA-Za-z])"
    rf"(?:\^\\circ\s*(?:{WORD}?[CFK]\b)?|\\?%|{_UNIT})+)"
)
_CURRENCY = re.compile(
    r"(?P<sign>-?)\s*(?:\\?(?P<symbol>[$\u20ac\u00a5\u20b9\u00a3])|\\pounds)\s*(?=[\d.])"
)
_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
          "ten": 10, "twelve": 12, "sixteen": 16}  # fmt: skip


def clock(text: str) -> tuple[int, int, str] | None:
    """(minute of the day, second, a or p or nothing). 12 and 24 hours."""
    match = _CLOCK.fullmatch(text)
    if match is None or int(match[1]) > 24 or not (match[2] or match[4]):
        return None
    half = (match[4] or "").lower()
    hour = int(match[1])
    if half and hour > 12:
        return None
    hour = hour % 12 + 12 * (half == "p") if half else hour
    return hour * 60 + int(match[2] or 0), int(match[3] or 0), half


class Congruence(NamedTuple):
    residues: str
    modulus: str
    is_value: bool  # a number, as 7 mod 4 is 3; no congruence


def congruence(text: str) -> Congruence | None:
    match = _MODULUS.search(text)
    if match is None:
        return None
    residues = text[: match.start()].rstrip(" (,")
    modulus = text[match.end() :].strip(" (){}.")
    is_value = match["bare"] is not None and "\\equiv" not in residues
    return Congruence(re.split(r"\\equiv|=", residues)[-1].strip(), modulus, is_value)


def based(text: str) -> tuple[str, int] | None:
    match = _BASE.fullmatch(text)
    if match is None or not match[1][0].isalnum():
        return None
    said = (match[2] or match[3]).lower()
    base = _BASES.get(said) or (int(said) if said.isascii() and said.isdigit() else None)
    digits = match[1].upper()
    if base is None or not 2 <= base <= 36 or (digits[0].isalpha() and not match[3] and base < 11):
        return None
    return digits, base


class Quantity(NamedTuple):
    value: str
    unit: Unit | None
    prose: bool


def quantity(text: str, letters: bool) -> Quantity:
    """`letters`: a single letter after a number is a unit, as in 5m, and no factor."""
    currency = _CURRENCY.match(text)
    unit = None
    if currency:
        symbol = currency["symbol"]
        text = currency["sign"] + text[currency.end() :]
        unit = read_unit(symbol or "sterling")
    if (parts := _compound(text)) is not None:
        return parts
    match = _TAIL.fullmatch(text)
    if match is None:
        return Quantity(text, unit, False)
    value, tail = match["value"].strip(), match["tail"].strip()
    words = re.findall(rf"({WORD}?)([A-Za-z]+)", tail.replace("\\circ", "").replace("\\cdot", ""))
    if any(word.lower() in _PROSE for _, word in words):
        return Quantity(text, unit, True)
    apart = text[len(match["value"]) :][:1].isspace()
    if not all(mark or _is_unit(word, apart, letters) for mark, word in words):
        return Quantity(text, unit, False)
    if re.search(r"\d\s+\d", value):
        return Quantity(text, unit, False)
    if "%" in tail or any(word.lower() in ("percent", "percentage") for _, word in words):
        return Quantity(rf"\frac{{{value}}}{{100}}", unit, False)
    for _, word in words:
        scale = SCALES.get(word.lower().removesuffix("s") if word.lower() != "s" else word)
        if scale:
            value = rf"({value}) \cdot {scale}"
            tail = re.sub(rf"{WORD}?{word}\b", "", tail)
    if "^\\circ" in tail:
        scale_of = {"C": "celsius", "F": "fahrenheit"}.get(words[0][1] if words else "", "degree")
        tail = scale_of
    written = tail.replace(WORD, "").replace("\\cdot", " ").replace("*", " ").replace("-", " ")
    return Quantity(
        value, read_unit(re.sub(r"\bof\b|\bthe\b|\beach\b", "", written)) or unit, False
    )


def _is_unit(word: str, apart: bool, letters: bool) -> bool:
    if len(word) == 1:
        return (apart or letters) and is_known(word)
    scale = word.lower().removesuffix("s") in SCALES or word.lower().startswith("percent")
    return is_known(word) or scale or (apart and len(word) > 3)


def _compound(text: str) -> Quantity | None:
    """2 hours 30 minutes, as one quantity."""
    found = re.findall(rf"(\d+(?:\.\d+)?)\s*{WORD}?([A-Za-z]+)\.?", text)
    rest = re.sub(rf"(\d+(?:\.\d+)?)\s*{WORD}?([A-Za-z]+)\.?|{WORD}?\band\b|[\s,]", "", text)
    if len(found) < 2 or rest:
        return None
    units = [read_unit(word) for _, word in found]
    if any(unit is None or unit.name or unit.dimension != units[0].dimension for unit in units):  # type: ignore[union-attr]
        return None
    total = sum(
        Fraction(n) * unit.factor for (n, _), unit in zip(found, units, strict=True) if unit
    )
    dimension = units[0].dimension if units[0] else ()
    return Quantity(rf"\frac{{{total.numerator}}}{{{total.denominator}}}", Unit(dimension), False)
