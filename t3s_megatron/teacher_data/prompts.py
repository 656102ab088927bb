# SPDX-License-Identifier: Apache-2.0
"""Prompts with their gold answers: what a teacher is asked.

On disk: `prompt` (text, or chat turns), `answer` and, optionally, `id`, `metadata` and `system`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass

from t3s_megatron.data.conversation import read_prompt
from t3s_megatron.data.durable import write_bytes
from t3s_megatron.data.fields import fields_of, optional_metadata, optional_text
from t3s_megatron.data.files import raw_rows
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


def load_prompts(
    source: str, *, split: str = "train", ignored: Collection[str] = ()
) -> list[Prompt]:
    """All prompts of `source`, in file order. `ignored`: fields of a row that are as if they were
    not there. DataError names file and line of what is wrong; a prompt or an id that comes twice is
    an error, because it would be asked twice."""
    prompts: list[Prompt] = []
    places: dict[str, str] = {}
    for where, raw in raw_rows(source, split):
        row = fields_of(raw, where, ignored)
        messages = read_prompt(row, where)
        uid = optional_text(row, "id", where) or prompt_key(messages)
        answer = optional_text(row, "answer", where)
        prompt = Prompt(uid, messages, answer, optional_metadata(row, where), where)
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
