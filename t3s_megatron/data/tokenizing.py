# SPDX-License-Identifier: Apache-2.0
"""The tokenizer; from a record to token ids, and which of them are targets.

Only the response (the last assistant message, with its end token) is a target; earlier turns are
context. Prompt and response are tokenised apart, so that the prompt of a training sample has
exactly the tokens that generation is given.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace

import numpy as np

from t3s_megatron.data.control_tokens import ControlTokens
from t3s_megatron.data.names import is_missing_path
from t3s_megatron.data.records import Record
from t3s_megatron.data.rendering import Rendered, render_chat
from t3s_megatron.data.thinking import OPEN, split_thinking
from t3s_megatron.errors import DataError, T3SError


@dataclass(frozen=True)
class Sample:
    """tokens int32[L]; is_target bool[L]: token i is a target; the first prompt_length tokens are
    what generation is given. `opens_thinking`: they end inside the thinking, so that what is
    generated begins there."""

    uid: str
    tokens: np.ndarray
    is_target: np.ndarray
    prompt_length: int
    answer: str | None
    metadata: dict | None
    teacher: str | None
    where: str
    opens_thinking: bool = False

    @property
    def n_targets(self) -> int:
        return int(self.is_target.sum())


class Tokenization:
    """How records become samples. `prompt_format`: "chat" renders with the tokenizer's template,
    "raw" joins the two texts as they are.

    `tokenizer`: a Hugging Face one. ValueError for another format, DataError when the tokenizer has
    no end token.
    """

    def __init__(self, tokenizer, prompt_format: str, vocab_size: int | None = None):
        if prompt_format not in _RENDERERS:
            raise ValueError(f"prompt_format has to be chat or raw, not {prompt_format!r}")
        if tokenizer.eos_token_id is None:
            raise DataError("the tokenizer has no end-of-text token: set its eos_token")
        self._tokenizer = tokenizer
        self._end = tokenizer.eos_token_id
        self._render = _RENDERERS[prompt_format]
        self._is_raw = prompt_format == "raw"
        self._vocab_size = vocab_size
        self._control = ControlTokens(tokenizer)

    def __call__(self, record: Record) -> Sample:
        """DataError, naming the record, when the template is missing or does not write all of it,
        when a control token stands where text should, when nothing is left to learn, or when a
        token id does not fit the vocabulary."""
        record = self._without_end(record)
        rendered = self._render(record, self._tokenizer)
        if self._is_raw:
            head = self._encode(rendered.prompt)
            bos = self._tokenizer.bos_token_id
            if bos is not None and head[:1] != [bos]:
                head = [bos, *head]
        else:
            head = self._control.encode(rendered.prompt, rendered.said, record.where)
        tail = self._targets(rendered, record.where)
        if not head:
            raise DataError(f"{record.where}: the prompt has no tokens")
        if len(tail) < 2:
            raise DataError(f"{record.where}: the response has no tokens to learn")
        tokens = np.array(head + tail, dtype=np.int32)
        if self._vocab_size is not None and tokens.max() >= self._vocab_size:
            raise DataError(
                f"{record.where}: token id {tokens.max()} does not fit a vocabulary of "
                f"{self._vocab_size}"
            )
        return Sample(
            record.uid,
            tokens,
            np.arange(len(tokens)) >= len(head),
            len(head),
            record.answer,
            record.metadata,
            record.teacher,
            record.where,
            opens_thinking=rendered.prompt.rstrip().endswith(OPEN),
        )

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)

    def _without_end(self, record: Record) -> Record:
        """The record, its response without end tokens of its own. DataError when there is a control
        token inside the response, or nothing else in it."""
        *prompt, last = record.messages
        text = self._control.without_trailing(last["content"])
        if not (split_thinking(text).answer or "").strip():
            # A template may still write something around it, and it would be learned.
            raise DataError(f"{record.where}: the response has no tokens to learn: it is empty")
        if (token := self._control.first(text)) is not None:
            raise DataError(
                f"{record.where}: the response has the control token {token!r} inside its text; "
                "the student would learn to end or to open a turn there. Take it out"
            )
        return replace(record, messages=(*prompt, {**last, "content": text}))

    def _targets(self, rendered: Rendered, where: str) -> list[int]:
        """The tokens to learn: the response and one end token, the last of them. What the template
        writes after it, a line break mostly, no student ever has to produce."""
        text, own = rendered.response, rendered.response_end
        said, behind = text[:own], text[own:]
        closing, end, _ = behind.partition(self._tokenizer.eos_token)
        made = self._encode(said + (closing if end else closing.rstrip()))
        if self._end in made:
            raise DataError(f"{where}: the chat template ends the response before its text ends")
        return [*made, self._end]


def tokenize(
    record: Record, tokenizer, *, prompt_format: str, vocab_size: int | None = None
) -> Sample:
    """One record as `Tokenization` makes a sample of it."""
    return Tokenization(tokenizer, prompt_format, vocab_size)(record)


def _render_raw(record: Record, tokenizer) -> Rendered:
    roles = [message["role"] for message in record.messages]
    if roles != ["user", "assistant"]:
        raise DataError(
            f"{record.where}: --t3s-prompt-format raw takes one user message and one assistant "
            f"message, found {', '.join(roles)}; use chat for conversations"
        )
    prompt, response = (message["content"] for message in record.messages)
    if prompt.rstrip().endswith(OPEN):  # its thinking begins there, and was given its tag again
        response = response.removeprefix(OPEN).lstrip("\n")
    return Rendered(prompt, response, len(response), ())


_RENDERERS = {"chat": render_chat, "raw": _render_raw}


def refuse_code(path: str) -> None:
    """T3SError for a tokenizer folder whose tokenizer is code of its own: it is not run, and
    transformers would ask at the terminal whether it should."""
    name = os.path.join(path, "tokenizer_config.json")
    if not os.path.isfile(name) or os.path.isfile(os.path.join(path, "tokenizer.json")):
        return
    try:
        with open(name, encoding="utf-8") as file:
            said = json.load(file)["auto_map"]["AutoTokenizer"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    raise T3SError(
        f"{path}: its tokenizer is code that comes with the folder "
        f"({', '.join(filter(None, [said] if isinstance(said, str) else said))}), which is not "
        "run. Give --tokenizer-model a folder with the same tokenizer as a tokenizer.json "
        "(docs/huggingface.md)"
    )


def load_tokenizer(path: str):
    """The Hugging Face tokenizer of `--tokenizer-model`. T3SError when it has no end token."""
    from transformers import AutoTokenizer

    if not path:
        raise T3SError("--tokenizer-model is missing: a folder with a Hugging Face tokenizer")
    if is_missing_path(path):
        raise T3SError(f"--tokenizer-model {path}: no such folder")
    refuse_code(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except Exception as error:  # transformers raises many types for a folder that is not one
        raise T3SError(
            f"--tokenizer-model {path}: not a Hugging Face tokenizer ({error})"
        ) from error
    if tokenizer.eos_token_id is None:
        raise T3SError(f"--tokenizer-model {path}: the tokenizer has no end-of-text token")
    return tokenizer


def pad_token(tokenizer) -> int:
    """What rows end in: the tokenizer's pad token, or its end token where it has none."""
    pad = tokenizer.pad_token_id
    return tokenizer.eos_token_id if pad is None else pad
