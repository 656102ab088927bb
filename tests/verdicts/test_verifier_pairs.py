# SPDX-License-Identifier: Apache-2.0
"""Each verifier against hundreds of pairs with known verdicts; the table is in docs/verifiers.md.

    python -m pytest tests/verdicts/test_verifier_pairs.py

prints the table that has to stand there when it has changed.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from t3s_megatron.accuracy.gold import check_gold
from t3s_megatron.accuracy.pool import Limits, Question, VerifierPool
from t3s_megatron.accuracy.verdicts import Verdict
from t3s_megatron.data.thinking import answer_of
from t3s_megatron.errors import DataError
from tests.support.made_answers import gold
from tests.support.sandboxed import needs_sandbox, refusal
from tests.verdicts.make_statements import KINDS, statements
from tests.verdicts.make_verifier_pairs import pairs

#: Of the random pairs; about 75 in each.
ROUNDS = 24
DOCS = Path(__file__).parents[2] / "docs" / "verifiers.md"
VERIFIERS = ("exact", "numeric", "choice", "math", "math-lenient", "code")


@pytest.fixture(scope="module")
def published() -> list[dict]:
    path = Path(__file__).with_name("verifier_pairs.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def verdicts(published) -> dict[str, list[Verdict | None]]:
    """By verifier, for each pair; None where it refuses the gold answer, or cannot run."""
    found: dict[str, list[Verdict | None]] = {}
    for spec in VERIFIERS:
        if spec == "code" and refusal():
            found[spec] = [None] * len(published)
            continue
        usable = [i for i, pair in enumerate(published) if reads(spec, pair)]
        asked = [
            Question(answer_of(published[i]["response"]) or "", published[i]["gold"])
            for i in usable
        ]
        with VerifierPool(spec, Limits(timeout=60, workers=2)) as pool:
            judged = pool.verify(asked)
        found[spec] = [None] * len(published)
        for i, one in zip(usable, judged, strict=True):
            found[spec][i] = one.verdict
    return found


def reads(spec: str, pair: dict) -> bool:
    """Unit tests are for one verifier, though `exact` would take any text for gold."""
    if (spec == "code") != pair["kind"].startswith("programs"):
        return False
    try:
        check_gold(spec, [gold(pair["gold"])])
    except DataError:
        return False
    return True


def table(published, verdicts) -> str:
    lines = ["| kind | pairs | " + " | ".join(f"`{spec}`" for spec in VERIFIERS) + " |"]
    lines.append("|---" * (2 + len(VERIFIERS)) + "|")
    kinds = list(dict.fromkeys(pair["kind"] for pair in published))
    for kind in (*kinds, "all"):
        chosen = [i for i, pair in enumerate(published) if kind in ("all", pair["kind"])]
        cells = [kind, str(len(chosen))]
        for spec in VERIFIERS:
            seen = [(published[i]["correct"], verdicts[spec][i]) for i in chosen]
            seen = [(correct, verdict) for correct, verdict in seen if verdict is not None]
            right = sum(correct == (verdict is Verdict.CORRECT) for correct, verdict in seen)
            accepted = sum(v is Verdict.CORRECT and not correct for correct, v in seen)
            cells.append(f"{right / len(seen):.1%} of {len(seen)}, {accepted}" if seen else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def test_the_set_is_large_and_as_it_is_made(published):
    assert published == list(pairs())
    assert len(published) >= 500 and len({json.dumps(pair) for pair in published}) >= 500
    for kind, count in Counter(pair["kind"] for pair in published).items():
        correct = sum(pair["correct"] for pair in published if pair["kind"] == kind)
        assert 0.2 < correct / count < 0.8, kind


# Each set is judged in one test: of two, each worker process would judge the set for itself.


@needs_sandbox
def test_no_verifier_breaks_and_the_table_in_the_docs_is_what_comes_out(published, verdicts):
    for spec, found in verdicts.items():
        # Of gold that math cannot read; a run leaves it out.
        allowed = {Verdict.CRASHED} if spec.startswith("math") else set()
        assert not ({Verdict.TIMED_OUT, Verdict.CRASHED} - allowed) & set(found), spec
    assert table(published, verdicts) in DOCS.read_text(), f"\n{table(published, verdicts)}"


def looked_at_twice() -> dict[str, list[tuple[dict, Verdict]]]:
    """By verifier, each random pair with its verdict."""
    found = {}
    made = list(statements(ROUNDS))
    for spec in ("math", "math-lenient"):
        asked = [Question(rf"\boxed{{{one['answer']}}}", one["gold"]) for one in made]
        with VerifierPool(spec, Limits(timeout=60, workers=2)) as pool:
            judged = pool.verify(asked)
        found[spec] = [(one, result.verdict) for one, result in zip(made, judged, strict=True)]
    return found


def statements_table(found: dict[str, list[tuple[dict, Verdict]]]) -> str:
    lines = ["| kind | right, wrong | " + " | ".join(f"`{spec}`" for spec in found) + " |"]
    lines.append("|---" * (2 + len(found)) + "|")
    for kind in (*KINDS, "all"):
        cells = []
        for judged in found.values():
            some = [(one["right"], v) for one, v in judged if kind in ("all", one["kind"])]
            right = [verdict is Verdict.CORRECT for is_right, verdict in some if is_right]
            wrong = [verdict is Verdict.CORRECT for is_right, verdict in some if not is_right]
            cells.append(f"{sum(right)} of {len(right)}, {sum(wrong)} of {len(wrong)}")
        lines.append("| " + " | ".join([kind, f"{len(right)}, {len(wrong)}", *cells]) + " |")
    return "\n".join(lines)


def test_what_is_said_besides_the_value_has_to_agree():
    """Not one wrong answer is accepted, and no right one refused; and the second table in the docs
    is what comes out."""
    found = looked_at_twice()
    judged = found["math"]
    assert len(judged) >= 2000
    bad = [(one, v) for one, v in judged if one["right"] != (v is Verdict.CORRECT)]
    assert not bad
    made = statements_table(found)
    assert made in DOCS.read_text(), f"\n{made}"


@pytest.mark.skipif("GSM8K" not in os.environ, reason="GSM8K: folder of its train and test.jsonl")
@pytest.mark.parametrize("spec", ["exact", "numeric", "math"])
def test_gsm8k_worked_solutions(spec):
    solutions = [
        json.loads(line)["answer"]
        for name in ("train", "test")
        for line in Path(os.environ["GSM8K"], f"{name}.jsonl").read_text().splitlines()
    ]
    answers = [solution.split("####")[1].strip() for solution in solutions]
    neighbours = [
        Question(solution, following)
        for solution, own, following in zip(solutions, answers, answers[1:], strict=False)
        if own.replace(",", "") != following.replace(",", "")
    ]
    asked = [Question(*pair) for pair in zip(solutions, answers, strict=True)]
    with VerifierPool(spec, Limits(workers=2)) as pool:
        assert {one.verdict for one in pool.verify(asked)} == {Verdict.CORRECT}
        assert {one.verdict for one in pool.verify(neighbours)} == {Verdict.WRONG}
