# SPDX-License-Identifier: Apache-2.0
"""Every scorer of reasoning-gym against its own gold answers and nonsense, as they come from JSON.

Of the data sets that are refused, each has a scorer that cannot be relied on: listed here, so that
another release of the package that mends one of them, or breaks another, is seen.
"""

from __future__ import annotations

import json

import pytest

from t3s_megatron.accuracy.gold import check_verifier
from t3s_megatron.accuracy.pool import Limits
from t3s_megatron.accuracy.verdicts import Verdict
from t3s_megatron.accuracy.verifiers import entry
from t3s_megatron.errors import DataError
from tests.support.made_answers import gold

reasoning_gym = pytest.importorskip("reasoning_gym")

#: reasoning_gym 0.1.x: `bool("False")` is True, so that whatever is answered is right.
REFUSED = {"game_of_life_halting"}
#: Their problems have no gold answer; the scorer needs none.
WITHOUT_ANSWER = {
    "boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour",
}  # fmt: skip
#: Not tried: an optional package or minutes to make.
LEFT_OUT = {"composite"}


def problems(name: str, size: int = 2):
    for made in reasoning_gym.create_dataset(name, size=size, seed=7):
        metadata = json.loads(json.dumps(made["metadata"], default=str))
        answer = made["answer"]
        yield None if answer is None else str(answer), metadata | {"question": made["question"]}


def test_every_scorer_is_right_about_its_own_gold_answers_or_refused():
    known = entry("reasoning-gym")
    verify = known.make(30.0)
    refused, without = set(), set()
    for name in sorted(set(reasoning_gym.factory.DATASETS) - LEFT_OUT):
        for answer, metadata in problems(name):
            if answer is None:
                without.add(name)
            if known.judge_gold(verify, answer, metadata)[0] is not Verdict.CORRECT:
                refused.add(name)
    assert refused == REFUSED
    assert without == WITHOUT_ANSWER


def test_a_scorer_that_accepts_anything_is_named_before_the_run():
    answer, metadata = next(iter(problems("game_of_life_halting")))
    with pytest.raises(DataError, match=r"'banana' is accepted for \(scorer of game_of_life"):
        check_verifier("reasoning-gym", [[gold(answer, metadata)]], Limits())


def test_a_missing_answer_is_refused_where_the_scorer_needs_one():
    _, metadata = next(iter(problems("chain_sum")))
    with pytest.raises(DataError, match=r"is missing \(scorer of chain_sum\)"):
        check_verifier("reasoning-gym", [[gold(None, metadata)]], Limits())
