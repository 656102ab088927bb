# SPDX-License-Identifier: Apache-2.0
"""Prompts as text are the prompts, at a server that tokenises for itself."""

from __future__ import annotations

import pytest
from tokenizers.processors import TemplateProcessing

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.records import load_records
from t3s_megatron.errors import DataError
from t3s_megatron.servers.prompt_text import prompt_texts, require_prompt_texts
from tests.support.task import make_tokenizer, write_samples


@pytest.fixture
def tokenizer(tmp_path):
    return make_tokenizer(str(tmp_path / "tokenizer"))


def test_the_text_has_the_tokens_of_the_prompt(tokenizer, tmp_path):
    path = write_samples(str(tmp_path / "train.jsonl"), 5, 0)
    corpus = Corpus.build(load_records(path), tokenizer, seq_length=48)
    prompts = [s.tokens[: s.prompt_length].tolist() for s in corpus.samples]
    texts = prompt_texts(tokenizer, prompts)
    assert [tokenizer(text)["input_ids"] for text in texts] == prompts
    assert texts[0].startswith("<user>") and texts[0].endswith("<assistant>")
    require_prompt_texts(tokenizer, corpus.samples)


def test_a_token_that_the_server_puts_in_front_is_not_sent(tokenizer):
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<user> $A", special_tokens=[("<user>", 2)]
    )
    (text,) = prompt_texts(tokenizer, [[2, 7, 8]])
    assert text == "12" and tokenizer(text)["input_ids"] == [2, 7, 8]


def test_tokens_that_no_text_has_are_refused_with_the_sample(tokenizer, tmp_path):
    path = write_samples(str(tmp_path / "train.jsonl"), 1, 0)
    (sample,) = Corpus.build(load_records(path), tokenizer, seq_length=48).samples
    tokenizer.add_tokens(["12"])
    sample.tokens[1:3] = tokenizer.convert_tokens_to_ids(["1", "2"])
    with pytest.raises(DataError, match="--t3s-server-reload vllm or sglang") as caught:
        require_prompt_texts(tokenizer, [sample])
    assert str(caught.value).startswith(sample.where)
