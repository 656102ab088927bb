# SPDX-License-Identifier: Apache-2.0
"""The blocks of a measurement: every answer once, the same at every step, of mixed prompts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t3s_megatron.accuracy.blocks import in_blocks


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_every_answer_is_in_one_block_with_the_others_of_its_prompt(prompts, samples, n, seed):
    blocks = in_blocks(prompts, samples, n, seed)
    assert len(blocks) == min(n, prompts) and blocks == in_blocks(prompts, samples, n, seed)
    assert sorted(sum(blocks, [])) == list(range(prompts * samples))
    asked = [{number // samples for number in block} for block in blocks]
    assert [len(block) for block in blocks] == [len(one) * samples for one in asked]
    assert max(map(len, asked)) - min(map(len, asked)) <= 1


def test_one_block_is_the_order_of_the_data():
    assert in_blocks(5, 2, 1, seed=7) == [list(range(10))]


def test_blocks_are_mixed_and_the_seed_decides_how():
    """Of 200 prompts sorted by difficulty, a block of 50 holds some of every quarter."""
    first = in_blocks(200, 1, 4, seed=1)[0]
    quarters = [sum(number // 50 == quarter for number in first) for quarter in range(4)]
    assert min(quarters) >= 5
    assert first != in_blocks(200, 1, 4, seed=2)[0]


def test_no_block():
    with pytest.raises(ValueError, match="at least one block"):
        in_blocks(5, 1, 0, seed=0)
