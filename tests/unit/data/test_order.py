# SPDX-License-Identifier: Apache-2.0
"""The order of samples: each once an epoch, a pure function of position."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t3s_megatron.data.order import EpochOrder

seeds = st.integers(0, 2**63 - 1)


@given(n=st.integers(1, 60), seed=seeds, epoch=st.integers(0, 10**6))
def test_every_sample_once_an_epoch(n, seed, epoch):
    order = EpochOrder(n, seed)
    places = range(epoch * n, (epoch + 1) * n)
    assert sorted(order.sample_at(p) for p in places) == list(range(n))


@given(n=st.integers(1, 30), seed=seeds, start=st.integers(0, 200), count=st.integers(1, 90))
def test_continuing_from_a_position_is_what_would_have_come(n, seed, start, count):
    whole = EpochOrder(n, seed)
    seen = [whole.sample_at(p) for p in range(start + count)]
    again = EpochOrder(n, seed)
    assert [again.sample_at(p) for p in range(start, start + count)] == seen[start:]


def test_going_back_further_than_the_cache_gives_the_same():
    order = EpochOrder(7, 3)
    first = [order.sample_at(p) for p in range(70)]
    assert [order.sample_at(p) for p in reversed(range(70))] == first[::-1]


def test_epochs_and_seeds_differ():
    epochs = {tuple(EpochOrder(20, 1).sample_at(20 * e + i) for i in range(20)) for e in range(9)}
    seeded = {tuple(EpochOrder(20, s).sample_at(i) for i in range(20)) for s in range(9)}
    assert len(epochs) == len(seeded) == 9


def test_the_permutation_is_the_ranking_of_philox_words():
    """The definition in other words: a change of it would break resumed jobs."""
    words = np.random.Philox(key=[11, 2]).random_raw(5).tolist()
    order = EpochOrder(5, 11)
    assert [words[order.sample_at(p)] for p in range(10, 15)] == sorted(words)


def test_a_known_order():
    """Golden: jobs are resumed by later releases of numpy."""
    golden = [3, 0, 1, 4, 2, 5, 0, 5, 4, 2, 1, 3]
    assert [EpochOrder(6, 1234).sample_at(p) for p in range(12)] == golden


def test_nothing_to_order():
    with pytest.raises(ValueError, match="at least one sample"):
        EpochOrder(0, 1)
