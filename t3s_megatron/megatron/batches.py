# SPDX-License-Identifier: Apache-2.0
"""From the corpus to the micro-batches of Megatron's loop.

Every rank of the model-parallel group builds the same rows itself: the corpus is small, or mapped
by all ranks of a node, so there is nothing to broadcast, and pipeline stages without data simply do
not ask. Which sample stands where is a pure function of the number of samples consumed,
so a rewind, or a resume, is setting one integer. How samples become rows and micro-batches is
`data.arrangement`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from megatron.core import mpu

from t3s_megatron.data.arrangement import Arrangement, Row, StepRows, TrainingRows
from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.kept_bits import Kept, n_kept_of
from t3s_megatron.data.rows import collate, empty_row, packed_row, row
from t3s_megatron.megatron.releases import without_validation


def take_over_batches(args) -> None:
    """Tell Megatron that the iterators are ours: passed through as they are, no validation set.

    `args` is its global namespace; has to run before the data loaders are built.
    """
    args.dataloader_type = "external"
    without_validation(args)


class RowMaker:
    """Rows of one corpus, narrowed by a selection once there is one."""

    def __init__(self, corpus: Corpus, pad_token: int, arrangement: Arrangement):
        self.corpus = corpus
        self.pad_token = pad_token
        self.arrangement = arrangement
        self.keep: Kept | None = None
        self.excluded: set[int] = set()

    def use_selection(self, keep: Kept | None) -> None:
        """`keep`: bool[n_target_tokens], or float32 of their weights, in corpus order; None trains
        on every target token."""
        self.keep = keep

    def exclude(self, samples: list[int]) -> None:
        """Empty rows stand for these samples from here on: they are not even looked at."""
        self.excluded.update(samples)

    def kept_share(self, step: StepRows) -> float:
        """Share of a step's tokens, prompts and padding included, that count in its loss."""
        kept = sum(map(self._kept, step.samples))
        return kept / step.computed_tokens

    def _kept(self, sample: int) -> int:
        """Targets of this corpus index that count in the loss."""
        if sample in self.excluded:
            return 0
        return n_kept_of(self.keep, self.corpus.target_slice(sample))

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

    def batch(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        """A micro-batch [b, s]. Beside the keys of `row`: `cu_seqlens` in packed rows, and where
        rows differ in length `lengths` int32[b, n], the positions of each sample without padding.
        """
        return collate([self._arranged(one) for one in rows])

    def _arranged(self, arranged: Row) -> dict[str, torch.Tensor]:
        indices = arranged.samples or (-1,)
        lengths = [self.corpus.lengths[index] for index in arranged.samples] or [0]
        places = list(lengths)
        places[-1] += arranged.length - sum(lengths)  # padding
        segments = [self.row(*one) for one in zip(indices, places, strict=True)]
        kind = self.arrangement.kind
        made = packed_row(segments) if kind == "packed" else segments[0]
        if kind != "padded":
            made["lengths"] = torch.tensor(lengths, dtype=torch.int32)
        return made


class TrainingBatches:
    """This rank's micro-batches in training order; Megatron's "external" data loader.

    `plans` may be changed between two steps, with a `reset` for what was consumed of them. Beside
    the keys of `RowMaker.batch`: `kept_share` float64[1], of the whole step.
    """

    def __init__(self, rows: RowMaker, plans: TrainingRows, consumed: int):
        self.rows = rows
        self.plans = plans
        self.reset(consumed)

    def __iter__(self):
        return self

    def __next__(self) -> dict[str, torch.Tensor]:
        step = self.plans.at(self.position)
        micro_batches = step.micro_batches
        if self.number == 0:
            self._kept_share = torch.tensor([self.rows.kept_share(step)], dtype=torch.float64)
        mine = micro_batches[self.number][mpu.get_data_parallel_rank()]
        self.number += 1
        if self.number == len(micro_batches):
            self.reset(self.position + self.plans.global_batch_size)
        return self.rows.batch(mine) | {"kept_share": self._kept_share}

    def reset(self, consumed: int) -> None:
        """To the first micro-batch of the step that begins after `consumed` samples."""
        self.position = consumed
        self.number = 0


def scoring_batches(
    rows: RowMaker, samples: Sequence[int] | None = None
) -> tuple[int, Iterator[dict[str, torch.Tensor]]]:
    """One pass over the corpus, or over its `samples` (indices): (micro-batches on every rank, this
    rank's micro-batches).

    The number is the same on all data-parallel ranks, since a pipeline schedule is collective; what
    is missing is filled with empty rows.
    """
    lengths = rows.corpus.lengths
    scored = range(len(lengths)) if samples is None else samples
    micro_batches = rows.arrangement.arrange(scored, lengths)
    rank = mpu.get_data_parallel_rank()
    return len(micro_batches), (rows.batch(ranks[rank]) for ranks in micro_batches)
