# SPDX-License-Identifier: Apache-2.0
"""Log-probs on disk. What is common with selections is tested in test_selection_file.py."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from made_data import corpus, rewrite, sample, three_samples
from safetensors.numpy import load_file

from t3s_megatron.data.stores import LogProbStore, read_reference
from t3s_megatron.data.tables import mapped_values, table_checksum, wait_for_tables
from t3s_megatron.errors import MismatchError, T3SError

C = -np.arange(12, dtype=np.float32) / 7


@pytest.fixture
def saved(tmp_path) -> str:
    path = str(tmp_path / "c_theta_b.safetensors")
    LogProbStore(C, corpus(*three_samples()), "theta_b", 12, {"layers": 2}).save(path)
    return path


def test_round_trip(saved):
    found = LogProbStore.load(saved, corpus(*three_samples()))
    assert found.c.dtype == np.float32
    np.testing.assert_array_equal(found.c, C)
    assert (found.tag, found.step) == ("theta_b", 12)
    assert found.model == {"layers": 2}


def test_a_reference_is_read_where_it_stands_and_put_together_where_it_does_not(saved, tmp_path):
    p, q, r = three_samples()
    samples = corpus(p, q, r)

    def read(*paths: str):
        return read_reference(
            paths, samples.uids, samples.sample_hashes, samples.tokenizer_fingerprint
        )

    of_one = read(saved)
    np.testing.assert_array_equal(of_one.of(range(3)), C)
    assert not of_one.of(range(3)).flags.owndata and not of_one.of(range(3)).flags.writeable
    np.testing.assert_array_equal(of_one.of([1, 2]), C[2:])
    np.testing.assert_array_equal(of_one.of([0, 2]), np.concatenate([C[:2], C[11:]]))
    LogProbStore(C[2:11], corpus(q), "theta_0", 0).save(str(tmp_path / "q"))
    LogProbStore(np.append(C[11:], C[:2]), corpus(r, p), "theta_0", 0).save(str(tmp_path / "rp"))
    of_two = read(str(tmp_path / "rp"), str(tmp_path / "q"))
    np.testing.assert_array_equal(of_two.of(range(3)), C)
    assert of_two.digest() == of_one.digest() == hashlib.sha256(C.tobytes()).hexdigest()


def test_another_order_and_fewer_samples(saved):
    p, q, r = three_samples()
    found = LogProbStore.load(saved, corpus(r, q, p)).c
    np.testing.assert_array_equal(found, np.concatenate([C[11:], C[2:11], C[:2]]))
    np.testing.assert_array_equal(LogProbStore.load(saved, corpus(q)).c, C[2:11])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("place", "uid"), [(0, "p"), (1, "p"), (2, "q"), (10, "q"), (11, "r")])
def test_not_finite_names_the_sample_and_writes_nothing(tmp_path, bad, place, uid):
    path = tmp_path / "c.safetensors"
    damaged = C.copy()
    damaged[[place, 11]] = bad
    count = 1 if place == 11 else 2
    made = LogProbStore(damaged, corpus(*three_samples()), "theta_b", 12)
    with pytest.raises(T3SError, match=f"^{count} log-probs at theta_b .* sample '{uid}'"):
        made.save(str(path))
    assert not path.exists()


def test_an_array_of_another_corpus_is_not_saved(tmp_path):
    made = LogProbStore(C[:-1], corpus(*three_samples()), "theta_b", 12)
    with pytest.raises(ValueError, match=r"\[11\] values for 12 places"):
        made.save(str(tmp_path / "c.safetensors"))


def test_another_tokenizer(saved):
    with pytest.raises(MismatchError, match="c_theta_b.safetensors: made with another tokenizer"):
        LogProbStore.load(saved, corpus(*three_samples(), tokenizer="u" * 64))


def test_another_sample(saved):
    other = [sample([5, 6, 7, 7], 2, "p"), *three_samples()[1:]]
    with pytest.raises(MismatchError, match="sample 'p' .* other tokens"):
        LogProbStore.load(saved, corpus(*other))


def test_damage(saved):
    values = load_file(saved)["values"]
    values[3] += np.float32(1e-6)
    rewrite(saved, values=values)
    with pytest.raises(MismatchError, match="checksum"):
        LogProbStore.load(saved, corpus(*three_samples()))


def test_sizes_that_move_the_values(saved):
    rewrite(saved, sizes=np.array([3, 8, 1]), sealed=True)
    with pytest.raises(MismatchError, match="sample 'p' has 2 targets and 3 log-probs"):
        LogProbStore.load(saved, corpus(*three_samples()))


def test_same_bytes_of_another_type(saved):
    rewrite(saved, values=load_file(saved)["values"].view(np.int32))
    with pytest.raises(MismatchError, match="types do not fit"):
        LogProbStore.load(saved, corpus(*three_samples()))


@pytest.mark.parametrize("name", ["tag", "step"])
def test_a_header_that_lacks(saved, name):
    rewrite(saved, without=name)
    with pytest.raises(MismatchError, match=f"its header lacks {name}"):
        LogProbStore.load(saved, corpus(*three_samples()))


def test_a_store_in_its_own_order_is_mapped_and_not_read(tmp_path):
    made = corpus(*three_samples())
    c = -np.arange(12, dtype=np.float32)
    path = str(tmp_path / "c.safetensors")
    LogProbStore(c, made, tag="theta_0", step=0).save(path)
    found = LogProbStore.load(path, made).c
    assert isinstance(found, np.memmap) and not found.flags.writeable
    for values in (found, mapped_values(path), load_file(path)["values"]):
        np.testing.assert_array_equal(values, c)
    turned = LogProbStore.load(path, made.subset([2, 0])).c
    np.testing.assert_array_equal(turned, np.concatenate([c[11:], c[:2]]))


def test_a_file_of_another_node_is_waited_for(tmp_path):
    made = corpus(*three_samples())
    path = str(tmp_path / "c.safetensors")
    store = LogProbStore(-np.ones(12, dtype=np.float32), made, tag="theta_0", step=0)
    with pytest.raises(MismatchError, match="is not what the root rank has written"):
        wait_for_tables({path: "c" * 64}, patience=0.2)
    store.save(path)
    checksum = table_checksum(path)
    assert checksum is not None
    wait_for_tables({path: checksum}, patience=0.2)
    with pytest.raises(MismatchError, match="is not what the root rank has written"):
        wait_for_tables({path: "c" * 64}, patience=0.2)
