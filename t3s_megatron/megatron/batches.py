# SPDX-License-Identifier: Apache-2.0
"""From the corpus to the micro-batches of Megatron's loop.

Every rank of the model-parallel group builds the same rows itself: the corpus of a T3S run is a
few hundred samples in memory, so there is nothing to broadcast, and pipeline stages without data
simply do not ask. Which sample stands where is a pure function of the number of samples consumed,
so a rewind, or a resume, is setting one integer.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from megatron.core import mpu
from megatron.training import get_args

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.order import EpochOrder
from t3s_megatron.data.rows import collate, empty_row, row


def take_over_batches(args) -> None:
    """Tell Megatron that the iterators are ours: passed through as they are, no validation set.

    `args` is its global namespace; has to run before the data loaders are built.
    """
    args.dataloader_type = "external"
    args.eval_iters = 0
    if args.eval_interval is None:  # divided by even when nothing is evaluated (0.18, 0.19)
        args.eval_interval = max(1, args.train_iters or 1)


class RowMaker:
    """Rows of one corpus, narrowed by a selection once there is one."""

    def __init__(self, corpus: Corpus, pad_token: int):
        self.corpus = corpus
        self.pad_token = pad_token
        self.keep: np.ndarray | None = None
        self.excluded: set[int] = set()

    def use_selection(self, keep: np.ndarray | None) -> None:
        """`keep`: bool[n_target_tokens] in corpus order; None trains on every target token."""
        self.keep = keep

    def exclude(self, samples: list[int]) -> None:
        """Empty rows stand for these samples from here on: they are not even looked at."""
        self.excluded.update(samples)

    def row(self, index: int, seq_length: int) -> dict[str, torch.Tensor]:
        """One row; index -1 gives an empty one (nothing to learn from, nothing scored).

        Beside the keys of `data.rows.row`: `target_index` int64[s], where label p is target number
        target_index[p] of the corpus (a position in its flat per-target arrays), else -1.
        """
        target_index = torch.full((seq_length,), -1, dtype=torch.int64)
        if index < 0 or index in self.excluded:
            return empty_row(seq_length, self.pad_token) | {"target_index": target_index}
        targets = self.corpus.target_slice(index)
        keep = None if self.keep is None else self.keep[targets]
        made = row(self.corpus.samples[index], seq_length, keep, self.pad_token)
        made["sample"] = torch.tensor([index], dtype=torch.int64)
        target_index[made["target_mask"] > 0] = torch.arange(targets.start, targets.stop)
        return made | {"target_index": target_index}

    def batch(self, indices: list[int], seq_length: int) -> dict[str, torch.Tensor]:
        return collate([self.row(index, seq_length) for index in indices])


class TrainingBatches:
    """This rank's micro-batches in training order; Megatron's "external" data loader.

    Sample number `consumed + k` of the run goes to data-parallel rank `k // mbs % dp`, as in
    Megatron's own sampler.
    """

    def __init__(self, rows: RowMaker, order: EpochOrder, consumed: int):
        args = get_args()
        self.rows = rows
        self.order = order
        self.position = consumed
        self.micro_batch_size = args.micro_batch_size
        self.seq_length = args.seq_length

    def __iter__(self):
        return self

    def __next__(self) -> dict[str, torch.Tensor]:
        ranks, rank = mpu.get_data_parallel_world_size(), mpu.get_data_parallel_rank()
        first = self.position + rank * self.micro_batch_size
        self.position += ranks * self.micro_batch_size
        indices = [self.order.sample_at(first + i) for i in range(self.micro_batch_size)]
        return self.rows.batch(indices, self.seq_length)

    def reset(self, consumed: int) -> None:
        self.position = consumed


def scoring_batches(
    rows: RowMaker, micro_batch_size: int, seq_length: int, multiple_of: int = 1
) -> tuple[int, Iterator[dict[str, torch.Tensor]]]:
    """One pass over the corpus: (micro-batches on every rank, this rank's micro-batches).

    The number is the same on all data-parallel ranks, since a pipeline schedule is collective, and
    a multiple of `multiple_of` (the interleaved schedule wants whole groups); what is missing is
    filled with empty rows.
    """
    ranks, rank = mpu.get_data_parallel_world_size(), mpu.get_data_parallel_rank()
    stride = ranks * micro_batch_size
    n = len(rows.corpus.samples)
    count = -(-n // stride)
    count = -(-count // multiple_of) * multiple_of

    def batches():
        for i in range(count):
            first = i * stride + rank * micro_batch_size
            indices = [j if j < n else -1 for j in range(first, first + micro_batch_size)]
            yield rows.batch(indices, seq_length)

    return count, batches()
