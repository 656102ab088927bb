# SPDX-License-Identifier: Apache-2.0
"""Tensors cut up in one way and put together in another, against the tensor itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t3s_megatron.data.pieces import Piece, assemble
from t3s_megatron.data.run_state import StateFolder
from t3s_megatron.errors import MismatchError


@st.composite
def cuts(draw, shape: tuple[int, ...]) -> list[Piece]:
    """`shape` cut into a grid of boxes, and each box into flat ranges."""
    edges = []
    for size in shape:
        inner = draw(st.sets(st.integers(1, max(1, size - 1)), max_size=2))
        edges.append(sorted({0, size} | {e for e in inner if e < size}))
    corners = [[]]
    for axis in edges:
        corners = [[*c, pair] for c in corners for pair in zip(axis, axis[1:], strict=False)]
    pieces = []
    for corner in corners:
        offset = tuple(begin for begin, _ in corner)
        box = tuple(end - begin for begin, end in corner)
        numel = torch.Size(box).numel()
        inner = draw(st.sets(st.integers(0, numel), max_size=3))
        bounds = sorted({0, numel} | inner)
        for first, last in zip(bounds, bounds[1:], strict=False):
            pieces.append(Piece("w", shape, offset, box, first, last))
    return pieces


def values_of(whole: torch.Tensor, piece: Piece) -> torch.Tensor:
    index = tuple(slice(o, o + n) for o, n in zip(piece.offset, piece.shape, strict=True))
    return whole[index].reshape(-1)[piece.first : piece.last]


@given(st.data(), st.lists(st.integers(1, 5), min_size=1, max_size=3))
def test_elements_know_their_places_in_the_whole(data, shape):
    numbers = torch.arange(torch.Size(shape).numel()).view(shape)
    for piece in data.draw(cuts(tuple(shape))):
        found = piece.numbers(piece.first, piece.last)
        assert torch.equal(found, values_of(numbers, piece))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_cut_is_made_of_any_other(data):
    shape = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple))
    whole = torch.randn(shape)
    saved = data.draw(st.permutations(data.draw(cuts(shape)) + data.draw(cuts(shape))))
    sources = [(piece, lambda piece=piece: values_of(whole, piece)) for piece in saved]
    for wanted in data.draw(cuts(shape)):
        assert torch.equal(assemble(wanted, sources), values_of(whole, wanted))
        assert Piece.from_list(wanted.to_list()) == wanted


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_missing_element_is_an_error(data):
    shape = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple))
    whole = torch.randn(shape)
    saved = data.draw(cuts(shape))
    lost = data.draw(st.integers(0, len(saved) - 1))
    sources = [
        (piece, lambda piece=piece: values_of(whole, piece))
        for i, piece in enumerate(saved)
        if i != lost
    ]
    everything = Piece("w", shape, (0,) * len(shape), shape, 0, whole.numel())
    count = saved[lost].last - saved[lost].first
    with pytest.raises(ValueError, match=f"^w: {count} of its elements are in none"):
        assemble(everything, sources)


def test_only_what_is_needed_is_read():
    whole = torch.arange(12.0).view(4, 3)
    halves = [Piece("w", (4, 3), (2 * i, 0), (2, 3), 0, 6) for i in range(2)]
    read = []

    def source(i):
        return halves[i], lambda: read.append(i) or values_of(whole, halves[i])

    # Elements 4 and 5 of the box are in its second row: rank shards need not read the rest.
    wanted = Piece("w", (4, 3), (0, 0), (4, 3), 4, 6)
    assert assemble(wanted, [source(0), source(1), source(0)]).tolist() == [4.0, 5.0]
    assert read == [0]


def test_another_padded_vocabulary_is_named():
    saved = Piece("embedding", (6, 2), (0, 0), (6, 2), 0, 12)
    wanted = Piece("embedding", (8, 2), (0, 0), (8, 2), 0, 16)
    with pytest.raises(ValueError, match=r"embedding: saved as \[6, 2\], here \[8, 2\]"):
        assemble(wanted, [(saved, lambda: torch.zeros(12))])


def test_out_of_the_files_of_other_ranks(tmp_path):
    """Two ranks with half the rows each; now one rank with the columns 0 and 1, then column 2."""
    whole = torch.arange(12.0).view(4, 3)
    folder = StateFolder(str(tmp_path))
    checksums = []
    for rank in range(2):
        piece = Piece("w", (4, 3), (2 * rank, 0), (2, 3), 0, 6, place=1)
        tensors = {"p": torch.cat([torch.zeros(1), whole[2 * rank : 2 * rank + 2].reshape(-1)])}
        info = {"pieces": {"p": [piece.to_list()], "constant": None}}
        checksums.append(folder.write_rank("theta_0-x", rank, tensors, info))
    wanted = {
        "a": [Piece("w", (4, 3), (0, 0), (4, 2), 0, 8), Piece("w", (4, 3), (0, 2), (4, 1), 0, 4)]
    }
    found = folder.read_pieces("theta_0-x", checksums, wanted)
    assert torch.equal(found["a"], torch.cat([whole[:, :2].reshape(-1), whole[:, 2]]))

    other = {"a": [replace(wanted["a"][0], key="v")]}
    with pytest.raises(MismatchError, match="theta_0-x: v: 8 of its elements are in none"):
        folder.read_pieces("theta_0-x", checksums, other)
    with pytest.raises(MismatchError, match="rank-00001.*expected checksum"):
        folder.read_pieces("theta_0-x", [checksums[0], "0" * 64], wanted)
