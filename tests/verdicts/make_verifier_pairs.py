# SPDX-License-Identifier: Apache-2.0
"""Pairs of a response and a gold answer whose verdict is known by the way they are made:

    python tests/verdicts/make_verifier_pairs.py > tests/verdicts/verifier_pairs.jsonl

No verifier has a say in them. Correct responses write the same value otherwise, wrong ones write
another value that lies near: off by one, a sign, an open end for a closed one, two numbers swapped.
Of programs the gold answer holds the unit tests, made by a solution of their own.
"""

from __future__ import annotations

import json
import random
import textwrap
from collections.abc import Callable, Iterator
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
    (r"\ln 2", r"\log_e 2", True),
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

# ---------------------------------------------------------------------------------------- programs

#: A problem: its name, arguments to test it with, what solves it, right programs, wrong ones. The
#: programs are bodies of a function; the arguments are integers and a list of integers.
Problem = tuple[str, list[list], Callable, list[str], list[str]]

PROBLEMS: list[Problem] = [
    (
        "count_even",
        [[[1, 2, 4]], [[]], [[-2, 7]], [[3, 5]]],
        lambda xs: len([x for x in xs if x % 2 == 0]),
        ["return sum(x % 2 == 0 for x in xs)", "n = 0\nfor x in xs:\n    n += not x & 1\nreturn n"],
        ["return sum(x % 2 for x in xs)", "return len(xs) // 2"],
    ),
    (
        "largest_gap",
        [[[3, 9, 4]], [[5, 5]], [[-4, 10, 2]], [[7, 1]]],
        lambda xs: max(xs) - min(xs),
        ["return max(xs) - min(xs)", "xs = sorted(xs)\nreturn xs[-1] - xs[0]"],
        ["return xs[-1] - xs[0]", "return max(xs) - min(xs) + 1"],
    ),
    (
        "digit_sum",
        [[[0]], [[19]], [[1000, 8]], [[999, 1]]],
        lambda xs: sum(int(c) for x in xs for c in str(x)),
        [
            "return sum(int(c) for x in xs for c in str(x))",
            "total = 0\nfor x in xs:\n    while x:\n        total += x % 10\n        x //= 10\n"
            "return total",
        ],
        ["return sum(xs) % 9", "return sum(int(str(x)[0]) for x in xs)"],
    ),
    (
        "fibonacci",
        [[[1]], [[2]], [[10]], [[90]]],
        lambda xs: _fibonacci(xs[0]),
        [
            "a, b = 0, 1\nfor _ in range(xs[0]):\n    a, b = b, a + b\nreturn a",
            "from functools import cache\n@cache\ndef f(n):\n    return n if n < 2 else f(n - 1)"
            " + f(n - 2)\nreturn f(xs[0])",
        ],
        [
            "a, b = 1, 1\nfor _ in range(xs[0]):\n    a, b = b, a + b\nreturn a",
            "return round(((1 + 5**0.5) / 2) ** xs[0] / 5**0.5)",  # no longer exact at 90
        ],
    ),
]


def _fibonacci(n: int) -> int:
    return n if n < 2 else _fibonacci_pair(n)[0]


def _fibonacci_pair(n: int) -> tuple[int, int]:
    """F(n), F(n + 1), by doubling."""
    if n == 0:
        return 0, 1
    a, b = _fibonacci_pair(n // 2)
    c, d = a * (2 * b - a), a * a + b * b
    return (d, c + d) if n % 2 else (c, d)


def _function(name: str, body: str, indent: str = "") -> str:
    first = "self, xs" if indent else "xs"
    return textwrap.indent(f"def {name}({first}):\n{textwrap.indent(body, '    ')}\n", indent)


def _of_all(make: Callable[[Problem], str], write: Callable[[str, str], str]) -> Iterator[Pair]:
    for problem in PROBLEMS:
        name, _, _, right, wrong = problem
        for body in (*right, *wrong):
            yield make(problem), write(name, body), body in right


def standard_input(rng: random.Random) -> Iterator[Pair]:
    def tests(problem: Problem) -> str:
        _, arguments, solve, _, _ = problem
        lines = [" ".join(map(str, xs)) + "\n" for (xs,) in arguments]
        return json.dumps({"inputs": lines, "outputs": [f"{solve(xs)}\n" for (xs,) in arguments]})

    def program(name: str, body: str) -> str:
        return f"{_function(name, body)}\nprint({name}(list(map(int, input().split()))))"

    yield from _of_all(tests, program)


def calls(rng: random.Random) -> Iterator[Pair]:
    def tests(problem: Problem) -> str:
        name, arguments, solve, _, _ = problem
        wanted = [solve(xs) for (xs,) in arguments]
        return json.dumps({"fn_name": name, "inputs": arguments, "outputs": wanted})

    yield from _of_all(
        tests, lambda name, body: f"class Solution:\n{_function(name, body, '    ')}"
    )


def asserts(rng: random.Random) -> Iterator[Pair]:
    def tests(problem: Problem) -> str:
        name, arguments, solve, _, _ = problem
        lines = [f"assert {name}({xs}) == {solve(xs)}" for (xs,) in arguments]
        return json.dumps({"test_list": lines, "test_setup_code": ""})

    yield from _of_all(tests, _function)


def check(rng: random.Random) -> Iterator[Pair]:
    def tests(problem: Problem) -> str:
        name, arguments, solve, _, _ = problem
        lines = [f"    assert candidate({xs}) == {solve(xs)}\n" for (xs,) in arguments]
        test = "def check(candidate):\n" + "".join(lines)
        prompt = f'def {name}(xs):\n    """What it does."""\n'
        return json.dumps({"prompt": prompt, "test": test, "entry_point": name})

    yield from _of_all(tests, _function)


_DOUBLE = json.dumps({"inputs": ["2\n", "5\n"], "outputs": ["4\n", "10\n"]})
_HALF = json.dumps({"inputs": ["1\n", "2\n"], "outputs": ["0.5\n", "1.0\n"]})
_THIRD = json.dumps({"inputs": ["1\n"], "outputs": ["0.333333333\n"]})
_SORTED = json.dumps({"fn_name": "f", "inputs": [[[2, 1]], [[3]]], "outputs": [[1, 2], [3]]})
_SAME = json.dumps(["assert f([2, 1]) == (1, 2)", "assert f([]) == ()"])

#: By hand: what a program may do besides, and what does not make it right.
PROGRAMS_BY_HAND: list[Pair] = [
    (_DOUBLE, "print(2 * int(input()), end='')", True),
    (_DOUBLE, "print(2 * int(input()), '\\n\\n')", True),
    (
        _DOUBLE,
        "import sys\nprint('debug', file=sys.stderr)\nprint(2 * int(sys.stdin.read()))",
        True,
    ),
    (_DOUBLE, "if __name__ == '__main__':\n    print(2 * int(input()))", True),
    (_DOUBLE, "print(2 * int(input()))\nraise SystemExit", True),
    (_DOUBLE, "print(2 * int(input()))\nraise ValueError", False),
    (_DOUBLE, "print('Answer:', 2 * int(input()))", False),
    (_DOUBLE, "print(4)", False),
    (_DOUBLE, "print(2 * int(input())", False),
    (_DOUBLE, "import sys\nsys.exit(0)", False),
    (_HALF, "print(int(input()) / 2)", True),
    (_HALF, "print(int(input()) // 2)", False),
    (_THIRD, "print(int(input()) / 3)", True),
    (_THIRD, "print(0.333)", False),
    (_SORTED, "def f(xs: List[int]) -> List[int]:\n    return tuple(sorted(xs))", True),
    (_SORTED, "class Solution:\n    def f(self, xs):\n        return sorted(xs)", True),
    (_SORTED, "def f(xs):\n    print(sorted(xs))", False),
    (_SORTED, "def g(xs):\n    return sorted(xs)", False),
    (_SAME, "def f(xs):\n    return tuple(sorted(xs))", True),
    (_SAME, "def f(xs):\n    return sorted(xs)", False),
    (_SAME, "class A:\n    def __eq__(self, o): return True\ndef f(xs):\n    return A()", False),
    (_SAME, "import os\ndef f(xs):\n    os._exit(0)", False),
]

PROGRAM_FORMS = (
    "I read the input first.\n\n```python\n%s\n```\n",
    "<think>Perhaps\n```python\nprint(1)\n```\nor not?</think>So:\n```py\n%s\n```\nIt is O(n).",
    "A first try:\n```python\nraise NotImplementedError\n```\nNow in full:\n```Python3\n%s\n```",
    "```python\n%s\n```\nFor example it prints\n```\n42\n```",
)

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
    "programs: standard input": standard_input,
    "programs: calls": calls,
    "programs: asserts": asserts,
    "programs: check": check,
    "programs: by hand": lambda rng: iter(PROGRAMS_BY_HAND),
}


def pairs() -> Iterator[dict]:
    for kind, make in KINDS.items():
        forms = PROGRAM_FORMS if kind.startswith("programs") else FORMS
        for i, (gold, answer, correct) in enumerate(make(random.Random(kind))):
            response = forms[i % len(forms)] % answer
            yield {"kind": kind, "gold": gold, "response": response, "correct": correct}


if __name__ == "__main__":
    for pair in pairs():
        print(json.dumps(pair))
