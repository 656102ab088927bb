# SPDX-License-Identifier: Apache-2.0
"""Who was better: against figures worked out by hand and an independent permutation test."""

from __future__ import annotations

import itertools
import json
import math
import statistics

import pytest

from t3s_megatron.cli import main
from t3s_megatron.errors import T3SError
from t3s_megatron.monitor.comparison import (
    Answers,
    as_text,
    compare,
    of_runs,
    read_comparisons,
    score,
)
from t3s_megatron.monitor.comparison_tables import comparison_sections
from tests.unit.monitor.made_summaries import sft_summary, t3s_summary, write

BASE = "110 111 100 000 10?".replace(" ", "")
BETTER = "111 111 110 100 111".replace(" ", "")


def answers(marks: str, k: int = 3, problems: str = "p", **more) -> Answers:
    about = {"total": len(marks), "truncated": marks.count("0"), "tokens": 10 * len(marks)}
    return Answers(marks, k, problems, **about | more)


def test_accuracy_is_the_mean_over_problems_and_so_is_its_error():
    found = score(answers(BASE))
    shares = [2 / 3, 1.0, 1 / 3, 0.0, 1 / 2]  # the unknown answer counts neither way
    assert found.accuracy == pytest.approx(statistics.mean(shares))
    assert found.standard_error == pytest.approx(statistics.stdev(shares) / math.sqrt(5))
    assert (found.problems, found.unknown, found.mean_tokens) == (5, 1, 10.0)
    assert found.truncated_share == pytest.approx(7 / 15)


def test_a_difference_is_paired_by_problem_and_its_p_value_exact():
    (found,) = compare("set", {"base": answers(BASE), "t3s": answers(BETTER)}).differences
    gains = [1, 0, 1, 1, 1]  # the last problem: the answer that is unknown in one is left out
    assert (found.model, found.minus, found.problems) == ("t3s", "base", 5)
    assert found.difference == pytest.approx(sum(gains) / 15)
    assert found.standard_error == pytest.approx(statistics.stdev(g / 3 for g in gains) / 5**0.5)
    signs = itertools.product((1, -1), repeat=5)
    sums = [sum(s * g for s, g in zip(sign, gains, strict=True)) for sign in signs]
    assert found.p == pytest.approx(sum(abs(one) >= sum(gains) for one in sums) / 32)
    assert found.describe().startswith("t3s - base: +0.267 +- ")


def test_methods_are_compared_with_base_and_plain_fine_tuning():
    models = {name: answers(BASE) for name in ("base", "sft", "t3s", "own")}
    pairs = [(one.model, one.minus) for one in compare("set", models).differences]
    assert pairs == [("sft", "base"), ("t3s", "base"), ("t3s", "sft"), ("own", "base"),
                     ("own", "sft")]  # fmt: skip
    assert {one.p for one in compare("set", models).differences} == {1.0}


@pytest.mark.parametrize("other", [{"problems": "q"}, {"k": 5}])
def test_other_problems_are_not_paired(other):
    models = {"base": answers(BASE), "t3s": answers(BETTER, **other)}
    assert compare("set", models).differences == []


def test_a_reported_accuracy_stands_where_answers_are_not_known_apart():
    found = score(Answers("", 1, "", 100, 3, None, reported=0.75))
    assert (found.accuracy, found.standard_error, found.mean_tokens) == (0.75, None, None)


def evaluated(weights: str, marks: str, split="heldout", temperature=0.6, k=1) -> dict:
    return {
        "weights": weights, "split": split, "temperature": temperature, "marks": marks,
        "samples_per_prompt": k, "total": len(marks), "truncated": 0,
        "generated_tokens": 5 * len(marks), "accuracy": marks.count("1") / len(marks),
        "standard_error": 0.1, "step": 4, "phase": "targeted", "correct": marks.count("1"),
        "timed_out": 0, "crashed": 0, "unfinished": 0, "skipped": 0,
    }  # fmt: skip


def runs() -> list[dict]:
    prints = {"fingerprints": {"dataset": "d", "heldout": "h"}}
    base = evaluated("theta_0", "1100")
    return [
        t3s_summary(evaluations=[base, evaluated("theta_targeted", "1110")], **prints),
        sft_summary(evaluations=[base, evaluated("theta_f", "0100")], **prints),
        sft_summary(evaluations=[base, evaluated("theta_f", "1101")], name="own", **prints),
    ]


def test_runs_are_compared_with_their_student_and_one_another():
    (found,) = of_runs(runs())
    assert found.name == "heldout prompts at T = 0.6"
    accuracies = {name: one.accuracy for name, one in found.scores.items()}
    assert accuracies == {"base": 0.5, "t3s": 0.75, "sft": 0.25, "own": 0.75}
    assert {(one.model, one.minus): one.difference for one in found.differences} == {
        ("t3s", "base"): 0.25, ("t3s", "sft"): 0.5, ("sft", "base"): -0.25,
        ("own", "base"): 0.25, ("own", "sft"): 0.5,
    }  # fmt: skip
    assert of_runs(runs()[:1]) == []


def test_what_rrt_had_before_its_transfer_is_plain_fine_tuning():
    first, second, _ = runs()
    between = [evaluated("theta_f", "0001"), evaluated("theta_rrt", "0111")]
    rrt = sft_summary(method="rrt", fingerprints=first["fingerprints"],
                      evaluations=[first["evaluations"][0], *between])  # fmt: skip
    scores = of_runs([first, rrt])[0].scores
    assert {name: one.accuracy for name, one in scores.items()} == {
        "base": 0.5, "t3s": 0.75, "sft": 0.25, "rrt": 0.75,
    }  # fmt: skip
    second["evaluations"][1] = evaluated("theta_f", "1111")
    assert of_runs([first, rrt, second])[0].scores["sft"].accuracy == 1.0  # its own run goes first


def test_two_runs_of_one_method_keep_their_figures():
    first, second, _ = runs()
    names = list(of_runs([first, first, second])[0].scores)
    assert names == ["base", "1. t3s", "2. t3s", "sft"]


def test_runs_on_other_prompts_are_shown_and_said_to_be():
    first, second, _ = runs()
    second["fingerprints"] = {"heldout": "other"}
    (found,) = of_runs([first, second])
    assert [one.model for one in found.differences] == ["t3s"]
    assert found.notes == ["sft: asked other problems than base, so nothing is paired"]


def test_the_command_says_writes_and_shows_it(tmp_path, capsys):
    paths = [write(tmp_path / f"{n}.json", one) for n, one in enumerate(runs())]
    paths[2] = f"own={paths[2]}"
    made, page = str(tmp_path / "comparison.json"), tmp_path / "page.html"
    assert main(["report", *paths, "--json", made, "--html", str(page)]) == 0
    out = capsys.readouterr().out
    assert as_text(of_runs(runs())) in out and "OWN" in out
    assert read_comparisons(made) == of_runs(runs())
    (section,) = comparison_sections(of_runs(runs()))
    assert section in page.read_text() and "own - sft" in section
    # An evaluation is shown beside runs, and takes the same form.
    assert main(["report", paths[0], "--evaluation", made]) == 0
    assert "own - sft: +0.500" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["[]", '{"format": 2, "comparisons": []}', "no JSON",
                                     '{"format": 1, "comparisons": [{"name": "x"}]}'])  # fmt: skip
def test_a_file_that_is_no_evaluation_is_named(content, tmp_path):
    path = write(tmp_path / "evaluation.json", content)
    with pytest.raises(T3SError, match="evaluation.json"):
        read_comparisons(path)


def test_it_survives_its_own_json():
    found = of_runs(runs())[0]
    assert type(found).from_dict(json.loads(json.dumps(found.to_dict()))) == found
