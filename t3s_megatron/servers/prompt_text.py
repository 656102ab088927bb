# SPDX-License-Identifier: Apache-2.0
"""Prompts as text, for servers that take no token ids and tokenise for themselves."""

from __future__ import annotations

from collections.abc import Sequence

from t3s_megatron.data.tokenizing import Sample
from t3s_megatron.errors import DataError


def prompt_texts(tokenizer, prompts: list[list[int]]) -> list[str]:
    """A text for each prompt that a server with the same tokenizer makes exactly its tokens of.
    ValueError when there is none."""
    return [_text(tokenizer, prompt) for prompt in prompts]


def require_prompt_texts(tokenizer, samples: Sequence[Sample]) -> None:
    """DataError that names the first sample whose prompt cannot be sent as text."""
    for sample in samples:
        try:
            _text(tokenizer, sample.tokens[: sample.prompt_length].tolist())
        except ValueError as error:
            raise DataError(
                f"{sample.where}: the prompt cannot be sent to the server as text ({error}); a "
                "server that takes token ids can be asked: --t3s-server-reload vllm or sglang"
            ) from None


def _text(tokenizer, prompt: list[int]) -> str:
    # A tokenizer that puts a token in front does so again at the server.
    for tokens in (prompt, prompt[1:]):
        text = str(tokenizer.decode(tokens, skip_special_tokens=False))
        if tokenizer(text)["input_ids"] == prompt:
            return text
    raise ValueError("its tokens are not those that the tokenizer makes of its text")
