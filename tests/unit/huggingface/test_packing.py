# SPDX-License-Identifier: Apache-2.0
"""Tensors of a folder become the parts of one parameter, and come back from them bit for bit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from t3s_megatron.huggingface.packing import (
    Column,
    GateUp,
    GateUpInTurns,
    Packing,
    Part,
    QueryKeyValue,
    QueryKeyValueInOne,
    Row,
    Transposed,
    Vocabulary,
)

CONFIG = SimpleNamespace(num_attention_heads=8, num_key_value_heads=2, vocab_size=22)
D = 4  # head size

#: packing, shapes in the folder, shape of the whole parameter
CASES = {
    "whole": (Packing(), [(6,)], (6,)),
    "column": (Column(), [(8, 6)], (8, 6)),
    "row": (Row(), [(6, 8)], (6, 8)),
    "turned": (Transposed(), [(8, 6)], (6, 8)),
    "gate and up in turns": (GateUpInTurns(), [(6, 16)], (16, 6)),
    "their bias": (GateUpInTurns(), [(16,)], (16,)),
    "vocabulary": (Vocabulary(), [(22, 6)], (24, 6)),
    "gate and up": (GateUp(), [(8, 6), (8, 6)], (16, 6)),
    "qkv": (QueryKeyValue(), [(8 * D, 6), (2 * D, 6), (2 * D, 6)], (12 * D, 6)),
    "qkv bias": (QueryKeyValue(), [(8 * D,), (2 * D,), (2 * D,)], (12 * D,)),
    "qkv in one": (QueryKeyValueInOne(), [(12 * D, 6)], (12 * D, 6)),
}


@pytest.mark.parametrize("size", [1, 2, 4])  # 4 ranks: two share a key-value head
@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case, size, tmp_path):
    packing, shapes, whole = CASES[case]
    tensors = [torch.randn(shape) for shape in shapes]
    save_file({f"t{i}": tensor for i, tensor in enumerate(tensors)}, tmp_path / "file")
    shape = list(whole)
    if packing.dim is not None:
        shape[packing.dim] //= size
    assert packing.fits(shapes, tuple(shape), size, CONFIG)
    with safe_open(tmp_path / "file", "pt") as file:
        sources = [file.get_slice(f"t{i}") for i in range(len(tensors))]
        parts = [
            packing.read(sources, tuple(shape), Part(rank, size), CONFIG) for rank in range(size)
        ]
    assert all(part.shape == tuple(shape) for part in parts)
    back = packing.unpack(parts if packing.dim is not None else parts[:1], CONFIG)
    assert all(torch.equal(a, b) for a, b in zip(back, tensors, strict=True))


def test_heads_of_a_group_stand_together():
    """Megatron's order (attention.py, `get_query_key_value_tensors`), head by head."""
    q, k, v = (torch.arange(n)[:, None] + first for n, first in ((8, 0), (2, 100), (2, 200)))
    heads = [x.repeat_interleave(D, 0).float() for x in (q, k, v)]
    packed = QueryKeyValue().read(heads, (12 * D, 1), Part(0, 1), CONFIG)
    assert packed[::D, 0].tolist() == [0, 1, 2, 3, 100, 200, 4, 5, 6, 7, 101, 201]


def test_rows_of_padding_are_zeros():
    part = Vocabulary().read([torch.ones(22, 6)], (12, 6), Part(1, 2), CONFIG)
    assert part[:10].eq(1).all() and part[10:].eq(0).all()


@pytest.mark.parametrize(
    ("case", "shapes", "shape", "size"),
    [
        ("whole", [(7,)], (6,), 1),
        ("column", [(7, 6)], (4, 6), 2),
        ("column", [(8, 5)], (4, 6), 2),
        ("row", [(6, 9)], (6, 4), 2),
        ("vocabulary", [(20, 6)], (12, 6), 2),  # not config.json's
        ("vocabulary", [(22, 6)], (10, 6), 2),
        ("gate and up", [(8, 6), (7, 6)], (16, 6), 1),
        ("qkv", [(8 * D, 6), (D, 6), (D, 6)], (10 * D, 6), 1),
        ("qkv", [(8 * D, 6), (2 * D, 6), (D, 6)], (11 * D, 6), 1),
        ("qkv in one", [(11 * D, 6)], (11 * D, 6), 1),
    ],
)
def test_tensors_of_another_shape_do_not_fit(case, shapes, shape, size):
    assert not CASES[case][0].fits(shapes, shape, size, CONFIG)


def test_gate_and_up_in_turns_become_gate_above_up():
    in_turns = torch.tensor([[0, 10, 1, 11, 2, 12]])  # [i, 2 o]
    read = GateUpInTurns().read([in_turns], (6, 1), Part(0, 1), CONFIG)
    assert read[:, 0].tolist() == [0, 1, 2, 10, 11, 12]
    read = GateUpInTurns().read([in_turns], (2, 1), Part(1, 3), CONFIG)
    assert read[:, 0].tolist() == [1, 11]
    assert not GateUpInTurns().fits([(1, 6)], (6, 2), 1, CONFIG)
    assert not GateUpInTurns().fits([(1, 7)], (7, 1), 1, CONFIG)
