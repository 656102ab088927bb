# SPDX-License-Identifier: Apache-2.0
"""Bytes on a GPU, on a host and on disk."""

from __future__ import annotations

from dataclasses import dataclass

from t3s_megatron.planning.facts import Answers, Colocated, Layout, Model, Samples, Stage, Storage
from t3s_megatron.planning.walk import Walk

#: float32 tensors of Adam in a checkpoint: main parameter and two moments.
_OPTIMIZER_BYTES = 12
_SNAPSHOT_BYTES = 4  # float32 main parameters


@dataclass(frozen=True)
class GpuMemory:
    """Of a GPU of one pipeline stage, at the most. `activations` in training, `generation` by the
    live weights, `serving` by a server on the same GPU: never two of them at the same time.
    `reserve`: CUDA context, NCCL, workspaces and fragmentation, an allowance that is not measured;
    `asleep`: the same of that server, which its `serving` has in it."""

    stages: tuple[int, ...]
    layers: int
    parameters: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    generation: int
    reserve: int
    serving: int = 0
    asleep: int = 0

    @property
    def training(self) -> int:
        return self.resident + self.asleep + self.activations

    @property
    def measuring(self) -> int:
        return self.resident + max(self.asleep + self.generation, self.serving)

    @property
    def total(self) -> int:
        return max(self.training, self.measuring)

    @property
    def resident(self) -> int:
        """What is there whatever the run is doing, without a server's."""
        return self.weights + self.gradients + self.optimizer + self.reserve


def gpu_memory(
    layout: Layout,
    model: Model,
    answers: Answers | None,
    reserve: int,
    server: Colocated | None = None,
) -> list[GpuMemory]:
    """One entry for each distinct stage, for the GPU of it that holds the most. `answers`: what the
    live weights answer; `server`: one on the same GPUs."""
    return [
        GpuMemory(
            stages=stage.stages,
            layers=stage.layers,
            parameters=stage.parameters,
            weights=stage.weights,
            gradients=stage.gradients,
            optimizer=stage.optimizer,
            activations=activations(layout, stage),
            generation=0 if answers is None else generation(layout, model, stage, answers),
            reserve=reserve,
            serving=0 if server is None else server.memory,
            asleep=0 if server is None else server.reserve,
        )
        for stage in model.stages
    ]


def activations(layout: Layout, stage: Stage) -> int:
    """The earliest of the stages holds the most micro-batches; one of them is being worked on."""
    held = layout.in_flight(stage.stages[0])
    saved = max(chunk.saved for chunk in stage.chunks)
    working = max(chunk.peak for chunk in stage.chunks)
    return saved * (held - 1) + working


def generation(layout: Layout, model: Model, stage: Stage, answers: Answers) -> int:
    """Keys and values of a whole batch at its longest, and the float64 sampling of the logits of
    its last position.

    Without a cache, a forward pass of all rows at their longest: about what one of training holds.
    """
    batch, longest = answers.batch_size, answers.longest_prompt + answers.limit
    if answers.cached:
        size = batch * longest * model.cached(stage.layers, layout.tensor)
        positions = 1
    else:
        peak = max(chunk.peak for chunk in stage.chunks)
        size = batch * longest * peak // (layout.seq_length * layout.micro_batch_size)
        positions = -(-longest // layout.context)
    if layout.pipeline - 1 in stage.stages:
        # Gathered over the vocabulary; then of one position their float32 and float64 copies,
        # softmax and its running sum.
        size += batch * positions * model.vocabulary * model.bytes_a_parameter
        size += batch * model.vocabulary * (model.bytes_a_parameter + 4 + 8 + 8 + 8)
    return size


@dataclass(frozen=True)
class HostMemory:
    """Of a node. `copies`: theta_0, the candidate theta_b, and the weights whose measurement is in
    flight, pinned; `saving`: what Megatron gathers for a checkpoint, and for a resume; `served`:
    weights in shared memory for servers on the training GPUs, and once more while they are
    written there."""

    copies: int
    saving: int
    served: int = 0

    @property
    def total(self) -> int:
        return self.copies + max(self.saving, 2 * self.served)


def host_memory(
    model: Model,
    storage: Storage,
    run: Walk,
    gpus_per_node: int,
    server: Colocated | None = None,
) -> HostMemory:
    """`server`: one on the training GPUs."""
    copies = run.snapshots * gpus_per_node * max(stage.pinned for stage in model.stages)
    saving = 0
    if storage.save_interval and storage.gathers_optimizer:
        parameters = max(stage.parameters for stage in model.stages)
        saving = gpus_per_node * parameters * _OPTIMIZER_BYTES
    served = 0 if server is None else model.parameters * model.bytes_a_parameter
    return HostMemory(copies, saving, served)


@dataclass(frozen=True)
class Disk:
    """`checkpoint`: one of Megatron's; `checkpoints`: how many stay; `state`: the copies of the
    weights beside them until the selection is made; `stores`: log-probs and selection; `served`:
    folders for servers, each of `served_size`."""

    checkpoint: int
    checkpoints: int
    state: int
    stores: int
    export: int
    served: int = 0
    served_size: int = 0

    @property
    def total(self) -> int:
        beside = self.state + self.stores + self.export + self.served * self.served_size
        return self.checkpoint * self.checkpoints + beside


def disk(
    model: Model, storage: Storage, run: Walk, samples: Samples, answers: Answers | None = None
) -> Disk:
    parameters, weights = model.parameters, model.parameters * model.bytes_a_parameter
    checkpoint = weights
    if storage.saves_optimizer:
        checkpoint += parameters * _OPTIMIZER_BYTES
    # The one that is written and the one before, or those that are in flight.
    on_disk = answers is not None and answers.servers is not None and answers.colocated is None
    served = max(2, answers.overlap) if answers is not None and on_disk else 0
    return Disk(
        checkpoint=checkpoint,
        checkpoints=_checkpoints(storage, run),
        state=run.snapshots * parameters * _SNAPSHOT_BYTES,
        stores=run.scored * 4 * samples.targets + samples.targets // 8,
        export=weights if storage.export else 0,
        served=served,
        served_size=weights,
    )


def _checkpoints(storage: Storage, run: Walk) -> int:
    """At every interval and at the end; older ones stay if at the retain interval, or only the
    newest and that of the profile."""
    steps = run.steps
    if not storage.save_interval:
        return 0
    saved = {*range(storage.save_interval, steps + 1, storage.save_interval), steps}
    if not storage.retain_interval:
        most = len(saved) if storage.keep is None else storage.keep + (run.profiles == 1)
        return min(len(saved), most)
    kept = {step for step in saved if step % storage.retain_interval == 0}
    return len(kept | {steps})
