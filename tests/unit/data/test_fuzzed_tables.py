# SPDX-License-Identifier: Apache-2.0
"""Selections, log-prob stores and states under damage: what comes back is what was saved, or a
MismatchError names the file."""

from __future__ import annotations

import copy
import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_data import corpus, rewrite, three_samples
from safetensors.numpy import load_file, save_file

from t3s_megatron.data.run_state import StateFolder
from t3s_megatron.data.selection_file import Selection
from t3s_megatron.data.stores import LogProbStore
from t3s_megatron.errors import MismatchError

KEEP = np.array([True, False, *[True] * 3, *[False] * 5, True, False])
C = -np.arange(12, dtype=np.float32) / 7
CORPUS = corpus(*three_samples())

kinds = pytest.mark.parametrize("kind", ["selection", "store"])
cuts = st.tuples(
    st.sampled_from(["cut", "flip", "insert", "delete", "swap"]),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("fuzzed"))


@pytest.fixture(scope="module")
def save(tmp_path_factory):
    """save(kind, path): the same file each time, without waiting for the disk each time."""
    saved = tmp_path_factory.mktemp("saved")
    selection = Selection(KEEP, CORPUS, "t3s", 12, {"kept": 5}, {"layers": 2})
    selection.save(str(saved / "selection"))
    LogProbStore(C, CORPUS, "theta_b", 12, {"layers": 2}).save(str(saved / "store"))
    return lambda kind, path: shutil.copyfile(saved / kind, path)


def fields(kind: str, path: str) -> list | None:
    """All that the file gives to a run; None for a clear refusal."""
    try:
        found = (Selection if kind == "selection" else LogProbStore).load(path, CORPUS)
    except MismatchError as error:
        assert path in str(error)
        return None
    values = vars(found) | {"corpus": None}
    return [v.tolist() if isinstance(v, np.ndarray) else v for v in values.values()]


def damage(content: bytes, what: str, place: int, other: int) -> bytes:
    place, bit = place % len(content), other % 8
    end = place + 1 + other % 40
    return {
        "cut": content[:place],
        "flip": content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :],
        "insert": content[:place] + bytes([other % 256]) + content[place:],
        "delete": content[:place] + content[end:],
        "swap": content[end:] + content[:end],
    }[what]


@kinds
def test_no_single_bit_can_change_without_notice(folder, save, kind):
    path = f"{folder}/every-bit"
    save(kind, path)
    content, whole = Path(path).read_bytes(), fields(kind, path)
    for place in range(len(content)):
        for bit in range(0, 8, 3):
            Path(path).write_bytes(damage(content, "flip", place, bit))
            assert fields(kind, path) in (None, whole)


@kinds
@settings(max_examples=500)
@given(damages=st.lists(cuts, min_size=1, max_size=3))
def test_damaged_bytes(folder, save, kind, damages):
    path = f"{folder}/damaged"
    save(kind, path)
    whole, content = fields(kind, path), Path(path).read_bytes()
    for one in damages:
        content = damage(content, *one) or b"\0"
    Path(path).write_bytes(content)
    assert fields(kind, path) in (None, whole)


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text(max_size=5), v, max_size=3),
    max_leaves=5,
)
headers = st.dictionaries(
    st.sampled_from(
        ["format", "kind", "uids", "sample_hashes", "tokenizer_fingerprint", "method", "tag"]
        + ["dataset_fingerprint", "theta_b_step", "step", "counts", "model", "checksum"]
    ),
    any_json | st.sampled_from([["p", "q", "q"], ["p", "q", 3], [["p"], "q", "r"], {"p": 1}]),
    min_size=1,
    max_size=3,
)
types = [np.float32, np.uint8, np.int64, np.uint64, np.float16, np.float64, np.int8, np.bool_]
tensors = st.dictionaries(
    st.sampled_from(["values", "sizes", "more"]),
    st.builds(
        lambda numbers, dtype, matrix: np.array([numbers] if matrix else numbers).astype(dtype),
        st.lists(st.integers(-3, 12), max_size=14),
        st.sampled_from(types),
        st.booleans(),
    ),
    max_size=2,
)


@kinds
@settings(max_examples=500)
@given(changed=headers, changed_tensors=tensors, sealed=st.booleans())
@example(changed={"uids": 3}, changed_tensors={}, sealed=False)
@example(changed={"uids": [["p"], "q", "r"]}, changed_tensors={}, sealed=True)
@example(changed={"tokenizer_fingerprint": 1}, changed_tensors={}, sealed=True)
@example(
    # Their sum wraps around to the right one.
    changed={"model": {}},
    changed_tensors={"sizes": np.array([2**62, 2**62, 2**62, 2**62 + 12])},
    sealed=True,
)
def test_a_file_that_someone_made_up(folder, save, kind, changed, changed_tensors, sealed):
    """With a checksum that fits it may say anything, so long as it is of the right form."""
    path = f"{folder}/made-up"
    save(kind, path)
    whole = fields(kind, path)
    rewrite(path, changed, sealed=sealed, **changed_tensors)
    found = fields(kind, path)
    if found is not None:
        assert len(found[0]) == 12
        assert sealed or found == whole


@kinds
@pytest.mark.parametrize(
    "text", ["[" * 100_000, "1" * 5_000, "NaN", "\ud800", "", "null", '{"uids": ' + "[" * 100_000]
)
def test_a_header_that_is_hard_to_read(folder, save, kind, text):
    path = f"{folder}/header"
    save(kind, path)
    save_file(load_file(path), path, metadata={"t3s": text.encode(errors="replace").decode()})
    assert fields(kind, path) is None


@kinds
@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "F4", "C64", "nonsense"])
def test_types_that_numpy_does_not_have(folder, save, kind, dtype):
    path = f"{folder}/types"
    save(kind, path)
    content = Path(path).read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    header["values"]["dtype"] = dtype
    text = json.dumps(header).encode()
    Path(path).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    assert fields(kind, path) is None


@kinds
def test_what_is_no_file(tmp_path, kind):
    for make in (os.mkdir, lambda path: os.symlink(path, path), lambda path: None):
        path = str(tmp_path / make.__name__)
        make(path)
        assert fields(kind, path) is None
        shutil.rmtree(path, ignore_errors=True)
        if os.path.islink(path):
            os.unlink(path)


# ------------------------------------------------------------------------------------------- states

STATE = {
    "identity": {"--seed": 7, "model": {"layers": 2}},
    "machine": {"phase": "profile", "phase_step": 3, "records": [1.5, None]},
    "checksums": [{"theta_0": "0" * 64}],
}
WEIGHTS = {"a": torch.arange(5.0), "b": torch.ones(2, 3, dtype=torch.bfloat16)}


@pytest.fixture(scope="module")
def committed(tmp_path_factory) -> tuple[StateFolder, str, bytes, dict]:
    """(folder, path of the state of iteration 4, its bytes, what it says)."""
    made = StateFolder(str(tmp_path_factory.mktemp("state")))
    made.commit(4, STATE)
    path = os.path.join(made.folder, "iter_0000004", "state.json")
    return made, path, Path(path).read_bytes(), copy.deepcopy(made.read(4))


def state(made: StateFolder, path: str, iteration: int = 4) -> dict | None:
    try:
        return made.read(iteration)
    except MismatchError as error:
        assert path in str(error)
        return None


def test_no_bit_of_a_state_can_change_without_notice(committed):
    made, path, content, whole = committed
    for place in range(len(content)):
        for bit in range(8):
            Path(path).write_bytes(damage(content, "flip", place, bit))
            assert state(made, path) in (None, whole)


@settings(max_examples=500)
@given(damages=st.lists(cuts, min_size=1, max_size=3))
def test_damaged_states(committed, damages):
    made, path, content, whole = committed
    for one in damages:
        content = damage(content, *one) or b"\0"
    Path(path).write_bytes(content)
    assert state(made, path) in (None, whole)


@settings(max_examples=300)
@given(any_json)
@example({"format": 2})
@example({"format": 2, "iteration": 4, "checksum": None})
def test_states_that_someone_made_up(committed, content):
    made, path, _, whole = committed
    Path(path).write_text(json.dumps(content))
    assert state(made, path) is None


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"format": 2, "x": ' + "[" * 900 + "]" * 900 + "}", '{"format": ' + "1" * 5000]
    + ['{"format": 2, "x": NaN}', '{"format": 1, "x": "\\ud800"}', "\0", "\ufeff{}"],
)
def test_a_state_that_is_hard_to_read(committed, text):
    made, path, _, _ = committed
    Path(path).write_text(text)
    assert state(made, path) is None


def test_the_state_of_another_iteration(committed):
    made, path, content, _ = committed
    other = os.path.join(made.folder, "iter_0000006", "state.json")
    os.makedirs(os.path.dirname(other), exist_ok=True)
    Path(other).write_bytes(content)
    assert state(made, other, 6) is None


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> tuple[StateFolder, str, bytes, str]:
    """(folder, path of a rank's file, its bytes, its checksum)."""
    made = StateFolder(str(tmp_path_factory.mktemp("weights")))
    checksum = made.write_rank("theta_0", 0, WEIGHTS, {"steps": 7})
    path = os.path.join(made.folder, "theta_0", "rank-00000.safetensors")
    return made, path, Path(path).read_bytes(), checksum


@settings(max_examples=500)
@given(damages=st.lists(cuts, min_size=1, max_size=3))
def test_damaged_weights(weights, damages):
    made, path, whole, checksum = weights
    content = whole
    for one in damages:
        content = damage(content, *one) or b"\0"
    Path(path).write_bytes(content)
    if content == whole:
        return
    with pytest.raises(MismatchError, match="rank-00000.safetensors"):
        made.read_rank("theta_0", 0, checksum)


def test_swapped_weights(committed):
    made = committed[0]
    sums = [made.write_rank("theta_0", rank, {"a": torch.tensor([1.0 * rank])}) for rank in (0, 1)]
    paths = [
        os.path.join(made.folder, "theta_0", f"rank-0000{rank}.safetensors") for rank in (0, 1)
    ]
    os.rename(paths[0], f"{paths[0]}.kept")
    os.rename(paths[1], paths[0])
    os.rename(f"{paths[0]}.kept", paths[1])
    for rank in (0, 1):
        with pytest.raises(MismatchError, match=f"rank-0000{rank}.safetensors: damaged"):
            made.read_rank("theta_0", rank, sums[rank])
