# SPDX-License-Identifier: Apache-2.0
"""The figures a plan is made of. Sizes in bytes; "GPU" is one rank."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """How a run is spread over its GPUs, and what one step is."""

    world_size: int
    tensor: int
    pipeline: int
    virtual: int  # stages a GPU holds
    context: int
    expert: int
    expert_tensor: int
    data: int
    global_batch_size: int
    micro_batch_size: int
    seq_length: int
    sequence_parallel: bool
    distributed_optimizer: bool
    recompute: str | None  # --recompute-granularity

    @property
    def micro_batches(self) -> int:
        """Of one step on one data-parallel rank."""
        return self.global_batch_size // (self.micro_batch_size * self.data)

    @property
    def bubble(self) -> float:
        """Share of a step in which a GPU waits for the pipeline to fill and drain."""
        idle = (self.pipeline - 1) / self.virtual
        return idle / (self.micro_batches + idle)

    def in_flight(self, stage: int) -> int:
        """Forward passes of single (virtual) stages whose activations `stage` holds at once.

        The one-forward-one-backward schedule, and its interleaved form with virtual stages in
        groups of as many micro-batches as there are stages.
        """
        if self.virtual == 1:
            return min(self.pipeline - stage, self.micro_batches)
        warm_up = 2 * (self.pipeline - stage - 1) + (self.virtual - 1) * self.pipeline
        return min(warm_up + 1, self.micro_batches * self.virtual)


@dataclass(frozen=True)
class Chunk:
    """One (virtual) stage on one GPU, for one micro-batch.

    `saved`: what its forward pass keeps for the backward pass. `peak`: the most that is allocated
    at once in forward and backward, `saved` included.
    """

    layers: int
    saved: int
    peak: int


@dataclass(frozen=True)
class Stage:
    """One pipeline stage. `stages`: the numbers of all stages of this shape.

    `parameters` are a GPU's; `whole_parameters` and `matrix_parameters` count each parameter of the
    stage once, the latter only those that a token is multiplied with (of the experts, those it is
    routed to; not the input embedding). `snapshot`: bytes of a copy of the weights on the host, and
    `pinned`: what torch takes from the host for it.
    """

    stages: tuple[int, ...]
    parameters: int
    whole_parameters: int
    matrix_parameters: int
    weights: int
    gradients: int
    optimizer: int
    snapshot: int
    pinned: int
    chunks: tuple[Chunk, ...]

    @property
    def layers(self) -> int:
        return sum(chunk.layers for chunk in self.chunks)


@dataclass(frozen=True)
class Model:
    """`bytes_a_parameter`: of the weights as they are computed with; `stages`: the distinct ones,
    in order of their first; `copies`: of each sample in a row. `delta_layers`: those of `layers`
    that are gated delta nets, with no keys and values of earlier positions; `delta_flops`: of one
    of them and a token, beside its matrices."""

    layers: int
    hidden_size: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int
    bytes_a_parameter: int
    stages: tuple[Stage, ...]
    copies: int = 1
    delta_layers: int = 0
    delta_flops: int = 0

    @property
    def attention_layers(self) -> int:
        return self.layers - self.delta_layers

    @property
    def parameters(self) -> int:
        return sum(stage.whole_parameters * len(stage.stages) for stage in self.stages)

    @property
    def matrix_parameters(self) -> int:
        return sum(stage.matrix_parameters * len(stage.stages) for stage in self.stages)

    def cached(self, layers: int, ranks: int) -> int:
        """Bytes of the keys and values of a position in so many layers, on each of the `ranks` that
        share the heads."""
        heads = max(1, self.key_value_heads // ranks)
        return 2 * layers * heads * self.head_size * self.bytes_a_parameter


@dataclass(frozen=True)
class Teacher:
    """One of several. `samples`: the numbers of its samples among all."""

    name: str
    samples: tuple[int, ...]


@dataclass(frozen=True)
class Samples:
    """Lengths in tokens. `counted`: from the data; else the upper bounds that the arguments set.

    `teachers`: where there are several; `questions` then has the same number for samples that ask
    the same.
    """

    counted: bool
    lengths: tuple[int, ...]
    prompts: tuple[int, ...]
    teachers: tuple[Teacher, ...] = ()
    questions: tuple[int, ...] = ()

    def asked(self, first: int) -> int:
        """Prompts of a measurement on the `first` of each teacher's samples (0: all); those of
        several teachers count once."""
        if not self.teachers:
            return min(len(self.prompts), first or len(self.prompts))
        asked = (self.questions[i] for one in self.teachers for i in one.samples[: first or None])
        return len(set(asked))

    def share_of_profiles(self, most: int) -> float:
        """Of all samples, those of the profiles that take at most so many of a teacher (0: all)."""
        sizes = [len(one.samples) for one in self.teachers] or [len(self.lengths)]
        return sum(min(size, most or size) for size in sizes) / len(self.lengths)

    @property
    def targets(self) -> int:
        return sum(self.lengths) - sum(self.prompts)


@dataclass(frozen=True)
class Storage:
    """What the run writes. `keep`: how many checkpoints stay, None for all; `gathers_optimizer`: to
    save, and to resume, every rank holds the whole optimizer state of its part of the model on the
    host; `export`: a Hugging Face folder at the end."""

    save_interval: int | None
    retain_interval: int | None
    keep: int | None
    saves_optimizer: bool
    gathers_optimizer: bool
    export: bool


@dataclass(frozen=True)
class Colocated:
    """A server on `gpus` of those that train. Bytes of each: `memory` while it is awake; `reserve`,
    part of that, for CUDA context, NCCL, graphs and workspaces, which it keeps while it sleeps."""

    gpus: int
    memory: int
    reserve: int


@dataclass(frozen=True)
class Servers:
    """Who answers with --t3s-generation server. `urls`: how many; `concurrency`: answers at once at
    each; `overlap`: measurements in flight while training goes on, 0: it waits; `colocated`: of
    each, None where it has GPUs of its own."""

    urls: int
    concurrency: int
    overlap: int = 0
    colocated: Colocated | None = None


@dataclass(frozen=True)
class Answers:
    """What is generated. `prompts` and `asked`: prompts and answers of one accuracy measurement;
    `asked_in_profiles`: answers of one in the profile of each of several teachers; `evaluated`:
    answers of one evaluation at --t3s-report-temperatures; `expected` (as the teacher's, or as
    given) and `limit`: tokens of an answer; `batch_size`: answers generated together on one
    data-parallel rank; `cached`: with a key-value cache; `servable`: servers could give them;
    `blocks`: of a measurement; `servers`: None where the live weights answer; `heldout`: answers of
    one measurement at --t3s-heldout-interval, every so many steps."""

    prompts: int
    asked: int
    evaluated: int
    expected: float
    limit: int
    batch_size: int
    longest_prompt: int
    cached: bool
    servable: bool = True
    asked_in_profiles: tuple[int, ...] = ()
    blocks: int = 1
    servers: Servers | None = None
    heldout: int = 0
    heldout_interval: int = 0

    @property
    def overlap(self) -> int:
        return 0 if self.servers is None else self.servers.overlap

    @property
    def colocated(self) -> Colocated | None:
        return None if self.servers is None else self.servers.colocated

    def heldout_measurements(self, steps: int) -> int:
        """Those of --t3s-heldout-interval in a run of so many steps, with that of step 0."""
        return 1 + steps // self.heldout_interval if self.heldout_interval else 0
