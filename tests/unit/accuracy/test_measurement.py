# SPDX-License-Identifier: Apache-2.0
"""Accuracy by hand, and the grading of answers by a verifier in real worker processes."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t3s_megatron.accuracy.answers import Answer
from t3s_megatron.accuracy.measurement import Grader, Measurement, may_fail, measure
from t3s_megatron.accuracy.pool import Limits, VerifierPool
from t3s_megatron.accuracy.verdicts import FAILURES, Verdict
from tests.support.made_answers import gold


def counted(*, max_failed_share=0.1, **counts) -> Measurement:
    verdicts = [Verdict(name) for name, count in counts.items() for _ in range(count)]
    return measure([Answer("", 10, False)] * len(verdicts), verdicts, max_failed_share)


def test_every_verdict_is_counted_apart():
    counts = dict(correct=5, wrong=4, unparseable=2, truncated=3, timed_out=1, crashed=1)
    found = counted(**counts, unfinished=1, skipped=2, max_failed_share=0.2)
    assert {name: found.to_dict()[name] for name in counts} == counts
    assert (found.unfinished, found.skipped, found.total, found.failed) == (1, 2, 19, 3)
    assert found.generated_tokens == 190 and found.void, "2 answers were not looked at"


def test_each_answer_has_a_mark_in_its_place():
    found = counted(correct=2, truncated=1, wrong=1, crashed=1, unparseable=1, max_failed_share=0.2)
    assert found.marks == found.to_dict()["marks"] == "1100?0"
    outcome = found.with_context(samples_per_prompt=2).outcome
    assert (outcome.accuracy, outcome.marks, outcome.samples) == (0.4, "1100?0", 2)
    assert counted(correct=1, skipped=1).outcome.void


def test_a_fault_is_not_a_wrong_answer():
    """Or each fault would deepen the minimum that the detector looks for."""
    found = counted(correct=9, wrong=6, truncated=3, timed_out=1, crashed=1)
    assert found.accuracy == 0.5 and found.judged == 18
    assert found.standard_error == pytest.approx((0.25 / 18) ** 0.5)


def test_too_many_faults_make_a_measurement_void():
    assert not counted(correct=27, timed_out=1, crashed=1, unfinished=1).void
    void = counted(correct=26, timed_out=2, crashed=1, unfinished=1)
    assert void.void and math.isnan(void.accuracy) and math.isnan(void.standard_error)
    assert void.to_dict()["accuracy"] is None and void.to_dict()["standard_error"] is None
    assert json.loads(json.dumps(void.to_dict(), allow_nan=False))["void"] is True


def test_nothing_but_faults_is_void_whatever_is_allowed():
    assert counted(crashed=3, max_failed_share=0.999999).void


@pytest.mark.parametrize(
    ("total", "share", "count"),
    [(24, 0.1, 2), (30, 0.1, 3), (200, 0.1, 20), (10, 0.3, 3), (9, 0, 0)],
)
def test_how_many_may_fail(total, share, count):
    assert may_fail(total, share) == count


@given(st.dictionaries(st.sampled_from([v.value for v in Verdict]), st.integers(0, 9), min_size=1),
       st.floats(0, 0.99))  # fmt: skip
def test_a_measurement_has_a_finite_accuracy_or_is_void(counts, share):
    if not sum(counts.values()):
        return
    found = counted(max_failed_share=share, **counts)
    failed = sum(counts.get(v.value, 0) for v in FAILURES)
    if found.void:
        assert failed > share * found.total - 1e-6 or counts.get("skipped") or not found.judged
    else:
        assert failed <= share * found.total + 1e-6
        assert 0 <= found.accuracy <= 1 and found.standard_error >= 0
    assert str(failed) in found.describe() or not found.void


@pytest.mark.parametrize(("correct", "error"), [(0, 0.0), (100, 0.03535533905932738), (200, 0.0)])
def test_standard_error_of_200_prompts(correct, error):
    """3.5 points at p = 0.5."""
    assert counted(correct=correct, wrong=200 - correct).standard_error == pytest.approx(error)


def test_what_a_person_reads():
    assert counted(correct=1, wrong=3).describe() == "0.250 +- 0.217 (1/4, 0 truncated)"
    found = counted(correct=9, wrong=9, timed_out=1, crashed=1).with_context(retries=1)
    assert found.describe() == (
        "0.500 +- 0.118 (9/18, 0 truncated, 1 timed out, 1 crashed, 1 retry)"
    )
    void = counted(correct=1, unfinished=3).with_context(retries=2)
    assert void.describe() == "void: 3 of 4 answers failed (0 truncated, 3 unfinished, 2 retries)"


def test_forwards_are_counted_where_they_set_several_tokens():
    answers = [Answer("1", 9, False, forwards=3, blocks=2), Answer("2", 3, True, False, 5, 1)]
    found = measure(answers, [Verdict.CORRECT, Verdict.TRUNCATED], 0.1)
    assert (found.forwards, found.generated_tokens, found.tokens_per_forward) == (8, 12, 1.5)
    assert found.blocks == 3 and counted(correct=1).blocks is None
    assert found.to_dict()["forwards"] == 8 and found.to_dict()["tokens_per_forward"] == 1.5
    assert found.describe() == (
        "0.500 +- 0.354 (1/2, 1 truncated, 6.0 tokens an answer, 1.50 a forward)"
    )
    assert counted(correct=1).to_dict()["tokens_per_forward"] is None


def test_context_is_added():
    found = counted(correct=1, wrong=3).with_context(step=6, phase="profile", split="heldout")
    assert (found.step, found.phase, found.split, found.accuracy) == (6, "profile", "heldout", 0.25)


def test_nothing_to_measure():
    with pytest.raises(ValueError, match="nothing to measure"):
        measure([], [], 0.1)


def test_one_verdict_to_each_answer():
    with pytest.raises(ValueError, match="1 verdicts of 2 answers"):
        measure([Answer("1", 1, False)] * 2, [Verdict.CORRECT], 0.1)


# ---------------------------------------------------------------------------------------- grading


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """A verifier that notes what it is shown, and dies of the answer "die" until `cured` exists."""
    folder = tmp_path_factory.mktemp("grading")
    (folder / "noting.py").write_text(
        "import os\n"
        "def verify(text, answer, metadata):\n"
        "    folder = metadata['folder']\n"
        "    with open(folder + '/seen', 'a') as file: file.write(text + ' ')\n"
        "    if text == 'die' and not os.path.exists(folder + '/cured'): os._exit(1)\n"
        "    return text == answer or text == 'die'\n"
    )
    sys.path.insert(0, str(folder))
    with VerifierPool("noting:verify", Limits(workers=1)) as made:
        yield made
    sys.path.remove(str(folder))


def answer(text: str, **how) -> Answer:
    return Answer(text, 1, **({"truncated": False} | how))


def test_answers_meet_their_own_samples_and_those_without_an_end_are_not_verified(pool, tmp_path):
    metadata = {"folder": str(tmp_path)}
    samples = [gold(text, metadata) for text in ("1", "2", "4", "5", "6")]
    answers = [answer("1"), answer("2"), answer("3"), answer("cut", truncated=True)]
    answers.append(answer("late", unfinished=True))
    found = Grader(samples, pool, 0.2).grade(answers)
    assert (found.correct, found.wrong, found.truncated, found.unfinished) == (2, 1, 1, 1)
    assert (tmp_path / "seen").read_text().split() == ["1", "2", "3"]


def test_a_retry_looks_again_at_what_failed_and_at_nothing_else(pool, tmp_path):
    metadata = {"folder": str(tmp_path)}
    samples = [gold("1", metadata, uid=f"s{i}") for i in range(5)]
    grader = Grader(samples, pool, 0.3)
    first = [answer("1"), answer("die"), answer("die"), answer("2"), answer("", unfinished=True)]
    found = grader.grade(first)
    assert found.void and (found.correct, found.crashed, found.unfinished) == (1, 1, 1)
    assert found.skipped == 2, "one failure was allowed, and one answer was unfinished already"
    assert grader.first_fault().startswith("f.jsonl, line of s1: the verifier's process ended")
    (tmp_path / "cured").touch()
    found = grader.grade([*first[:4], answer("1")])
    assert not found.void and (found.correct, found.wrong) == (4, 1)
    assert (tmp_path / "seen").read_text().split() == ["1", "die", "die", "die", "2", "1"]
    assert grader.first_fault() is None


def test_answers_come_in_blocks_and_what_failed_waits_for_a_retry(pool, tmp_path):
    """The faults that a measurement may have are those of its whole."""
    metadata = {"folder": str(tmp_path)}
    grader = Grader([gold("1", metadata, uid=f"s{i}") for i in range(5)], pool, 0.4)
    blocks = [[None, answer("1"), answer("die"), None, None]]
    found = grader.grade(blocks[0], again=False)
    assert (found.marks, found.total, found.generated_tokens) == ("-1?--", 2, 2)
    assert not found.void and found.accuracy == 1.0 and "3 not asked" in found.describe()
    assert found.with_context(samples_per_prompt=1).outcome.ended_early
    blocks.append([answer("2"), answer("1"), answer("die"), answer("", unfinished=True), None])
    found = grader.grade(blocks[1], again=False)
    assert (found.marks, found.total, found.void) == ("01??-", 4, False)
    (tmp_path / "cured").touch()
    found = grader.grade([*blocks[1][:3], answer("3"), answer("4")], again=True)
    assert (found.marks, found.total) == ("01100", 5)
    assert (tmp_path / "seen").read_text().split() == ["1", "die", "2", "die", "3", "4"]


def test_a_block_is_void_when_its_faults_are_too_many_for_the_whole(pool, tmp_path):
    metadata = {"folder": str(tmp_path)}
    grader = Grader([gold("1", metadata, uid=f"s{i}") for i in range(5)], pool, 0.3)
    late = answer("", unfinished=True)
    assert not grader.grade([answer("1"), late, None, None, None], again=False).void
    found = grader.grade([answer("1"), late, late, answer("1"), None], again=False)
    assert found.void and found.marks == "1???-", "one is skipped: it was void already"


def test_nothing_is_verified_when_generation_alone_made_it_void(pool, tmp_path):
    samples = [gold("1", {"folder": str(tmp_path)})] * 3
    answers = [answer("1"), answer("", unfinished=True), answer("", unfinished=True)]
    found = Grader(samples, pool, 0.4).grade(answers)
    assert found.void and (found.skipped, found.unfinished) == (1, 2)
    assert not (tmp_path / "seen").exists()


@pytest.mark.parametrize(
    ("text", "opened", "mark"),
    [
        ("<think>2, no</think>1", False, "1"),
        ("<think>1</think>2", False, "0"),
        ("so 1</think>2", True, "0"),
        ("<think>1", False, "0"),
        ("1", True, "0"),
        ("1", False, "1"),
    ],
)
def test_what_is_verified_follows_the_thinking(pool, tmp_path, text, opened, mark):
    sample = replace(gold("1", {"folder": str(tmp_path)}), opens_thinking=opened)
    assert Grader([sample], pool, 0.0).grade([answer(text)]).marks == mark
    seen = (tmp_path / "seen").read_text() if (tmp_path / "seen").exists() else ""
    assert "think" not in seen
