# SPDX-License-Identifier: Apache-2.0
"""c_t for every target token of the corpus at the live weights (Eq. 2): a forward-only pass.

Taken where the last pipeline stage turns logits into per-token losses, so there is no second copy
of the logits and no second code path: theta_0 and theta_b are scored by the same forward, in the
same layout, as training.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from megatron.core import mpu

from t3s_megatron.megatron.batches import RowMaker, scoring_batches
from t3s_megatron.megatron.forward import call_model, next_batch, run_schedule
from t3s_megatron.megatron.layout import data_and_context_group, speaks_for_its_samples
from t3s_megatron.megatron.meter import TokenReader, TokenScores
from t3s_megatron.megatron.pause import training_paused
from t3s_megatron.megatron.seam import CallbackContext


def score_corpus(
    context: CallbackContext, rows: RowMaker, samples: Sequence[int] | None = None
) -> np.ndarray | None:
    """log p(y_t | y_<t, x), float32[n_target_tokens] in corpus order, on the root rank; else None.

    `samples`: corpus indices of those to score, None for all; the targets of others are NaN.
    Collective over the world. Leaves training as it was (see `training_paused`).
    """
    stages = mpu.get_virtual_pipeline_model_parallel_world_size() or 1
    iterators, count = [], 0
    for _ in range(stages):
        count, batches = scoring_batches(rows, samples)
        iterators.append(batches)
    reader = TokenReader()
    with training_paused(context):
        score_step = partial(_score_step, reader)
        run_schedule(context.model, score_step, iterators, count, forward_only=True)
        # Still paused: the collectives below belong to the pass.
        return _collect(reader.take(), rows)


def _score_step(reader: TokenReader, data_iterator, model, return_schedule_plan: bool = False):
    batch = next_batch(data_iterator, model)
    return call_model(model, batch), partial(_read_scores, reader, batch)


def _read_scores(reader: TokenReader, batch, per_token_loss):
    reader(batch, per_token_loss.float())
    # The schedule wants a loss and a count (as in training) and has no use for either.
    zero = per_token_loss.new_zeros(())
    return zero, torch.zeros((), dtype=torch.int, device=zero.device), {}


def _collect(mine: TokenScores, rows: RowMaker) -> np.ndarray | None:
    """Scores of all data- and context-parallel ranks as one flat array, on the root rank."""
    if not speaks_for_its_samples():
        return None
    group = data_and_context_group()
    root = dist.get_global_rank(group, 0)
    parts: list | None = [None] * group.size() if dist.get_rank() == root else None
    dist.gather_object(mine, parts, dst=root, group=group)
    if parts is None:
        return None
    flat = np.full(rows.corpus.n_targets, np.nan, dtype=np.float32)
    for part in parts:
        flat[part.target] = part.c
    return flat
