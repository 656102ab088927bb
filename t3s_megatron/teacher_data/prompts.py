# SPDX-License-Identifier: Apache-2.0
"""Prompts with their gold answers: what a teacher is asked.

On disk: JSONL (or Parquet, or a Hugging Face dataset) with `prompt` (text, or chat turns), `answer`
and, optionally, `id` and `metadata`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from t3s_megatron.data.durable import write_bytes
from t3s_megatron.data.records import (
    optional_metadata,
    optional_text,
    raw_rows,
    read_message,
)
from t3s_megatron.errors import DataError


@dataclass(frozen=True)
class Prompt:
    """`messages`: chat turns up to where the teacher answers; `where`: file and line."""

    uid: str
    messages: tuple[dict, ...]
    answer: str | None
    metadata: dict | None
    where: str

    @property
    def key(self) -> str:
        return prompt_key(self.messages)

    def to_row(self) -> dict:
        """Without what is not given."""
        row = {
            "id": self.uid,
            "prompt": written(self.messages),
            "answer": self.answer,
            "metadata": self.metadata,
        }
        return {key: value for key, value in row.items() if value is not None}


def prompt_key(messages: tuple[dict, ...]) -> str:
    """16 hex digits; the same for prompts that differ in white space only."""
    words = [[message["role"], " ".join(message["content"].split())] for message in messages]
    return hashlib.sha256(json.dumps(words, ensure_ascii=False).encode()).hexdigest()[:16]


def written(messages: tuple[dict, ...]) -> str | list[dict]:
    """One question of a user as text, anything else as chat turns."""
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return [dict(message) for message in messages]


def read_messages(value: object, where: str) -> tuple[dict, ...]:
    """The turns of a `prompt`. DataError when it is neither text nor turns that end with one to be
    answered."""
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: `prompt` has to be text or a list of messages")
    messages = tuple(read_message(message, where) for message in value)
    if messages[-1]["role"] == "assistant":
        raise DataError(f"{where}: the prompt ends with an answer; it has to end with a question")
    return messages


def load_prompts(source: str, *, split: str = "train") -> list[Prompt]:
    """All prompts of `source`, in file order. DataError names file and line of what is wrong; a
    prompt or an id that comes twice is an error, because it would be asked twice."""
    prompts: list[Prompt] = []
    places: dict[str, str] = {}
    for where, raw in raw_rows(source, split):
        if not isinstance(raw, dict):
            raise DataError(f"{where}: a prompt has to be an object, found {type(raw).__name__}")
        if raw.get("prompt") is None:
            raise DataError(f"{where}: needs `prompt`, found {', '.join(sorted(map(str, raw)))}")
        messages = read_messages(raw["prompt"], where)
        uid = optional_text(raw, "id", where) or prompt_key(messages)
        answer = optional_text(raw, "answer", where)
        prompt = Prompt(uid, messages, answer, optional_metadata(raw, where), where)
        for what, name in (("prompt", prompt.key), ("id", uid)):
            before = places.setdefault(f"{what} {name}", where)
            if before != where:
                raise DataError(f"{where}: the same {what} as {before}; take one of them out")
        prompts.append(prompt)
    if not prompts:
        raise DataError(f"{source}: no prompts in it")
    return prompts


def write_rows(path: str, rows: list[dict]) -> None:
    """JSONL, whole or not at all. WriteError."""
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows]
    write_bytes(path, "".join(lines).encode())
