# SPDX-License-Identifier: Apache-2.0
"""Servers on the GPUs that train: what fits, how many answers at once, and what it takes. Figures
worked out by hand: 8,000 bytes of weights, 128 of keys and values a position on two GPUs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from made_plans import answers, gpu, layout, model, storage
from test_planned_measurements import PLAN, costs
from test_planned_memory import RUN
from test_planned_work import SPEED, outcome

from t3s_megatron.planning.advice import advice
from t3s_megatron.planning.colocated import answers_at_once, room_for_answers, weights_of
from t3s_megatron.planning.facts import Colocated, Samples, Servers
from t3s_megatron.planning.measurements import measuring
from t3s_megatron.planning.memory import disk, gpu_memory, host_memory
from t3s_megatron.planning.report import text
from t3s_megatron.planning.work import generating

SERVER = Colocated(gpus=2, memory=50_000, reserve=1_000)


def served(server: Colocated = SERVER, concurrency: int = 64):
    return answers(servers=Servers(2, concurrency, colocated=server))


def test_what_one_has_room_for():
    assert weights_of(model(), SERVER) == 4000
    assert room_for_answers(model(), SERVER) == 45_000
    assert answers_at_once(model(), SERVER, served()) == 45_000 // ((40 + 30) * 128)
    wide = replace(SERVER, gpus=8)  # a head is on four of them
    assert answers_at_once(model(), wide, served()) == 48_000 // ((40 + 30) * 128)


@pytest.mark.parametrize(("memory", "some"), [(4_000 + 1_000 + 100 * 128, 1), (17_799, 0), (9, 0)])
def test_the_longest_answer_has_to_fit(memory, some):
    assert answers_at_once(model(), replace(SERVER, memory=memory), served()) == some


def test_a_measurement_takes_as_many_together_as_fit():
    found = generating(layout(), model(), served(), [20], SPEED)
    token = 3600 * 2 / 2 / 100
    cache = 10 * 128 / 100
    # Five at each of two: 20 x 30 tokens in ten places take the 60 that the longest may have.
    assert found[0].seconds == pytest.approx(60 * token + cache * (40 * 30 + 30**2 / 2))
    assert found[1].seconds == pytest.approx(120 * token + cache * (40 * 60 + 60**2 / 2))
    few, _ = generating(layout(), model(), served(concurrency=1), [20], SPEED)
    assert few.seconds - found[0].seconds == pytest.approx((20 * 30 / 2 - 60) * token)


def test_a_gpu_holds_it_beside_what_training_keeps_and_asleep_in_training():
    now = gpu(serving=70, asleep=5)  # 610 are resident
    assert now.training == 610 + 5 + 400
    assert now.measuring == 610 + 70 and gpu(serving=51, asleep=5).measuring == 610 + 5 + 50
    (made,) = gpu_memory(layout(), model(), None, 10, SERVER)
    assert (made.serving, made.asleep) == (50_000, 1_000)
    assert made.total == made.resident + 50_000


def test_the_host_has_the_weights_in_memory_and_the_disk_has_not():
    plain, found = (host_memory(model(), storage(), RUN, 8, one) for one in (None, SERVER))
    assert (plain.served, found.served) == (0, 8000)
    assert found.total == plain.total + 2 * 8000
    saving = replace(found, saving=20_000)
    assert saving.total == saving.copies + 20_000, "never at the same time"
    samples = Samples(True, (10,), (5,))
    assert disk(model(), storage(), RUN, samples, served()).served == 0
    elsewhere = answers(servers=Servers(2, 4))
    assert disk(model(), storage(), RUN, samples, elsewhere).served == 2


def test_less_of_a_gpu_is_advised_where_that_helps():
    lines = advice(layout(), model(), gpu(serving=600, activations=0), 1000, 8)
    assert "--server-memory 0.39 (SERVE_MEMORY): about 0.0 GiB" in lines
    lines = advice(layout(), model(), gpu(serving=600), 600, 8)
    assert not any("--server-memory" in line for line in lines), "training alone is more"


def test_the_report_names_them_and_one_without_room_does_not_fit():
    gpus = gpu_memory(layout(), model(), None, 10, SERVER)
    said = text(outcome(answers=served(), gpus=gpus, gpu_limit=10**6, model=model()))
    assert "servers  8 of 2 of these GPUs" in said and ": 5 answers of 30 tokens at once" in said
    assert "a server" in said.split("\n\n")[1] and said.splitlines()[-1].startswith("fits: ")
    none = replace(SERVER, memory=9_000)
    gpus = gpu_memory(layout(), model(), None, 10, none)
    made = outcome(answers=served(none), gpus=gpus, gpu_limit=10**6, model=model())
    assert not made.fits and "a server has no room for one answer" in text(made)


def test_a_run_with_live_weights_is_told_what_a_server_on_its_gpus_would_take():
    slow = replace(SPEED, host=10.0)  # of Python
    made = costs(speed=slow, server=replace(SERVER, gpus=2))
    found = measuring(PLAN, made)
    assert found.beside.colocated < made.seconds(made.walks(PLAN)[0])
    assert measuring(PLAN, costs(speed=slow)).beside.colocated is None
    small = costs(speed=slow, server=replace(SERVER, memory=9_000))
    assert measuring(PLAN, small).beside.colocated is None
    parts = {name: (work, work) for name, work in made.of(made.walks(PLAN)[0]).items()}
    said = text(outcome(answers=made.answers, measuring=found, work=parts, speed=slow))
    assert "choose           servers on these GPUs (SERVE=colocate)" in said
