# SPDX-License-Identifier: Apache-2.0
"""Micro-batches of a block-diffusion student."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from t3s_megatron.data.arrangement import Arrangement, Row, StepRows
from t3s_megatron.data.corpus import Corpus
from t3s_megatron.diffusion.noise import Noise
from t3s_megatron.diffusion.rows import blank_segment, joined, maskable, noisy_segment
from t3s_megatron.megatron.batches import RowMaker


@dataclass(frozen=True)
class Noising:
    """How samples are noised. `forced` bool[n_target_tokens]: masked every time; None: none are."""

    noise: Noise
    mask_token: int
    end_token: int
    forced: np.ndarray | None = None


class NoisyRowMaker(RowMaker):
    """Rows of both copies of each sample. A row of the arrangement has the length of one copy."""

    def __init__(self, corpus: Corpus, pad_token: int, arrangement: Arrangement, noising: Noising):
        super().__init__(corpus, pad_token, arrangement)
        self.noising = noising

    def kept_share(self, step: StepRows) -> float:
        """Share of a step's tokens, of both copies, that are masked and learned."""
        masked = sum(
            int(self._masked(sample, epoch).sum())
            for ranks in step.micro_batches
            for rows in ranks
            for row in rows
            for sample, epoch in self._learned(row)
        )
        return masked / (2 * step.computed_tokens)

    def mask_rate(self, step: StepRows) -> float:
        """Mean rate of the noise over the samples of a step, before anything is forced; NaN where
        all of them are left out."""
        rates = [
            self.noising.noise.rate(self.corpus.samples[sample].uid, epoch)
            for ranks in step.micro_batches
            for rows in ranks
            for row in rows
            for sample, epoch in self._learned(row)
        ]
        return float(np.mean(rates)) if rates else float("nan")

    def batch(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        """A micro-batch of one row, as `diffusion.rows.joined` says; also `lengths` int32[1, n], of
        all copies of samples."""
        (row,) = rows
        learned = dict(self._learned(row, by_place=True))
        segments, lengths = [], []
        for place, sample in enumerate(row.samples):
            length = self.corpus.lengths[sample]
            if place in learned:
                segments.append(self._segment(sample, learned[place]))
                lengths += [length, length]
            else:
                segments.append(blank_segment(length, self.pad_token))
        filled = sum(self.corpus.lengths[sample] for sample in row.samples)
        if filled < row.length:
            segments.append(blank_segment(row.length - filled, self.pad_token))
        return joined(segments) | {"lengths": torch.tensor([lengths or [0]], dtype=torch.int32)}

    def _learned(self, row: Row, by_place: bool = False) -> Iterator[tuple[int, int]]:
        """(sample, or its place in the row; epoch) of what is not left out."""
        for place, (sample, epoch) in enumerate(zip(row.samples, row.epochs, strict=True)):
            if sample not in self.excluded:
                yield (place if by_place else sample), epoch

    def _masked(self, index: int, epoch: int) -> np.ndarray:
        """bool, of the positions of `diffusion.rows.maskable`."""
        sample, forced = self.corpus.samples[index], self.noising.forced
        places = maskable(sample, self.corpus.lengths[index])
        of_sample = None if forced is None else forced[self.corpus.target_slice(index)]
        return self.noising.noise.masked(sample.uid, epoch, len(places), of_sample)

    def _segment(self, index: int, epoch: int) -> dict[str, torch.Tensor]:
        return noisy_segment(
            self.corpus.samples[index],
            self.corpus.lengths[index],
            self._masked(index, epoch),
            self.corpus.target_slice(index).start,
            mask_token=self.noising.mask_token,
            end_token=self.noising.end_token,
        )
