# SPDX-License-Identifier: Apache-2.0
"""Bits that stay in their file are those of the array that was saved, asked for in any way."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from made_data import corpus, sample

from t3s_megatron.data.kept_bits import KeptBits, KeptSamples, digest_of, n_kept_of
from t3s_megatron.data.selection_file import Selection, map_kept
from t3s_megatron.errors import MismatchError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(path, keep bool[n], corpus): samples of 1 to 40 targets, and of 8 and 16."""
    draw = np.random.default_rng(0)
    sizes = [*draw.integers(1, 41, 30).tolist(), 8, 16]
    made = corpus(*(sample([7] * (2 + n), 2, f"s{i}") for i, n in enumerate(sizes)))
    keep = draw.random(made.n_targets) < 0.4
    path = str(tmp_path_factory.mktemp("bits") / "selection.safetensors")
    Selection(keep, made, "t3s", 1).save(path)
    return path, keep, made


def test_slices_numbers_sums_and_the_whole(saved):
    path, keep, made = saved
    bits = map_kept(path, made)
    assert isinstance(bits, KeptBits) and bits.shape == keep.shape and len(bits) == keep.size
    for i in range(len(made.samples)):
        np.testing.assert_array_equal(bits[made.target_slice(i)], keep[made.target_slice(i)])
    draw = np.random.default_rng(1)
    for _ in range(200):
        first, end = np.sort(draw.integers(0, keep.size + 1, 2)).tolist()
        np.testing.assert_array_equal(bits[first:end], keep[first:end])
        np.testing.assert_array_equal(bits[first:end:3], keep[first:end:3])
        numbers = draw.integers(0, keep.size, 20)
        np.testing.assert_array_equal(bits[numbers], keep[numbers])
    assert bits[np.zeros(0, np.int64)].size == bits[3:3].size == 0
    assert (bits.sum(), bits.mean(), bits.any()) == (keep.sum(), keep.mean(), True)
    np.testing.assert_array_equal(np.asarray(bits), keep)
    np.testing.assert_array_equal(~bits, ~keep)
    packed = hashlib.sha256(np.packbits(keep)).hexdigest()
    assert digest_of(bits) == digest_of(keep) == packed


def test_samples_that_are_left_out(saved):
    _, _, made = saved
    keep = np.ones(made.n_targets, dtype=bool)
    for i in (0, 7, 31):
        keep[made.target_slice(i)] = False
    found, draw = KeptSamples(made.offsets, [31, 0, 7]), np.random.default_rng(2)
    for i in range(len(made.samples)):
        np.testing.assert_array_equal(found[made.target_slice(i)], keep[made.target_slice(i)])
    numbers = draw.integers(0, keep.size, 200)
    np.testing.assert_array_equal(found[numbers], keep[numbers])
    assert n_kept_of(found, numbers) == keep[numbers].sum() and found[:0].size == 0
    assert n_kept_of(None, slice(3, 9)) == n_kept_of(None, np.arange(6)) == 6
    assert KeptSamples(made.offsets, [])[:].all()


def test_samples_in_another_order_and_fewer_of_them(saved):
    path, keep, made = saved
    some = [9, 3, 31, 30, 0]
    bits = map_kept(path, made.subset(some))
    expected = np.concatenate([keep[made.target_slice(i)] for i in some])
    np.testing.assert_array_equal(np.asarray(bits), expected)


def test_another_number_of_targets_is_damage(saved, tmp_path):
    path, keep, made = saved
    made = made.subset(range(len(made.samples)))
    made.offsets = made.offsets + np.arange(len(made.offsets)) * 16
    with pytest.raises(MismatchError, match="bytes of bits in the file"):
        map_kept(path, made)
