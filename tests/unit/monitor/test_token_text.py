# SPDX-License-Identifier: Apache-2.0
"""The text of single tokens, and round numbers on an axis."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from t3s_megatron.monitor.charts import ticks
from t3s_megatron.monitor.tokens import pieces, token_text
from tests.support.byte_level import byte_level


@pytest.fixture(scope="module")
def by_bytes() -> PreTrainedTokenizerFast:
    """Every byte is a token, so that most characters are several."""
    inner = byte_level(["<eos>"], [], 257)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")


@pytest.fixture(scope="module")
def with_spaces() -> PreTrainedTokenizerFast:
    """A word begins with its space, which decoding takes from the first of a text."""
    vocabulary = {"<eos>": 0, "▁so": 1, "▁it": 2, "s": 3}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    inner.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")


def test_a_character_of_several_tokens_stands_with_the_last(by_bytes):
    said = "a é 日\n😀."
    tokens = by_bytes.encode(said)
    found = list(pieces(by_bytes, by_bytes.encode("Q: "), tokens))
    assert len(found) == len(tokens) == len(said.encode())
    assert "".join(found) == said
    assert [piece for piece in found if piece] == list(said)


def test_bytes_that_are_no_character_come_through(by_bytes):
    tokens = by_bytes.encode("日")[:2] * 3 + by_bytes.encode("ab")
    found = list(pieces(by_bytes, [], tokens))
    assert len(found) == 8 and found[-1] == "b" and "\ufffd" in "".join(found)


def test_a_part_of_a_character_has_its_name_in_the_vocabulary(by_bytes):
    part = by_bytes.encode("é")[0]
    assert token_text(by_bytes, part) == by_bytes.convert_ids_to_tokens(part)


def test_the_space_before_a_word_stays(with_spaces):
    assert list(pieces(with_spaces, [1], [2, 3])) == [" it", "s"]
    assert [token_text(with_spaces, token) for token in (2, 3)] == [" it", "s"]


@pytest.mark.parametrize(
    "low, high, whole, expected",
    [
        (0, 1, False, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (0, 3, True, ["0", "1", "2", "3"]),
        (-0.5, 0.5, True, ["0"]),
        (-1.2, 0.3, False, ["-1", "-0.5", "0"]),
        (0, 600, True, ["0", "100", "200", "300", "400", "500", "600"]),
    ],
)
def test_ticks_are_round(low, high, whole, expected):
    assert [name for _, name in ticks(low, high, whole)] == expected
