# SPDX-License-Identifier: Apache-2.0
"""Facts of a made-up run with round numbers."""

from __future__ import annotations

from t3s_megatron.planning.facts import Answers, Chunk, Layout, Model, Stage, Storage
from t3s_megatron.planning.memory import GpuMemory

LAYOUT = dict(
    world_size=16, tensor=2, pipeline=4, virtual=1, context=1, expert=1, expert_tensor=1, data=2,
    global_batch_size=64, micro_batch_size=1, seq_length=100, sequence_parallel=True,
    distributed_optimizer=True, recompute="full",
)  # fmt: skip
STAGE = dict(
    stages=(0,), parameters=500, whole_parameters=1000, matrix_parameters=900, weights=1000,
    gradients=2000, optimizer=3000, snapshot=400, pinned=512, chunks=(Chunk(2, 10, 25),),
)  # fmt: skip
MODEL = dict(
    layers=8, hidden_size=16, heads=4, key_value_heads=2, head_size=4, vocabulary=50,
    bytes_a_parameter=2,
)  # fmt: skip
ANSWERS = dict(
    prompts=10,
    asked=20,
    evaluated=0,
    expected=30.0,
    limit=60,
    batch_size=5,
    longest_prompt=40,
    cached=True,
)
STORAGE = dict(
    save_interval=10, retain_interval=None, keep=None, saves_optimizer=True,
    gathers_optimizer=False, export=False,
)  # fmt: skip
GPU = dict(
    stages=(0,), layers=2, parameters=500, weights=100, gradients=200, optimizer=300,
    activations=400, generation=50, reserve=10,
)  # fmt: skip


def layout(**changes) -> Layout:
    return Layout(**LAYOUT | changes)


def stage(**changes) -> Stage:
    return Stage(**STAGE | changes)


def model(*stages: Stage, **changes) -> Model:
    return Model(stages=stages or (stage(stages=(0, 1, 2, 3)),), **MODEL | changes)


def storage(**changes) -> Storage:
    return Storage(**STORAGE | changes)


def answers(**changes) -> Answers:
    return Answers(**ANSWERS | changes)


def gpu(**changes) -> GpuMemory:
    return GpuMemory(**GPU | changes)
