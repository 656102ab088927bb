# SPDX-License-Identifier: Apache-2.0
"""Selections on disk: round trips in any order, and every file that has to be refused."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_data import corpus, header, rewrite, sample, three_samples
from safetensors.numpy import load_file, save_file

from t3s_megatron import __version__
from t3s_megatron.data.kept_bits import digest_of
from t3s_megatron.data.selection_file import Selection
from t3s_megatron.data.stores import LogProbStore
from t3s_megatron.errors import MismatchError

#       p: 2        q: 9                         r: 1
KEEP = [True, False, *[True] * 3, *[False] * 5, True, False]
COUNTS = {"target_tokens": 12, "kept": 5, "masked": 7, "anchors": 7}


@pytest.fixture
def saved(tmp_path) -> str:
    path = str(tmp_path / "selection.safetensors")
    keep = np.array(KEEP)
    Selection(keep, corpus(*three_samples()), "t3s", 12, COUNTS, {"layers": 2}).save(path)
    return path


def load(path: str, *samples, **changed) -> list[bool]:
    return Selection.load(path, corpus(*(samples or three_samples()), **changed)).keep.tolist()


# ------------------------------------------------------------------------------------ round trips


def test_round_trip(saved):
    found = Selection.load(saved, corpus(*three_samples()))
    assert found.keep.dtype == np.bool_ and found.keep.tolist() == KEEP
    assert (found.method, found.theta_b_step) == ("t3s", 12)
    assert (found.counts, found.model) == (COUNTS, {"layers": 2})


def test_one_bit_a_target_padded_to_bytes_for_each_sample(saved):
    assert load_file(saved)["values"].tolist() == [0b10000000, 0b11100000, 0b10000000, 0]
    assert load_file(saved)["sizes"].tolist() == [1, 2, 1]


def test_the_header_says_what_it_belongs_to(saved):
    made, fields = corpus(*three_samples()), header(saved)
    assert fields["dataset_fingerprint"] == made.fingerprint
    assert fields["tokenizer_fingerprint"] == "t" * 64
    assert fields["uids"] == ["p", "q", "r"] and fields["created_by"] == __version__
    assert (fields["kind"], fields["format"], fields["theta_b_step"]) == ("selection", 2, 12)


def test_the_same_selection_is_the_same_file(saved, tmp_path):
    path, made = (
        str(tmp_path / "again.safetensors"),
        Selection.load(saved, corpus(*three_samples())),
    )
    made.save(path)
    assert Path(path).read_bytes() == Path(saved).read_bytes()


def test_no_theta_b_for_a_baseline(tmp_path):
    path = str(tmp_path / "random.safetensors")
    Selection(np.array(KEEP), corpus(*three_samples()), "random", None).save(path)
    assert Selection.load(path, corpus(*three_samples())).theta_b_step is None


def test_another_order_and_fewer_samples(saved):
    p, q, r = three_samples()
    assert load(saved, r, p, q) == [KEEP[11], *KEEP[:2], *KEEP[2:11]]
    assert load(saved, q) == KEEP[2:11]


@settings(max_examples=40)
@given(
    bits=st.lists(st.lists(st.booleans(), min_size=1, max_size=20), min_size=1, max_size=6),
    seed=st.integers(0, 999),
)
def test_any_selection_in_any_order(tmp_path_factory, bits, seed):
    path = str(tmp_path_factory.mktemp("any") / "selection.safetensors")
    samples = [sample([i, *range(len(b))], 1, f"s{i}") for i, b in enumerate(bits)]
    keep = np.array(sum(bits, []))
    Selection(keep, corpus(*samples), "t3s", 1).save(path)
    places = random.Random(seed).sample(range(len(bits)), len(bits))
    found = load(path, *(samples[i] for i in places))
    assert found == sum((bits[i] for i in places), [])


@pytest.mark.parametrize("keep", [np.array(KEEP[:-1]), np.array(KEEP, dtype=np.float64)])
def test_saving_something_else(tmp_path, keep):
    path = tmp_path / "selection.safetensors"
    with pytest.raises(ValueError, match=r"keep has to be bool\[12\] or float32\[12\], found "):
        Selection(keep, corpus(*three_samples()), "t3s", 1).save(str(path))
    assert not path.exists()


# ---------------------------------------------------------------------------------------- weights

WEIGHTS = np.array([0.25, 0, *[1 / 3] * 3, *[0] * 5, 1, 2.5], dtype=np.float32)


@pytest.fixture
def weighted(tmp_path) -> str:
    path = str(tmp_path / "weighted.safetensors")
    Selection(WEIGHTS, corpus(*three_samples()), "t3s-soft", 12).save(path)
    return path


def test_weights_are_float32_and_come_back_in_any_order(weighted):
    p, q, r = three_samples()
    assert load_file(weighted)["values"].dtype == np.float32
    found = Selection.load(weighted, corpus(r, p, q)).keep
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [*WEIGHTS[11:], *WEIGHTS[:11]])


def test_weights_and_a_mask_are_told_apart_by_their_digest(saved, weighted):
    made = corpus(*three_samples())
    mask, weights = (Selection.load(path, made) for path in (saved, weighted))
    assert digest_of(mask.keep) == hashlib.sha256(np.packbits(KEEP).tobytes()).hexdigest()
    other = dataclasses.replace(weights, keep=weights.keep * np.float32(1.5))
    assert len({digest_of(one.keep) for one in (mask, weights, other)}) == 3


@pytest.mark.parametrize("bad", [-0.5, np.nan, np.inf])
def test_weights_that_no_loss_could_have_are_not_saved(tmp_path, bad):
    keep = np.where(np.arange(12) == 3, bad, WEIGHTS).astype(np.float32)
    with pytest.raises(ValueError, match="finite, and none below 0"):
        Selection(keep, corpus(*three_samples()), "t3s-soft", 1).save(str(tmp_path / "x"))


def test_weights_of_another_number_of_targets(weighted):
    rewrite(weighted, sizes=np.array([3, 8, 1]), sealed=True)
    with pytest.raises(MismatchError, match="sample 'p' has 2 targets and 3 weights"):
        load(weighted)


# --------------------------------------------------------------------------- belongs to other data


def test_another_tokenizer(saved):
    with pytest.raises(MismatchError, match="selection.safetensors: .*another tokenizer.*tttt.*uu"):
        load(saved, tokenizer="u" * 64)


def test_a_sample_that_is_not_in_it_is_named(saved):
    more = [*three_samples(), sample([1, 2], 1, "new"), sample([1, 2], 1, "newer")]
    with pytest.raises(MismatchError, match="nothing for sample 'new' .*another data set"):
        load(saved, *more)


def test_the_first_sample_with_other_tokens_is_named(saved):
    p, q, r = three_samples()
    other = [dataclasses.replace(s, tokens=s.tokens + np.int32(1)) for s in (q, r)]
    with pytest.raises(MismatchError, match="sample 'q' .*line of q.* other tokens or targets"):
        load(saved, p, *other)


def test_a_sample_with_the_same_tokens_and_other_targets(saved):
    p, q, r = three_samples()
    moved = dataclasses.replace(p, is_target=np.array([False, True, True, True]))
    with pytest.raises(MismatchError, match="sample 'p'"):
        load(saved, moved, q, r)


# ---------------------------------------------------------------------------------- damaged, other


def test_no_file(tmp_path):
    with pytest.raises(MismatchError, match=r"gone.safetensors: cannot be read, it is missing"):
        load(str(tmp_path / "gone.safetensors"))


def test_a_folder(tmp_path):
    with pytest.raises(MismatchError, match="cannot be read"):
        load(str(tmp_path))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated(saved, share):
    with open(saved, "rb+") as file:
        size = file.seek(0, 2)
        file.truncate(int(size * share))
    with pytest.raises(MismatchError, match="cannot be read, it is missing or damaged"):
        load(saved)


def test_a_flipped_bit(saved):
    values = load_file(saved)["values"]
    values[1] ^= 0b01000000
    rewrite(saved, values=values)
    with pytest.raises(MismatchError, match="damaged, its checksum does not match"):
        load(saved)


@pytest.mark.parametrize("sizes", [[1, 1, 2], [2, 1, 1]])
def test_sizes_that_move_the_bits(saved, sizes):
    rewrite(saved, sizes=np.array(sizes))
    with pytest.raises(MismatchError, match="damaged, its checksum does not match"):
        load(saved)
    rewrite(saved, sizes=np.array(sizes), sealed=True)
    with pytest.raises(MismatchError, match="damaged, sample '[pq]' has [29] targets"):
        load(saved)


@pytest.mark.parametrize("sizes", [[1, 2], [1, 2, 2], [-1, 2, 3], [[1, 2, 1]]])
def test_sizes_that_do_not_add_up(saved, sizes):
    rewrite(saved, sizes=np.array(sizes))
    with pytest.raises(MismatchError, match="sizes or types do not fit"):
        load(saved)


@pytest.mark.parametrize("name", ["values", "sizes"])
def test_same_bytes_of_another_type(saved, name):
    tensor = load_file(saved)[name]
    unsigned = {"values": np.int8, "sizes": np.uint64}[name]
    rewrite(saved, **{name: tensor.view(unsigned)})
    with pytest.raises(MismatchError, match="sizes or types do not fit"):
        load(saved)


@pytest.mark.parametrize(
    "name", ["uids", "sample_hashes", "tokenizer_fingerprint", "method", "theta_b_step", "counts"]
)
def test_a_header_that_lacks(saved, name):
    rewrite(saved, without=name)
    with pytest.raises(MismatchError, match=f"its header lacks {name}"):
        load(saved)


def test_an_unknown_version(saved):
    rewrite(saved, {"format": 3, "created_by": "9.9"})
    expected = r"expected a selection of format 2, found selection of format 3.*\(9\.9\)"
    with pytest.raises(MismatchError, match=expected):
        load(saved)


def test_another_kind_of_file(tmp_path):
    path = str(tmp_path / "c.safetensors")
    made = corpus(*three_samples())
    LogProbStore(np.zeros(12, dtype=np.float32), made, "theta_0", 0).save(path)
    with pytest.raises(MismatchError, match="expected a selection .*found log-prob store"):
        Selection.load(path, made)


@pytest.mark.parametrize("metadata", [None, {"t3s": "[]"}, {"format": "pt"}])
def test_a_safetensors_file_of_someone_else(tmp_path, metadata):
    path = str(tmp_path / "model.safetensors")
    save_file({"weight": np.zeros(3)}, path, metadata=metadata)
    with pytest.raises(MismatchError, match="model.safetensors: not a file of t3s-megatron"):
        load(path)


def test_a_header_that_is_not_json(tmp_path):
    path = str(tmp_path / "broken.safetensors")
    save_file({"values": np.zeros(3)}, path, metadata={"t3s": "{"})
    with pytest.raises(MismatchError, match="cannot be read"):
        load(path)


def test_one_damaged_byte_anywhere_is_refused_or_harmless(saved):
    """Never another exception, and never other bits."""
    whole = Path(saved).read_bytes()
    made, rng, refused = corpus(*three_samples()), random.Random(0), 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        with open(saved, "wb") as file:
            file.write(damaged)
        try:
            assert Selection.load(saved, made).keep.tolist() == KEEP
        except MismatchError:
            refused += 1
    assert refused > len(whole) // 2
