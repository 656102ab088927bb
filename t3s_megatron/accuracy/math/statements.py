# SPDX-License-Identifier: Apache-2.0
"""A second look at mathematical answers: what stands around the values that the engine compares.

The engine drops units, words, moduli, bases and the order of lists, takes a time of day for a
quotient and per cent for a number. Here each of these is read from both texts, and they have to
agree where both say it. What cannot be decided is UNPARSEABLE, never right.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from t3s_megatron.accuracy.extraction import letter
from t3s_megatron.accuracy.math import engine
from t3s_megatron.accuracy.math.notation import WORD, bracketed, tidy, top_level
from t3s_megatron.accuracy.math.readings import (
    Congruence,
    Quantity,
    based,
    clock,
    congruence,
    quantity,
)
from t3s_megatron.accuracy.math.units import read_unit
from t3s_megatron.accuracy.verdicts import Verdict

CORRECT, WRONG, UNPARSEABLE = Verdict.CORRECT, Verdict.WRONG, Verdict.UNPARSEABLE

_LISTED = re.compile(rf"\s*[,;]\s*(?:{WORD}?(?:and|or)\b\s*)?|\s+{WORD}?(?:and|or)\b\s*")
_EQUALS = re.compile(r"(?<![<>!:\\])=(?!=)")
_NAME = re.compile(rf"{WORD}?\\?[A-Za-z]+\d?'*(?:_\{{?\w+\}}?)?(?:\([A-Za-z]\))?")
_WHOLE = re.compile(r"\\begin|\\cup|\\cap|\\setminus|\\in\b|\\mid|\|\s*x|\\to\b|\\mapsto|\\pm|\\mp")
_OPTION = re.compile(r"[A-J]")
# An option with what it says: (C) 12. What begins otherwise may be a factor.
_CHOSEN = re.compile(
    rf"\({WORD}?(?P<letter>[A-J])\)\s*(?P<value>(?:\d|\\frac|\\sqrt|\\pi|\\?\$).*)"
)
_APART = re.compile(r"\d\s+\d")  # the engine reads 1 2 as 12
_RATIO = re.compile(r"\d+(?:\s*:\s*\d+)+")
_COLON = re.compile(r"\s*:\s*")
_LOGARITHM = re.compile(r"\\log(?![A-Za-z])(?!\s*_)")
_DEGREE, _RADIAN = read_unit("degree"), read_unit("radian")
_LETTERS = re.compile(rf"(?:{WORD}?[A-Za-z]++[\s-]*+)+\.?")


def compare(gold: str, answer: str) -> Verdict:
    """What `answer` is worth where `gold` is right: both are mathematics without a sentence around
    it. ValueError when the gold answer means nothing."""
    if engine.too_long(answer):
        return UNPARSEABLE
    wanted, found = tidy(gold), tidy(answer)
    asked, chosen = _CHOSEN.fullmatch(wanted), _CHOSEN.fullmatch(found)
    wanted_option = asked["letter"] if asked else wanted if _OPTION.fullmatch(wanted) else None
    option = chosen["letter"] if chosen else letter(answer)
    if wanted_option is not None and option is not None:  # B) 42
        return CORRECT if option == wanted_option else WRONG
    if asked or chosen:  # of what only one side names, the value counts
        wanted, found = (
            said["value"] if said else text for said, text in ((asked, wanted), (chosen, found))
        )
    verdict = _in_every_reading(wanted, found)
    if verdict is UNPARSEABLE and _understood(found) and not _means_something(wanted):
        raise ValueError(f"the gold answer {gold[:80]!r} cannot be parsed")
    return verdict


def _in_every_reading(gold: str, answer: str) -> Verdict:
    """A logarithm without a base is of base 10 or e, on both sides alike: what is right in one
    reading only cannot be decided."""
    if _squeezed(gold) == _squeezed(answer) or not _LOGARITHM.search(f"{gold} {answer}"):
        return _compare(gold, answer)
    readings = set()
    for base in (r"\\ln ", r"\\log_{10}"):  # written as the replacement of a pattern
        readings.add(_compare(_LOGARITHM.sub(base, gold), _LOGARITHM.sub(base, answer)))
    return readings.pop() if len(readings) == 1 else UNPARSEABLE


def _compare(gold: str, answer: str) -> Verdict:
    if not answer:
        return UNPARSEABLE
    if _squeezed(gold) == _squeezed(answer) and _means_something(gold):
        return CORRECT
    for look in (_as_clocks, _as_ratios, _as_congruences, _in_bases, _as_lists, _as_words):
        verdict = look(gold, answer)
        if verdict is not None:
            return verdict
    return _as_quantities(gold, answer)


def _understood(text: str) -> bool:
    return bool(engine.parse(text.replace(WORD, ""))) or bool(_LETTERS.fullmatch(text))


def _means_something(text: str) -> bool:
    """Whether it is understood as what it is, also where the engine has no value for it."""
    return _understood(text) or clock(text) is not None or congruence(text) is not None


def _squeezed(text: str) -> str:
    """Without white space, but for that between two numbers."""
    return re.sub(rf"(?<!\d)[\s{WORD}]+|[\s{WORD}]+(?!\d)", "", text)


def _value(text: str) -> Fraction | None:
    """An exact number; None for anything else."""
    number = engine.value(engine.parse(text))
    try:
        return Fraction(str(number)) if number is not None else None
    except (ValueError, ZeroDivisionError):
        return None


# ------------------------------------------------------------------- time of day, modulus and base


def _as_clocks(gold: str, answer: str) -> Verdict | None:
    one, other = clock(gold), clock(answer)
    if one is None and other is None:
        return None
    if one is None or other is None:
        # A ratio, where the other is one that no clock shows.
        return None if _RATIO.fullmatch(answer if other is None else gold) else UNPARSEABLE
    if one[1] == other[1] and one[0] == other[0]:
        return CORRECT
    # 4:40 may be 4:40 p.m. where only one side says so.
    alike = bool(one[2]) != bool(other[2]) and (one[0] - other[0]) % 720 == 0
    return CORRECT if alike and one[1] == other[1] else WRONG


def _as_ratios(gold: str, answer: str) -> Verdict | None:
    """Of three numbers and more, which the engine would divide one by the other."""
    one, other = top_level(gold, _COLON), top_level(answer, _COLON)
    if max(len(one), len(other)) < 3:
        return None
    if len(one) != len(other):
        return WRONG if min(len(one), len(other)) > 1 else UNPARSEABLE
    values = [(_value(a), _value(b)) for a, b in zip(one, other, strict=True)]
    pairs = [(a, b) for a, b in values if a is not None and b is not None]
    if len(pairs) < len(values):
        return CORRECT if _in_order(one, other) is CORRECT else UNPARSEABLE
    measure = next((pair for pair in pairs if any(pair)), (1, 1))
    same = all(a * measure[1] == b * measure[0] for a, b in pairs)
    return CORRECT if same and all(measure) else WRONG


def _as_congruences(gold: str, answer: str) -> Verdict | None:
    one, other = congruence(gold), congruence(answer)
    if one is None and other is None:
        return None
    if one is not None and other is not None:
        same_modulus = _compare(one.modulus, other.modulus)
        if same_modulus is not CORRECT:
            return same_modulus
        residues = [_residues(said) for said in (one, other)]
        if None in residues:
            return _compare(one.residues, other.residues)
        return CORRECT if residues[0] == residues[1] else WRONG
    said = one or other
    assert said is not None
    number = said.residues
    if said.is_value and (reduced := _residues(said)) is not None and len(reduced) == 1:
        number = str(min(reduced))
    return _compare(number, answer) if one is said else _compare(gold, number)


def _residues(said: Congruence) -> frozenset[int] | None:
    modulus = _value(said.modulus)
    parts = [_value(part) for part in top_level(said.residues, _LISTED)]
    if not modulus or modulus.denominator != 1:
        return None
    if any(part is None or part.denominator != 1 for part in parts):
        return None
    return frozenset(int(part) % int(modulus) for part in parts if part is not None)


def _in_bases(gold: str, answer: str) -> Verdict | None:
    one, other = based(gold), based(answer)
    if one is None and other is None:
        return None
    values = []
    for said, text in ((one, gold), (other, answer)):
        try:
            values.append(_value(text) if said is None else Fraction(int(*said)))
        except ValueError:  # a digit that the base does not have
            return UNPARSEABLE if said is other else WRONG
    if None in values:
        return UNPARSEABLE
    if values[0] == values[1]:
        return CORRECT
    # The base may have been the question's.
    digits = [said[0] if said else text for said, text in ((one, gold), (other, answer))]
    return UNPARSEABLE if None in (one, other) and digits[0] == digits[1] else WRONG


# ------------------------------------------------------------------------------------------- lists


class _List(NamedTuple):
    kind: str  # "\\{", "(", "[", or "" without brackets
    parts: list[str]


def _listed(text: str) -> _List | None:
    """None for what is no list, intervals with two kinds of brackets among it."""
    outer = bracketed(text)
    if outer is None:
        parts = top_level(text, _LISTED)
        return _List("", parts) if len(parts) > 1 and all(parts) else None
    opening, inside, closing = outer
    if (opening, closing) not in (("\\{", "\\}"), ("(", ")"), ("[", "]")) or "|" in inside:
        return None
    parts = top_level(inside, _LISTED)
    if len(parts) > 1 or opening == "\\{":
        return _List(opening, [part for part in parts if part])
    return None


def _as_lists(gold: str, answer: str) -> Verdict | None:
    if _WHOLE.search(gold) or _WHOLE.search(answer):
        return None
    gold, answer = _bare(gold), _bare(answer)
    one, other = _listed(gold), _listed(answer)
    if one is None and other is None:
        return None
    if one is None or other is None:
        return _single(gold, one, answer, other)
    if one.kind and other.kind and one.kind != other.kind:
        return WRONG
    if any("\\ldots" in part for part in (*one.parts, *other.parts)):
        if len(one.parts) != len(other.parts):
            return UNPARSEABLE
        pairs = zip(one.parts, other.parts, strict=True)
        return _all([CORRECT if a == b else _compare(a, b) for a, b in pairs])
    if "\\{" in (one.kind, other.kind):
        if other.kind == "\\{" != one.kind and len(one.parts) != len(other.parts):
            return WRONG
        return _as_sets(one.parts, other.parts)
    if len(one.parts) != len(other.parts):
        return WRONG
    if one.kind or other.kind:
        return _in_order(one.parts, other.parts)
    return _without_brackets(one.parts, other.parts)


def _bare(text: str) -> str:
    """Without brackets around one value: (B) is B, and (5) is 5."""
    outer = bracketed(text)
    if outer and outer[0] == "(" and outer[2] == ")" and len(top_level(outer[1], _LISTED)) == 1:
        return outer[1]
    return text


def _single(gold: str, one: _List | None, answer: str, other: _List | None) -> Verdict | None:
    """One side is a list. A set of one element is its element."""
    listed = one or other
    assert listed is not None
    if len(listed.parts) == 1:
        return _compare(one.parts[0] if one else gold, other.parts[0] if other else answer)
    between = re.compile(r"<|>|\\l[et]|\\g[et]|\\ne")
    if between.search(gold) or between.search(answer):
        return None  # an interval and an inequality, perhaps
    return WRONG


def _in_order(gold: list[str], answer: list[str]) -> Verdict:
    return _all([_compare(a, b) for a, b in zip(gold, answer, strict=True)])


def _all(verdicts: list[Verdict]) -> Verdict:
    if WRONG in verdicts:
        return WRONG
    return UNPARSEABLE if UNPARSEABLE in verdicts else CORRECT


def _as_sets(gold: list[str], answer: list[str]) -> Verdict:
    """Each of one side among the other."""
    met = [[_compare(a, b) for b in answer] for a in gold]
    rows = [*met, *map(list, zip(*met, strict=True))]
    if all(CORRECT in row for row in rows):
        return CORRECT
    return WRONG if all(CORRECT in row or UNPARSEABLE not in row for row in rows) else UNPARSEABLE


def _without_brackets(gold: list[str], answer: list[str]) -> Verdict:
    """Solutions, in any order; or a sequence. A sequence is what is not in the order of its size,
    and what has different names."""
    named = [_named(part) for part in gold], [_named(part) for part in answer]
    golds, answers = ([name for name, _ in side] for side in named)
    if None not in golds and None not in answers and len(set(golds)) == len(golds):
        values = dict(named[1])
        if len(values) != len(answers) or values.keys() != set(golds):
            return WRONG
        return _all([_compare(value, values[name]) for name, value in named[0]])
    in_order = _in_order(gold, answer)
    if in_order is CORRECT or not _permuted(gold, answer):
        return in_order if in_order is not UNPARSEABLE else UNPARSEABLE
    distinct = len(set(golds)) > 1 or len(set(answers)) > 1
    return UNPARSEABLE if distinct or not _sorted([value for _, value in named[0]]) else CORRECT


def _permuted(gold: list[str], answer: list[str]) -> bool:
    left = list(answer)
    for part in gold:
        found = next((other for other in left if _compare(part, other) is CORRECT), None)
        if found is None:
            return False
        left.remove(found)
    return True


def _sorted(parts: list[str]) -> bool:
    """Whether numbers come by their size, up or down, with or without the sign. What is no number
    has no order that could be told from another."""
    numbers = [engine.value(engine.parse(part)) for part in parts]
    try:
        values = [float(number) for number in numbers if number is not None]
    except (TypeError, OverflowError):  # complex
        return True
    if len(values) < len(parts):
        return True
    orders = (values, values[::-1], [abs(v) for v in values], [abs(v) for v in values][::-1])
    return any(order == sorted(order) for order in orders)


def _named(part: str) -> tuple[str | None, str]:
    """(name, value) of "x = 5"; (None, it) of "5"."""
    sides = _EQUALS.split(part)
    if len(sides) > 1 and _NAME.fullmatch(sides[0].strip()):
        return _squeezed(sides[0]), sides[-1].strip()
    return None, part


# ------------------------------------------------------------------------- words, units and values


def _as_words(gold: str, answer: str) -> Verdict | None:
    """Names and words: order counts, and letters are no factors."""
    if not (_LETTERS.fullmatch(gold) and _LETTERS.fullmatch(answer)):
        return None
    one, other = (re.sub(rf"[\s.{WORD}-]+", "", text) for text in (gold, answer))
    if one == other or (min(len(one), len(other)) > 1 and one.lower() == other.lower()):
        return CORRECT
    if len(one) > 1 and sorted(one.lower()) == sorted(other.lower()):
        return UNPARSEABLE  # BCA and ABC; or a product
    return None


def _as_quantities(gold: str, answer: str) -> Verdict:
    one, other = (quantity(text, False) for text in (gold, answer))
    if (one.unit is None) != (other.unit is None):
        one, other = (quantity(text, True) for text in (gold, answer))
    if one.prose or other.prose:
        return UNPARSEABLE
    value = other.value
    if one.unit and other.unit and one.unit != other.unit:
        if one.unit.name or other.unit.name:
            return UNPARSEABLE  # students are people, and apples are not oranges
        if {one.unit, other.unit} == {_DEGREE, _RADIAN}:
            return _values(_radians(one), _radians(other))
        if one.unit.dimension != other.unit.dimension:
            return WRONG
        ratio = other.unit.factor / one.unit.factor
        value = rf"({value}) \cdot \frac{{{ratio.numerator}}}{{{ratio.denominator}}}"
    return _values(one.value, value)


def _radians(said: Quantity) -> str:
    return rf"({said.value}) \cdot \frac{{\pi}}{{180}}" if said.unit == _DEGREE else said.value


def _values(gold: str, answer: str) -> Verdict:
    """By the engine. A chain of equations has to hold."""
    sides = [side.strip() for side in _EQUALS.split(answer)]
    numbers = [parsed for side in sides if engine.value(parsed := engine.parse(side)) is not None]
    if len(sides) > 1 and len(numbers) > 1:
        if not all(engine.same(numbers[0], n) and engine.close(numbers[0], n) for n in numbers[1:]):
            return WRONG
        if len(_EQUALS.split(gold)) == 1:
            answer = sides[-1]
    wanted, found = (engine.parse(text.replace(WORD, "")) for text in (gold, answer))
    if not found or not wanted or (_APART.search(answer) and "\\begin" not in answer):
        return UNPARSEABLE
    same = engine.same(wanted, found)
    if same is None:
        return UNPARSEABLE
    if same and engine.close(wanted, found):
        return CORRECT
    return CORRECT if engine.same_with_imaginary_unit(wanted, found) else WRONG
