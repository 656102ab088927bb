# SPDX-License-Identifier: Apache-2.0
"""The mask token, and what must not be taken for one."""

from __future__ import annotations

import pytest

from t3s_megatron.diffusion.mask_token import mask_token
from t3s_megatron.errors import T3SError
from tests.unit.data.made_data import END, C, D, byte_tokenizer, corpus, sample, word_tokenizer

WORDS = word_tokenizer()


def test_it_is_the_tokenizers_or_given_by_text_or_number():
    own = word_tokenizer()
    own.mask_token = "e"
    assert mask_token(own, None, [None], None) == 14
    assert mask_token(WORDS, "d", [corpus(sample([C, C, END], 1))], 15) == D
    assert mask_token(WORDS, "100", [], None) == 100  # a row without a token


@pytest.mark.parametrize(
    ("tokenizer", "given", "rows", "said"),
    [
        (WORDS, None, None, "has no mask token: give its text or id as --t3s-mask-token"),
        (WORDS, "<mask>", None, "--t3s-mask-token <mask>: not a token"),
        (WORDS, "<|im_end|>", None, r"'<\|im_end\|>' \(id 3\) is the end token"),
        (byte_tokenizer(), "<|endoftext|>", None, "is the pad token"),
        (WORDS, "d", 13, "has no row in the model's embedding of 13"),
        (WORDS, "c", None, r"'c' \(id 12\) occurs in sample 's' \(f.jsonl, line of s\)"),
    ],
)
def test_refusals(tokenizer, given, rows, said):
    with pytest.raises(T3SError, match=said):
        mask_token(tokenizer, given, [None, corpus(sample([C, C, END], 1))], rows)
