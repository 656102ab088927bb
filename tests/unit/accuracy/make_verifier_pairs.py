# SPDX-License-Identifier: Apache-2.0
"""Pairs of a response and a gold answer whose verdict is known by the way they are made:

    python tests/unit/accuracy/make_verifier_pairs.py > tests/unit/accuracy/verifier_pairs.jsonl

No verifier has a say in them. Correct responses write the same value otherwise, wrong ones write
another value that lies near: off by one, a sign, an open end for a closed one, two numbers swapped.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from fractions import Fraction

Pair = tuple[str, str, bool]  # gold answer, answer in the response, whether that is correct

#: How responses come to their answer; most of the traces that a student learns from box it.
FORMS = (
    "We add both sides and simplify, so\n\n\\[\\boxed{%s}\\]",
    "First guess: 17. That fails in step 2. Therefore the result is $\\boxed{%s}$.",
    "<think>Let me see... 3 or 4?</think>The answer is \\boxed{%s}.",
    "Step 1: 12 apples.\nStep 2: 2 are left.\n<answer>%s</answer>",
    "After 5 steps, the answer is $%s$.",
)


def integers(rng: random.Random) -> Iterator[Pair]:
    for _ in range(12):
        n = rng.choice([1, -1]) * rng.randrange(1000, 10**7)
        yield str(n), f"{n:,}", True
        yield f"{n:,}", str(n), True
        yield str(n), f"{n:,}".replace(",", "{,}"), True
        yield str(n), str(n + rng.choice([-1, 1])), False
        yield str(n), str(-n), False
        yield str(n), str(n * 10), False


def fractions(rng: random.Random) -> Iterator[Pair]:
    for _ in range(10):
        a, b = rng.randrange(1, 40), rng.choice([3, 7, 9, 11, 13])
        a += a % b == 0
        f, k = Fraction(a, b), rng.randrange(2, 5)
        gold = rf"\frac{{{f.numerator}}}{{{f.denominator}}}"
        yield gold, f"{f.numerator}/{f.denominator}", True
        yield gold, rf"\dfrac{{{f.numerator * k}}}{{{f.denominator * k}}}", True
        yield f"{a}/{b}", gold, True
        yield f"-{a}/{b}", rf"\frac{{-{f.numerator}}}{{{f.denominator}}}", True
        yield gold, rf"\frac{{{f.denominator}}}{{{f.numerator}}}", False
        yield gold, rf"-{gold}", False
        yield gold, rf"\frac{{{f.numerator + 1}}}{{{f.denominator}}}", False


def decimals(rng: random.Random) -> Iterator[Pair]:
    for _ in range(10):
        n = rng.randrange(1, 400) * 4 + 1
        f = Fraction(n, 8)
        text = f"{n / 8:.3f}"
        yield text, f"{text}0", True
        yield text, rf"\frac{{{f.numerator}}}{{{f.denominator}}}", True
        yield f"{n}/8", text, True
        yield text, f"{n / 8 + 0.001:.3f}", False
        yield text, f"{n / 80:.4f}", False


def percentages(rng: random.Random) -> Iterator[Pair]:
    for _ in range(10):
        n = rng.randrange(2, 99)
        yield rf"{n}\%", f"{n}%", True
        yield f"{n}%", rf"{n}\%", True
        yield rf"{n}\%", f"{n / 100:.2f}", True
        yield rf"{n}\%", rf"{n + 1}\%", False


def scientific(rng: random.Random) -> Iterator[Pair]:
    for _ in range(8):
        mantissa, power = rng.randrange(11, 99), rng.randrange(3, 7)
        value = mantissa * 10 ** (power - 1)
        gold = rf"{mantissa / 10} \times 10^{{{power}}}"
        yield gold, str(value), True
        yield str(value), gold, True
        yield gold, rf"{mantissa / 10} \cdot 10^{power}", True
        yield gold, rf"{mantissa / 10} \times 10^{{{power + 1}}}", False
        yield str(value), rf"{(mantissa + 1) / 10} \times 10^{{{power}}}", False


def roots(rng: random.Random) -> Iterator[Pair]:
    for _ in range(8):
        k, r = rng.randrange(2, 7), rng.choice([2, 3, 5, 7])
        gold = rf"{k}\sqrt{{{r}}}"
        yield gold, rf"\sqrt{{{k * k * r}}}", True
        yield rf"\frac{{{k}}}{{\sqrt{{{r}}}}}", rf"\frac{{{k}\sqrt{{{r}}}}}{{{r}}}", True
        yield gold, rf"\sqrt{{{r}}} \cdot {k}", True
        yield gold, rf"{r}\sqrt{{{k * k + 1}}}", False
        yield gold, rf"{k + 1}\sqrt{{{r}}}", False


def multiples_of_pi(rng: random.Random) -> Iterator[Pair]:
    for _ in range(8):
        a, b = rng.randrange(1, 12), rng.choice([2, 3, 4, 6])
        yield rf"\frac{{{a}\pi}}{{{b}}}", rf"\frac{{{a}}}{{{b}}}\pi", True
        yield rf"{a}\pi", rf"\pi \cdot {a}", True
        yield rf"\frac{{{a}\pi}}{{{b}}}", rf"\frac{{{a}\pi}}{{{b + 1}}}", False
        yield rf"{a}\pi", str(a), False


def polynomials(rng: random.Random) -> Iterator[Pair]:
    for _ in range(12):
        a, b = rng.randrange(1, 9), rng.randrange(1, 9)
        expanded = f"x^2 + {a + b}x + {a * b}"
        yield f"(x+{a})(x+{b})", expanded, True
        yield expanded, f"(x + {b})(x + {a})", True
        yield expanded, f"{a * b} + {a + b}x + x^2", True
        yield expanded, f"x^2 + {a + b}x - {a * b}", False
        yield f"(x+{a})(x+{b})", f"(x-{a})(x-{b})", False


def equations(rng: random.Random) -> Iterator[Pair]:
    for _ in range(8):
        n = rng.randrange(2, 90)
        yield str(n), f"x = {n}", True
        yield f"x = {n}", str(n), True
        yield f"x = {n}", f"x={n}", True
        yield f"x = {n}", f"x = {n + 1}", False
        yield f"y = {n}x + 1", f"y = 1 + {n}x", True
        yield f"y = {n}x + 1", f"y = {n}x - 1", False


def intervals(rng: random.Random) -> Iterator[Pair]:
    for _ in range(9):
        a = rng.randrange(-9, 9)
        b = a + rng.randrange(1, 9)
        yield f"[{a}, {b})", f"[{a},{b})", True
        yield f"[{a}, {b}]", rf"\left[{a}, {b}\right]", True
        yield rf"(-\infty, {b}]", rf"\left(-\infty, {b}\right]", True
        yield rf"(-\infty, {a}) \cup ({b}, \infty)", rf"({b},\infty) \cup (-\infty,{a})", True
        yield f"[{a}, {b})", f"[{a}, {b}]", False
        yield f"[{a}, {b}]", f"[{a}, {b + 1}]", False
        yield rf"(-\infty, {b}]", rf"[{b}, \infty)", False


def sets(rng: random.Random) -> Iterator[Pair]:
    for _ in range(9):
        a, b, c = rng.sample(range(-20, 20), 3)
        yield rf"\{{{a}, {b}, {c}\}}", rf"\{{{c}, {a}, {b}\}}", True
        yield rf"\{{{a}, {b}\}}", rf"\left\{{ {b}, {a} \right\}}", True
        yield rf"\{{{a}, {b}, {c}\}}", rf"\{{{a}, {b}\}}", False
        yield rf"\{{{a}, {b}\}}", rf"\{{{a}, {b + 41}\}}", False


def points(rng: random.Random) -> Iterator[Pair]:
    for _ in range(9):
        a, b = rng.sample(range(-20, 20), 2)
        yield f"({a}, {b})", f"({a},{b})", True
        yield f"({a}, {b})", rf"\left({a}, {b}\right)", True
        yield f"({a}, {b})", f"({b}, {a})", False
        yield f"({a}, {b})", f"({a}, {b + 1})", False


def units(rng: random.Random) -> Iterator[Pair]:
    for unit in ("cm", "kg", "hours", "m/s", "square units", "dollars"):
        n = rng.randrange(2, 90)
        yield str(n), rf"{n}\text{{ {unit}}}", True
        yield rf"{n}\text{{ {unit}}}", str(n), True
        yield rf"{n} \text{{ {unit}}}", rf"{n}\ \mathrm{{{unit.replace(' ', '~')}}}", True
        yield str(n), rf"{n + 1}\text{{ {unit}}}", False
    for n in rng.sample(range(2, 900), 6):
        yield str(n), rf"\${n}", True
        yield rf"{n}^\circ", str(n), True
        yield rf"{n}^\circ", rf"{n + 1}^\circ", False


def matrices(rng: random.Random) -> Iterator[Pair]:
    for _ in range(6):
        a, b, c, d = rng.sample(range(-9, 10), 4)
        gold = rf"\begin{{pmatrix}} {a} & {b} \\ {c} & {d} \end{{pmatrix}}"
        yield gold, rf"\begin{{pmatrix}}{a}&{b}\\{c}&{d}\end{{pmatrix}}", True
        yield gold, rf"\begin{{bmatrix}} {a} & {b} \\ {c} & {d} \end{{bmatrix}}", True
        yield gold, rf"\begin{{pmatrix}} {a} & {c} \\ {b} & {d} \end{{pmatrix}}", False


def choices(rng: random.Random) -> Iterator[Pair]:
    letters = "ABCDE"
    for i in range(10):
        right, other = letters[i % 5], letters[(i + 1 + i // 5) % 5]
        n = rng.randrange(2, 90)
        yield right, f"({right})", True
        yield right, rf"\text{{{right}}}", True
        yield right, f"{right}) {n}", True
        yield right, rf"\textbf{{({right}) }} {n}", True
        yield right, other, False
        yield right, f"({other})", False


#: By hand: what came up in answers of models and is in none of the kinds above.
HAND_MADE: list[Pair] = [
    (r"1\frac{1}{2}", r"\frac{3}{2}", True),
    (r"\frac{3}{2}", r"1\frac{1}{2}", True),
    (r"\frac{3}{2}", "1.5", True),
    ("0.333", r"\frac{1}{3}", False),
    (r"\frac{1}{3}", "0.33", False),
    (r"2^{10}", "1024", True),
    ("1024", r"2^{10}", True),
    ("1024", r"2^{11}", False),
    (r"\frac12", "0.5", True),
    (r"\tfrac{1}{2}", r"\frac{1}{2}", True),
    ("-1", r"e^{i\pi}", True),
    (r"\sin^2 x + \cos^2 x", "1", True),
    (r"\log_2 8", "3", True),
    (r"\ln 2", r"\log 2", True),
    (r"\binom{5}{2}", "10", True),
    (r"5!", "120", True),
    (r"\sqrt[3]{27}", "3", True),
    (r"\sqrt{2}", "1.414", False),
    (r"3 + 4i", "4i + 3", True),
    (r"3 + 4i", "3 - 4i", False),
    (r"\emptyset", r"\varnothing", True),
    (r"\infty", r"-\infty", False),
    ("x > 3", r"(3, \infty)", True),
    (r"x \ge 3", r"x \geq 3", True),
    (r"x \ge 3", "x > 3", False),
    ("a+b", "b+a", True),
    ("a-b", "b-a", False),
    (r"\frac{x}{y}", "x/y", True),
    (r"\frac{x}{y}", r"\frac{y}{x}", False),
    (r"2x", "x2", True),
    ("x^{-1}", r"\frac{1}{x}", True),
    (r"\pm 3", r"\{3, -3\}", True),
    ("3, 5", "5, 3", True),
    ("3, 5", "3", False),
    (r"\text{Monday}", "Monday", True),
    (r"\text{Monday}", r"\text{Tuesday}", False),
    (r"\text{even}", r"\text{odd}", False),
    ("yes", "no", False),
    ("10:30", "10:30", True),
    ("10:30", "10:31", False),
    ("0", "-0", True),
    ("007", "7", True),
    ("7", "7.0", True),
    ("12", "12.", True),
    ("12", "1 2", False),
    ("5", "five", True),
    (r"\frac{\sqrt{3}}{2}", r"\sin 60^\circ", True),
    (r"\frac{\pi}{4}", r"45^\circ", False),
    ("1/0", "0", False),
    ("100", "10^2", True),
]

KINDS = {
    "integers": integers,
    "fractions": fractions,
    "decimals": decimals,
    "percentages": percentages,
    "scientific notation": scientific,
    "roots": roots,
    "multiples of pi": multiples_of_pi,
    "polynomials": polynomials,
    "equations": equations,
    "intervals": intervals,
    "sets": sets,
    "points": points,
    "units": units,
    "matrices": matrices,
    "choices": choices,
    "by hand": lambda rng: iter(HAND_MADE),
}


def pairs() -> Iterator[dict]:
    for kind, make in KINDS.items():
        for i, (gold, answer, correct) in enumerate(make(random.Random(kind))):
            response = FORMS[i % len(FORMS)] % answer
            yield {"kind": kind, "gold": gold, "response": response, "correct": correct}


if __name__ == "__main__":
    for pair in pairs():
        print(json.dumps(pair))
