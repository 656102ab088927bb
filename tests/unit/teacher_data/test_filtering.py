# SPDX-License-Identifier: Apache-2.0
"""Rejection sampling: fates that are known, a choice that is uniform by seed and depends on nothing
else, and reasons for everything that is dropped. Verifiers are real processes."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_samples import row, rows, shuffled, write

from t3s_megatron.accuracy.pool import Limits
from t3s_megatron.data.records import load_records
from t3s_megatron.errors import DataError
from t3s_megatron.teacher_data.filtering import (
    Dropped,
    Fate,
    Result,
    training_row,
    verify_and_choose,
)
from t3s_megatron.teacher_data.filtering import _choose as choose
from t3s_megatron.teacher_data.prompts import write_rows
from t3s_megatron.teacher_data.report import make_report, text
from t3s_megatron.teacher_data.traces import Asked, Trace, load_traces
from tests.support.sandboxed import refusal

FATES = {
    (1, 1): [*Fate][:6],  # all that need no fault
    (1, 2): [Fate.WRONG, Fate.TRUNCATED, Fate.WRONG],
    (1, 3): [Fate.CORRECT] * 4,
    (1, 4): [Fate.CORRECT, Fate.WRONG] * 2,
}


@pytest.fixture
def run(tmp_path):
    """run(samples, **options): the results, with `numeric` and two workers."""

    def verified(samples, verifier="numeric", workers=2, timeout=30.0, seed=0, **options):
        asked = load_traces([write(tmp_path / "raw.jsonl", samples)])
        limits = Limits(timeout=timeout, workers=workers)
        return verify_and_choose(asked, verifier, limits, seed=seed, **options)

    return verified


def test_every_sample_has_the_fate_it_was_made_for(run):
    results = run(rows(FATES))
    assert {r.asked.uid: list(r.fates) for r in results} == {
        f"{a}+{b}": some for (a, b), some in FATES.items()
    }
    assert [r.dropped for r in results] == [None, Dropped.NONE_CORRECT, None, None]
    for result in results:
        if result.kept is not None:
            assert result.fates[result.asked.traces.index(result.kept)] is Fate.CORRECT


def test_a_correct_answer_that_met_the_length_limit_is_not_correct(run):
    samples = [row(Fate.CORRECT, 1, 1, finish_reason="length"), row(Fate.CORRECT, 1, 2)]
    assert [r.fates for r in run(samples)] == [(Fate.TRUNCATED,), (Fate.CORRECT,)]


def test_without_finish_reasons_the_end_of_thinking_can_be_required(run):
    samples = [row(Fate.CORRECT, 1, 1), row(Fate.CORRECT, 1, 2, response="It is \\boxed{3}")]
    assert [r.fates for r in run(samples)] == [(Fate.CORRECT,)] * 2
    required = run(samples, thinking_required=True)
    assert [r.fates for r in required] == [(Fate.CORRECT,), (Fate.TRUNCATED,)]


def test_only_what_follows_the_thinking_counts(run):
    response = "<think>\n\\boxed{2}\n</think>\n\nSo \\boxed{7}."
    assert run([row(Fate.CORRECT, 1, 1), row(Fate.CORRECT, 1, 1, response=response)])[0].fates == (
        Fate.CORRECT,
        Fate.WRONG,
    )


@pytest.mark.parametrize(
    ("samples", "dropped"),
    [
        ([row(Fate.CORRECT, 1, 2, answer=None)], Dropped.NO_GOLD),
        (
            [row(Fate.CORRECT, 1, 2), row(Fate.CORRECT, 1, 2, answer="4")],
            Dropped.CONFLICTING_GOLD,
        ),
        ([row(Fate.CORRECT, 1, 2, answer="three")], Dropped.UNREADABLE_GOLD),
        ([row(Fate.WRONG, 1, 2)], Dropped.NONE_CORRECT),
    ],
)
def test_what_is_dropped_has_a_reason_and_costs_nothing_else(run, samples, dropped):
    good, bad = run([row(Fate.CORRECT, 1, 1), *samples])
    assert good.kept is not None and bad.kept is None and bad.dropped is dropped
    if dropped is not Dropped.NONE_CORRECT:
        assert set(bad.fates) == {Fate.UNVERIFIED}


def test_nothing_with_a_usable_gold_answer_is_an_error(run):
    with pytest.raises(DataError, match=r"not one of 1 prompts .* numeric can use.*'three'"):
        run([row(Fate.CORRECT, 1, 2, answer="three")])


def test_a_verifier_that_hangs_or_raises_is_counted_apart(run, tmp_path, monkeypatch):
    (tmp_path / "moody.py").write_text(
        "import time\n"
        "def verify(text, answer, metadata):\n"
        "    if 'guess' in text or 'boxed{3}' in text: time.sleep(1000)\n"
        "    if 'know' in text: raise RuntimeError('no idea')\n"
        "    return 'banana' not in text and '98765432123' not in text\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    samples = rows({(1, 1): [Fate.CORRECT, Fate.UNPARSEABLE], (1, 2): [Fate.CORRECT]})
    good, bad = run(samples, verifier="moody:verify", timeout=1.0)
    assert good.fates == (Fate.CORRECT, Fate.CRASHED) and good.kept is not None
    assert bad.fates == (Fate.TIMED_OUT,) and bad.dropped is Dropped.UNDECIDED
    report = make_report([good, bad], lambda trace: len(trace.response), "characters")
    assert "no idea" in report["first_fault"] and "no idea" in text(report)


def test_the_choice_is_independent_of_order_workers_and_other_prompts(run):
    samples = rows(FATES) + rows({(1, 3): [Fate.CORRECT] * 3}, teacher="r1")
    expected = [training_row(r) for r in run(samples) if r.kept is not None]
    assert [one["id"] for one in expected] == ["1+1", "1+3", "1+4", "1+3@r1"]
    for seed, workers in ((1, 1), (2, 3)):
        again = run(shuffled(samples, seed), workers=workers)
        assert [training_row(r) for r in again if r.kept is not None] == expected
    alone = run([one for one in samples if one["id"] == "1+3"])
    assert [training_row(r) for r in alone] == [expected[1], expected[3]]


def made(n: int, key: str = "k") -> Asked:
    """n correct samples, the first two of them the same text."""
    texts = ["same", "same", *(f"text {i}" for i in range(n - 2))]
    return Asked(key, None, traces=[Trace(t, True, None, f"{i}") for i, t in enumerate(texts)])


def chosen(asked: Asked, seed: int) -> str:
    n = len(asked.traces)
    kept = choose(asked, (Fate.CORRECT,) * n, (None,) * n, None, seed).kept
    assert kept is not None
    return kept.response


def test_the_choice_is_uniform_over_samples():
    """Chi-square over 4,000 seeds, 8 samples of which two have the same text: 6 degrees of freedom,
    22.46 at p = 0.001. The seeds are fixed: it is passed or failed for good."""
    counts = Counter(chosen(made(8), seed) for seed in range(4000))
    expected = {text: 500.0 * (2 if text == "same" else 1) for text in counts}
    assert len(counts) == 7
    assert sum((n - expected[t]) ** 2 / expected[t] for t, n in counts.items()) < 22.46


def test_prompts_are_drawn_for_independently():
    """The same samples under 4,000 prompts, one seed."""
    counts = Counter(chosen(made(8, key=str(k)), 0) for k in range(4000))
    assert len(counts) == 7 and 850 < counts["same"] < 1150


@given(st.permutations(range(8)), st.integers(0, 2**40))
def test_the_choice_is_that_of_any_other_order(order, seed):
    asked = made(8)
    moved = Asked("k", None, traces=[asked.traces[i] for i in order])
    assert chosen(asked, seed) == chosen(moved, seed)


def test_what_is_kept_is_what_a_run_reads(run, tmp_path):
    samples = rows({(1, 1): [Fate.CORRECT]}, teacher="r1", metadata={"level": 3})
    samples += rows({(2, 2): [Fate.CORRECT]}, response="4\n</think>\\boxed{4}")
    path = str(tmp_path / "train.jsonl")
    write_rows(path, [training_row(result) for result in run(samples)])
    second, first = load_records(path)
    assert (first.uid, first.answer, first.teacher) == ("1+1@r1", "2", "r1")
    assert first.metadata == {"level": 3}
    assert [m["content"] for m in second.messages] == [
        "What is 2 + 2?",
        "<think>\n4\n</think>\n\n\\boxed{4}",
    ]


def test_the_report_adds_up(run):
    results: list[Result] = run(rows(FATES))
    report = make_report(results, lambda trace: len(trace.response), "characters", seed=0)
    (found,) = report["teachers"].values()
    assert found["samples"] == sum(found["samples_by_fate"].values()) == 17
    assert found["samples_by_fate"]["correct"] == 7 and found["kept"] == 3
    assert sum(found["pass_rates"].values()) == found["prompts"] == 4
    assert found["pass_rates"] == {
        "0": 1,
        "0 to 0.25": 1,
        "0.25 to 0.5": 1,
        "0.5 to 0.75": 0,
        "0.75 to 1, not all": 0,
        "1": 1,
    }
    assert [one["id"] for one in report["dropped"]] == ["1+2"]
    assert found["lengths"]["kept"]["of"] == 3
    assert "kept 3 of 4 prompts (75.0%)" in text(report)


def test_gold_that_is_not_an_answer_may_stand_in_the_metadata(run):
    program = "```python\ndef f(x):\n    return x + %d\n```"
    tests = {"test_list": ["assert f(1) == 2"]}
    samples = [
        {"prompt": "Add one.", "response": program % n, "metadata": tests, "finish_reason": "stop"}
        for n in (1, 2)
    ]
    if refusal():
        pytest.skip(refusal())
    (found,) = run(samples, verifier="code")
    assert sorted(found.fates) == [Fate.CORRECT, Fate.WRONG] and found.kept is not None
