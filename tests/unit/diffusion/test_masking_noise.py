# SPDX-License-Identifier: Apache-2.0
"""Masks that depend on seed, sample and epoch, and on nothing else."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from t3s_megatron.diffusion.noise import Noise

NOISE = Noise(7, 0.3, 0.8)


def test_the_mask_by_hand():
    key = int.from_bytes(hashlib.sha256(b"s1\x002").digest()[:8], "little")
    raw = [int(number) for number in np.random.Philox(key=[7, key]).random_raw(6)]
    uniform = [(number >> 11) / 2**53 for number in raw]
    rate = 0.3 + 0.5 * uniform[0]
    assert NOISE.masked("s1", 2, 5).tolist() == [u < rate for u in uniform[1:]]
    assert NOISE.rate("s1", 2) == rate


def test_another_sample_epoch_or_seed_has_another_mask_and_the_same_has_the_same():
    def bits(noise: Noise, uid: str, epoch: int) -> bytes:
        return noise.masked(uid, epoch, 200).tobytes()

    made = [bits(NOISE, "a", 0), bits(NOISE, "b", 0), bits(NOISE, "a", 1)]
    made.append(bits(Noise(8, 0.3, 0.8), "a", 0))
    assert len(set(made)) == 4
    assert bits(NOISE, "a", 0) == made[0]


def test_rates_are_spread_evenly_between_low_and_high():
    shares = [NOISE.masked("s", epoch, 4000).mean() for epoch in range(400)]
    # A rate of U(0.3, 0.8) has mean 0.55 and standard deviation 0.144: 0.0072 for 400 of them.
    assert 0.3 - 0.03 < min(shares) < 0.32 and 0.78 < max(shares) < 0.8 + 0.03
    assert abs(np.mean(shares) - 0.55) < 0.03
    assert abs(np.std(shares) - 0.5 / 12**0.5) < 0.015


@given(st.integers(0, 50), st.integers(1, 40), st.data())
def test_forced_tokens_are_added_and_nothing_else_changes(epoch, n, data):
    forced = np.array(data.draw(st.lists(st.booleans(), max_size=n)), dtype=bool)
    plain, union = NOISE.masked("s", epoch, n), NOISE.masked("s", epoch, n, forced)
    wanted = plain.copy()
    wanted[: len(forced)] |= forced
    if wanted.sum() > forced.sum():  # not the one token that stands for an empty mask
        assert (union | plain).tolist() == wanted.tolist()
    assert union[: len(forced)][forced].all() and union.any() and plain.any()


def test_an_empty_mask_gets_its_most_likely_token():
    almost_never = Noise(3, 0.0, 1e-12)
    masks = [almost_never.masked("s", epoch, 30) for epoch in range(50)]
    assert {int(mask.sum()) for mask in masks} == {1}
    assert len({int(mask.argmax()) for mask in masks}) > 10


def test_everything_may_be_masked():
    assert Noise(0, 1.0, 1.0).masked("s", 0, 1000).all()
