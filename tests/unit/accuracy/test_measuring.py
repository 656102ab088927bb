# SPDX-License-Identifier: Apache-2.0
"""A measurement from prompts to figures, without a rank: who answers is a function here, and who
verifies is real worker processes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from t3s_megatron.accuracy.answers import Answer, Sampling
from t3s_megatron.accuracy.measuring import Measurer
from t3s_megatron.accuracy.options import AccuracyOptions
from t3s_megatron.accuracy.pool import Limits, VerifierPool
from tests.support.made_answers import gold

SAMPLING = Sampling(
    temperature=0.6, max_new_tokens=8, end_token=1, seed=3, vocab_size=9, batch_size=4
)
SAMPLES = [replace(gold(str(i)), uid=str(i)) for i in range(4)]
UNFINISHED = Answer("", 0, False, unfinished=True)


@dataclass
class Spy:
    """Whoever answers and whoever listens. `lost`: numbers whose first answers are unfinished."""

    repeats: int = 1
    lost: dict[int, int] = field(default_factory=dict)
    asked: list[tuple] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    seconds: list[str] = field(default_factory=list)

    def generate(self, weights, prompts, sampling, *, numbers, timeout):
        self.asked.append((weights, len(prompts), sampling.temperature, numbers, timeout))
        return [self._answer(number) for number in numbers]

    def _answer(self, number: int) -> Answer:
        if self.lost.get(number, 0):
            self.lost[number] -= 1
            return UNFINISHED
        return Answer(str(number // self.repeats % 3), 5, False)  # sample 3 is answered "0": wrong

    def say(self, line: str) -> None:
        self.lines.append(line)

    def spent(self, what: str, seconds: float) -> None:
        assert seconds >= 0
        self.seconds.append(what)


@pytest.fixture(scope="module")
def pool():
    with VerifierPool("exact", Limits(workers=1)) as made:
        yield made


def measurer(pool, spy: Spy, on_root=lambda work: work(), **options) -> Measurer:
    return Measurer(AccuracyOptions(**options), SAMPLING, pool, spy.generate, spy, on_root)


def test_every_prompt_is_asked_once_and_judged(pool):
    spy = Spy()
    found = measurer(pool, spy).measure("weights", SAMPLES, step=2, phase="profile")
    assert found.marks == "1110" and found.accuracy == 0.75 and found.generated_tokens == 20
    assert (found.step, found.phase, found.split, found.temperature) == (2, "profile", "train", 0.6)
    assert spy.asked == [("weights", 4, 0.6, [0, 1, 2, 3], None)]
    assert spy.lines == [] and spy.seconds == ["generation", "verification"]


def test_what_a_retry_finishes_counts_as_if_it_had_been_finished_at_once(pool):
    spy = Spy(lost={1: 1, 3: 2})
    found = measurer(pool, spy).measure("weights", SAMPLES, step=0, phase="profile")
    assert found.marks == "1110" and found.retries == 2 and not found.void
    assert [numbers for *_, numbers, _ in spy.asked] == [[0, 1, 2, 3], [1, 3], [3]]
    assert len(spy.lines) == 2 and all("the measurement is void" in line for line in spy.lines)


def test_what_stays_void_is_handed_on_as_such(pool):
    spy = Spy(lost={0: 9})
    found = measurer(pool, spy, measurement_retries=1).measure("w", SAMPLES, step=0, phase="p")
    assert found.void and found.retries == 1 and found.marks == "????"


def test_a_measurement_ends_after_the_block_that_settles_it(pool):
    spy, looks = Spy(), []

    def settles(so_far, count):
        looks.append((so_far.marks.count("-"), count))
        return "that is enough" if len(looks) == 2 else None

    made = measurer(pool, spy)
    found = made.measure("w", SAMPLES, step=1, phase="profile", settles=settles, blocks=4)
    assert looks == [(3, 3), (2, 3)] and found.total == 2 and found.outcome.ended_early
    assert spy.lines == ["the measurement ends after 2 of 4 answers: that is enough"]
    # Without anyone to ask, there is one block.
    assert made.measure("w", SAMPLES, step=1, phase="profile").total == 4


def test_blocks_share_the_time_for_the_whole_and_a_retry_has_it_again(pool):
    spy = Spy(lost={0: 1})
    made = measurer(pool, spy, generation_timeout=100.0)
    made.measure("w", SAMPLES, step=1, phase="profile", settles=lambda *_: None, blocks=2)
    limits = [limit for *_, limit in spy.asked]
    assert limits[0] == 100.0 and limits.count(100.0) == 2, "a first block, and a retry"
    assert all(0 < limit <= 100.0 for limit in limits)


def test_reports_are_of_whole_sets_at_each_temperature(pool):
    spy = Spy()
    made = measurer(pool, spy, report_temperatures=(0.0, 1.0), report_samples=2)
    spy.repeats = 1
    found = list(made.report("w", {"train": SAMPLES, "heldout": SAMPLES[:1]}, step=5, phase="done"))
    assert [(m.split, m.temperature, m.total) for m in found] == [
        ("train", 0.0, 4), ("train", 1.0, 8), ("heldout", 0.0, 1), ("heldout", 1.0, 2),
    ]  # fmt: skip
    assert [temperature for _, _, temperature, _, _ in spy.asked] == [0.0, 1.0, 0.0, 1.0]


def test_what_the_root_finds_is_what_counts(pool):
    """Another rank has no texts and no verifiers: it takes the root's figures."""
    results = []

    def root(work):
        results.append(work())
        return results[-1]

    of_root = measurer(pool, Spy(), root).measure("w", SAMPLES, step=1, phase="profile")
    deaf = Spy()
    other = measurer(None, deaf, lambda work: results.pop(0))
    found = other.measure("w", SAMPLES, step=1, phase="profile")
    assert found.with_context(seconds=0.0) == of_root.with_context(seconds=0.0)
