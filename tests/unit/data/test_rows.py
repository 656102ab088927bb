# SPDX-License-Identifier: Apache-2.0
"""Rows, cell by cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from made_data import sample

from t3s_megatron.data.rows import collate, empty_row, packed_row, row

ONE = sample([11, 12, 13, 14, 15], 2)  # targets 13 14 15, predicted at positions 1 2 3
PAD = 99


def test_cell_by_cell():
    made = row(ONE, 6, None, PAD)
    assert made["tokens"].tolist() == [11, 12, 13, 14, PAD, PAD]
    assert made["labels"].tolist() == [12, 13, 14, 15, PAD, PAD]
    assert made["target_mask"].tolist() == [0, 1, 1, 1, 0, 0]
    assert made["loss_mask"].tolist() == [0, 1, 1, 1, 0, 0]
    assert made["position_ids"].tolist() == [0, 1, 2, 3, 4, 5]
    assert made["sample"].tolist() == [-1]


def test_types():
    for made in (row(ONE, 6, None, PAD), empty_row(6, PAD)):
        masks = {made["loss_mask"].dtype, made["target_mask"].dtype}
        others = {made[k].dtype for k in ("tokens", "labels", "position_ids", "sample")}
        assert masks == {torch.float32} and others == {torch.int64}


def test_a_selection_narrows_the_loss_and_not_the_targets():
    made = row(ONE, 6, np.array([True, False, True]), PAD)
    assert made["loss_mask"].tolist() == [0, 1, 0, 1, 0, 0]
    assert made["target_mask"].tolist() == [0, 1, 1, 1, 0, 0]


def test_weights_stand_in_the_loss_as_they_are():
    made = row(ONE, 6, np.array([0.25, 0, 1.5], dtype=np.float32), PAD)
    assert made["loss_mask"].tolist() == [0, 0.25, 0, 1.5, 0, 0]
    assert made["loss_mask"].dtype == torch.float32
    assert made["target_mask"].tolist() == [0, 1, 1, 1, 0, 0]


def test_a_row_of_the_samples_own_length():
    made = row(ONE, 4, None, PAD)
    assert made["tokens"].tolist() == [11, 12, 13, 14]
    assert made["loss_mask"].tolist() == [0, 1, 1, 1]


def test_a_row_does_not_share_memory_with_the_sample():
    row(ONE, 4, None, PAD)["tokens"].zero_()
    assert ONE.tokens.tolist() == [11, 12, 13, 14, 15]


def test_too_short():
    with pytest.raises(ValueError, match="line of s: 4 positions do not fit a row of 3"):
        row(ONE, 3, None, PAD)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_selection_of_another_sample(n):
    """1 above all: torch would spread it over all targets."""
    with pytest.raises(ValueError, match=rf"shape \({n},\) for 3 targets"):
        row(ONE, 6, np.ones(n, dtype=bool), PAD)


def test_empty_row():
    made = empty_row(3, PAD)
    assert made["tokens"].tolist() == made["labels"].tolist() == [PAD] * 3
    assert not made["loss_mask"].any() and not made["target_mask"].any()
    assert made["sample"].tolist() == [-1] and made["position_ids"].tolist() == [0, 1, 2]


def test_a_packed_row_cell_by_cell():
    two = sample([21, 22, 23], 1, "t")  # targets 22 23, predicted at positions 0 1
    made = packed_row([row(ONE, 4, None, PAD), row(two, 3, np.array([False, True]), PAD)])
    assert made["tokens"].tolist() == [11, 12, 13, 14, 21, 22, PAD]
    assert made["labels"].tolist() == [12, 13, 14, 15, 22, 23, PAD]
    assert made["target_mask"].tolist() == [0, 1, 1, 1, 1, 1, 0]
    assert made["loss_mask"].tolist() == [0, 1, 1, 1, 0, 1, 0]
    assert made["position_ids"].tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert made["sample"].tolist() == [-1, -1]
    assert made["cu_seqlens"].tolist() == [0, 4, 7] and made["cu_seqlens"].dtype == torch.int32


def test_collate():
    batch = collate([row(ONE, 5, None, PAD), empty_row(5, PAD)])
    assert {key: tuple(value.shape) for key, value in batch.items()} == {
        **dict.fromkeys(["tokens", "labels", "loss_mask", "target_mask", "position_ids"], (2, 5)),
        "sample": (2, 1),
    }
    assert batch["labels"].tolist() == [[12, 13, 14, 15, PAD], [PAD] * 5]
