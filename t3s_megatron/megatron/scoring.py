# SPDX-License-Identifier: Apache-2.0
"""c_t for every target token of the corpus at the live weights (Eq. 2): a forward-only pass.

Taken where the last pipeline stage turns logits into per-token losses: theta_0 and theta_b are
scored by the same forward, in the same layout, as training, but for the logits of a model that is
not float32 itself, which are float32 here (`float32_logits`). A sample of them can be scored a
second time in another order of sums: by what the two differ, with equal weights, c_t is noise.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import mpu
from megatron.core.utils import get_model_config, unwrap_model
from megatron.training import get_args

from t3s_megatron.data.arrangement import Arrangement
from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.lengths import make_arrangement
from t3s_megatron.errors import T3SError
from t3s_megatron.megatron.batches import RowMaker, scoring_batches
from t3s_megatron.megatron.decoding import torch_attention
from t3s_megatron.megatron.float32_logits import entropies_as_scores, float32_logits
from t3s_megatron.megatron.forward import call_model, next_batch, run_schedule
from t3s_megatron.megatron.layout import data_and_context_group, speaks_for_its_samples
from t3s_megatron.megatron.meter import TokenReader, TokenScores
from t3s_megatron.megatron.pause import training_paused
from t3s_megatron.megatron.seam import CallbackContext

#: Samples that are scored a second time, and what their rows' lengths are rounded up to then.
_SCORED_AGAIN, _COARSE = 16, 256
#: Tokens over all data-parallel ranks that are scored before they are collected, where so many
#: micro-batches a pipeline stage can be filled with them.
_TOKENS_AT_ONCE, _FILLED = 2**26, 8
#: Of them, over all ranks, in one message: twelve bytes each on the device of the root rank.
_GATHERED = 2**20


def score_corpus(
    context: CallbackContext, rows: RowMaker, samples: Sequence[int] | None = None
) -> np.ndarray | None:
    """log p(y_t | y_<t, x), on the root rank; else None. float32[n]: of the targets of `samples`
    (corpus indices, each once; None for all), one sample after the other; NaN for one that is left
    out of the rows.

    Collective over the world. Leaves training as it was (see `training_paused`).
    """
    return _pass_over(context, rows, samples, float32_logits)


def score_entropies(
    context: CallbackContext, rows: RowMaker, samples: Sequence[int] | None = None
) -> np.ndarray | None:
    """As `score_corpus`, of the entropy of the prediction at each target token, in nats."""
    return _pass_over(context, rows, samples, entropies_as_scores)


def _pass_over(
    context: CallbackContext, rows: RowMaker, samples: Sequence[int] | None, scored: Callable
) -> np.ndarray | None:
    """`scored`: makes the manager within which the model's losses are minus what is scored."""
    stages = mpu.get_virtual_pipeline_model_parallel_world_size() or 1
    iterators, count = [], 0
    for _ in range(stages):
        count, batches = scoring_batches(rows, samples)
        iterators.append(batches)
    reader = TokenReader()
    score_step = partial(_score_step, reader)
    collected = _Collected.of(rows.corpus, samples) if _collects() else None
    with training_paused(context), scored(context.model):
        for some in portions(count, rows.arrangement.group, _most_at_once()):
            run_schedule(context.model, score_step, iterators, some, forward_only=True)
            # Still paused: the collectives below belong to the pass.
            _collect(reader.take(), collected)
    return None if collected is None else collected.values


def portions(count: int, group: int, most: int) -> list[int]:
    """`count` micro-batches as several schedules of about `most`, each with as many as a schedule
    takes whose micro-batches go in groups of `group`."""
    whole = max(1, most // group) * group
    sizes = [whole] * (count // whole)
    rest = count - sum(sizes)
    if sizes and rest < group:
        sizes[-1] += rest  # too few for a schedule
    elif rest:
        sizes.append(rest)
    return sizes


def _most_at_once() -> int:
    """Micro-batches that are scored before their log-probs are collected: few enough for the memory
    of a node, and enough to fill a pipeline."""
    args = get_args()
    tokens = args.seq_length * args.micro_batch_size * args.data_parallel_size
    return max(_TOKENS_AT_ONCE // tokens, _FILLED * args.pipeline_model_parallel_size)


def score_again(
    context: CallbackContext, rows: RowMaker, samples: Sequence[int]
) -> tuple[list[int], np.ndarray] | None:
    """A few of `samples`, as places among them, and what `score_corpus` has of those, in rows of
    other lengths than those of the run and with torch's own attention. None where the run's
    arguments need the lengths as they are, and on other ranks than the root.

    The same function of the same weights, summed and rounded in another order in every layer.
    Collective over the world.
    """
    arrangement = another_arrangement(rows.arrangement, get_args())
    if arrangement is None:
        return None
    with rearranged(context, rows, arrangement) as other, _another_attention(context.model):
        places = spread(len(samples), _SCORED_AGAIN)
        c = score_corpus(context, other, [samples[place] for place in places])
        return None if c is None else (places, c)


@contextlib.contextmanager
def rearranged(
    context: CallbackContext, rows: RowMaker, arrangement: Arrangement
) -> Iterator[RowMaker]:
    """The same rows in this arrangement, whose lengths the pipeline exchanges meanwhile."""
    other = copy.copy(rows)
    other.arrangement = arrangement
    configs = [get_model_config(chunk) for chunk in context.model]
    before = [config.variable_seq_lengths for config in configs]
    try:
        for config in configs:
            config.variable_seq_lengths = True
        yield other
    finally:
        for config, varied in zip(configs, before, strict=True):
            config.variable_seq_lengths = varied


def _another_attention(model: list):
    """Of bf16 models in whole rows: float32 has no kernel on CUDA that needs no s x s matrix, and
    nothing to measure."""
    chunks = [unwrap_model(chunk) for chunk in model]
    is_float32 = get_model_config(chunks[0]).params_dtype == torch.float32
    if is_float32 or mpu.get_context_parallel_world_size() > 1:
        return contextlib.nullcontext()
    return torch_attention(chunks)


def another_arrangement(arrangement: Arrangement, args) -> Arrangement | None:
    """Rows of one sample each, longer than they are in `arrangement`, or shorter than padded ones;
    never longer than its `seq_length`. `args`: Megatron's validated namespace."""
    if arrangement.kind == "padded":
        own = copy.copy(args)
        own.t3s_arrangement, own.micro_batch_size = "own", 1
        try:
            return make_arrangement(own)
        except T3SError:
            return None
    coarse = arrangement.multiple * max(1, _COARSE // arrangement.multiple)
    if arrangement.seq_length % coarse or coarse * 4 > arrangement.seq_length:
        return replace(arrangement, kind="padded", micro_batch_size=1)
    return replace(arrangement, kind="own", multiple=coarse)


def spread(n: int, count: int) -> list[int]:
    """At most `count` of n places, evenly over them."""
    count = min(count, n)
    return [i * n // count for i in range(count)]


def _score_step(reader: TokenReader, data_iterator, model, return_schedule_plan: bool = False):
    batch = next_batch(data_iterator, model)
    return call_model(model, batch), partial(_read_scores, reader, batch)


def _read_scores(reader: TokenReader, batch, per_token_loss):
    reader(batch, per_token_loss.float())
    # The schedule wants a loss and a count (as in training) and has no use for either.
    zero = per_token_loss.new_zeros(())
    return zero, torch.zeros((), dtype=torch.int, device=zero.device), {}


def _collects() -> bool:
    """Whether this is the root rank."""
    is_first = dist.get_rank() == dist.get_global_rank(data_and_context_group(), 0)
    return is_first and speaks_for_its_samples()


@dataclass(frozen=True)
class _Collected:
    """What the root rank has collected of some samples: `values` float32[n], one sample after the
    other. `shift` int64[m], by sample of the corpus: what is added to the number of a target in the
    corpus for its place; None where those are the same."""

    corpus: Corpus
    values: np.ndarray
    shift: np.ndarray | None

    @classmethod
    def of(cls, corpus: Corpus, samples: Sequence[int] | None) -> _Collected:
        if samples is None or samples == range(len(corpus.samples)):
            return cls(corpus, np.full(corpus.n_targets, np.nan, dtype=np.float32), None)
        which = np.asarray(samples, dtype=np.int64)
        sizes = np.diff(corpus.offsets)[which]
        shift = np.zeros(len(corpus.samples), dtype=np.int64)
        shift[which] = np.cumsum(sizes) - sizes - corpus.offsets[which]
        return cls(corpus, np.full(sizes.sum(), np.nan, dtype=np.float32), shift)

    def put(self, target: np.ndarray, c: np.ndarray) -> None:
        """`target` int64[k]: numbers in the corpus, and float32[k] of them."""
        if self.shift is not None:
            target = target + self.shift[self.corpus.sample_index(target)]
        self.values[target] = c


def _collect(mine: TokenScores, collected: _Collected | None) -> None:
    """Into `collected`, on the root rank, the scores of all data- and context-parallel ranks."""
    if not speaks_for_its_samples():
        return
    group, device = data_and_context_group(), torch.cuda.current_device()
    root, count = dist.get_global_rank(group, 0), len(mine.target)
    counts = torch.zeros(group.size(), dtype=torch.int64, device=device)
    counts[group.rank()] = count
    dist.all_reduce(counts, group=group)
    piece = max(1, _GATHERED // group.size())
    for begin in range(0, int(counts.max()), piece):
        targets, scores = (
            _gathered(torch.from_numpy(values[begin : begin + piece]), piece, root, group)
            for values in (mine.target, mine.c)
        )
        if collected is not None:
            for target, c, n in zip(targets, scores, (counts - begin).tolist(), strict=True):
                some = slice(max(n, 0))
                collected.put(target[some].cpu().numpy(), c[some].cpu().numpy())


def _gathered(values: torch.Tensor, size: int, root: int, group) -> list[torch.Tensor]:
    """`values` of all ranks of `group`, filled up to `size` elements, on the root rank."""
    sent = values.new_zeros(size, device=torch.cuda.current_device())
    sent[: len(values)] = values.to(sent.device)
    found = [torch.empty_like(sent) for _ in range(group.size())] if dist.get_rank() == root else []
    dist.gather(sent, found or None, dst=root, group=group)
    return found
