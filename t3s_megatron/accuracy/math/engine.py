# SPDX-License-Identifier: Apache-2.0
"""Mathematical answers compared by what they mean, with math-verify (sympy underneath).

For a worker process: math-verify's own timeouts are alarms that end in a BaseException, and are
switched off. Instead, what would take for ever is seen before it is evaluated (`too_large`), and
the processor time for one answer is bounded (`Bound`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import re
import resource
import signal
from collections.abc import Iterator

import math_verify
import sympy
from math_verify.grader import INVERSE_RELATIONS

from t3s_megatron.accuracy.verdicts import TooHard

# It warns at each comparison that it has no timeout.
logging.getLogger("math_verify").setLevel(logging.ERROR)
# Without it every comparison of x != 3 with another relation ends in a KeyError.
INVERSE_RELATIONS.setdefault(sympy.Ne, sympy.Ne)

# A boxed answer first, and only then whatever else looks like mathematics.
_LENIENT = math_verify.LatexExtractionConfig(boxed_match_priority=0)
# It knows hundreds of units, in any of which a product of variables disappears: 2ab is read as 2.
_STRICT = dataclasses.replace(
    _LENIENT,
    normalization_config=dataclasses.replace(_LENIENT.normalization_config, units=False),
)
#: Digits of the largest number, the highest power of a sum and terms of the longest sum that are
#: still computed with; characters of the longest text that is still read, and brackets in brackets.
_DIGITS, _POWER, _TERMS, _CHARACTERS, _DEPTH = 40_000, 300, 10_000, 2_000, 50
_AFTER_A_BRACE = re.compile(r"\}\s*(\d+(?:\.\d+)?)")
#: Two numbers, at least one of them a decimal, are one within this share of the larger.
_DECIMALS, _EXACT = 2e-6, sympy.Float("1e-25", 40)


def too_long(text: str) -> bool:
    """Whether `text` would take for ever to parse."""
    if len(text) > _CHARACTERS:
        return True
    depth = deepest = 0
    for character in text:
        depth += (character in "({[") - (character in ")}]")
        deepest = max(depth, deepest)
    return deepest > _DEPTH


def parse(text: str) -> list:
    """What `text`, mathematics without units and words around it, may mean: sympy expressions, or
    [] when it means nothing in mathematics. Total."""
    # Of LaTeX that it cannot read the engine would take the last number: \\arg 5 for 5.
    plain = "\\" not in text
    if "\\begin" not in text:
        # Of \\frac{1}{2} 16 it would read the last factor as 1 and 6.
        text = _AFTER_A_BRACE.sub(r"}{\1}", text)
    return parse_sentence(f"\\boxed{{{text}}}", _STRICT, plain=plain)


def parse_sentence(
    text: str, latex: math_verify.LatexExtractionConfig = _LENIENT, *, plain: bool = True
) -> list:
    """What the mathematics in a sentence may mean, units dropped; `plain`: also where it is no
    LaTeX. Total."""
    if too_long(text):
        return []
    try:
        how = (latex, math_verify.ExprExtractionConfig()) if plain else (latex,)
        found = math_verify.parse(text, how, fallback_mode="no_fallback", parsing_timeout=None)
    except Exception:  # what sympy cannot read it leaves with any type
        return []
    return [expression for expression in found if not isinstance(expression, str)]


def same(gold: list, found: list) -> bool | None:
    """Whether one meaning of `found` is one of `gold`; None when that cannot be said. Not
    symmetric: what is gold has the say over forms, as in x = 5 against 5."""
    if any(map(too_large, (*gold, *found))):
        if any(one == other for one in gold for other in found):
            return True
        # A number that nobody can write out is not one that somebody has written out.
        return None if any(map(too_large, gold)) else False
    try:
        return math_verify.verify(gold, found, timeout_seconds=None, raise_on_error=True)
    except Exception:  # sympy gives up with any type; the process is well
        return None


def close(gold: list, found: list) -> bool:
    """What `same` took for one number: is it? It compares to six decimals, and so takes all small
    numbers for zero. True for what is no number."""
    one, other = _number(gold), _number(found)
    if one is None or other is None:
        return True
    equal = _equal(one, other)
    return True if equal is None else equal


def _equal(one: sympy.Expr, other: sympy.Expr) -> bool | None:
    """Of numbers, complex ones too; None for what is not comparable, as infinity is not."""
    decimal = one.has(sympy.Float) or other.has(sympy.Float)
    try:
        a, b = (sympy.N(number, 40) for number in (one, other))
        difference, size = abs(a - b), max(abs(a), abs(b))
        if not difference.is_finite:
            return None
        return bool(difference <= size * (_DECIMALS if decimal else _EXACT))
    except Exception:
        return None


def same_with_imaginary_unit(gold: list, found: list) -> bool:
    """Whether they are the same where the letter i stands for the square root of -1. To the engine
    it is a variable."""
    # Whether such a tower is real, sympy would find out by computing it.
    if any(map(too_large, (*gold, *found))):
        return False
    complex_golds, complex_founds = (
        [_with_imaginary_unit(one) for one in side] for side in (gold, found)
    )
    if (complex_golds, complex_founds) == (gold, found) and not _imaginary(gold + found):
        return False
    one, other = _number(complex_golds), _number(complex_founds)
    if one is not None and other is not None:
        return not any(map(too_large, (one, other))) and _equal(one, other) is True
    return same(complex_golds, complex_founds) is True


def _imaginary(expressions: list) -> bool:
    """Whether a root of a negative number stands among them."""
    return any(getattr(one, "is_number", False) and one.is_real is False for one in expressions)


def _with_imaginary_unit(expression):
    try:
        symbols = expression.atoms(sympy.Symbol)
        units = {symbol for symbol in symbols if symbol.name == "i"}
        if not units <= expression.free_symbols:  # a sum over i
            return expression
        return expression.xreplace(dict.fromkeys(units, sympy.I))
    except Exception:  # no place for a number
        return expression


def value(expressions: list) -> sympy.Expr | None:
    """The number that they mean, unless it is too large to be computed; None for what is none."""
    return None if any(map(too_large, expressions)) else _number(expressions)


def _number(expressions: list) -> sympy.Expr | None:
    if not expressions:
        return None
    expression = expressions[0]
    if isinstance(expression, sympy.Eq):
        expression = expression.rhs
    try:
        return expression if isinstance(expression, sympy.Expr) and expression.is_number else None
    except Exception:
        return None


# -------------------------------------------------------------------------------- what is too large


def too_large(expression) -> bool:
    """Whether evaluating it would take for ever: a number of too many digits, a power of a sum too
    high, a sum of too many terms."""
    try:
        return _digits(expression) > _DIGITS
    except (RecursionError, OverflowError):
        return True


def _digits(expression) -> float:
    """Digits that it would have if it were computed, about; infinity when that is out of reach."""
    if isinstance(expression, (sympy.Integer, int)):
        return int(expression).bit_length() * 0.302
    if isinstance(expression, sympy.Rational):
        return _digits(sympy.Integer(expression.p)) + _digits(sympy.Integer(expression.q))
    if not isinstance(expression, (sympy.Basic, sympy.MatrixBase)):
        return 1.0
    if isinstance(expression, sympy.MatrixBase):
        return max(map(_digits, expression.flat()), default=1.0)
    inside = [_digits(part) for part in expression.args]
    most = max(inside, default=1.0)
    if most == math.inf:
        return most
    if isinstance(expression, sympy.Pow):
        return _digits_of_power(expression, inside)
    if isinstance(expression, (sympy.factorial, sympy.factorial2, sympy.subfactorial)):
        return math.inf if most > 5 else 10**most * most
    if isinstance(expression, (sympy.binomial, sympy.gamma, sympy.fibonacci, sympy.ff, sympy.rf)):
        return math.inf if most > 5 else 10 ** inside[0]
    if isinstance(expression, (sympy.Sum, sympy.Product)):
        return _digits_of_terms(expression, most)
    if isinstance(expression, (sympy.Mul, sympy.Add)):
        return sum(inside)
    return most


def _digits_of_power(expression: sympy.Pow, inside: list[float]) -> float:
    base, exponent = expression.args
    if not exponent.is_number:
        return max(inside)
    if not exponent.is_number or inside[1] > 6:
        return math.inf
    size = abs(int(exponent)) if exponent.is_Integer else 10 ** inside[1]
    if base.free_symbols:
        return math.inf if size > _POWER and not base.is_Symbol else max(inside)
    return math.inf if size * inside[0] > 10 * _DIGITS else max(1.0, size * inside[0])


def _digits_of_terms(expression, most: float) -> float:
    for _, *limits in expression.limits:
        known = len(limits) == 2 and all(limit.is_number and limit.is_finite for limit in limits)
        if known and (max(map(_digits, limits)) > 12 or abs(limits[1] - limits[0]) > _TERMS):
            return math.inf
    return most


# ------------------------------------------------------------------------------ a bound on the time


class _Over(BaseException):
    """The time is over. Not an Exception, which sympy would catch."""


class Bound:
    """Processor time that an answer may take. Of time that other processes take from this one an
    answer cannot be accused: a deadline by the clock is the pool's, and a fault."""

    def __init__(self, seconds: float):
        """`seconds`: what the verifier has for an answer."""
        self.seconds = seconds / 4
        signal.signal(signal.SIGPROF, self._over)

    @staticmethod
    def _over(signum, frame) -> None:
        raise _Over

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """TooHard when the body takes longer. Inside C it is the kernel that ends the process, with
        a SIGXCPU that the pool understands."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        last = math.ceil(used.ru_utime + used.ru_stime + self.seconds)
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        if hard == resource.RLIM_INFINITY or last < hard:
            resource.setrlimit(resource.RLIMIT_CPU, (last, hard))
        try:
            signal.setitimer(signal.ITIMER_PROF, self.seconds)
            yield
        except _Over:
            raise TooHard(f"takes more than {self.seconds:g} s to compare") from None
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
