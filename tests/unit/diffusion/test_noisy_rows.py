# SPDX-License-Identifier: Apache-2.0
"""Rows of two copies by hand."""

from __future__ import annotations

import numpy as np
import pytest

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.diffusion.rows import FILL, blank_segment, joined, maskable, noisy_segment
from tests.unit.data.made_data import sample

MASK, END, PAD = 99, 7, 0
FIVE = sample([11, 12, 13, 14, 7], 2)  # three targets, the last its end


def segment(masked: list[int]):
    return noisy_segment(FIVE, 8, np.array(masked, dtype=bool), 20, mask_token=MASK, end_token=END)


def test_targets_and_fill_may_be_masked_and_the_prompt_never():
    assert maskable(FIVE, 8).tolist() == [2, 3, 4, 5, 6, 7]
    assert maskable(FIVE, 5).tolist() == [2, 3, 4]


def test_a_segment_by_hand():
    made = segment([0, 1, 1, 0, 1, 0])
    assert made["tokens"].tolist() == [
        *[11, 12, 13, MASK, MASK, END, MASK, END],
        *[11, 12, 13, 14, END, END, END, END],
    ]
    assert made["labels"].tolist() == 2 * [11, 12, 13, 14, END, END, END, END]
    assert made["masked_index"].tolist() == [3, 4, 6]
    assert made["target_index"].tolist() == [21, 22, FILL]
    assert made["loss_mask"].tolist() == [1, 1, 1]


def test_a_mask_of_another_sample_is_refused():
    with pytest.raises(ValueError, match=r"line of s: \(5,\) for \(6,\) maskable"):
        segment([0, 1, 1, 0, 1])


def test_segments_follow_one_another_with_the_boundaries_of_all_copies():
    row = joined([segment([1, 0, 0, 0, 0, 0]), blank_segment(4, PAD), segment([0] * 5 + [1])])
    assert row["tokens"].shape == row["labels"].shape == (1, 40)
    assert row["cu_seqlens"].tolist() == [[0, 8, 16, 20, 24, 32, 40]]
    assert row["masked_index"].tolist() == [2, 24 + 7]
    assert row["target_index"].tolist() == [[20, FILL]] and row["loss_mask"].tolist() == [[1, 1]]


def test_a_row_with_nothing_to_learn_has_one_position_that_does_not_count():
    row = joined([blank_segment(4, PAD)])
    assert row["masked_index"].tolist() == [0] and row["target_index"].tolist() == [[-1]]
    assert row["loss_mask"].tolist() == [[0]]


def test_a_sample_needs_whole_blocks():
    samples = [sample([1] * n, 1, f"s{n}") for n in (3, 4, 5)]
    assert list(Corpus(samples, "t", {}, block_size=4).lengths) == [4, 4, 8]
    assert list(Corpus(samples, "t", {}).lengths) == [2, 3, 4]
    assert list(Corpus(samples, "t", {}, block_size=4).subset([2]).lengths) == [8]
