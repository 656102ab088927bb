# SPDX-License-Identifier: Apache-2.0
"""Verdicts of every verifier, and what happens when one cannot be had.

What becomes of an answer whose verifier breaks is in test_pool.py; hundreds of pairs with known
verdicts are in test_verifier_pairs.py.
"""

from __future__ import annotations

import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from t3s_megatron.accuracy.verdicts import Verdict
from t3s_megatron.accuracy.verifiers import make_verifier
from t3s_megatron.errors import T3SError

CORRECT, WRONG, UNPARSEABLE = Verdict.CORRECT, Verdict.WRONG, Verdict.UNPARSEABLE


# ------------------------------------------------------------------------------------------ exact


@pytest.mark.parametrize(
    ("text", "answer", "verdict"),
    [
        ("<answer>blue  whale\n</answer>", " blue whale ", CORRECT),
        ("The answer is blue whale.", "blue whale", CORRECT),
        ("The answer is 5", "5.", CORRECT),
        ("<answer>Blue whale</answer>", "blue whale", WRONG),
        ("<answer>bluewhale</answer>", "blue whale", WRONG),
        ("<answer></answer>", "5", WRONG),
        ("5.0", "5", WRONG),
        ("", "5", UNPARSEABLE),
        (" \n ", "5", UNPARSEABLE),
    ],
)
def test_exact(text, answer, verdict):
    assert make_verifier("exact")(text, answer, None) is verdict


# ---------------------------------------------------------------------------------------- numeric


@pytest.mark.parametrize(
    ("text", "answer", "verdict"),
    [
        (r"7, so \boxed{0.50}; checked 9 times", "1/2", CORRECT),
        (r"\boxed{\frac{2}{4}}", "50%", CORRECT),
        ("it is 1,000.", "1000", CORRECT),
        ("<answer>3</answer> in 2 steps", "3", CORRECT),
        (r"<answer>3</answer> \boxed{4}", "4", CORRECT),
        (r"\boxed{0.333}", "1/3", WRONG),
        ("it is 5, or 6", "5", WRONG),
        (r"\boxed{x = 5}", "5", UNPARSEABLE),
        (r"\boxed{1, 2}", "12", UNPARSEABLE),
        ("nobody knows", "5", UNPARSEABLE),
        ("1e999999999/3", "5", WRONG),
    ],
)
def test_numeric(text, answer, verdict):
    assert make_verifier("numeric")(text, answer, None) is verdict


# ---------------------------------------------------------------------------------- reasoning-gym


CHAIN = {"source_dataset": "chain_sum"}


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("4+3=7 <answer>7</answer>", CORRECT),
        (r"<answer>7</answer> \boxed{8}", CORRECT),
        (r"\boxed{7}", CORRECT),
        ("<answer>8</answer>", WRONG),
        ("<answer>7 or so</answer>", WRONG),  # reasoning-gym gives part of a point
        ("<answer></answer>", WRONG),
        ("it is 7", UNPARSEABLE),
    ],
)
def test_reasoning_gym(text, verdict):
    assert make_verifier("reasoning-gym")(text, "7", CHAIN) is verdict


@pytest.mark.parametrize("name", ["chain_sum", "countdown", "basic_arithmetic"])
def test_reasoning_gym_accepts_its_own_answers(name):
    """`countdown` is scored by its metadata: other ways to reach the target count too."""
    import reasoning_gym

    verify = make_verifier("reasoning-gym")
    for entry in reasoning_gym.create_dataset(name, size=3, seed=5):
        gold = str(entry["answer"]), entry["metadata"]
        assert verify(f"<answer>{entry['answer']}</answer>", *gold) is CORRECT
        assert verify("<answer>-1234567</answer>", *gold) is WRONG


def test_reasoning_gym_is_given_question_and_metadata(monkeypatch):
    import reasoning_gym

    seen = []

    def scorer(name):
        seen.append(name)
        return lambda answer, entry: seen.append((answer, entry)) or 1.0

    monkeypatch.setattr(reasoning_gym, "get_score_answer_fn", scorer)
    verify, metadata = make_verifier("reasoning-gym"), CHAIN | {"question": "4+3?"}
    assert [verify("<answer>7</answer>", "7", metadata) for _ in range(2)] == [CORRECT] * 2
    entry = {"question": "4+3?", "answer": "7", "metadata": metadata}
    assert seen == ["chain_sum", ("7", entry), ("7", entry)]  # one scorer for all answers


def test_reasoning_gym_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(T3SError, match=r'pip install "t3s-megatron\[reasoning-gym\]"'):
        make_verifier("reasoning-gym")
    make_verifier("numeric")


# ----------------------------------------------------------------------------------------- choice


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (r"so \boxed{B}", CORRECT),
        (r"so \boxed{\text{(B)}}", CORRECT),
        (r"so \boxed{\textbf{(B) } 42}", CORRECT),
        ("<answer>b</answer>", CORRECT),
        ("A is too small. The answer is (B).", CORRECT),
        ("The answer is **B**", CORRECT),
        ("The answer is: B) 42, as A is too small", CORRECT),
        ("Answer: B", CORRECT),
        (r"<answer>B</answer> or \boxed{C}", CORRECT),
        (r"so \boxed{C}", WRONG),
        ("The answer is A.", WRONG),
        ("B\nC", WRONG),
        ("The answer is A or B", UNPARSEABLE),
        ("A big one", UNPARSEABLE),
        (r"\boxed{42}", UNPARSEABLE),
        ("", UNPARSEABLE),
    ],
)
def test_choice(text, verdict):
    for gold in ("B", "(b)", "B. 42"):
        assert make_verifier("choice")(text, gold, None) is verdict


# ------------------------------------------------------------------------------------------- math


@pytest.mark.parametrize(
    ("text", "answer", "verdict"),
    [
        (r"\boxed{\frac{1}{2}}", "0.5", CORRECT),
        (r"first \boxed{3}, no: \boxed{4}", "4", CORRECT),
        ("<answer>(x+1)^2</answer>", "x^2 + 2x + 1", CORRECT),
        (r"The answer is $\sqrt{8}$.", r"2\sqrt{2}", CORRECT),
        (r"\boxed{\{2, 1\}}", r"\{1, 2\}", CORRECT),
        (r"\boxed{[0, 1)}", "[0, 1]", WRONG),
        (r"\boxed{x^2 + 2x}", "x^2 + 2x + 1", WRONG),
        (r"5 is wrong: \boxed{}", "5", UNPARSEABLE),
        ("", "5", UNPARSEABLE),
    ],
)
def test_math(text, answer, verdict):
    assert make_verifier("math")(text, answer, None) is verdict


NOTATION = st.lists(
    st.sampled_from(
        (
            r"0 1 2 7 12 345 . , ; : = ( ) [ ] { } \{ \} + - * / ^ _ % \% $ \$ \text{cm} cm m km/h "
            r"hours \pi x y ab \sqrt{ \frac{1}{2} \frac{ \pmod \bmod \equiv \circ ^\circ "
            r"\ldots \pm \infty \cup and \text{or} not \left( \right) \begin{pmatrix} & \\ ! | < > "
            r"\le \ne e E 1e5 p.m. base million"
        ).split()
    )
    | st.text(max_size=2),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(NOTATION, NOTATION)
@example([], ["0", "0"])  # no number, and the gold is a congruence: the answer's fault
def test_math_has_a_verdict_on_any_answer(gold, answer):
    """And never two: what is right is right for itself."""
    verify = make_verifier("math")
    text = " ".join(answer)
    for wanted in ("5", r"5 \text{ cm}", "1, 2", r"x \equiv 3 \pmod 7", "1010_2", "3:30"):
        verify(rf"\boxed{{{text}}}", wanted, None)
    if verify(f"<answer>{' '.join(gold)}</answer>", " ".join(gold), None) is CORRECT:
        assert verify(f"<answer>{text}</answer>", " ".join(gold), None) in Verdict


def test_math_does_not_take_an_unreadable_gold_answer_for_a_wrong_one():
    with pytest.raises(ValueError, match="gold answer '' cannot be parsed"):
        make_verifier("math")(r"\boxed{5}", "", None)


def test_math_verify_not_installed(monkeypatch):
    for name in ("engine", "verify", "statements"):
        monkeypatch.delitem(sys.modules, f"t3s_megatron.accuracy.math.{name}", raising=False)
        monkeypatch.delattr(f"t3s_megatron.accuracy.math.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(T3SError, match=r'pip install "t3s-megatron\[verification\]"'):
        make_verifier("math")


# -------------------------------------------------------------------------------------- your own


@pytest.fixture
def module(tmp_path, monkeypatch):
    """`own_verifiers` on the path, fresh in each test."""
    (tmp_path / "own_verifiers.py").write_text(
        "calls = []\n"
        "def same(text, answer, metadata):\n"
        "    calls.append((text, answer, metadata))\n"
        "    return text == answer\n"
        "def score(text, answer, metadata):\n"
        "    return float(text)\n"
    )
    (tmp_path / "broken_verifiers.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_verifiers", None)
    sys.modules.pop("broken_verifiers", None)


def test_own_function(module):
    verify = make_verifier("own_verifiers:same")
    assert verify("5", "5", {"k": 1}) is CORRECT
    assert verify("6", "5", None) is WRONG
    assert sys.modules["own_verifiers"].calls == [("5", "5", {"k": 1}), ("6", "5", None)]


@pytest.mark.parametrize(
    ("score", "verdict"), [("1.0", CORRECT), ("0.99", WRONG), ("0", WRONG), ("nan", WRONG)]
)
def test_own_score(module, score, verdict):
    assert make_verifier("own_verifiers:score")(score, "5", None) is verdict


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no_such_module:f", "cannot be imported .*No module named 'no_such_module'"),
        ("own_verifiers:gone", "cannot be imported .*gone"),
        ("broken_verifiers:f", "cannot be imported .*ZeroDivisionError"),
        (":f", "cannot be imported .*package.module:function"),
        ("own_verifiers:", "cannot be imported"),
        ("own_verifiers:calls", "is not a function"),
    ],
)
def test_own_function_that_cannot_be_had(module, spec, message):
    with pytest.raises(T3SError, match=f"--t3s-verifier {spec}: {message}"):
        make_verifier(spec)


def test_unknown_name():
    names = "exact, numeric, choice, math, math-lenient, reasoning-gym, code, or package.module"
    with pytest.raises(T3SError, match=f"--t3s-verifier fuzzy: unknown. Choose {names}"):
        make_verifier("fuzzy")
