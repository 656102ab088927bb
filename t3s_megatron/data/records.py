# SPDX-License-Identifier: Apache-2.0
"""Training samples as read: a conversation that ends with the response to learn, `answer` (gold,
where accuracy is measured), and optionally `id`, `teacher`, `metadata`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from t3s_megatron.data.conversation import read_conversation
from t3s_megatron.data.fields import fields_of, optional_metadata, optional_text
from t3s_megatron.data.files import raw_rows
from t3s_megatron.errors import DataError


@dataclass(frozen=True)
class Record:
    """One sample as read. `messages`: `role` and `content` of each turn, the last one the
    assistant's, thinking in tags in front of an answer. `where`: file and line (or row), for
    messages to people.

    `uid`: the given `id`, else 16 hex digits of sha256 over the content, with "#2", "#3", ... when
    the same content comes again. Unique among the samples of a teacher.
    """

    uid: str
    messages: tuple[dict, ...]
    answer: str | None
    teacher: str | None
    metadata: dict | None
    where: str


def load_records(
    *sources: str, split: str = "train", ignored: Collection[str] = ()
) -> list[Record]:
    """All records of `sources`, files of one dataset, in their order. `ignored`: fields of a row
    that are as if they were not there. DataError names file and line of what is wrong."""
    return list(read_records(*sources, split=split, ignored=ignored))


def read_records(
    *sources: str, split: str = "train", ignored: Collection[str] = ()
) -> Iterator[Record]:
    """As `load_records`, one after the other."""
    places: dict[tuple, str] = {}
    contents: dict[str, int] = {}
    for source in sources:
        for where, raw in raw_rows(source, split):
            record = _parse(fields_of(raw, where, ignored), where, contents)
            key = record.teacher, record.uid
            if key in places:
                raise DataError(
                    f"{where}: id {record.uid!r} was already used by {places[key]}; ids have to be "
                    "unique"
                )
            places[key] = where
            yield record
    if not places:
        raise DataError(f"{', '.join(sources)}: no samples in it")


def _parse(row: dict, where: str, contents: dict[str, int]) -> Record:
    said = read_conversation(row, where)
    if len(said.responses) != 1:
        raise DataError(
            f"{where}: has {len(said.responses)} responses, and one is learned: t3s-megatron "
            "prepare filter chooses one that is right"
        )
    response = said.responses[0]
    if response.flaw is not None:
        raise DataError(f"{where}: the response {response.why}")
    messages = (*said.prompt, {"role": "assistant", "content": response.response})
    answer = optional_text(row, "answer", where)
    teacher = optional_text(row, "teacher", where)
    uid = optional_text(row, "id", where)
    if uid is None:
        content = json.dumps([messages, answer, teacher], sort_keys=True, ensure_ascii=False)
        uid = hashlib.sha256(content.encode()).hexdigest()[:16]
        # The same content twice is two samples; they are told apart in file order.
        contents[uid] = contents.get(uid, 0) + 1
        if contents[uid] > 1:
            uid = f"{uid}#{contents[uid]}"
    return Record(uid, messages, answer, teacher, optional_metadata(row, where), where)
