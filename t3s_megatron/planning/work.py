# SPDX-License-Identifier: Apache-2.0
"""Tokens, floating-point operations and seconds of a run."""

from __future__ import annotations

from dataclasses import dataclass

from t3s_megatron.data.arrangement import Arrangement
from t3s_megatron.planning.colocated import answers_at_once
from t3s_megatron.planning.facts import Answers, Layout, Model, Samples


@dataclass(frozen=True)
class Speed:
    """What the times rest on. `mfu`: model FLOPs utilisation of a GPU while the pipeline is full;
    `memory_bandwidth`: bytes a second; `generation`: tokens a second that a data-parallel rank
    or a server was measured to generate, None to work it out; `export`: bytes a second at which all
    ranks together write the weights for a server; `host`: seconds that a rank's Python needs to
    launch one layer of a decoding step, whatever it computes."""

    peak_flops: float
    mfu: float
    memory_bandwidth: float
    generation: float | None = None
    export: float = 2e9
    host: float = 1.3e-3


@dataclass(frozen=True)
class Work:
    """Of a part of a run. `tokens` are computed ones; `seconds` an estimate at a stated speed."""

    tokens: float
    flops: float
    seconds: float

    def __add__(self, other: Work) -> Work:
        return Work(
            self.tokens + other.tokens, self.flops + other.flops, self.seconds + other.seconds
        )


def forward_flops(model: Model, length: float) -> float:
    """Of one sequence of `length` tokens: 2 a matrix parameter and token, causal attention, and the
    states of gated delta nets."""
    matrices = 2 * model.matrix_parameters * length
    # Scores and their sum over values, 2 each; half of the square is masked.
    attention = 4 * length**2 / 2 * model.heads * model.head_size * model.attention_layers
    return matrices + attention + model.delta_layers * model.delta_flops * length


def step_flops(model: Model, lengths: list[int]) -> float:
    """Forward and backward (twice the forward) over one batch, recomputation not counted."""
    return 3 * sum(forward_flops(model, length) for length in lengths)


def computed_lengths(arrangement: Arrangement, samples: Samples) -> list[int]:
    """Positions computed for each sample, padding included."""
    if arrangement.kind == "padded":
        return [arrangement.seq_length] * len(samples.lengths)
    multiple = arrangement.multiple
    return [-(-length // multiple) * multiple for length in samples.lengths]


def training(layout: Layout, model: Model, lengths: list[int], steps: int, speed: Speed) -> Work:
    """`lengths`: of the corpus's rows; a step is `global_batch_size` of them, on average. Of each
    copy in a row the attention is that of a causal sequence: a noisy one attends to clean blocks
    before it, of half the square."""
    rows = model.copies * layout.global_batch_size * steps / len(lengths)
    flops = step_flops(model, lengths) * rows
    return Work(sum(lengths) * rows, flops, _seconds(layout, flops, speed))


def forwards(layout: Layout, model: Model, lengths: list[int], steps: int, speed: Speed) -> Work:
    """The forward passes alone of so many steps: see `training`."""
    whole = training(layout, model, lengths, steps, speed)
    return Work(whole.tokens, whole.flops / 3, whole.seconds / 3)


def scoring(layout: Layout, model: Model, lengths: list[int], passes: float, speed: Speed) -> Work:
    flops = passes * sum(forward_flops(model, length) for length in lengths)
    return Work(sum(lengths) * passes, flops, _seconds(layout, flops, speed))


def generating(
    layout: Layout, model: Model, answers: Answers, asked: list[int], speed: Speed
) -> tuple[Work, Work]:
    """(expected, at most): answers as long as expected, and all of them at the limit. `asked`: the
    number of answers, each time that some are generated.

    With a measured rate the time is the tokens over it. Without, for every token of a batch the
    stages in turn read the weights that it is multiplied with, and the keys and values of the
    answers that are still in it; or, where that takes longer, the layers are launched one by one by
    Python. Communication comes on top. A batch ends with its longest answer, which is taken to
    reach the limit. Without a cache every token computes its whole sequence instead, one stage at a
    time.

    A server is taken for the GPUs of a data-parallel rank, or for those of the job that it has,
    which read the weights and the cache and do nothing else (it replays CUDA graphs), and begins an
    answer when another ends: it is done when they all are, and not before the longest has reached
    the limit.
    """
    servers, rows = answers.servers, sum(asked)
    batches = sum(-(-n // (answers.batch_size * layout.data)) for n in asked)
    who = layout.data if servers is None else servers.urls
    works = []
    for length in (answers.expected, float(answers.limit)):
        tokens = rows * length
        if servers is not None:
            at_once, gpus = servers.concurrency, None
            if servers.colocated is not None:
                gpus = servers.colocated.gpus
                at_once = min(at_once, max(1, answers_at_once(model, servers.colocated, answers)))
            at_once *= servers.urls
            passes = sum(max(answers.limit, n * length / at_once) for n in asked if n)
            flops = 2 * model.matrix_parameters * tokens
            seconds = passes * _seconds_a_token(layout, model, speed, gpus)
            one = _cache_seconds(model, gpus or layout.tensor, answers, length, speed)
            seconds += rows / servers.urls * one
        elif answers.cached:
            flops = 2 * model.matrix_parameters * tokens
            memory = answers.limit * _seconds_a_token(layout, model, speed)
            memory += answers.batch_size * _cache_seconds(
                model, layout.tensor, answers, length, speed
            )
            seconds = batches * max(memory, answers.limit * model.layers * speed.host)
        else:
            flops = rows * _recomputing_flops(model, answers)
            one_stage = layout.world_size / layout.pipeline
            seconds = flops / (speed.peak_flops * speed.mfu * one_stage)
        if speed.generation is not None:
            seconds = tokens / (speed.generation * who)
        works.append(Work(tokens, flops, seconds))
    return works[0], works[1]


def _seconds_a_token(layout: Layout, model: Model, speed: Speed, gpus: int | None = None) -> float:
    """To read the weights, on `gpus`; None: on those of a data-parallel rank, stage by stage."""
    split = gpus or max(layout.tensor, layout.expert * layout.expert_tensor)
    return model.matrix_parameters * model.bytes_a_parameter / split / speed.memory_bandwidth


def _cache_seconds(model: Model, gpus: int, answers: Answers, length: float, speed: Speed) -> float:
    """To read the keys and values of one answer of `length` tokens, at each of them."""
    positions = answers.longest_prompt * length + length**2 / 2
    return positions * model.cached(model.attention_layers, gpus) / speed.memory_bandwidth


def host_bound(model: Model, speed: Speed) -> float:
    """Seconds a token that live generation takes at the least, however few answers it decodes."""
    return model.layers * speed.host


def _recomputing_flops(model: Model, answers: Answers) -> float:
    """The integral of `forward_flops` from the prompt's length to that of the longest answer."""
    first, last = answers.longest_prompt, answers.longest_prompt + answers.limit
    matrices = model.matrix_parameters * (last**2 - first**2)
    of_heads = 2 * model.heads * model.head_size * model.attention_layers
    attention = of_heads * (last**3 - first**3) / 3
    return matrices + attention


def _seconds(layout: Layout, flops: float, speed: Speed) -> float:
    busy = speed.peak_flops * speed.mfu * layout.world_size
    return flops / busy / (1 - layout.bubble)
