# SPDX-License-Identifier: Apache-2.0
"""Micro-batches as the loop and the scoring pass are handed them, on two data-parallel ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from t3s_megatron.data.arrangement import Arrangement, Row, StepRows, TrainingRows
from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.order import EpochOrder
from t3s_megatron.data.tokenizing import Sample

SEQ, PAD = 16, 99


def corpus() -> Corpus:
    """Samples of 2, 3, ... 9 positions; the last half of each is to be predicted."""
    samples = []
    for length in range(2, 10):
        tokens = np.arange(length + 1, dtype=np.int32) + 10 * length
        is_target = np.arange(length + 1) > length // 2
        samples.append(
            Sample(f"s{length}", tokens, is_target, length // 2 + 1, None, None, None, "")
        )
    return Corpus(samples, "t" * 64, {})


def maker(kind: str, **layout):
    from t3s_megatron.megatron.batches import RowMaker

    return RowMaker(corpus(), PAD, Arrangement(kind, SEQ, **layout))


@pytest.mark.child
def test_what_a_micro_batch_says_about_its_rows():
    rows = [Row((3, 0), 8)]  # 5 and 2 positions, 1 of padding
    packed = maker("packed").batch(rows)
    assert packed["tokens"].tolist() == [[50, 51, 52, 53, 54, 20, 21, PAD]]
    assert packed["sample"].tolist() == [[3, 0]]
    assert packed["lengths"].tolist() == [[5, 2]]
    assert packed["cu_seqlens"].tolist() == [[0, 5, 8]]
    own = maker("own").batch([Row((3,), 8)])
    assert own["tokens"].tolist() == [[50, 51, 52, 53, 54, PAD, PAD, PAD]]
    assert own["lengths"].tolist() == [[5]] and "cu_seqlens" not in own
    padded = maker("padded").batch([Row((3,), SEQ), Row((0,), SEQ)])
    assert padded["tokens"].shape == (2, SEQ) and padded["sample"].tolist() == [[3], [0]]
    assert "lengths" not in padded and "cu_seqlens" not in padded


@pytest.mark.child
@pytest.mark.parametrize("kind", ["own", "padded", "packed"])
def test_a_row_without_samples(kind):
    made = maker(kind).batch([Row((), 4)])
    assert made["tokens"].tolist() == [[PAD] * 4] and made["sample"].tolist() == [[-1]]
    assert not made["loss_mask"].any() and (made["target_index"] == -1).all()
    if kind == "packed":
        assert made["cu_seqlens"].tolist() == [[0, 4]]


@pytest.mark.child
def test_the_selection_and_the_numbers_of_the_targets_follow_the_samples_into_a_packed_row():
    one = maker("packed")
    keep = np.zeros(one.corpus.n_targets, dtype=bool)
    second_of_3 = one.corpus.target_slice(3).start + 1
    keep[second_of_3] = True
    one.use_selection(keep)
    made = one.batch([Row((3, 0), 8)])
    (where,) = made["loss_mask"][0].nonzero()
    assert made["target_index"][0, where].tolist() == [second_of_3]
    numbers = made["target_index"][made["target_index"] >= 0].tolist()
    wanted = [*range(*one.corpus.offsets[[3, 4]]), *range(*one.corpus.offsets[[0, 1]])]
    assert numbers == wanted


@pytest.mark.child
def test_the_share_of_a_step_counts_tokens_whatever_their_weight():
    one = maker("packed")
    keep = np.zeros(one.corpus.n_targets, dtype=np.float32)
    keep[one.corpus.target_slice(3)] = [0.1, 0, 3][: one.corpus.samples[3].n_targets]
    one.use_selection(keep)
    step = StepRows.of([[[Row((3, 0), 8)]]], one.corpus.lengths)
    assert one.kept_share(step) == np.count_nonzero(keep) / 8 > 0


def everything(batches) -> list[int]:
    """Samples of all data-parallel ranks in an iterable of micro-batches."""
    mine = [index for batch in batches for index in batch["sample"].flatten().tolist()]
    parts = [None] * 2
    torch.distributed.all_gather_object(parts, mine)
    return sorted(index for part in parts for index in part if index >= 0)


@pytest.mark.child(processes=2)
@pytest.mark.parametrize("kind", ["own", "padded", "packed"])
def test_steps_and_scoring_passes_hold_their_samples(kind):
    from megatron.core import parallel_state

    from t3s_megatron.megatron.batches import TrainingBatches, scoring_batches

    parallel_state.initialize_model_parallel()
    rows, order = maker(kind, ranks=2), EpochOrder(8, 5)
    plans = TrainingRows(order, rows.corpus.lengths, rows.arrangement, 6)
    batches = TrainingBatches(rows, plans, 0)
    steps = []
    for step in range(3):
        count = len(plans.at(6 * step).micro_batches)
        steps.append([next(batches) for _ in range(count)])
        wanted = sorted(order.sample_at(6 * step + k) for k in range(6))
        assert everything(steps[-1]) == wanted
    # In the middle of a step, back to the beginning of an earlier one.
    next(batches)
    batches.reset(6)
    assert torch.equal(next(batches)["tokens"], steps[1][0]["tokens"])
    count, scored = scoring_batches(rows)
    scored = list(scored)
    assert len(scored) == count and everything(scored) == list(range(8))
