# SPDX-License-Identifier: Apache-2.0
"""Runs whose answers come from servers; figures worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_plans import answers, layout, model, storage
from test_planned_measurements import FAST, PLAN, costs
from test_planned_work import outcome

from t3s_megatron.method.phases import ActionKind
from t3s_megatron.planning.facts import Samples, Servers
from t3s_megatron.planning.measurements import measuring
from t3s_megatron.planning.memory import disk, generation, host_memory
from t3s_megatron.planning.reading import in_process_of, unplanned
from t3s_megatron.planning.report import text
from t3s_megatron.planning.serving import waited
from t3s_megatron.planning.walk import walk
from t3s_megatron.planning.work import generating
from tests.support.arguments import config
from tests.support.asked import asked

#: Confirmed by one measurement; two in the targeted phase.
SHORT = asked(budget=4, profile_iters=9, simple_step=1, patience=1,
             targeted_accuracy_interval=2)  # fmt: skip


def seconds(run) -> float:
    """Training waits: steps of 2 s, measurements of 5 s, exports of 1 s."""
    return waited(run.events, step=lambda _: 2.0, measurement=lambda _: 5.0, export=1.0)


def test_without_overlap_all_of_every_measurement_is_waited_for():
    run = walk(SHORT, bottleneck=2)
    assert (run.profile_steps, run.measurements, run.in_flight) == (3, 1 + 3 + 2, 0)
    assert seconds(run) == 6 * 5


def test_one_in_flight():
    run = walk(SHORT, bottleneck=2, overlap=1)
    assert (run.theta_b_step, run.profile_steps, run.discarded_steps) == (2, 4, 1)
    assert (run.measurements, run.targeted_measurements, run.in_flight) == (6, 2, 1)
    # Step 0 is waited for: 5 s. Step 1 ends at 7, and 8 to 13 is measured; step 2 ends at 10, so 3
    # more, and again after steps 3 and 4. Targeted: begun at 30 and collected at 34; then the end.
    assert seconds(run) == 5 + 3 + 3 + 3 + 1 + 5
    assert sum(event.exports for event in run.events) == 5, "those of the start are there"


def test_two_in_flight_queue_at_the_servers():
    run = walk(SHORT, bottleneck=2, overlap=2)
    assert (run.theta_b_step, run.profile_steps, run.discarded_steps) == (2, 5, 2)
    # That of step 4 is begun and thrown away.
    assert (run.measurements, run.in_flight) == (1 + 4 + 2, 2)
    assert run.events.count((ActionKind.DISCARD, 0, False)) == 1
    # Measured in 8-13, 13-18, 18-23; collected after steps 3, 4 and 5, at 13, 16 and 21.
    assert seconds(run) == 5 + 0 + 2 + 2 + 0 + 5


@pytest.mark.parametrize("overlap", [1, 2, 4])
def test_training_that_is_slow_hides_all_but_the_first_and_the_last(overlap):
    run = walk(SHORT, bottleneck=2, overlap=overlap)
    waits = waited(run.events, lambda _: 100.0, measurement=lambda _: 5.0, export=1.0)
    assert waits == 5 + 5


def test_each_profile_has_its_own_steps_and_measurements():
    plan = replace(SHORT, teachers=("a", "b"))
    run = walk(plan, bottleneck=2, overlap=1)
    assert (run.profile_steps, run.discarded_steps, run.measurements) == (8, 2, 2 * 4 + 2)
    # Of b nothing is hidden; its step 0 is exported again.
    of_b = waited(run.events, lambda _: 0.0, lambda profile: 7.0 * (profile == 1), export=0.0)
    assert of_b == 4 * 7
    assert sum(event.exports for event in run.events) == 3 + 4 + 2


def served(urls: int = 3, overlap: int = 0, **changes):
    made = answers(servers=Servers(urls, concurrency=4, overlap=overlap), **changes)
    return costs(answers=made, speed=replace(FAST, export=4000.0))


def test_the_totals_are_those_of_the_servers():
    made = served(evaluated=40)
    found = measuring(PLAN, made)
    # 60 tokens/s at each of three. 66 measurements of 600 tokens, two evaluations of 1200.
    generated = (66 * 600 + 2 * 1200) / 180
    assert found.one.seconds == pytest.approx(600 / 180)
    assert found.generating == pytest.approx(generated)
    # 4000 parameters of 2 bytes; the start, which serves step 0 and its evaluation, 65 steps and
    # the last evaluation.
    assert (found.exported, found.export, found.exports[0]) == (8000, 2.0, 67)
    assert found.seconds == pytest.approx(generated + 67 * 2)
    training = made.of(walk(PLAN, 10))["profile"].seconds * 65 / 15
    scored = made.of(walk(PLAN, 10))["scoring"].seconds
    assert found.share == pytest.approx(found.seconds / (found.seconds + training + scored))
    assert found.beside is None


def test_overlap_takes_from_the_wait_and_not_from_the_work():
    waits, overlaps = (measuring(PLAN, served(overlap=overlap)) for overlap in (0, 1))
    assert overlaps.generating == waits.generating
    assert overlaps.exports == waits.exports
    step = costs().of(walk(PLAN, 10))["targeted"].seconds / 50
    # Up to the next export a step and the export before the wait: of each but step 0, the last of
    # the profile's decides after one more step, and of 50 the last has nothing beside it.
    assert waits.seconds - overlaps.seconds == pytest.approx((15 + 49) * step)
    assert not any("coarse" in other.change for other in overlaps.alternatives), "refused with it"
    assert overlaps.alternatives[-1].change.startswith(
        "--t3s-simple without --t3s-accuracy-overlap"
    )


def test_the_report_says_who_waits_for_whom():
    made, run = served(overlap=1), walk(PLAN, 10, overlap=1)
    parts = {name: (work, work) for name, work in made.of(run).items()}
    said = text(outcome(answers=made.answers, measuring=measuring(PLAN, made), expected=run,
                        longest=run, work=parts, speed=FAST))  # fmt: skip
    assert "4 min of answering, of which training waits for" in said  # 66 x 600 at 180 tokens/s
    assert "before which the live weights answer probes (not counted); 1 profile steps" in said
    assert "generation as given, 60 tokens/s a server of 3" in said
    assert "generation is of the probes only" in said
    (row,) = [line for line in said.splitlines() if line.startswith("export ")]
    assert row.split()[1:3] == ["66", "exports"]
    unmeasured = text(outcome(answers=made.answers, measuring=measuring(PLAN, made), work=parts))
    assert "3 servers, each like the GPUs of a data-parallel rank, with 4 answers at" in unmeasured


def test_a_server_begins_an_answer_when_another_ends():
    made, slow = served().answers, replace(FAST, generation=None)
    expected, most = generating(layout(), model(), made, [20, 1, 0], slow)
    token = 3600 * 2 / 2 / 100  # the weights of two GPUs at 100 B/s
    cache = 21 / 3 * 2 * 8 * 1 * 4 * 2 / 100  # of the 21 answers, at each of three
    passes = 60 + 60  # 20 x 30 in 12 places is less
    assert expected.seconds == pytest.approx(passes * token + cache * (40 * 30 + 30**2 / 2))
    passes = 20 * 60 / 12 + 60
    assert most.seconds == pytest.approx(passes * token + cache * (40 * 60 + 60**2 / 2))


def test_the_gpus_hold_the_keys_and_values_of_probes_only():
    probes = in_process_of(served(batch_size=32, limit=500).answers, layout())
    assert (probes.batch_size, probes.limit) == (8, 32)  # 16 on two data-parallel ranks
    # Prompts of 40 and 32 tokens, 2 layers, keys and values of 4 numbers of 2 bytes; logits.
    (stage,) = model().stages
    held = 8 * 72 * 2 * 2 * 4 * 2 + 8 * 50 * 2 + 8 * 50 * 30
    assert generation(layout(), model(), stage, probes) == held
    assert in_process_of(answers(), layout()) == answers()


def test_weights_in_flight_are_on_the_host_and_exports_on_the_disk():
    run = walk(PLAN, 10, overlap=3)
    nothing = storage(save_interval=None)
    assert host_memory(model(), nothing, run, gpus_per_node=8).copies == (2 + 3) * 8 * 512
    samples = Samples(True, (100,), (40,))
    found = disk(model(), nothing, run, samples, served(overlap=3).answers)
    assert found.state == (2 + 3) * 4 * 4000
    assert (found.served, found.served_size) == (3, 8000)
    assert found.total == found.state + found.stores + 3 * 8000
    assert disk(model(), nothing, run, samples, served().answers).served == 2
    assert disk(model(), nothing, run, samples, answers()).served == 0
    said = text(outcome(longest=run, disk=found))
    assert "(theta_0, the candidate and 3 with a measurement in flight of the weights)" in said


def test_what_depends_on_the_answers_is_said_to_be_unplanned():
    shorter = config("--t3s-accuracy-blocks 4 --t3s-confirm-level 0.05")
    blocks, level = unplanned(shorter)
    assert blocks.startswith("--t3s-accuracy-blocks: every measurement is planned with all of its")
    assert level.startswith("--t3s-confirm-level: every profile is planned up to --t3s-patience")
    assert not list(unplanned(replace(shorter, signal="confidence")))
    assert not list(unplanned(config()))
