# SPDX-License-Identifier: Apache-2.0
"""Answers that nobody can compute, as a student in the shock writes them: never a fault."""

from __future__ import annotations

import sys

import pytest

from t3s_megatron.accuracy.pool import Limits, Question, VerifierPool
from t3s_megatron.accuracy.verdicts import Verdict

UNPARSEABLE, CORRECT, WRONG = Verdict.UNPARSEABLE, Verdict.CORRECT, Verdict.WRONG

ABSURD = [
    "10^{10^{10}}", "9^{9^9}", "2^{2^{2^{2^{2^{2}}}}}", "10000000!", "((((9!)!)!)!)",
    "(x+1)^{20000}", r"(x+y+z)^{4000} \cdot (a+b)^{3000}", r"\binom{10^9}{5\cdot10^8}",
    r"\sum_{k=1}^{10^9} k^k", r"\prod_{k=1}^{10^8} k", r"\sqrt{10^{10^{10}}}", r"\log(9^{9^{9}})",
    r"\sin(10^{10^{10}})", r"\frac{10^{10^{10}}}{3^{3^{30}}}", r"10^{10^{10}} \pmod 7",
    "10^{10^{10}}_2", r"10^{10^{10}} \text{ cm}", r"1, 10^{10^{10}}", r"5 = 10^{10^{10}}",
    r"\{10^{10^{10}}\}", "1e999999999", "10^{-10^{10}}", "9" * 6000, "(" * 3000, "x^{" * 500,
    "1+" * 2000 + "1", r"\frac{1}{" * 300, r"\zeta(10^{10^{10}})",
    r"F_{10^{10^{10}}}", r"0.1^{10^{10^{10}}}", r"\left(1+10^{-10^{10}}\right)^{10^{10^{10}}}",
]  # fmt: skip

TOWERS = [r"\sqrt{10^{10^{10}}}", "1e999999999", r"\frac{1}{9^{9^9}}", r"i \cdot 10^{10^{10}}"]

#: What a computer algebra system may look for in vain, for as long as it is let.
HARD = [
    r"\int e^{-x^2} \sin(x^3)\,dx", r"\int_0^\infty \frac{\sin(x^2)}{1+x^4}\,dx",
    r"\int \frac{x^{77}}{x^{99}+x+1}\,dx", r"\int_0^{10^9} \lfloor x \rfloor^{x}\,dx",
    r"\lim_{x\to 0}\frac{\sin(\tan x)-\tan(\sin x)}{x^{7}}", r"\frac{d^{500}}{dx^{500}} e^{x^2}",
    r"\lim_{n\to\infty} \sum_{k=1}^{n} \frac{1}{k^k}", r"\int \int \int e^{xyz} dx dy dz",
]  # fmt: skip


@pytest.mark.parametrize("spec", ["math", "math-lenient"])
def test_absurd_answers_are_wrong_and_no_faults(spec):
    golds = ("5", r"\frac{1}{2004!}", "1, x^2")
    asked = [Question(rf"\boxed{{{text}}}", gold) for text in ABSURD for gold in golds]
    with VerifierPool(spec, Limits(timeout=30, workers=2)) as pool:
        judged = pool.verify(asked)
    found = {one.verdict for one in judged}
    assert found <= {WRONG, UNPARSEABLE}, [
        (q.text, q.answer, one)
        for q, one in zip(asked, judged, strict=True)
        if one.verdict not in (WRONG, UNPARSEABLE)
    ]


def test_a_tower_is_another_number_and_is_not_computed_to_know_it():
    """Unparseable it would be if its time were over first: whether it is real, sympy computes."""
    asked = [Question(rf"\boxed{{{text}}}", "5") for text in TOWERS]
    with VerifierPool("math", Limits(timeout=60, workers=1)) as pool:
        assert {one.verdict for one in pool.verify(asked)} == {WRONG}


def test_answers_that_take_long_are_no_faults():
    asked = [Question(rf"\boxed{{{text}}}", "5") for text in HARD]
    with VerifierPool("math", Limits(timeout=8, workers=2)) as pool:
        judged = pool.verify(asked)
    found = {one.verdict for one in judged}
    assert found <= {WRONG, UNPARSEABLE} and UNPARSEABLE in found


def test_an_absurd_gold_answer_has_the_answers_that_say_the_same():
    gold = "10^{10^{10}}"
    asked = [Question(rf"\boxed{{{text}}}", gold) for text in (gold, "5", "10^{10^{11}}")]
    with VerifierPool("math", Limits(timeout=60, workers=1)) as pool:
        assert [one.verdict for one in pool.verify(asked)] == [CORRECT, UNPARSEABLE, UNPARSEABLE]


@pytest.fixture
def bounded(tmp_path, monkeypatch):
    """A verifier that is bound as `math` is, and computes without end in Python, or in C."""
    (tmp_path / "bounded.py").write_text(
        "import re, time\n"
        "from t3s_megatron.accuracy.math.engine import Bound\n"
        "bound = Bound(8.0)\n"
        "def burn():\n"
        "    end = time.process_time() + 1\n"
        "    while time.process_time() < end: pass\n"
        "def verify(text, answer, metadata):\n"
        "    with bound():\n"
        "        while text == 'python': pass\n"
        "        if text == 'busy': burn()\n"
        "        if text in ('busy', 'starved'): time.sleep(1000)\n"
        "        if text == 'c': re.match(r'(a+)+$', 'a' * 64 + 'b')\n"
        "    return True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "bounded:verify"
    sys.modules.pop("bounded", None)


def test_an_answer_that_computes_without_end_has_itself_to_blame(bounded):
    asked = [Question(text, "1") for text in ("python", "c", "1")]
    with VerifierPool(bounded, Limits(timeout=60.0, workers=2)) as pool:
        assert [one.verdict for one in pool.verify(asked)] == [UNPARSEABLE, UNPARSEABLE, CORRECT]


def test_on_a_busy_machine_the_clock_says_the_same(bounded):
    """One answer has computed long and then got no processor; one never got any."""
    asked = [Question(text, "1") for text in ("busy", "starved", "1")]
    with VerifierPool(bounded, Limits(timeout=3.0, workers=2)) as pool:
        assert [one.verdict for one in pool.verify(asked)] == [
            UNPARSEABLE, Verdict.TIMED_OUT, CORRECT
        ]  # fmt: skip
