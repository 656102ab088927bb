# SPDX-License-Identifier: Apache-2.0
"""Random pairs of mathematical answers with verdicts by construction: the same thing said in
another way, or one thing of it changed (value, unit, base, modulus, order, multiplicity, ...)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from fractions import Fraction

#: (gold answer, answer, whether it is right)
Pair = tuple[str, str, bool]

LENGTHS = {"mm": 1, "cm": 10, "m": 1000, "km": 10**6}
TIMES = {"seconds": 1, "minutes": 60, "hours": 3600}
MASSES = {"mg": 1, "g": 1000, "kg": 10**6}
DIGITS = "0123456789ABCDEF"


def written(rng: random.Random, value: Fraction) -> str:
    """A number in one of its spellings."""
    top, bottom = value.numerator, value.denominator
    forms = [rf"\frac{{{top}}}{{{bottom}}}", rf"\dfrac{{{top}}}{{{bottom}}}", f"{top}/{bottom}"]
    if bottom == 1:
        forms = [str(top), f"{top}.0", f"{top:,}".replace(",", "{,}")]
        if top > 9999:
            forms.append(f"{top:,}".replace(",", r"\,"))
    elif bottom in (2, 4, 5, 8, 10, 20):
        forms.append(str(top / bottom))
    elif top > bottom > 1:
        forms.append(f"{top // bottom} {top % bottom}/{bottom}")
    return rng.choice(forms)


def number(rng: random.Random) -> Fraction:
    return Fraction(rng.randrange(1, 200), rng.choice([1, 1, 1, 2, 3, 4, 5, 7, 20]))


def another(rng: random.Random, value: Fraction) -> Fraction:
    return value + rng.choice([1, -1, 10, Fraction(1, 2), value])


def unit_written(rng: random.Random, unit: str) -> str:
    return rng.choice([rf"\text{{ {unit}}}", rf"\ \mathrm{{{unit}}}", f" {unit}"])


def values(rng: random.Random) -> Iterator[Pair]:
    value = number(rng)
    yield written(rng, value), written(rng, value), True
    yield written(rng, value), written(rng, another(rng, value)), False
    yield written(rng, value), rf"x = {written(rng, value)}", True
    yield (
        written(rng, value),
        rf"{written(rng, another(rng, value))} = {written(rng, value)}",
        False,
    )
    whole = value.numerator
    yield str(whole), rf"\frac{{1}}{{2}} {2 * whole}", True
    yield str(whole), rf"\frac{{1}}{{2}} {2 * whole + 2}", False


def units(rng: random.Random) -> Iterator[Pair]:
    system = rng.choice([LENGTHS, TIMES, MASSES])
    value, (one, other) = number(rng), rng.sample(list(system), 2)
    converted = value * system[one] / system[other]
    gold = written(rng, value) + unit_written(rng, one)
    yield gold, written(rng, value) + unit_written(rng, one), True
    yield gold, written(rng, value), True
    yield (
        gold,
        rf"\frac{{{converted.numerator}}}{{{converted.denominator}}}" + unit_written(rng, other),
        True,
    )
    yield gold, written(rng, value) + unit_written(rng, other), False
    yield gold, written(rng, another(rng, value)) + unit_written(rng, one), False
    strange = rng.choice([s for s in (LENGTHS, TIMES, MASSES) if s is not system])
    yield gold, written(rng, value) + unit_written(rng, rng.choice(list(strange))), False


def powers_of_units(rng: random.Random) -> Iterator[Pair]:
    value, unit = rng.randrange(2, 90), rng.choice(list(LENGTHS))
    power, wrong = rng.sample([2, 3], 2)
    word = {2: "square", 3: "cubic"}
    yield rf"{value} \text{{ {unit}}}^{power}", f"{value} {word[power]} {unit}", True
    yield rf"{value} \text{{ {unit}}}^{power}", rf"{value}\ \mathrm{{{unit}}}^{{{power}}}", True
    yield rf"{value} \text{{ {unit}}}^{power}", rf"{value} \text{{ {unit}}}^{wrong}", False
    yield rf"{value} {unit}^{power}", f"{value} {word[wrong]} {unit}", False


def bases(rng: random.Random) -> Iterator[Pair]:
    value, base = rng.randrange(20, 2000), rng.choice([2, 3, 5, 7, 8, 16])
    text = in_base(value, base)
    yield f"{text}_{base}" if base < 10 else f"{text}_{{{base}}}", f"{text}_{{{base}}}", True
    yield f"{text}_{{{base}}}", str(value), True
    yield str(value), rf"{text}_{{{base}}}", True
    yield f"{text}_{{{base}}}", f"{in_base(value + 1, base)}_{{{base}}}", False
    yield f"{text}_{{{base}}}", f"{text}_{{{base + 1}}}", False
    yield f"{text}_{{{base}}}", str(value + 1), False
    if text.isdigit():
        yield f"{text}_{{{base}}}", text, False


def in_base(value: int, base: int) -> str:
    digits = ""
    while value:
        value, digit = divmod(value, base)
        digits = DIGITS[digit] + digits
    return digits


def moduli(rng: random.Random) -> Iterator[Pair]:
    modulus = rng.randrange(3, 40)
    residue = rng.randrange(modulus)
    forms = [r"x \equiv %d \pmod{%d}", r"x \equiv %d \pmod %d", "x\u2261%d (mod %d)",
             r"%d \pmod{%d}", r"x \equiv %d \ (\text{mod } %d)"]  # fmt: skip
    gold = rng.choice(forms) % (residue, modulus)
    yield gold, rng.choice(forms) % (residue, modulus), True
    yield gold, rng.choice(forms) % (residue + modulus, modulus), True
    yield gold, rng.choice(forms) % ((residue + 1) % modulus, modulus), False
    yield gold, rng.choice(forms) % (residue, modulus + 1), False
    yield gold, str(residue), True
    yield gold, str(residue + 1), False


def order(rng: random.Random) -> Iterator[Pair]:
    numbers = rng.sample(range(-30, 30), rng.randrange(2, 5))
    listed = ", ".join(map(str, numbers))
    other = list(numbers)
    while other == numbers:
        rng.shuffle(other)
    shuffled = ", ".join(map(str, other))
    yield f"({listed})", rf"\left({listed}\right)", True
    yield f"({listed})", f"({shuffled})", False
    yield rf"\{{{listed}\}}", rf"\{{{shuffled}\}}", True
    yield rf"({listed})", rf"\{{{listed}\}}", False
    yield ", ".join(map(str, sorted(numbers))), shuffled, True
    yield ", ".join(map(str, numbers)), ", ".join(map(str, [*numbers[:-1], 77])), False
    names = rng.sample("abcmnpqxyz", len(numbers))
    equations = [f"{name} = {n}" for name, n in zip(names, numbers, strict=True)]
    yield ", ".join(equations), ", ".join(reversed(equations)), True
    yield ", ".join(equations), listed, True
    wrong = [f"{name} = {n}" for name, n in zip(names, other, strict=True)]
    yield ", ".join(equations), ", ".join(wrong), False


def multiplicity(rng: random.Random) -> Iterator[Pair]:
    a, b = sorted(rng.sample(range(-20, 20), 2))
    yield f"{a}, {a}, {b}", f"{a}, {a}, {b}", True
    yield f"{a}, {a}, {b}", f"{a}, {b}, {b}", False
    yield f"{a}, {a}, {b}", f"{a}, {b}", False
    yield f"{a}, {b}", f"{a}", False
    yield f"{a} and {b}", f"{b}, {a}", True


def percentages(rng: random.Random) -> Iterator[Pair]:
    value = rng.randrange(2, 99)
    yield rf"{value}\%", f"{value}%", True
    yield rf"{value}\%", str(value / 100), True
    yield rf"{value}\%", rf"\frac{{{value}}}{{100}}", True
    yield rf"{value}\%", rf"{value} \text{{ percent}}", True
    yield rf"{value}\%", str(value), False
    yield str(value), rf"{value}\%", False
    yield rf"{value}\%", rf"{value + 1}\%", False


def clocks(rng: random.Random) -> Iterator[Pair]:
    hour, minute = rng.randrange(1, 12), rng.randrange(60)
    gold = rf"{hour}:{minute:02} \text{{ p.m.}}"
    yield gold, f"{hour}:{minute:02} PM", True
    yield gold, f"{hour + 12}:{minute:02}", True
    yield gold, f"{hour}:{minute:02}", True
    yield gold, f"{hour}:{minute:02} a.m.", False
    yield gold, f"{hour % 11 + 1}:{minute:02} p.m.", False
    yield gold, f"{hour}:{(minute + 7) % 60:02} p.m.", False
    yield f"{hour}:{minute:02}", str(hour), False


def small_numbers(rng: random.Random) -> Iterator[Pair]:
    mantissa, power = rng.randrange(11, 99), rng.randrange(7, 30)
    gold = rf"{mantissa / 10} \times 10^{{-{power}}}"
    yield gold, f"{mantissa / 10}e-{power}", True
    yield f"{mantissa / 10}e-{power}", rf"{mantissa / 10} \cdot 10^{{-{power}}}", True
    yield gold, rf"\frac{{{mantissa}}}{{10^{{{power + 1}}}}}", True
    yield gold, rf"{(mantissa + 1) / 10} \times 10^{{-{power}}}", False
    yield gold, rf"{mantissa / 10} \times 10^{{-{power + 1}}}", False
    yield gold, "0", False
    n = rng.randrange(30, 300)
    yield rf"\frac{{1}}{{{n}!}}", rf"\frac{{1}}{{{n + 1}!}}", False


def words(rng: random.Random) -> Iterator[Pair]:
    word = "".join(rng.sample("ABCDEFGHKM", rng.randrange(3, 6)))
    yield word, rf"\text{{{word}}}", True
    yield rf"\text{{{word}}}", word, True
    yield word, word[::-1], False
    yield word, "".join(sorted(word)) if "".join(sorted(word)) != word else word[::-1], False
    n = rng.randrange(2, 99)
    yield str(n), rf"{n} \text{{ is not possible}}", False
    yield str(n), rf"{n} \text{{ or }} {n + 1}", False


def scales(rng: random.Random) -> Iterator[Pair]:
    n = rng.randrange(2, 99)
    scale, zeros = rng.choice([("thousand", 3), ("million", 6), ("billion", 9)])
    yield f"{n} {scale}", str(n * 10**zeros), True
    yield rf"{n} \text{{ {scale}}}", f"{n * 10**zeros:,}".replace(",", "{,}"), True
    yield f"{n} {scale}", str(n), False
    yield f"{n} {scale}", f"{n} trillion", False
    yield rf"\${n}", f"{n} dollars", True
    yield rf"\${n}", f"{100 * n} cents", True
    yield rf"\${n}", f"{n} cents", False


def logarithms(rng: random.Random) -> Iterator[Pair]:
    n, base = rng.randrange(3, 60), rng.choice([2, 3, 5, 7])
    yield rf"\ln {n}", rng.choice([rf"\log_e {n}", f"ln {n}", rf"\log_{{e}}({n})"]), True
    yield rf"\log_{base} {n}", rf"\frac{{\log {n}}}{{\log {base}}}", True
    yield rf"\log_{{10}} {n}", rf"\lg {n}", True
    # Of base 10 or e: the same on both sides, and not to be decided against another.
    yield rf"\log {n}", rf"\frac{{1}}{{2}}\log {n * n}", True
    yield rf"\ln {n}", rf"\log {n}", False
    yield rf"\log {n}", rf"\log_{{10}} {n}", False
    yield rf"\log_{base} {n}", rf"\log_{base + 1} {n}", False
    yield str(n), rf"\{rng.choice(['lg', 'log_e', 'arg', 'gcd'])} {n}", False


def complex_numbers(rng: random.Random) -> Iterator[Pair]:
    a, b = rng.randrange(2, 30), rng.randrange(2, 30)
    yield f"{a} + {b}i", f"{b}i + {a}", True
    yield f"{a} + {b}i", f"{a} - {b}i", False
    yield str(a * a + b * b), f"({a} + {b}i)({a} - {b}i)", True
    power, value = rng.choice([(r"\pi", f"-{a}"), (r"\pi/2", f"{a}i"), (r"2\pi", str(a))])
    yield value, rf"{a}e^{{i{power}}}", True
    yield rf"{a}e^{{i{power}}}", value, True
    yield str(b * b), f"({b}i)^2", False


KINDS = {
    "values and chains": values,
    "units": units,
    "powers of units": powers_of_units,
    "bases": bases,
    "moduli": moduli,
    "order": order,
    "multiplicity": multiplicity,
    "per cent": percentages,
    "time of day": clocks,
    "small numbers": small_numbers,
    "words": words,
    "scales and money": scales,
    "logarithms": logarithms,
    "complex numbers": complex_numbers,
}


def statements(rounds: int) -> Iterator[dict]:
    for kind, make in KINDS.items():
        rng = random.Random(kind)
        for _ in range(rounds):
            for gold, answer, right in make(rng):
                yield {"kind": kind, "gold": gold, "answer": answer, "right": right}
