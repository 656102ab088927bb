# SPDX-License-Identifier: Apache-2.0
"""Gradients of chosen target tokens over the real parameters, and one step along one of them,
between two training steps and without a trace in the training that follows.

The gradient is that of Megatron's own backward pass and of its own reduction over ranks, as the
optimizer is handed it: mean loss of the chosen tokens, in the layout, precision and mode (dropout,
recomputation) of training. Left out are the router losses of a model with experts, which are no
token's, and clipping, but in a step. Every rank enters every function, with the same arguments.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import mpu
from megatron.training import get_args

from t3s_megatron.errors import T3SError
from t3s_megatron.megatron.batches import RowMaker, scoring_batches
from t3s_megatron.megatron.forward import TrainingForward, run_schedule
from t3s_megatron.megatron.guard import StepGuard
from t3s_megatron.megatron.pause import beside_training
from t3s_megatron.megatron.random_state import capture_rng, restore_rng
from t3s_megatron.megatron.releases import counted_gradients
from t3s_megatron.megatron.scoring import another_arrangement, rearranged
from t3s_megatron.megatron.seam import CallbackContext
from t3s_megatron.megatron.sketches import DIRECTIONS, Directions
from t3s_megatron.megatron.weights import (
    WeightSnapshot,
    inner_optimizers,
    model_buffers,
    publish_main_parameters,
)

#: Share that router losses get of their strength: none, in any precision; Megatron divides by it.
_NO_ROUTER_LOSS = 1e-20
#: Elements of two gradients that are multiplied at a time, in float64.
_AT_ONCE = 2**24


@dataclass(frozen=True)
class GradientPair:
    """Two gradients of the same weights. `norms`: both, of the mean loss of their tokens; `dot`:
    their scalar product; `counts`: their tokens."""

    norms: tuple[float, float]
    dot: float
    counts: tuple[int, int]

    @property
    def ratio(self) -> float | None:
        """First norm over second; None where the second is 0."""
        return self.norms[0] / self.norms[1] if self.norms[1] else None

    @property
    def share_ratio(self) -> float | None:
        """The same of what both put into the gradient of all tokens: sums, not means."""
        first, second = (norm * n for norm, n in zip(self.norms, self.counts, strict=True))
        return first / second if second else None

    @property
    def cosine(self) -> float | None:
        """Of the angle between them; None where one is 0."""
        both = self.norms[0] * self.norms[1]
        return self.dot / both if both else None


def check_can_measure_gradients() -> None:
    """T3SError for arguments with which gradients are not where they are looked for."""
    args = get_args()
    for name in ("reuse_grad_buf_for_mxfp8_param_ag", "use_precision_aware_optimizer"):
        if getattr(args, name, False):
            raise T3SError(
                f"gradients cannot be analysed with --{name.replace('_', '-')}: drop it for this "
                "run, it changes no method"
            )


def compare_gradients(
    context: CallbackContext,
    rows: RowMaker,
    forward: TrainingForward,
    first: np.ndarray,
    second: np.ndarray,
    samples: Sequence[int] | None = None,
) -> GradientPair:
    """The gradients of two sets of target tokens, bool[n_target_tokens] each, of these corpus
    indices (None: of all), at the live weights, with the same random numbers. Holds a copy of the
    first on the host: 4 bytes a main parameter of this rank."""
    with _beside_training(context, forward):
        _backward(context, rows, forward, first, samples)
        context.optimizer.prepare_grads()
        kept = [[g.detach().cpu().clone() for g in of] for of in _counted(context.optimizer)]
        _backward(context, rows, forward, second, samples)
        context.optimizer.prepare_grads()
        sums = torch.zeros(3, dtype=torch.float64, device=torch.cuda.current_device())
        for one, mine in zip(_chain(context.optimizer), kept, strict=True):
            its = counted_gradients(one) if one.get_parameters() else []
            products = _products(mine, its)
            # Each optimizer of a chain spreads its own parameters over its own group.
            dist.all_reduce(products, group=one.get_grad_stats_parallel_group())
            sums += products
        _let_go(context)
    first_squared, second_squared, dot = sums.tolist()
    counts = tuple(_count(rows, which, samples) for which in (first, second))
    norms = (math.sqrt(first_squared), math.sqrt(second_squared))
    return GradientPair(norms, dot, (counts[0], counts[1]))


def sketch_gradients(
    context: CallbackContext,
    rows: RowMaker,
    forward: TrainingForward,
    targets: Sequence[int],
) -> np.ndarray:
    """float32[n, DIRECTIONS] on every rank: the gradients of the losses of these target tokens,
    one by one, along random directions (`sketches`). `targets`: their numbers in the corpus, none
    of a sample that the run has left out. Costs a pass forward and backward over its sample for
    each token, in a row of the sample's length where the run's arguments allow it."""
    chain = _chain(context.optimizer)
    device = torch.cuda.current_device()
    found = torch.zeros(len(chain), len(targets), DIRECTIONS, dtype=torch.float64, device=device)
    directions = Directions(context)
    with _in_short_rows(context, rows) as short, _beside_training(context, forward):
        which = np.zeros(rows.corpus.n_targets, dtype=bool)
        for number, target in enumerate(targets):
            which[target] = True
            sample = int(rows.corpus.sample_index(np.asarray([target]))[0])
            _backward(context, short, forward, which, [sample])
            which[target] = False
            context.optimizer.prepare_grads()
            for place, gradients in enumerate(_counted(context.optimizer)):
                found[place, number] = directions.project(gradients)
        _let_go(context)
    for one, sketches in zip(chain, found, strict=True):
        dist.all_reduce(sketches, group=one.get_grad_stats_parallel_group())
    return found.sum(0).float().cpu().numpy()


def _in_short_rows(
    context: CallbackContext, rows: RowMaker
) -> contextlib.AbstractContextManager[RowMaker]:
    short = None
    if rows.arrangement.kind == "padded":
        short = another_arrangement(rows.arrangement, get_args())
    return contextlib.nullcontext(rows) if short is None else rearranged(context, rows, short)


@contextlib.contextmanager
def one_step_along(
    context: CallbackContext,
    rows: RowMaker,
    forward: TrainingForward,
    guard: StepGuard,
    which: np.ndarray,
    samples: Sequence[int] | None = None,
) -> Iterator[None]:
    """Within: the weights after one step of the run's optimizer, with its moments, learning rate
    and clipping of now, on these target tokens alone, of these corpus indices as one batch. After:
    weights, moments and random state as before, bit for bit.

    Costs the host a copy of main parameters and moments, 12 bytes a main parameter with Adam.
    """
    weights, moments = WeightSnapshot(context), _OptimizerState(context.optimizer)
    rng = capture_rng()
    guard.remove()  # it speaks of the run's steps
    try:
        with _beside_training(context, forward):
            _backward(context, rows, forward, which, samples)
            context.optimizer.step()
            _let_go(context)
            publish_main_parameters(context)
        yield
    finally:
        guard.install()
        moments.restore()
        with _beside_training(context, forward):  # no gather may be in flight
            weights.restore(context)
        restore_rng(rng)


@contextlib.contextmanager
def _beside_training(context: CallbackContext, forward: TrainingForward) -> Iterator[None]:
    """Backward passes of our own, without the observers of training."""
    observer = forward.observer
    with beside_training(context):
        buffers = [buffer.clone() for buffer in model_buffers(context)]  # expert biases are updated
        forward.observer = None
        try:
            yield
        finally:
            forward.observer = observer
            for buffer, before in zip(model_buffers(context), buffers, strict=True):
                buffer.copy_(before)


def _backward(
    context: CallbackContext,
    rows: RowMaker,
    forward: TrainingForward,
    which: np.ndarray,
    samples: Sequence[int] | None,
) -> None:
    """The gradient of the mean loss of these tokens, reduced, into Megatron's buffers."""
    mine = copy.copy(rows)
    mine.use_selection(which)
    rng = capture_rng()
    _let_go(context)
    stages = mpu.get_virtual_pipeline_model_parallel_world_size() or 1
    iterators, count = [], 0
    for _ in range(stages):
        count, batches = scoring_batches(mine, samples)
        iterators.append(_without_router_losses(batches))
    run_schedule(context.model, forward, iterators, count, forward_only=False)
    restore_rng(rng)  # the next set of tokens draws the same dropout


def _without_router_losses(batches):
    share = torch.tensor([_NO_ROUTER_LOSS], dtype=torch.float64)
    return (batch | {"kept_share": share} for batch in batches)


def _chain(optimizer) -> list:
    return getattr(optimizer, "chained_optimizers", [optimizer])


def _counted(optimizer) -> list[list[torch.Tensor]]:
    """By optimizer of a chain, this rank's gradients, without what another rank has as well."""
    return [counted_gradients(one) if one.get_parameters() else [] for one in _chain(optimizer)]


def _products(first: list[torch.Tensor], second: list[torch.Tensor]) -> torch.Tensor:
    """float64[3]: the squares of both and their scalar product, of this rank's parts."""
    sums = torch.zeros(3, dtype=torch.float64, device=torch.cuda.current_device())
    for a, b in zip(first, second, strict=True):
        pieces = zip(a.reshape(-1).split(_AT_ONCE), b.reshape(-1).split(_AT_ONCE), strict=True)
        for mine, its in pieces:
            x, y = mine.to(sums.device).double(), its.double()
            sums += torch.stack([x @ x, y @ y, x @ y])
    return sums


def _count(rows: RowMaker, which: np.ndarray, samples: Sequence[int] | None) -> int:
    """Tokens of `which` in the loss: not those of samples that the run has left out."""
    corpus = rows.corpus
    looked_at = range(len(corpus.lengths)) if samples is None else samples
    return sum(
        int(which[corpus.target_slice(i)].sum()) for i in looked_at if i not in rows.excluded
    )


def _let_go(context: CallbackContext) -> None:
    """Of all gradients: what comes next begins without them."""
    for chunk in context.model:
        chunk.zero_grad_buffer()
    context.optimizer.zero_grad()


class _OptimizerState:
    """Moments and step counts of this rank on the host, and which of them there were."""

    def __init__(self, optimizer):
        self._inner = [one.optimizer for one in inner_optimizers(optimizer)]
        self._moments = [
            {
                parameter: {
                    key: value.detach().cpu().clone() if torch.is_tensor(value) else value
                    for key, value in state.items()
                }
                for parameter, state in one.state.items()
            }
            for one in self._inner
        ]
        self._groups = [
            [
                {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}
                for group in one.param_groups
            ]
            for one in self._inner
        ]

    @torch.no_grad()
    def restore(self) -> None:
        for one, moments, groups in zip(self._inner, self._moments, self._groups, strict=True):
            for parameter in list(one.state):
                if parameter not in moments:  # made by the first step that there was
                    del one.state[parameter]
                    continue
                state, before = one.state[parameter], moments[parameter]
                for key in list(state):
                    if key not in before:
                        del state[key]
                    elif torch.is_tensor(state[key]):
                        state[key].copy_(before[key])
                    else:
                        state[key] = before[key]
            for group, kept in zip(one.param_groups, groups, strict=True):
                for key in set(group) - set(kept) - {"params"}:
                    del group[key]
                group.update(kept)
