# SPDX-License-Identifier: Apache-2.0
"""Tokens, FLOPs and times; figures worked out by hand. Against Megatron's own count of FLOPs:
tests/unit/megatron/test_planning.py."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from made_plans import answers, gpu, layout, model, stage

from t3s_megatron.planning.facts import Samples, Teacher
from t3s_megatron.planning.measurements import Costs
from t3s_megatron.planning.memory import Disk, HostMemory
from t3s_megatron.planning.report import PlannedRun, text
from t3s_megatron.planning.walk import walk
from t3s_megatron.planning.work import (
    Speed,
    Work,
    forward_flops,
    generating,
    scoring,
    step_flops,
    training,
)
from tests.support.asked import asked

#: Python takes no time.
SPEED = Speed(peak_flops=1000.0, mfu=0.5, memory_bandwidth=100.0, host=0.0)


def test_matrices_and_half_of_the_square():
    # 3600 matrix parameters; 4 heads of 4, 8 layers.
    assert forward_flops(model(), 10) == 2 * 3600 * 10 + 4 * 100 / 2 * 16 * 8
    half = model(delta_layers=4, delta_flops=7)  # of 8 layers
    assert forward_flops(half, 10) == 2 * 3600 * 10 + 4 * 100 / 2 * 16 * 4 + 4 * 7 * 10
    assert step_flops(model(), [10, 10]) == 6 * forward_flops(model(), 10)


def test_a_step_is_a_batch_of_average_samples():
    lengths = [10, 30]
    work = training(layout(), model(), lengths, steps=5, speed=SPEED)
    assert work.tokens == 5 * 64 * 20
    assert work.flops == pytest.approx(5 * 32 * step_flops(model(), lengths))
    busy = 1000 * 0.5 * 16
    assert work.seconds == pytest.approx(work.flops / busy / (1 - layout().bubble))


def test_a_scoring_pass_is_a_third_of_training_on_the_corpus():
    work = scoring(layout(), model(), [10, 30], passes=2, speed=SPEED)
    assert work.tokens == 80
    assert work.flops == pytest.approx(2 * step_flops(model(), [10, 30]) / 3)


def test_answers_are_counted_at_their_length_and_batches_at_the_longest():
    likely, most = generating(layout(), model(), answers(), [20] * 7, SPEED)
    assert likely.tokens == 7 * 20 * 30
    assert most.tokens == 7 * 20 * 60
    # 20 answers, 5 at a time on 2 ranks: two batches. More of them take longer.
    one_at_a_time, _ = generating(layout(), model(), answers(batch_size=1), [20] * 7, SPEED)
    weights = 60 * 3600 * 2 / 2 / 100  # bytes of the rank over the bandwidth, at each of 60 tokens
    assert one_at_a_time.seconds > 5 * 7 * 2 * weights


def test_the_keys_and_values_of_live_answers_are_read_at_every_token():
    likely, most = generating(layout(), model(), answers(), [10], SPEED)
    weights = 60 * 3600 * 2 / 2 / 100
    # 8 layers, keys and values of 1 head of 4, 2 bytes; 5 answers that grow from 40 positions.
    cache = 2 * 8 * 4 * 2 * 5 / 100
    assert likely.seconds == pytest.approx(weights + cache * (40 * 30 + 30**2 / 2))
    assert most.seconds == pytest.approx(weights + cache * (40 * 60 + 60**2 / 2))


def test_python_launches_every_layer_of_every_token():
    slow = replace(SPEED, host=100.0)
    likely, most = generating(layout(), model(), answers(), [10], slow)
    assert likely.seconds == most.seconds == 60 * 8 * 100.0
    # Whatever a token computes: smaller batches take longer.
    alone, _ = generating(layout(), model(), answers(batch_size=1), [10], slow)
    assert alone.seconds == 5 * likely.seconds


def test_each_profile_asks_its_teachers_prompts_and_trains_on_its_samples():
    plan = asked(budget=50, profile_iters=50, teachers=("a", "b"))
    run = walk(plan, bottleneck=10)  # 15 steps and 16 measurements in each profile, then 50 of both
    two = answers(asked=25, asked_in_profiles=(20, 10))
    costs = Costs(layout(), model(), [10, 20, 40], two, SPEED, teachers=((0, 2), (1,)))
    found = costs.of(run)
    assert found["generation"].tokens == (16 * (20 + 10) + 50 * 25) * 30
    assert found["profile"].tokens == pytest.approx(15 * 64 * (25 + 20))
    assert found["scoring"].tokens == 2 * (10 + 20 + 40)


def test_confidence_is_watched_on_the_samples_of_the_profiles():
    run = walk(asked(budget=50, signal="confidence", patience=5), bottleneck=10)
    lengths = [10, 20, 30, 40]
    samples = Samples(True, tuple(lengths), (4,) * 4)
    share = samples.share_of_profiles(1)
    found = Costs(layout(), model(), lengths, None, SPEED, profile_share=share).of(run)
    # 16 passes over a quarter of the corpus, and two over all of it.
    assert share == 0.25 and found["scoring"].tokens == 16 * 25 + 2 * 100
    assert samples.share_of_profiles(0) == samples.share_of_profiles(9) == 1
    of_two = replace(samples, teachers=(Teacher("a", (0, 1, 2)), Teacher("b", (3,))))
    assert of_two.share_of_profiles(2) == 0.75


def test_what_two_teachers_answered_is_one_prompt_of_a_measurement():
    teachers = (Teacher("a", (0, 1, 2)), Teacher("b", (3, 4)))
    samples = Samples(True, (9,) * 5, (4,) * 5, teachers, questions=(0, 1, 2, 1, 3))
    assert (samples.asked(0), samples.asked(1)) == (4, 2)
    alone = Samples(True, (9,) * 5, (4,) * 5)
    assert (alone.asked(0), alone.asked(3), alone.asked(9)) == (5, 3, 5)


def test_without_a_cache_every_token_computes_its_sequence():
    cached, _ = generating(layout(), model(), answers(), [20], SPEED)
    again, _ = generating(layout(), model(), answers(cached=False), [20], SPEED)
    assert again.tokens == cached.tokens and again.flops > 30 * cached.flops


def test_a_measured_rate_is_taken_as_it_is():
    measured = replace(SPEED, generation=60.0)
    likely, most = generating(layout(), model(), answers(), [20, 10], measured)
    assert likely.seconds == 30 * 30 / (60 * 2)  # two data-parallel ranks
    assert most.seconds == 2 * likely.seconds


def outcome(**changes) -> PlannedRun:
    run = walk(asked(budget=50), bottleneck=10)
    first = stage(stages=(0,))
    rest = stage(stages=(1, 2, 3), optimizer=4000)
    made = dict(
        release="0.19.2", layout=layout(), gpus_per_node=8, model=model(first, rest),
        samples=Samples(True, (100, 60), (40, 40)), answers=answers(),
        gpus=[gpu(), gpu(stages=(1, 2, 3), optimizer=400)], gpu_limit=2000,
        host=HostMemory(10 * 2**30, 2**30),
        disk=Disk(1, 2, 3, 4, 0), expected=run, longest=run,
        work={"profile": (Work(3e6, 1e9, 60.0), Work(9e6, 3e9, 7300.0))}, speed=SPEED,
        measuring=None, notes=["one"], advice=[],
    )  # fmt: skip
    return PlannedRun(**made | changes)


def test_the_report_names_the_fullest_stages_and_whether_they_fit():
    said = text(outcome())
    assert "note: one" in said and "1-3 " in said
    assert said.splitlines()[-1].startswith("fits: ")
    refused = outcome(gpu_limit=1000, advice=["--that: about 1.0 GiB"])
    assert not refused.fits and refused.worst.stages == (1, 2, 3)
    assert text(refused).splitlines()[-2:][1] == "  --that: about 1.0 GiB"
    assert "does not fit" in text(refused)


def test_the_json_has_what_the_text_is_made_of():
    found = json.loads(json.dumps(outcome().to_dict()))
    assert found["fits"] is True
    assert found["parameters"] == outcome().model.parameters == 4000
    assert [g["total"] for g in found["gpus"]] == [1010, 1110]
    assert found["expected"]["steps"] == 65
    assert found["samples"]["targets"] == 80
