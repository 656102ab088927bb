# SPDX-License-Identifier: Apache-2.0
"""What measuring accuracy costs, and what would make it less; figures worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_plans import answers, layout, model
from test_planned_work import SPEED, outcome

from t3s_megatron.planning.measurements import Costs, measuring
from t3s_megatron.planning.report import text
from t3s_megatron.planning.walk import walk
from tests.support.asked import asked

PLAN = asked(budget=50)
#: 60 tokens/s on each of two ranks: a measurement of 20 answers of 30 tokens takes 5 s. A training
#: step takes some milliseconds.
FAST = replace(SPEED, generation=60.0, peak_flops=1e9)


def costs(**changes) -> Costs:
    made = dict(layout=layout(), model=model(), lengths=[10, 30], answers=answers(),
                speed=FAST)  # fmt: skip
    return Costs(**made | changes)


def step_seconds() -> float:
    return costs().of(walk(PLAN, 10))["profile"].seconds / 15


def test_one_measurement_and_all_of_them():
    found = measuring(PLAN, costs())
    assert (found.prompts, found.one.tokens, found.one.seconds) == (10, 600, 5.0)
    assert (found.measurements, found.targeted) == (1 + 15 + 50, 50)
    assert found.seconds == 66 * 5.0
    everything = sum(part.seconds for part in costs().of(walk(PLAN, 10)).values())
    assert found.share == pytest.approx(66 * 5.0 / everything)


def test_evaluations_are_counted_with_them():
    found = measuring(PLAN, costs(answers=answers(evaluated=40)))
    assert found.seconds == 66 * 5.0 + 2 * 10.0  # theta_0 and the end, 40 answers each


def test_nothing_is_measured_by_a_run_that_generates_nothing():
    assert measuring(replace(PLAN, simple=True), costs(answers=None)) is None


@pytest.mark.parametrize("rate", [60.0, 1e9])  # a measurement is longer than a step, and shorter
def test_servers_beside_the_run_hide_what_the_steps_between_two_measurements_last(rate):
    plan = replace(PLAN, targeted_accuracy_interval=5)
    made = costs(speed=replace(FAST, generation=rate, export=100.0))
    found = measuring(plan, made)
    one, step = found.one.seconds, step_seconds()
    assert (found.exported, found.export, found.exports) == (8000, 80.0, None)
    # The start is exported once and measured; then 15 steps and ten times five.
    waits = made.seconds(walk(plan, 10)) + 26 * 80
    assert found.beside.waits == pytest.approx(waits)
    # A 16th step of the profile is made before the 15th is known, and the end is waited for.
    hidden = 15 * min(one, step) + 9 * min(one, 5 * step)
    assert found.beside.overlapped == pytest.approx(waits + step - hidden)


def test_servers_that_could_not_answer_are_not_advised():
    made = costs(answers=answers(servable=False))
    found = measuring(PLAN, made)
    assert found.beside is None and found.exports is None
    run = walk(PLAN, 10)
    parts = {name: (work, work) for name, work in made.of(run).items()}
    said = text(outcome(answers=made.answers, measuring=found, work=parts))
    assert "one measurement" in said and "server" not in said


def test_what_overlap_refuses_is_not_planned_with_it():
    assert measuring(replace(PLAN, accuracy_interval_coarse=3), costs()).beside.overlapped is None
    blocks = measuring(PLAN, costs(answers=answers(blocks=4)))
    assert blocks.beside.overlapped is None
    assert "--t3s-accuracy-overlap" not in text(outcome(measuring=blocks))


def test_by_confidence_the_corpus_is_scored_at_every_step_and_nothing_measured():
    plan = replace(PLAN, signal="confidence", targeted_accuracy_interval=50)
    found = measuring(plan, costs())
    assert (found.measurements, found.targeted) == (2, 2)
    run = walk(plan, 10)
    # Steps 0 to 15, then theta_b and theta_0, of two samples of 40 positions.
    assert costs().of(run)["scoring"].tokens == (16 + 2) * 40
    assert "none in the profile; 2 later" in text(outcome(measuring=found))


def test_alternatives_are_other_runs_whole():
    found = measuring(PLAN, costs())
    by_change = {other.change.split(" (")[0]: other for other in found.alternatives}
    assert list(by_change) == [
        "--t3s-targeted-accuracy-interval 0",
        "--t3s-targeted-accuracy-interval 0 --t3s-accuracy-interval 2",
        "--t3s-targeted-accuracy-interval 0 --t3s-accuracy-interval-coarse 3",
        "--t3s-targeted-accuracy-interval 0 --t3s-accuracy-prompts 5",
        "--t3s-signal confidence",
        "--t3s-simple",
    ]
    few = by_change["--t3s-targeted-accuracy-interval 0"]
    assert few.measurements == 1 + 15 + 1  # the end of training is still measured
    assert few.seconds == pytest.approx(costs().seconds(walk(PLAN, 10)) - 49 * 5.0)
    # theta_b at step 10 is confirmed by 5 later measurements, at step 20.
    rare = by_change["--t3s-targeted-accuracy-interval 0 --t3s-accuracy-interval 2"]
    assert rare.measurements == 1 + 10 + 1
    assert rare.seconds == pytest.approx(few.seconds - 5 * 5.0 + 5 * step_seconds())
    # The fall is seen at step 3, and every step from there to 15 is measured.
    coarse = by_change["--t3s-targeted-accuracy-interval 0 --t3s-accuracy-interval-coarse 3"]
    assert coarse.measurements == 2 + 12 + 1
    assert by_change["--t3s-signal confidence"].measurements == 0
    assert by_change["--t3s-simple"].measurements == 0


def test_what_would_cost_more_is_not_advised():
    free = costs(speed=replace(FAST, generation=1e12))
    found = measuring(replace(PLAN, targeted_accuracy_interval=0), free)
    assert not found.dominates
    # Twice the interval confirms theta_b later; measuring coarsely at first does not.
    assert not any("accuracy-interval 2" in other.change for other in found.alternatives)


def test_advice_is_given_where_measuring_dominates():
    dear, cheap = (
        measuring(PLAN, costs(speed=replace(FAST, generation=rate))) for rate in (1e-3, 1e9)
    )
    assert dear.dominates and not cheap.dominates
    said = text(outcome(measuring=dear))
    assert "10 prompts, 20 answers of 30 tokens: 600 tokens" in said
    assert "66, 100% of the run's time: 16 in the profile, by which theta_b is found; 50 l" in said
    assert "  --t3s-targeted-accuracy-interval 0: measured 17 times, " in said
    assert "What makes it less" not in text(outcome(measuring=cheap))
