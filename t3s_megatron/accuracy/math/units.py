# SPDX-License-Identifier: Apache-2.0
"""Units of quantities as they are written in answers: dimension and factor of the known ones.

A unit that is not known (apples, ways) is told from another by its name only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

#: name: (dimension, factor, other spellings). Plurals are known; so are "square", "cubic", "^2".
_KNOWN: dict[str, tuple[str, Fraction, str]] = {
    "m": ("length", Fraction(1), "meter metre"),
    "nm": ("length", Fraction(1, 10**9), "nanometer nanometre"),
    "mm": ("length", Fraction(1, 1000), "millimeter millimetre"),
    "cm": ("length", Fraction(1, 100), "centimeter centimetre"),
    "dm": ("length", Fraction(1, 10), "decimeter decimetre"),
    "km": ("length", Fraction(1000), "kilometer kilometre"),
    "in": ("length", Fraction(254, 10000), "inch inches"),
    "ft": ("length", Fraction(3048, 10000), "foot feet"),
    "yd": ("length", Fraction(9144, 10000), "yard"),
    "mi": ("length", Fraction(1609344, 1000), "mile"),
    "s": ("time", Fraction(1), "sec second"),
    "ms": ("time", Fraction(1, 1000), "millisecond"),
    "min": ("time", Fraction(60), "minute"),
    "h": ("time", Fraction(3600), "hr hour"),
    "day": ("time", Fraction(86400), ""),
    "week": ("time", Fraction(604800), "wk"),
    "month": ("months", Fraction(1), ""),
    "year": ("months", Fraction(12), "yr"),
    "g": ("mass", Fraction(1), "gram gm"),
    "mg": ("mass", Fraction(1, 1000), "milligram"),
    "kg": ("mass", Fraction(1000), "kilogram kilo"),
    "lb": ("mass", Fraction(45359237, 100000), "lbs pound"),
    "oz": ("mass", Fraction(45359237, 1600000), "ounce"),
    "ton": ("tons", Fraction(1), "tonne"),
    "dollar": ("dollars", Fraction(1), "$ usd buck"),
    "cent": ("dollars", Fraction(1, 100), "penny pennies"),
    "euro": ("euros", Fraction(1), "eur \u20ac"),
    "sterling": ("sterling", Fraction(1), "gbp \u00a3"),
    "yen": ("yen", Fraction(1), "jpy \u00a5"),
    "rupee": ("rupees", Fraction(1), "\u20b9 rs inr"),
    "degree": ("angle", Fraction(1), "deg"),
    "radian": ("radians", Fraction(1), "rad"),
    "celsius": ("celsius", Fraction(1), ""),
    "fahrenheit": ("fahrenheit", Fraction(1), ""),
    "kelvin": ("kelvin", Fraction(1), "K"),
    "V": ("volts", Fraction(1), "volt"),
    "A": ("amperes", Fraction(1), "amp ampere"),
    "ohm": ("ohms", Fraction(1), ""),
    "mol": ("moles", Fraction(1), "mole"),
    "bit": ("bits", Fraction(1), ""),
    "byte": ("bits", Fraction(8), ""),
    "kilobyte": ("bits", Fraction(8000), "kb"),
    "megabyte": ("bits", Fraction(8000_000), "mb"),
    "gigabyte": ("bits", Fraction(8000_000_000), "gb"),
}
#: What is made of the above: factors with their powers.
_MADE: dict[str, tuple[dict[str, int], Fraction, str]] = {
    "L": ({"length": 3}, Fraction(1, 1000), "l liter litre"),
    "mL": ({"length": 3}, Fraction(1, 10**6), "ml milliliter millilitre cc"),
    "hectare": ({"length": 2}, Fraction(10000), "ha"),
    "N": ({"mass": 1, "length": 1, "time": -2}, Fraction(1000), "newton"),
    "kN": ({"mass": 1, "length": 1, "time": -2}, Fraction(10**6), "kilonewton"),
    "J": ({"mass": 1, "length": 2, "time": -2}, Fraction(1000), "joule"),
    "kJ": ({"mass": 1, "length": 2, "time": -2}, Fraction(10**6), "kilojoule"),
    "W": ({"mass": 1, "length": 2, "time": -3}, Fraction(1000), "watt"),
    "kW": ({"mass": 1, "length": 2, "time": -3}, Fraction(10**6), "kilowatt"),
    "Pa": ({"mass": 1, "length": -1, "time": -2}, Fraction(1000), "pascal"),
    "kPa": ({"mass": 1, "length": -1, "time": -2}, Fraction(10**6), "kilopascal"),
    "Hz": ({"time": -1}, Fraction(1), "hertz"),
    "kph": ({"length": 1, "time": -1}, Fraction(1000, 3600), "kmh kmph"),
    "mph": ({"length": 1, "time": -1}, Fraction(1609344, 3600000), ""),
}
#: Words that multiply the number before them.
SCALES = {
    "dozen": 12,
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_PREFIXES = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}


@dataclass(frozen=True)
class Unit:
    """`dimension`: names and powers, in order; `factor` to the units that the dimensions are
    counted in; `name`: of an unknown one, which has no factor."""

    dimension: tuple[tuple[str, int], ...]
    factor: Fraction = Fraction(1)
    name: str = ""


def _table() -> dict[str, tuple[dict[str, int], Fraction]]:
    table: dict[str, tuple[dict[str, int], Fraction]] = {}
    simple = {name: ({of: 1}, factor, more) for name, (of, factor, more) in _KNOWN.items()}
    for name, (powers, factor, more) in (simple | _MADE).items():
        for spelling in (name, *more.split()):
            table[spelling] = powers, factor
            if len(spelling) > 2:
                table[f"{spelling}s"] = powers, factor
    return table


_TABLE = _table()


def is_known(word: str) -> bool:
    """Whether `word` names a unit. One letter does in its own case only."""
    return _found(word) is not None or word.lower() in _PREFIXES


def _found(word: str) -> tuple[dict[str, int], Fraction] | None:
    if word in _TABLE:
        return _TABLE[word]
    return _TABLE.get(word.lower()) if len(word) > 2 else None


def read_unit(text: str) -> Unit | None:
    """The unit that all of `text` is: words with powers, joined by products, "/" or "per". None for
    an empty text."""
    text = re.sub(r"\s*squared\b", "^2", re.sub(r"\s*cubed\b", "^3", text))
    tokens = re.findall(r"[A-Za-z$\u20ac\u00a5\u20b9\u00a3]+|\^\{?-?\d+\}?|/", text)
    powers: dict[str, int] = {}
    factor, names = Fraction(1), []
    sign, prefix = 1, 1
    for i, token in enumerate(tokens):
        if token == "/" or token == "per":
            sign = -1
        elif token.startswith("^"):
            continue
        elif token.lower() in _PREFIXES and i + 1 < len(tokens):
            prefix = _PREFIXES[token.lower()]
        else:
            after = tokens[i + 1] if i + 1 < len(tokens) else ""
            written = int(after.strip("^{}")) if after.startswith("^") else 1
            power, prefix = sign * prefix * written, 1
            found = _found(token)
            if found is None:
                names.append(f"{_singular(token)}{power if power != 1 else ''}")
                continue
            for quality, exponent in found[0].items():
                powers[quality] = powers.get(quality, 0) + exponent * power
            factor *= found[1] ** power
    dimension = tuple(sorted((name, power) for name, power in powers.items() if power))
    if not names and not powers:
        return None
    return Unit(dimension, factor, " ".join(names))


def _singular(word: str) -> str:
    word = word.lower()
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
