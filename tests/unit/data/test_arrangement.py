# SPDX-License-Identifier: Apache-2.0
"""Arrangements: nothing lost, nothing doubled, the same number of micro-batches on every rank, and
little that is computed in vain."""

from __future__ import annotations

import math
import random
import statistics

from hypothesis import given
from hypothesis import strategies as st

from t3s_megatron.data.arrangement import Arrangement, Row, StepRows, TrainingRows
from t3s_megatron.data.order import EpochOrder

SEQ = 64


def flat(micro_batches) -> list[Row]:
    return [row for ranks in micro_batches for rows in ranks for row in rows]


@st.composite
def cases(draw):
    """(arrangement, lengths) with whole batches, as Megatron sees to in training."""
    stages = draw(st.sampled_from([1, 2, 4]))
    arrangement = Arrangement(
        draw(st.sampled_from(["own", "padded", "packed"])),
        SEQ,
        multiple=draw(st.sampled_from([1, 2, 8])),
        ranks=draw(st.integers(1, 4)),
        stages=stages,
        group=stages + draw(st.integers(0, 2)) if stages > 1 else 1,
        fewest=draw(st.sampled_from([1, 4])),
    )
    each = draw(st.integers(1, 12))
    if each < arrangement.group or 0 < each % arrangement.group < stages:
        each = 2 * arrangement.group
    n = each * arrangement.ranks
    return arrangement, draw(st.lists(st.integers(1, SEQ), min_size=n, max_size=n))


@given(cases())
def test_a_step(case):
    arrangement, lengths = case
    made = arrangement.arrange(range(len(lengths)), lengths)
    rows = flat(made)
    assert sorted(i for row in rows for i in row.samples) == list(range(len(lengths)))
    for row in rows:
        assert row.samples, "a row without samples: a step would route padding for nothing"
        assert row.length % arrangement.multiple == 0
        assert sum(lengths[i] for i in row.samples) <= row.length <= SEQ
        if arrangement.kind != "packed":
            assert len(row.samples) == 1
    assert all(len(ranks) == arrangement.ranks for ranks in made)
    assert all(len(mine) == 1 for ranks in made for mine in ranks)
    # What Megatron's interleaved schedule checks.
    n, group = len(made), arrangement.group
    assert n >= group and (n % group == 0 or n % group >= arrangement.stages)
    if arrangement.kind != "packed":
        assert n == len(lengths) // arrangement.ranks, "Megatron's own count"
    assert arrangement.arrange(range(len(lengths)), lengths) == made


@given(cases(), st.integers(1, 30))
def test_a_corpus_of_any_size_is_filled_up_with_empty_rows(case, n):
    arrangement, lengths = case
    lengths = (lengths * n)[:n]
    made = arrangement.arrange(range(n), lengths)
    rows = flat(made)
    assert sorted(i for row in rows for i in row.samples) == list(range(n))
    assert len(rows) == len(made) * arrangement.ranks
    assert len(made) % arrangement.group == 0 or len(made) % arrangement.group >= arrangement.stages
    filler = SEQ if arrangement.kind == "padded" else arrangement.multiple
    assert {row.length for row in rows if not row.samples} <= {filler}


def test_padded_rows_keep_the_order_of_training():
    """As Megatron's sampler deals them: consecutive samples to a micro-batch, then the next rank"""
    arrangement = Arrangement("padded", SEQ, ranks=2, micro_batch_size=2)
    made = arrangement.arrange([5, 3, 1, 0, 2, 4, 6, 7], [9] * 8)
    indices = [[[row.samples[0] for row in rows] for rows in ranks] for ranks in made]
    assert indices == [[[5, 3], [1, 0]], [[2, 4], [6, 7]]]
    assert {row.length for row in flat(made)} == {SEQ}


def test_own_lengths_put_neighbours_side_by_side_and_the_longest_in_the_middle():
    lengths = [8, 1, 7, 2, 6, 3, 5, 4]
    made = Arrangement("own", SEQ, ranks=2).arrange(range(8), lengths)
    dealt = [tuple(rows[0].length for rows in ranks) for ranks in made]
    assert dealt == [(1, 2), (5, 6), (7, 8), (3, 4)]


def test_equal_lengths_stay_in_the_order_of_training():
    made = Arrangement("own", SEQ, ranks=4).arrange([3, 0, 2, 1], [7, 7, 7, 7])
    assert [row.samples for row in flat(made)] == [(3,), (0,), (2,), (1,)]


def test_packed_rows_by_hand():
    """Longest first, each to the emptier of the two rows that 128 tokens need."""
    lengths = [30, 30, 20, 20, 10, 10, 4, 2]
    made = Arrangement("packed", SEQ, multiple=8).arrange(range(8), lengths)
    assert flat(made) == [Row((0, 2, 4, 6), 64), Row((1, 3, 5, 7), 64)]


def test_packed_rows_where_equal_shares_need_one_row_more_than_full_ones():
    lengths = [34, 30, 22, 21, 21]  # 34 + 30 and 22 + 21 + 21 would do
    made = Arrangement("packed", SEQ).arrange(range(5), lengths)
    assert sorted(row.samples for row in flat(made)) == [(0,), (1, 4), (2, 3)]


def test_thousands_of_samples_stand_in_hardly_more_rows_than_they_need():
    lengths = long_traces(10_000)
    made = Arrangement("packed", 32768, ranks=8).arrange(range(10_000), lengths)
    assert len(flat(made)) < 1.08 * sum(lengths) / 32768


def test_a_pipeline_gets_the_micro_batches_it_wants_and_no_more_than_there_are_samples():
    lengths = [4] * 32
    rows = {
        fewest: len(Arrangement("packed", SEQ, ranks=2, fewest=fewest).arrange(range(32), lengths))
        for fewest in (1, 8, 100)
    }
    assert rows == {1: 1, 8: 8, 100: 16}


# ----------------------------------------------------------------------- what is computed in vain


def long_traces(n: int) -> list[int]:
    """Log-normal, mean 10k, cut at 32k: the lengths of reasoning traces."""
    rng = random.Random(0)
    return [max(256, min(32768, int(rng.lognormvariate(math.log(8200), 0.7)))) for _ in range(n)]


def costs(kind: str, lengths: list[int], **layout) -> dict:
    arrangement = Arrangement(kind, 32768, **layout)
    plans = TrainingRows(EpochOrder(len(lengths), 1), lengths, arrangement, 64)
    return plans.summary(len(lengths) // 64)


def test_at_most_two_percent_of_the_tokens_are_padding():
    lengths = long_traces(64 * 60)
    assert 9500 < statistics.mean(lengths) < 10500 and max(lengths) == 32768
    for ranks in (1, 2, 8):
        for multiple in (1, 8, 32, 128):  # TP4 + SP, TP8 + SP + CP2; TP4 + SP in 8-bit formats
            for kind in ("own", "packed"):
                found = costs(kind, lengths, ranks=ranks, multiple=multiple)
                assert 0 <= found["padding_share"] <= 0.02, (kind, ranks, multiple)
    assert costs("padded", lengths)["padding_share"] > 0.6


def test_data_parallel_ranks_work_in_step():
    """In the order of training, each micro-batch would wait for the longest of its samples."""
    lengths = long_traces(64 * 60)
    for ranks, bound in ((2, 0.95), (8, 0.8)):
        for kind in ("own", "packed"):
            found = costs(kind, lengths, ranks=ranks, multiple=32)["balance_efficiency"]
            assert bound < found <= 1, (kind, ranks)
    in_order = [
        [[Row((i + rank,), lengths[i + rank])] for rank in range(2)]
        for i in range(0, len(lengths), 2)
    ]
    assert StepRows.of(in_order, lengths).efficiency()["balance_efficiency"] < 0.8


def test_the_figures_by_hand():
    plan = StepRows.of(
        [[[Row((0,), 8)], [Row((1,), 4)]], [[Row((2,), 2)], [Row((), 2)]]], [7, 3, 2]
    )
    assert plan.efficiency() == {
        "padding_share": 1 - 12 / 16,
        "balance_efficiency": 12 / (2 * (8 + 2)),
    }


# ----------------------------------------------------------------------------------- training steps


@given(st.integers(0, 50), st.sampled_from(["own", "padded", "packed"]))
def test_a_step_holds_its_samples_whatever_the_arrangement(consumed, kind):
    order, lengths = EpochOrder(11, 3), list(range(1, 12))
    plans = TrainingRows(order, lengths, Arrangement(kind, SEQ, ranks=2), 8)
    found = [i for row in flat(plans.at(consumed).micro_batches) for i in row.samples]
    assert sorted(found) == sorted(order.sample_at(consumed + k) for k in range(8))


def test_the_summary_is_of_the_steps_there_are_and_of_an_epoch_at_most():
    plans = TrainingRows(EpochOrder(10, 0), [1, *[5] * 9], Arrangement("own", SEQ, multiple=4), 4)
    epoch = sum((plans.at(4 * step) for step in (1, 2)), plans.at(0)).efficiency()
    what = {"kind": "own", "micro_batches_per_step": 4}
    assert plans.summary(100) == plans.summary(3) == what | epoch
    assert plans.summary(1) == what | plans.at(0).efficiency()
