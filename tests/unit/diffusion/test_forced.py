# SPDX-License-Identifier: Apache-2.0
"""Forced tokens by hand: Eq. 8, its controls, and how they are counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t3s_megatron.diffusion.forced import (
    FORCED,
    Fallen,
    dropped,
    shares_by_place,
    shares_by_tau,
)

DELTA = np.array([-0.5, 0.3, -0.2, -0.21, 0.0, 0.2], dtype=np.float32)
C_0 = np.array([-1.0, -3.0, -2.0, -0.1, -4.0, -0.5], dtype=np.float32)


def forced(method: str, seed: int = 0, tau: float = 0.2) -> list[int]:
    return np.flatnonzero(FORCED[method].choose(Fallen(C_0, DELTA, tau, seed))).tolist()


def test_a_token_fell_when_it_lost_more_than_tau():
    assert np.flatnonzero(dropped(DELTA, 0.2)).tolist() == [0, 3]  # -0.2 is a tie
    assert np.flatnonzero(dropped(DELTA, 0.0)).tolist() == [0, 2, 3]  # 0 is one


def test_the_methods_by_hand():
    assert forced("t3s") == [0, 3]
    assert forced("mask-bottom-confidence") == [1, 4]  # the two of lowest c_0
    assert forced("inverse") == [1]  # 0.2 is a tie
    assert FORCED["sft"].choose is None and not FORCED["sft"].needs_selector


def test_random_has_as_many_others_with_another_seed():
    drawn = [forced("random", seed) for seed in range(20)]
    assert all(len(one) == 2 for one in drawn) and len(set(map(tuple, drawn))) > 5
    assert drawn[3] == forced("random", 3)


@given(st.lists(st.sampled_from([-1.0, -0.3, -0.2, 0.0, 0.5]), min_size=1, max_size=30))
def test_the_controls_are_as_many_as_fell(values):
    delta = np.array(values, dtype=np.float32)
    fallen = Fallen(np.zeros_like(delta), delta, 0.2, 5)
    wanted = sum(value < -0.25 for value in values)
    for method in ("t3s", "random", "mask-bottom-confidence"):
        assert FORCED[method].choose(fallen).sum() == wanted


def test_shares_by_threshold():
    assert shares_by_tau(DELTA) == pytest.approx(
        {"0": 3 / 6, "0.1": 3 / 6, "0.2": 2 / 6, "0.3": 1 / 6, "0.4": 1 / 6}
    )


def test_shares_by_place_in_the_response():
    which = np.array([1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1], dtype=bool)
    # Responses of 4 and 8 tokens: the quarters are of 1 and of 2.
    assert shares_by_place(which, np.array([4, 8])) == [2 / 4, 0, 0, 2 / 4]
    assert shares_by_place(np.zeros(3, bool), np.array([3])) == [0.0] * 4
