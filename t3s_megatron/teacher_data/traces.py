# SPDX-License-Identifier: Apache-2.0
"""What teachers answered: several samples of each to each prompt.

A row is one sample (`response`, and `finish_reason` where it is known) or all samples of a prompt
(`responses`: texts, or objects with `content`, `reasoning_content` and `finish_reason`), with
`prompt`, `answer`, `teacher`, `id` and `metadata` beside them. `messages` that end with the answer
do as well: the rules are those of `data.conversation`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from t3s_megatron.data.conversation import read_conversation
from t3s_megatron.data.fields import fields_of, optional_metadata, optional_text
from t3s_megatron.data.files import raw_rows
from t3s_megatron.data.responses import Trace
from t3s_megatron.errors import DataError
from t3s_megatron.teacher_data.prompts import prompt_key, written


@dataclass
class Asked:
    """Everything that one teacher answered to one prompt.

    The first spelling, id, gold answer and metadata in alphabetical order stand for all that come:
    order in a file means nothing. `answers` are the different gold answers, white space aside.
    """

    key: str
    teacher: str | None
    spellings: set[str] = field(default_factory=set)
    uids: set[str] = field(default_factory=set)
    answers: dict[str, str] = field(default_factory=dict)
    metadata: set[str] = field(default_factory=set)
    traces: list[Trace] = field(default_factory=list)
    places: list[str] = field(default_factory=list)

    @property
    def prompt(self) -> str | list[dict]:
        return json.loads(min(self.spellings))

    @property
    def uid(self) -> str:
        """Of the prompt. Not unique among teachers."""
        return min(self.uids, default=self.key)

    @property
    def answer(self) -> str | None:
        """The gold answer, where there is one and no other contradicts it."""
        return next(iter(self.answers.values())) if len(self.answers) == 1 else None

    @property
    def meta(self) -> dict | None:
        return json.loads(min(self.metadata)) if self.metadata else None


def load_traces(
    sources: Sequence[str],
    *,
    split: str = "train",
    teacher: str | None = None,
    ignored: Collection[str] = (),
) -> list[Asked]:
    """`Asked` of every teacher and prompt, in an order of their own: by teacher and id.

    `teacher`: the name of the teacher where a row has none; `ignored`: fields of a row that are as
    if they were not there. DataError names file and line of what
    is wrong, and of an id that stands for two prompts.
    """
    found: dict[tuple[str | None, str], Asked] = {}
    prompts: dict[str, tuple[str, str]] = {}
    for source in sources:
        for where, raw in raw_rows(source, split):
            asked = _add(fields_of(raw, where, ignored), where, teacher, found)
            for uid in asked.uids:
                key, place = prompts.setdefault(uid, (asked.key, where))
                if key != asked.key:
                    raise DataError(
                        f"{where}: id {uid!r} belongs to another prompt in {place}; ids have to "
                        "name prompts"
                    )
    if not found:
        raise DataError(f"{', '.join(sources)}: no samples in it")
    return sorted(found.values(), key=lambda asked: (asked.teacher or "", asked.uid, asked.key))


def _add(
    row: dict, where: str, teacher: str | None, found: dict[tuple[str | None, str], Asked]
) -> Asked:
    if "prompt" in row and "responses" not in row:
        row = {"response": "", **row}  # nothing came: that is an empty sample among others
    said = read_conversation(row, where)
    named = optional_text(row, "teacher", where) or teacher
    key = prompt_key(said.prompt)
    asked = found.setdefault((named, key), Asked(key, named))
    asked.spellings.add(json.dumps(written(said.prompt), ensure_ascii=False))
    asked.traces += said.responses
    asked.places.append(where)
    if (uid := optional_text(row, "id", where)) is not None:
        asked.uids.add(uid)
    if (answer := optional_text(row, "answer", where)) is not None:
        words = " ".join(answer.split())
        asked.answers[words] = min(answer, asked.answers.get(words, answer))
    if (metadata := optional_metadata(row, where)) is not None:
        asked.metadata.add(json.dumps(metadata, ensure_ascii=False, sort_keys=True))
    return asked
