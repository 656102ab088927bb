# SPDX-License-Identifier: Apache-2.0
"""What would make a run fit its GPUs: knobs, each with what it would come to.

The figures are worked out from the measured ones ("about"), not measured again: change the argument
and plan again to know.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from t3s_megatron.planning.facts import Answers, Layout, Model
from t3s_megatron.planning.memory import GpuMemory

GIB = 2**30


def advice(
    layout: Layout,
    model: Model,
    worst: GpuMemory,
    limit: int,
    gpus_per_node: int,
    answers: Answers | None = None,
) -> list[str]:
    """For a GPU that needs more than `limit` bytes: the knobs that make it fit, smallest result
    first; where no single one does, every knob that helps."""
    knobs = sorted(
        (after.total, text)
        for text, after in _knobs(layout, model, worst, limit, gpus_per_node, answers)
        if after.total < worst.total
    )
    enough = [knob for knob in knobs if knob[0] <= limit]
    return [f"{text}: about {total / GIB:.1f} GiB" for total, text in enough or knobs]


def _knobs(
    layout: Layout,
    model: Model,
    now: GpuMemory,
    limit: int,
    gpus_per_node: int,
    answers: Answers | None,
) -> Iterator[tuple[str, GpuMemory]]:
    if answers is not None and now.measuring > limit:
        fits = answers.batch_size * (limit - now.measuring + now.generation) // now.generation
        if fits >= 1:
            smaller = now.generation * fits // answers.batch_size
            yield f"--t3s-generation-batch-size {fits}", replace(now, generation=smaller)
    if now.serving and now.resident + now.serving > limit > now.resident:
        room = limit - now.resident
        share = 0.01 * (100 * room // limit)
        yield f"--server-memory {share:.2f} (SERVE_MEMORY)", replace(now, serving=room)
    spread = layout.data * layout.context
    if not layout.distributed_optimizer and spread > 1:
        shard = replace(now, optimizer=now.optimizer // spread)
        yield "--use-distributed-optimizer", shard
    if layout.recompute != "full":
        yield (
            "--recompute-granularity full --recompute-method uniform --recompute-num-layers 1",
            replace(now, activations=min(now.activations, _recomputed(layout, model, now))),
        )
    if layout.micro_batch_size > 1:
        one = replace(now, activations=now.activations // layout.micro_batch_size)
        yield "--micro-batch-size 1", one
    if layout.tensor > 1 and not layout.sequence_parallel:
        # The parts between the matrix multiplications: about half of a layer's activations.
        half = now.activations // 2 + now.activations // 2 // layout.tensor
        yield "--sequence-parallel", replace(now, activations=half)
    yield from _more_splitting(layout, model, now, gpus_per_node)


def _more_splitting(
    layout: Layout, model: Model, now: GpuMemory, gpus_per_node: int
) -> Iterator[tuple[str, GpuMemory]]:
    if layout.data % 2 == 0:
        gpus = "on the same GPUs"
        shards = 1  # the same number of GPUs shares the same optimizer state
    else:
        gpus = f"on {2 * layout.world_size} GPUs"
        shards = 2
    optimizer = now.optimizer // (shards if layout.distributed_optimizer else 2)
    halves = replace(
        now, weights=now.weights // 2, gradients=now.gradients // 2, optimizer=optimizer
    )
    wider = 2 * layout.tensor
    if wider <= gpus_per_node and model.heads % wider == 0 and model.key_value_heads % wider == 0:
        generation = now.generation // 2
        yield (
            f"--tensor-model-parallel-size {wider} {gpus}",
            replace(halves, activations=now.activations // 2, generation=generation),
        )
    if model.layers // (2 * layout.pipeline * layout.virtual) >= 1:
        yield f"--pipeline-model-parallel-size {2 * layout.pipeline} {gpus}", halves
    if layout.distributed_optimizer:
        again = replace(now, optimizer=now.optimizer // 2)
        yield f"twice the data parallelism, {2 * layout.world_size} GPUs", again
    if model.copies > 1:
        return  # it would part them
    yield (
        f"--context-parallel-size {2 * layout.context} on {2 * layout.world_size} GPUs",
        replace(
            now,
            activations=now.activations // 2,
            optimizer=now.optimizer // (2 if layout.distributed_optimizer else 1),
        ),
    )


def _recomputed(layout: Layout, model: Model, now: GpuMemory) -> int:
    """The input of every layer is kept, and one layer at a time is there in full."""
    rows = layout.seq_length * layout.micro_batch_size // layout.context
    if layout.sequence_parallel:
        rows //= layout.tensor
    held = layout.in_flight(now.stages[0])
    inputs = now.layers * rows * model.hidden_size * model.bytes_a_parameter * held
    return inputs + now.activations // max(1, now.layers * held)
