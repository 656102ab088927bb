# SPDX-License-Identifier: Apache-2.0
"""Accuracy by hand."""

from __future__ import annotations

import json

import pytest
from made_answers import gold

from t3s_megatron.accuracy.measurement import Answer, Measurement, grade
from t3s_megatron.accuracy.verifiers import Verdict, make_verifier


def graded(verify) -> Measurement:
    answers = [
        Answer("5", 10, truncated=False),  # correct
        Answer("5", 20, truncated=True),  # right as far as it goes, and cut off
        Answer("6", 30, truncated=False),  # wrong
        Answer("none", 40, truncated=False),  # unparseable
        Answer("5", 50, truncated=False),  # the verifier breaks: no gold answer
    ]
    return grade(answers, [gold("5")] * 4 + [gold(None)], verify)


def test_every_verdict_is_counted_apart():
    def verify(text, sample):
        return Verdict.FAILED if sample.answer is None else make_verifier("numeric")(text, sample)

    found = graded(verify)
    assert found == Measurement(
        total=5,
        correct=1,
        wrong=1,
        truncated=1,
        unparseable=1,
        failed=1,
        generated_tokens=150,
    )
    assert found.accuracy == 0.2
    assert found.standard_error == pytest.approx((0.2 * 0.8 / 5) ** 0.5)


def test_a_truncated_answer_is_not_verified():
    seen = []
    graded(lambda text, sample: seen.append(text) or Verdict.WRONG)
    assert seen == ["5", "6", "none", "5"]


def test_answers_meet_their_own_samples():
    answers = [Answer(text, 1, False) for text in "123"]
    found = grade(answers, [gold(text) for text in "124"], make_verifier("numeric"))
    assert (found.correct, found.wrong) == (2, 1)


@pytest.mark.parametrize(("correct", "error"), [(0, 0.0), (100, 0.03535533905932738), (200, 0.0)])
def test_standard_error_of_200_prompts(correct, error):
    """3.5 points at p = 0.5."""
    found = Measurement(200, correct, 200 - correct, 0, 0, 0, 0)
    assert found.standard_error == pytest.approx(error)


def test_context_and_dict():
    found = Measurement(4, 1, 3, 0, 0, 0, 8).with_context(
        step=6, phase="profile", split="heldout", temperature=0.6, samples_per_prompt=2, seconds=1.5
    )
    assert json.loads(json.dumps(found.to_dict())) == dict(
        total=4,
        correct=1,
        wrong=3,
        truncated=0,
        unparseable=0,
        failed=0,
        generated_tokens=8,
        step=6,
        phase="profile",
        split="heldout",
        temperature=0.6,
        samples_per_prompt=2,
        seconds=1.5,
        accuracy=0.25,
        standard_error=pytest.approx((0.25 * 0.75 / 4) ** 0.5),
    )


def test_nothing_to_grade():
    with pytest.raises(ValueError, match="nothing to grade"):
        grade([], [], make_verifier("exact"))


def test_one_sample_to_each_answer():
    with pytest.raises(ValueError, match="shorter"):
        grade([Answer("1", 1, False)] * 2, [gold("1")], make_verifier("exact"))
