# SPDX-License-Identifier: Apache-2.0
"""Which sample stands in which row: a batch of samples of uneven length as micro-batches.

own      every sample in a row of its own length, one row a micro-batch
padded   every sample in a row of `--seq-length`
packed   short samples together in one row, of at most `--seq-length`, one row a micro-batch

In the first and the last, rows of similar length get the same micro-batch number on all
data-parallel ranks, because those work in lockstep: expert parallelism waits at every layer, the
others at the end of a step. Which samples a step is made of is not decided here (`data.order`).
"""

from __future__ import annotations

import functools
import heapq
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from t3s_megatron.data.order import EpochOrder

ARRANGEMENTS = ("own", "padded", "packed")


@dataclass(frozen=True, slots=True)
class Row:
    """Indices of the samples in it, in their order, and its positions, padding included.

    No samples: there is nothing to learn or to score in it. `epochs`, in training: how often each
    of them was drawn before.
    """

    samples: tuple[int, ...]
    length: int
    epochs: tuple[int, ...] = ()


#: [micro-batch][data-parallel rank][row]
MicroBatches = list[list[list[Row]]]


@dataclass(frozen=True)
class Arrangement:
    """How batches are arranged in one parallel layout.

    `multiple`: row lengths are divisible by it (sequence and context parallelism cut rows up).
    `ranks`: data-parallel size. `stages`, `group`: pipeline stages, and micro-batches a group of
    the interleaved schedule, at least as many; both 1 without virtual stages. `fewest`: packed
    batches have at least so many micro-batches where there are samples enough, since a pipeline
    needs them to be filled.
    """

    kind: str
    seq_length: int
    multiple: int = 1
    ranks: int = 1
    micro_batch_size: int = 1
    stages: int = 1
    group: int = 1
    fewest: int = 1

    def arrange(self, samples: Sequence[int], lengths: Sequence[int]) -> MicroBatches:
        """Every one of `samples` once; `lengths[i]`: positions that sample i needs.

        The number of rows is the same for all ranks, and one that the schedule takes; what is
        missing is filled with rows without samples. That never happens in a training step, whose
        samples Megatron has divided already.
        """
        if self.kind == "padded":
            rows = [Row((index,), self.seq_length) for index in samples]
            return self._deal(rows, self._schedulable(len(rows)), self.seq_length)
        if self.kind == "own":
            rows = [Row((index,), self._rounded(lengths[index])) for index in samples]
        else:
            rows = self._pack(samples, lengths)
        rows.sort(key=lambda row: row.length)  # stable: equal lengths stay in the order of training
        return _hill(self._deal(rows, self._schedulable(len(rows)), self.multiple))

    def _deal(self, rows: list[Row], count: int, filler: int) -> MicroBatches:
        """In `count` micro-batches, neighbours to the same one, the first to the first rank."""
        size = self.micro_batch_size
        rows = rows + [Row((), filler)] * (count * self.ranks * size - len(rows))
        lines = [rows[first : first + size] for first in range(0, len(rows), size)]
        return [lines[k * self.ranks : (k + 1) * self.ranks] for k in range(count)]

    def _schedulable(self, n_rows: int) -> int:
        """Micro-batches on each rank: enough for the rows, and as the interleaved schedule wants
        them (schedules.py:1133-1151)."""
        count = max(-(-n_rows // (self.ranks * self.micro_batch_size)), self.group)
        remainder = count % self.group
        return count + self.stages - remainder if 0 < remainder < self.stages else count

    def _rounded(self, length: int) -> int:
        return -(-length // self.multiple) * self.multiple

    def _pack(self, samples: Sequence[int], lengths: Sequence[int]) -> list[Row]:
        """About as few rows as will do, about equally full; never more than there are samples."""
        longest_first = sorted(samples, key=lambda index: -lengths[index])
        total = sum(lengths[index] for index in samples)
        most = self._schedulable(len(samples))
        wanted = max(-(-total // self.seq_length), self.fewest * self.ranks)
        count = min(self._schedulable(wanted), most)
        fill = functools.partial(_fill, longest_first, lengths, capacity=self.seq_length)
        while (rows := fill(count=count * self.ranks)) is None:
            # One by one would take long where rows are scored by the thousand.
            count += max(1, count // 100)
            count = min(self._schedulable(count * self.ranks), most)
        return [
            Row(tuple(row), self._rounded(sum(lengths[index] for index in row)))
            for row in rows
            if row
        ]


def _fill(
    longest_first: Sequence[int], lengths: Sequence[int], *, count: int, capacity: int
) -> list[list[int]] | None:
    """Each sample to the emptiest of `count` rows; None when one does not fit there."""
    rows: list[list[int]] = [[] for _ in range(count)]
    emptiest = [(0, number) for number in range(count)]
    for index in longest_first:
        filled, number = emptiest[0]
        if filled + lengths[index] > capacity:
            return None
        heapq.heapreplace(emptiest, (filled + lengths[index], number))
        rows[number].append(index)
    return rows


def _hill(micro_batches: list) -> list:
    """From ascending order to short, long, short: a pipeline fills and drains with little work."""
    return micro_batches[::2] + micro_batches[1::2][::-1]


@dataclass(frozen=True)
class StepRows:
    """One step: its micro-batches, and what they cost in tokens over all data-parallel ranks."""

    micro_batches: MicroBatches
    useful_tokens: int  # positions of samples
    computed_tokens: int  # padding included
    lockstep_tokens: int  # as if every rank took as long as the slowest, micro-batch by micro-batch

    @classmethod
    def of(cls, micro_batches: MicroBatches, lengths: Sequence[int]) -> StepRows:
        useful = computed = lockstep = 0
        for ranks in micro_batches:
            loads = [sum(row.length for row in rows) for rows in ranks]
            computed += sum(loads)
            lockstep += max(loads) * len(loads)
            useful += sum(lengths[i] for rows in ranks for row in rows for i in row.samples)
        return cls(micro_batches, useful, computed, lockstep)

    def __add__(self, other: StepRows) -> StepRows:
        return StepRows(
            self.micro_batches + other.micro_batches,
            self.useful_tokens + other.useful_tokens,
            self.computed_tokens + other.computed_tokens,
            self.lockstep_tokens + other.lockstep_tokens,
        )

    @property
    def samples(self) -> list[int]:
        """Corpus indices of the step's samples, on all ranks; twice where one is in it twice."""
        return [
            sample
            for ranks in self.micro_batches
            for row in itertools.chain(*ranks)
            for sample in row.samples
        ]

    def efficiency(self) -> dict[str, float]:
        """padding_share: computed tokens that are padding. balance_efficiency: useful tokens over
        those of the critical path, with data-parallel ranks in lockstep."""
        return {
            "padding_share": 1 - self.useful_tokens / self.computed_tokens,
            "balance_efficiency": self.useful_tokens / self.lockstep_tokens,
        }


class TrainingRows:
    """What each step of training computes: a pure function of the number of samples consumed, so
    that a resume or a rewind has to know nothing else.

    `samples`: corpus indices of those that are trained on, in the order that `order` counts them;
    None: all. A batch larger than their number has samples of several epochs.
    """

    def __init__(
        self,
        order: EpochOrder,
        lengths: Sequence[int],
        arrangement: Arrangement,
        global_batch_size: int,
        samples: Sequence[int] | None = None,
    ):
        self.samples = range(order.n) if samples is None else samples
        self.order = order
        self.lengths = lengths
        self.arrangement = arrangement
        self.global_batch_size = global_batch_size
        self.at = functools.lru_cache(maxsize=4)(self._make)

    def _make(self, consumed: int) -> StepRows:
        places = range(consumed, consumed + self.global_batch_size)
        samples = [self.samples[self.order.sample_at(place)] for place in places]
        epochs = [place // self.order.n for place in places]

        # By number in the batch: one that is larger than the corpus holds a sample more than once.
        def named(row: Row) -> Row:
            of_row = row.samples
            return Row(
                tuple(samples[i] for i in of_row), row.length, tuple(epochs[i] for i in of_row)
            )

        arranged = self.arrangement.arrange(
            range(len(samples)), [self.lengths[sample] for sample in samples]
        )
        named_rows = [[[named(row) for row in rows] for rows in ranks] for ranks in arranged]
        return StepRows.of(named_rows, self.lengths)

    def summary(self, steps: int) -> dict:
        """kind, micro_batches_per_step (on each rank) and `StepRows.efficiency` over the first
        `steps` steps, an epoch at most."""
        steps = min(steps, -(-self.order.n // self.global_batch_size))
        first, *others = (self._make(step * self.global_batch_size) for step in range(steps))
        whole = sum(others, first)
        count = len(whole.micro_batches) / steps
        return {"kind": self.arrangement.kind, "micro_batches_per_step": count} | whole.efficiency()
