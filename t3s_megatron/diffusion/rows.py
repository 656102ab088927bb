# SPDX-License-Identifier: Apache-2.0
"""Rows of a block-diffusion student: of each sample a noisy copy and then the clean one.

    [ x_t of sample 1 | x_0 of sample 1 | x_t of sample 2 | ... ]

Each copy is a segment of its own, as long as the sample up to a whole block, so that positions
begin anew at each. A position predicts the clean token in its own place, and is learned where the
noisy copy is masked. From its last token to the block's end a sample is filled up with end tokens,
which are masked and learned like others but are no targets of the corpus.
"""

from __future__ import annotations

import numpy as np
import torch

from t3s_megatron.data.tokenizing import Sample

#: In the place of a target's number: an end token that fills a sample's last block.
FILL = -2


def maskable(sample: Sample, length: int) -> np.ndarray:
    """int64[k]: positions of a copy of `length` that may be masked, ascending: the targets, then
    the fill."""
    targets = np.flatnonzero(sample.is_target)
    return np.concatenate([targets, np.arange(len(sample.tokens), length)])


def noisy_segment(
    sample: Sample,
    length: int,
    masked: np.ndarray,
    first_target: int,
    *,
    mask_token: int,
    end_token: int,
) -> dict[str, torch.Tensor]:
    """Both copies [2 * length] of one sample.

    `masked` bool, of the positions of `maskable`; `first_target`: the number of the sample's first
    target in the corpus. ValueError where they are not of this sample.

    tokens, labels int64[2 * length]; masked_index int64[k], the masked positions; target_index
    int64[k], the number of the target there, or FILL; loss_mask float32[k], all 1.
    """
    places = maskable(sample, length)
    if masked.shape != places.shape:
        raise ValueError(f"{sample.where}: {masked.shape} for {places.shape} maskable tokens")
    clean = np.full(length, end_token, dtype=np.int64)
    clean[: len(sample.tokens)] = sample.tokens
    noisy = clean.copy()
    noisy[places[masked]] = mask_token
    numbers = np.full(len(places), FILL, dtype=np.int64)
    numbers[: sample.n_targets] = np.arange(first_target, first_target + sample.n_targets)
    return {
        "tokens": torch.from_numpy(np.concatenate([noisy, clean])),
        "labels": torch.from_numpy(np.concatenate([clean, clean])),
        "masked_index": torch.from_numpy(places[masked]),
        "target_index": torch.from_numpy(numbers[masked]),
        "loss_mask": torch.ones(int(masked.sum())),
    }


def blank_segment(length: int, pad_token: int) -> dict[str, torch.Tensor]:
    """Two copies of nothing: padding, or what stands for a sample that is left out."""
    return {
        "tokens": torch.full((2 * length,), pad_token, dtype=torch.int64),
        "labels": torch.full((2 * length,), pad_token, dtype=torch.int64),
        "masked_index": torch.zeros(0, dtype=torch.int64),
        "target_index": torch.zeros(0, dtype=torch.int64),
        "loss_mask": torch.zeros(0),
    }


def joined(segments: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """One row of these pairs of copies, as a batch of one: tokens, labels [1, t]; masked_index [k];
    target_index, loss_mask [1, k]; cu_seqlens int32[1, 2 n + 1], the boundaries of all copies.

    Where nothing is masked, k is 1 all the same, its loss_mask 0 and its target_index -1: a loss
    over no position at all is none that every rank could take part in.
    """
    ends = np.cumsum([len(one["tokens"]) for one in segments])
    starts = ends - [len(one["tokens"]) for one in segments]
    halves = [bound for start, end in zip(starts, ends, strict=True)
              for bound in ((start + end) // 2, end)]  # fmt: skip
    index = [one["masked_index"] + int(start) for one, start in zip(segments, starts, strict=True)]
    made = {key: torch.cat([one[key] for one in segments]) for key in segments[0]}
    made["masked_index"] = torch.cat(index)
    if not len(made["masked_index"]):
        made["masked_index"] = torch.zeros(1, dtype=torch.int64)
        made["target_index"] = torch.full((1,), -1, dtype=torch.int64)
        made["loss_mask"] = torch.zeros(1)
    row = {key: value[None] for key, value in made.items() if key != "masked_index"}
    row["masked_index"] = made["masked_index"]
    row["cu_seqlens"] = torch.tensor([[0, *halves]], dtype=torch.int32)
    return row
