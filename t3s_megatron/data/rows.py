# SPDX-License-Identifier: Apache-2.0
"""From samples to rows: what stands at each position, what is predicted there, what is learned.

Position p of a row holds token p and predicts token p + 1. A row may have any length that the
sample fits in; the tail is padding, which neither predicts nor is predicted. Short samples may
stand in one row, each a segment that sees nothing of the others.
"""

from __future__ import annotations

import numpy as np
import torch

from t3s_megatron.data.tokenizing import Sample


def row(
    sample: Sample, seq_length: int, keep: np.ndarray | None, pad_token: int
) -> dict[str, torch.Tensor]:
    """One row [s]: tokens, labels, position_ids int64; loss_mask, target_mask float32.

    target_mask is 1 where the label is a target; loss_mask is 1 where it is also kept, or its
    weight. `keep` bool[n_targets], or float32[n_targets] of weights, narrows the targets; None
    keeps all. `sample` int64[1] is -1 until the caller fills in the index. ValueError when the
    sample does not fit, or `keep` is not its own.
    """
    length = len(sample.tokens) - 1
    if length > seq_length:
        raise ValueError(f"{sample.where}: {length} positions do not fit a row of {seq_length}")
    made = empty_row(seq_length, pad_token)
    tokens = torch.from_numpy(sample.tokens.astype(np.int64))
    made["tokens"][:length] = tokens[:-1]
    made["labels"][:length] = tokens[1:]
    # In numpy: torch would ask its threads to assign by a mask, and their waiting costs more.
    is_target = sample.is_target[1:]
    kept = is_target.astype(np.float32)
    made["target_mask"][:length] = torch.from_numpy(kept.copy())
    if keep is not None:
        # Checked, because numpy would spread a single value over all targets.
        if keep.shape != (sample.n_targets,):
            raise ValueError(
                f"{sample.where}: keep has shape {keep.shape} for {sample.n_targets} targets"
            )
        kept[is_target] = keep
    made["loss_mask"][:length] = torch.from_numpy(kept)
    return made


def empty_row(seq_length: int, pad_token: int) -> dict[str, torch.Tensor]:
    """A row with nothing to learn and nothing to score; its `sample` is -1."""
    return {
        "tokens": torch.full((seq_length,), pad_token, dtype=torch.int64),
        "labels": torch.full((seq_length,), pad_token, dtype=torch.int64),
        "loss_mask": torch.zeros(seq_length),
        "target_mask": torch.zeros(seq_length),
        "position_ids": torch.arange(seq_length),
        "sample": torch.tensor([-1], dtype=torch.int64),
    }


def packed_row(segments: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Rows of any lengths, one after the other, as one; `sample` becomes [n].

    `cu_seqlens` int32[n + 1]: segment i is at the positions from cu_seqlens[i] on, and before
    cu_seqlens[i + 1]. Padding belongs to the segment that it follows, where nothing looks at it.
    """
    made = {key: torch.cat([one[key] for one in segments]) for key in segments[0]}
    ends = torch.tensor([len(one["tokens"]) for one in segments]).cumsum(0)
    made["cu_seqlens"] = torch.cat([torch.zeros(1, dtype=torch.int64), ends]).to(torch.int32)
    return made


def collate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Rows of one length to a batch [b, s]; `sample` becomes [b, 1]."""
    return {key: torch.stack([one[key] for one in rows]) for key in rows[0]}
