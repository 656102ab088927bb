# SPDX-License-Identifier: Apache-2.0
"""Where a selection masks and how two differ, against loops over samples and tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t3s_megatron.method.selection_figures import difference, shares_by, tenths


def test_tenths_by_hand():
    assert tenths(np.array([20, 3, 1])).tolist() == [*np.repeat(range(10), 2), 0, 3, 6, 0]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_tenths_equal_a_loop(sizes):
    assert tenths(np.array(sizes)).tolist() == [10 * j // n for n in sizes for j in range(n)]


def test_shares_by_group():
    marked = np.array([True, False, True, True])
    assert shares_by(np.array([0, 0, 2, 2]), marked, 3) == [0.5, None, 1.0]


bits = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


@given(bits)
def test_a_difference_equals_sets(pairs):
    a, b = (np.array(column) for column in zip(*pairs, strict=True))
    found = difference(a, b, np.array([len(pairs)]))
    masked_a, masked_b = (set(np.flatnonzero(~x).tolist()) for x in (a, b))
    assert found.only_a == len(masked_a - masked_b) and found.only_b == len(masked_b - masked_a)
    assert found.share == len(masked_a ^ masked_b) / len(pairs)
    either = masked_a | masked_b
    assert found.jaccard == (len(masked_a & masked_b) / len(either) if either else None)


def test_selections_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match="for 3 tokens"):
        difference(np.ones(3, dtype=bool), np.ones(2, dtype=bool), np.array([3]))
