# SPDX-License-Identifier: Apache-2.0
"""A run of two ranks whose measurements end early and whose minimum a paired test confirms.

Confidence is watched in it too, and decides nothing. Beside it the same run with whole measurements
and patience alone; both are also those that tests/jobs/test_resume.py kills.
"""

from __future__ import annotations

import re

import pytest

from t3s_megatron.method.outcome import Outcome
from t3s_megatron.method.paired import p_above
from tests.support.resumable import BLOCKS, summary_of


@pytest.fixture(scope="module")
def runs(uninterrupted):
    return summary_of(uninterrupted("two")), summary_of(uninterrupted("blocks"))


def profile(summary: dict) -> dict[int, dict]:
    return {m["step"]: m for m in summary["measurements"] if m["phase"] == "profile"}


def test_answers_are_those_of_whole_measurements_as_far_as_they_go(runs):
    whole, blocks = map(profile, runs)
    ended = [step for step, m in blocks.items() if "-" in m["marks"]]
    assert ended and 0 not in ended
    for step, m in blocks.items():
        pairs = list(zip(m["marks"], whole[step]["marks"], strict=True))
        assert all(here in ("-", there) for here, there in pairs), step
        assert m["total"] == 24 - m["marks"].count("-") and m["total"] % 8 == 0
        assert (m["generated_tokens"] < whole[step]["generated_tokens"]) == (step in ended)


def test_what_decides_nothing_is_measured_whole(runs):
    _, blocks = runs
    targeted = [m["marks"] for m in blocks["measurements"] if m["phase"] == "targeted"]
    assert targeted and not any("-" in marks for marks in targeted)


def test_the_decisions_can_be_made_again_from_the_summary(runs):
    _, blocks = runs
    measured = profile(blocks)
    reason = re.fullmatch(r"paired test at step (\d+), p = (.*)", blocks["theta_b_reason"])
    assert reason, f"{blocks['theta_b_reason']}: this student is no longer confirmed by a test"
    step, theta_b = int(reason[1]), blocks["theta_b_step"]
    assert step == max(measured)
    outcome = {s: Outcome(m["accuracy"], m["marks"]) for s, m in measured.items()}
    p = p_above(outcome[step], outcome[theta_b])
    assert format(p, ".2g") == reason[2] and p <= BLOCKS[-1]
    whole = {s: m["accuracy"] for s, m in measured.items() if "-" not in m["marks"]}
    assert theta_b == min(whole, key=lambda s: (whole[s], s))
