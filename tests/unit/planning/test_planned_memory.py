# SPDX-License-Identifier: Apache-2.0
"""Memory, disk and the knobs that make a run fit; figures worked out by hand."""

from __future__ import annotations

import pytest
from made_plans import answers, gpu, layout, model, stage, storage

from t3s_megatron.planning.advice import advice
from t3s_megatron.planning.facts import Chunk, Samples
from t3s_megatron.planning.memory import activations, disk, generation, gpu_memory, host_memory
from t3s_megatron.planning.walk import walk
from tests.support.asked import asked

RUN = walk(asked(budget=50), bottleneck=10)  # 65 steps


@pytest.mark.parametrize(
    "changes, held",
    [
        ({}, [4, 3, 2, 1]),  # one forward, one backward
        ({"global_batch_size": 4}, [2, 2, 2, 1]),  # 2 micro-batches are all there are
        ({"virtual": 2}, [11, 9, 7, 5]),  # interleaved: 2 * (p - rank - 1) + (v - 1) * p + 1
        ({"virtual": 2, "global_batch_size": 8}, [8, 8, 7, 5]),
    ],
)
def test_micro_batches_in_flight(changes, held):
    assert [layout(**changes).in_flight(stage) for stage in range(4)] == held


def test_bubble():
    assert layout().bubble == pytest.approx(3 / 35)  # 32 micro-batches, 3 idle
    assert layout(virtual=2).bubble == pytest.approx(1.5 / 33.5)
    assert layout(pipeline=1).bubble == 0


def test_one_of_the_micro_batches_in_flight_is_being_worked_on():
    assert activations(layout(), stage()) == 3 * 10 + 25
    assert activations(layout(), stage(stages=(3,))) == 25
    larger = stage(chunks=(Chunk(2, 10, 25), Chunk(2, 12, 20)))
    assert activations(layout(virtual=2), larger) == 10 * 12 + 25


def test_training_and_generation_are_never_there_together():
    (found,) = gpu_memory(layout(), model(), None, reserve=7)
    assert found.generation == 0 and found.total == 1000 + 2000 + 3000 + 55 + 7
    (found,) = gpu_memory(layout(), model(), answers(), reserve=7)
    assert found.generation > found.activations
    assert found.total == 6000 + 7 + found.generation


def test_the_cache_holds_a_whole_batch_at_its_longest():
    # 5 answers, 100 positions, 2 layers, keys and values of 1 head of 4, 2 bytes.
    assert generation(layout(), model(), stage(), answers()) == 5 * 100 * 2 * 2 * 1 * 4 * 2
    last = generation(layout(), model(), stage(stages=(3,)), answers())
    assert last - 16000 == 5 * 50 * 2 + 5 * 50 * 30
    more_ranks_than_heads = layout(tensor=8)
    assert generation(more_ranks_than_heads, model(), stage(), answers()) == 16000


def test_a_host_holds_the_copies_of_all_its_gpus():
    host = host_memory(model(), storage(), RUN, gpus_per_node=8)
    assert (host.copies, host.saving, host.total) == (2 * 8 * 512, 0, 2 * 8 * 512)
    plain = walk(asked("sft", budget=5), bottleneck=1)
    assert host_memory(model(), storage(), plain, gpus_per_node=8).total == 0


def test_a_host_holds_the_optimizer_state_that_is_gathered_to_be_saved():
    """Parameter and two moments in float32, of every GPU's whole part of the model."""
    gathers = storage(gathers_optimizer=True)
    assert host_memory(model(), gathers, RUN, gpus_per_node=8).saving == 8 * 500 * 12
    nothing_saved = storage(gathers_optimizer=True, save_interval=None)
    assert host_memory(model(), nothing_saved, RUN, gpus_per_node=8).saving == 0


def test_disk():
    samples = Samples(counted=True, lengths=(100, 60), prompts=(40, 40))  # 80 targets
    found = disk(model(), storage(export=True), RUN, samples)
    assert found.checkpoint == 4000 * (2 + 12)
    assert found.checkpoints == 7  # six tens and the end
    assert found.state == 2 * 4 * 4000
    assert found.stores == 2 * 4 * 80 + 10
    assert found.export == 2 * 4000
    assert found.total == 7 * 56000 + 32000 + 650 + 8000


@pytest.mark.parametrize(
    "saved, checkpoints",
    [
        (storage(save_interval=None), 0),
        (storage(save_interval=100), 1),
        (storage(retain_interval=20), 4),  # 20, 40, 60 and the last
        (storage(save_interval=5), 13),  # the end is one of them
        (storage(keep=2), 3),  # and the one that plain fine-tuning can go on from
        (storage(save_interval=100, keep=2), 1),
    ],
)
def test_checkpoints_that_stay(saved, checkpoints):
    samples = Samples(True, (10,), (5,))
    assert disk(model(), saved, RUN, samples).checkpoints == checkpoints


def test_a_checkpoint_without_the_optimizer():
    weights = storage(saves_optimizer=False)
    assert disk(model(), weights, RUN, Samples(True, (10,), (5,))).checkpoint == 4000 * 2


def knobs(now, limit, layout_changes=None, with_answers=None):
    return advice(layout(**(layout_changes or {})), model(), now, limit, 8, with_answers)


def test_a_cache_that_is_too_large_names_the_batch_that_fits():
    now = gpu(generation=1000, activations=0)  # 610 besides
    (line,) = [x for x in knobs(now, 1010, with_answers=answers(batch_size=5)) if "batch" in x]
    assert line.startswith("--t3s-generation-batch-size 2:")


def test_what_is_off_is_named():
    found = knobs(gpu(optimizer=5000), 1, {"distributed_optimizer": False})
    assert any(line.startswith("--use-distributed-optimizer") for line in found)
    now = gpu(activations=10**7)
    found = " ".join(knobs(now, 1, {"recompute": None, "sequence_parallel": False,
                                    "micro_batch_size": 4}))  # fmt: skip
    for knob in ("--recompute-granularity full", "--sequence-parallel", "--micro-batch-size 1"):
        assert knob in found, knob


def test_only_what_is_enough_is_named_where_something_is():
    now = gpu(weights=1000, gradients=1000, optimizer=0, activations=1000)
    found = knobs(now, 2050)
    assert found and all("pipeline" in line for line in found)  # tensor: 4 needs 4 groups


def test_samples_with_two_copies_are_not_cut_up():
    now = gpu(activations=10_000)
    for copies, advised in ((1, True), (2, False)):
        said = advice(layout(), model(copies=copies), now, 1, 8)
        assert any("--context-parallel-size" in line for line in said) == advised


def test_tensor_parallelism_stays_within_a_node_and_divides_the_heads():
    wide = dict(heads=64, key_value_heads=64)
    now = gpu(weights=10**4)
    assert any(
        "--tensor-model-parallel-size 8" in line
        for line in advice(layout(tensor=4), model(**wide), now, 1, 8)
    )
    assert not any(
        "--tensor-model" in line for line in advice(layout(tensor=8), model(**wide), now, 1, 8)
    )
