# SPDX-License-Identifier: Apache-2.0
"""Verdicts of every verifier, and what happens when one cannot be had or breaks."""

from __future__ import annotations

import logging
import sys

import pytest
from made_answers import gold

from t3s_megatron.accuracy.verifiers import Verdict, check_gold, make_verifier
from t3s_megatron.errors import DataError, T3SError

CORRECT, WRONG, UNPARSEABLE, FAILED = Verdict


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
    assert make_verifier("exact")(text, gold(answer)) is verdict


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
    assert make_verifier("numeric")(text, gold(answer)) is verdict


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
    assert make_verifier("reasoning-gym")(text, gold("7", CHAIN)) is verdict


@pytest.mark.parametrize("name", ["chain_sum", "countdown", "basic_arithmetic"])
def test_reasoning_gym_accepts_its_own_answers(name):
    """`countdown` is scored by its metadata: other ways to reach the target count too."""
    import reasoning_gym

    verify = make_verifier("reasoning-gym")
    for entry in reasoning_gym.create_dataset(name, size=3, seed=5):
        one = gold(str(entry["answer"]), entry["metadata"])
        assert verify(f"<answer>{entry['answer']}</answer>", one) is CORRECT
        assert verify("<answer>-1234567</answer>", one) is WRONG


def test_reasoning_gym_is_given_question_and_metadata(monkeypatch):
    import reasoning_gym

    seen = []

    def scorer(name):
        seen.append(name)
        return lambda answer, entry: seen.append((answer, entry)) or 1.0

    monkeypatch.setattr(reasoning_gym, "get_score_answer_fn", scorer)
    verify, metadata = make_verifier("reasoning-gym"), CHAIN | {"question": "4+3?"}
    assert [verify("<answer>7</answer>", gold("7", metadata)) for _ in range(2)] == [CORRECT] * 2
    entry = {"question": "4+3?", "answer": "7", "metadata": metadata}
    assert seen == ["chain_sum", ("7", entry), ("7", entry)]  # one scorer for all answers


@pytest.mark.parametrize("metadata", [None, {}, {"source_dataset": "no such data set"}])
def test_reasoning_gym_without_a_scorer_fails(metadata):
    assert make_verifier("reasoning-gym")("<answer>7</answer>", gold("7", metadata)) is FAILED


def test_reasoning_gym_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(T3SError, match=r'pip install "t3s-megatron\[tiny\]"'):
        make_verifier("reasoning-gym")
    make_verifier("numeric")


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
        "def breaks(text, answer, metadata):\n"
        "    raise KeyError('units')\n"
        "def nothing(text, answer, metadata):\n"
        "    pass\n"
    )
    (tmp_path / "broken_verifiers.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("own_verifiers", None)
    sys.modules.pop("broken_verifiers", None)


def test_own_function(module):
    verify = make_verifier("own_verifiers:same")
    assert verify("5", gold("5", {"k": 1})) is CORRECT
    assert verify("6", gold("5")) is WRONG
    assert sys.modules["own_verifiers"].calls == [("5", "5", {"k": 1}), ("6", "5", None)]


@pytest.mark.parametrize(
    ("score", "verdict"), [("1.0", CORRECT), ("0.99", WRONG), ("0", WRONG), ("nan", WRONG)]
)
def test_own_score(module, score, verdict):
    assert make_verifier("own_verifiers:score")(score, gold("5")) is verdict


@pytest.mark.parametrize("name", ["breaks", "nothing"])
def test_a_verifier_that_breaks_is_not_a_wrong_answer_and_is_logged_once(module, name, caplog):
    verify = make_verifier(f"own_verifiers:{name}")
    with caplog.at_level(logging.WARNING):
        assert [verify("5", gold("5", uid=f"s{i}")) for i in range(3)] == [FAILED] * 3
    (entry,) = caplog.records
    assert "line of s0" in entry.getMessage() and entry.exc_info


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
    names = "exact, numeric, reasoning-gym, or package.module:function"
    with pytest.raises(T3SError, match=f"--t3s-verifier math: unknown. Choose {names}"):
        make_verifier("math")


# ------------------------------------------------------------------------------------ gold answers


def test_gold_answers_that_can_be_compared():
    check_gold("numeric", [gold("1/2"), gold("1,000"), gold("50%")])
    check_gold("reasoning-gym", [gold("anything", CHAIN)])
    check_gold("exact", [gold("anything")])
    check_gold("own_verifiers:same", [gold("anything")])


@pytest.mark.parametrize("answer", ["about 5", "3 1/2", "(1, 2)", "", None])
def test_a_gold_answer_that_is_no_number_is_named(answer):
    bad = gold(answer, uid="bad")
    with pytest.raises(DataError) as caught:
        check_gold("numeric", [gold("1"), bad, gold("x", uid="worse")])
    text = str(caught.value)
    assert (
        "--t3s-verifier numeric: 2 gold answers" in text and f"{answer!r} is not a number" in text
    )
    assert "first f.jsonl, line of bad" in text


@pytest.mark.parametrize("metadata", [None, {}, {"source_dataset": ""}])
def test_a_sample_without_a_scorer_is_named(metadata):
    with pytest.raises(DataError, match=r"1 gold .*line of bad.*metadata\.source_dataset"):
        check_gold("reasoning-gym", [gold("1", CHAIN), gold("2", metadata, uid="bad")])
