# SPDX-License-Identifier: Apache-2.0
"""From a record to token ids, and which of them are targets.

Only the response (the last assistant message, with its end token) is a target; earlier turns are
context. Prompt and response are tokenised apart, so that the prompt of a training sample has
exactly the tokens that generation is given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from t3s_megatron.data.records import Record
from t3s_megatron.data.thinking import OPEN
from t3s_megatron.errors import DataError


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


def tokenize(
    record: Record, tokenizer, *, prompt_format: str, vocab_size: int | None = None
) -> Sample:
    """`prompt_format`: "chat" renders with the tokenizer's template, "raw" joins the two texts.

    `tokenizer`: a Hugging Face one. DataError, naming the record, when the template is missing or
    does not extend the prompt, when nothing is left to learn, or when a token id does not fit
    `vocab_size`. ValueError for another format.
    """
    if prompt_format not in _RENDERERS:
        raise ValueError(f"prompt_format has to be chat or raw, not {prompt_format!r}")
    end = tokenizer.eos_token_id
    if end is None:
        raise DataError("the tokenizer has no end-of-text token: set its eos_token")
    if not record.messages[-1]["content"].replace(tokenizer.eos_token, "").strip():
        # A template may still write something around it, and it would be learned.
        raise DataError(f"{record.where}: the response has no tokens to learn: it is empty")
    prompt, response = _RENDERERS[prompt_format](record, tokenizer)
    head = tokenizer.encode(prompt, add_special_tokens=False)
    if prompt_format == "raw" and tokenizer.bos_token_id is not None:
        head = [tokenizer.bos_token_id, *head]
    tail = tokenizer.encode(response, add_special_tokens=False)
    if end in tail:
        # Templates write a newline after the end token, which no student ever has to produce.
        tail = tail[: len(tail) - tail[::-1].index(end)]
    else:
        tail = [*tail, end]
    if not head:
        raise DataError(f"{record.where}: the prompt has no tokens")
    if len(tail) < 2:
        raise DataError(f"{record.where}: the response has no tokens to learn")
    tokens = np.array(head + tail, dtype=np.int32)
    if vocab_size is not None and tokens.max() >= vocab_size:
        raise DataError(
            f"{record.where}: token id {tokens.max()} does not fit a vocabulary of {vocab_size}"
        )
    is_target = np.arange(len(tokens)) >= len(head)
    return Sample(
        record.uid,
        tokens,
        is_target,
        len(head),
        record.answer,
        record.metadata,
        record.teacher,
        record.where,
        opens_thinking=prompt.rstrip().endswith(OPEN),
    )


def _render_chat(record: Record, tokenizer) -> tuple[str, str]:
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            "the tokenizer has no chat template: give one that has, or set "
            "--t3s-prompt-format raw to train on prompt and response as they are"
        )
    messages = list(record.messages)
    try:
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        prompt = tokenizer.apply_chat_template(
            messages[:-1], tokenize=False, add_generation_prompt=True
        )
    except Exception as error:  # a template may raise anything, jinja's own types included
        raise DataError(f"{record.where}: the chat template refuses it ({error})") from error
    if not whole.startswith(prompt):
        raise DataError(
            f"{record.where}: the chat template renders the prompt differently once the response "
            "is there (thinking tags?), so the response cannot be told apart; use a template "
            "whose generation prompt is a prefix of the rendered conversation"
        )
    return prompt, whole[len(prompt) :]


def _render_raw(record: Record, tokenizer) -> tuple[str, str]:
    roles = [message["role"] for message in record.messages]
    if roles != ["user", "assistant"]:
        raise DataError(
            f"{record.where}: --t3s-prompt-format raw takes one user message and one assistant "
            f"message, found {', '.join(roles)}; use chat for conversations"
        )
    return record.messages[0]["content"], record.messages[1]["content"]


_RENDERERS = {"chat": _render_chat, "raw": _render_raw}
