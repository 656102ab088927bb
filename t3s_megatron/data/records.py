# SPDX-License-Identifier: Apache-2.0
"""Read training samples: JSONL, Parquet, or a Hugging Face dataset.

A record holds `messages` (chat turns, the last one the assistant's), or `prompt` and `response`;
`answer` (gold, where accuracy is measured); and optionally `id`, `teacher`, `metadata`.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import os
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from t3s_megatron.data.names import is_missing_path
from t3s_megatron.errors import DataError

#: Keys of a message under which others keep part of what was said. Only `content` is read.
_SAID_ELSEWHERE = ("reasoning_content", "reasoning", "thinking", "tool_calls", "function_call")


@dataclass(frozen=True)
class Record:
    """One sample as read. `where` names file and line (or row) for messages to people.

    `uid`: the given `id`, else 16 hex digits of sha256 over the content, with "#2", "#3", ... when
    the same content comes again. Unique among the samples of a teacher.
    """

    uid: str
    messages: tuple[dict, ...]
    answer: str | None
    teacher: str | None
    metadata: dict | None
    where: str


def load_records(source: str, *, split: str = "train") -> list[Record]:
    """All records of `source`, in file order. DataError names file and line of what is wrong."""
    records: list[Record] = []
    places: dict[tuple, str] = {}
    contents: dict[str, int] = {}
    for where, raw in raw_rows(source, split):
        record = _parse(raw, where, contents)
        key = record.teacher, record.uid
        if key in places:
            raise DataError(
                f"{where}: id {record.uid!r} was already used by {places[key]}; ids have to be "
                "unique"
            )
        places[key] = where
        records.append(record)
    if not records:
        raise DataError(f"{source}: no samples in it")
    return records


def raw_rows(source: str, split: str) -> Iterator[tuple[str, object]]:
    """(file and line or row, what stands there) of JSONL, Parquet or a dataset. DataError when it
    cannot be read."""
    if source.endswith((".jsonl", ".json")):
        yield from _json_lines(source)
        return
    try:
        rows = _parquet_rows(source) if source.endswith(".parquet") else _dataset(source, split)
        for number, row in enumerate(rows, start=1):
            yield f"{source}, row {number}", row
    except DataError:
        raise
    except Exception as error:  # pyarrow and datasets raise many types for "cannot be read"
        raise DataError(
            f"{source}: cannot be read as .jsonl, .parquet, a saved dataset or a dataset name, "
            f"split {split!r} ({type(error).__name__}: {error})"
        ) from error


def _json_lines(path: str) -> Iterator[tuple[str, object]]:
    if not os.path.isfile(path):
        found = "not a file" if os.path.exists(path) else "no such file"
        raise DataError(f"{path}: {found}")
    try:
        with open(path, "rb") as file:  # bytes: a line that is not UTF-8 is named like any other
            for number, line in enumerate(file, start=1):
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    where = f"{path}, line {number}"
                    yield where, _strict_json(line, where)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _strict_json(line: bytes, where: str) -> object:
    """Without what Python adds to JSON, and without dropping the first of two equal keys."""
    try:
        return json.loads(
            line.decode("utf-8"), parse_constant=_no_number, object_pairs_hook=_unique_keys
        )
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 text ({error})") from None
    except (ValueError, RecursionError) as error:  # ValueError: integers of thousands of digits too
        raise DataError(f"{where}: not a line of JSON ({error})") from None


def _no_number(name: str):
    raise ValueError(f"{name} is no JSON")


def _unique_keys(pairs: list[tuple[str, object]]) -> dict:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {reprlib.repr(twice)} comes twice in one object")
    return made


def _parquet_rows(path: str) -> Iterator[dict]:
    import pyarrow.parquet

    # Not through `datasets`, which would first write a copy to its cache on every node.
    with pyarrow.parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if len(set(names)) < len(names):
            raise DataError(f"{path}: two columns have the same name; rename one of {names}")
        for batch in file.iter_batches():
            batch.validate(full=True)  # text that is not UTF-8, offsets that point elsewhere
            yield from batch.to_pylist()


def _dataset(source: str, split: str) -> Iterable[dict]:
    import datasets

    if os.path.isdir(source) and os.path.exists(os.path.join(source, "dataset_info.json")):
        found = datasets.load_from_disk(source)
    elif os.path.isdir(source) and os.path.exists(os.path.join(source, "dataset_dict.json")):
        found = datasets.load_from_disk(source)
        if split not in found:
            raise DataError(f"{source}: has no split {split!r}, only {', '.join(found)}")
        found = found[split]
    elif is_missing_path(source):
        raise DataError(f"{source}: no such file or folder")
    else:
        found = datasets.load_dataset(source, split=split)
    found.data.validate(full=True)  # Arrow itself trusts the offsets in a file
    return found


def _parse(raw: object, where: str, contents: dict[str, int]) -> Record:
    if not isinstance(raw, dict):
        raise DataError(f"{where}: a sample has to be an object, found {type(raw).__name__}")
    # A table has every column in every row: null means not given, in JSONL too.
    raw = {key: value for key, value in raw.items() if value is not None}
    messages = _messages(raw, where)
    answer = optional_text(raw, "answer", where)
    teacher = optional_text(raw, "teacher", where)
    uid = optional_text(raw, "id", where)
    if uid is None:
        content = json.dumps([messages, answer, teacher], sort_keys=True, ensure_ascii=False)
        uid = hashlib.sha256(content.encode()).hexdigest()[:16]
        # The same content twice is two samples; they are told apart in file order.
        contents[uid] = contents.get(uid, 0) + 1
        if contents[uid] > 1:
            uid = f"{uid}#{contents[uid]}"
    return Record(uid, tuple(messages), answer, teacher, optional_metadata(raw, where), where)


def optional_text(raw: dict, key: str, where: str) -> str | None:
    """`key` of a row as text, None when it is not given. DataError when it is anything else than
    text or a finite number, or empty."""
    value = raw.get(key)
    if value is None:
        return None
    is_number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    if isinstance(value, bool) or not (is_number or isinstance(value, str)):
        raise DataError(
            f"{where}: `{key}` has to be text or a finite number, found {reprlib.repr(value)}"
        )
    value = str(value)
    if not value.strip():
        raise DataError(f"{where}: `{key}` is empty; leave it out if there is none")
    return encodable(value, f"`{key}`", where)


def encodable(value: str, what: str, where: str) -> str:
    """JSON can spell half a surrogate pair, which is no text: it has no UTF-8 and no tokens."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: {what} is not valid Unicode ({error})") from None
    return value


def optional_metadata(raw: dict, where: str) -> dict | None:
    """The `metadata` of a row: an object, or its JSON. DataError when it is neither."""
    value = raw.get("metadata")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: `metadata` is not JSON ({error})") from None
    if value is not None and not isinstance(value, dict):
        raise DataError(f"{where}: `metadata` has to be an object, found {type(value).__name__}")
    return value


def _messages(raw: dict, where: str) -> list[dict]:
    if "messages" in raw:
        messages = raw["messages"]
    elif "prompt" in raw and "response" in raw:
        prompt = raw["prompt"]
        if isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        if not isinstance(prompt, list):
            raise DataError(f"{where}: `prompt` has to be text or a list of messages")
        messages = [*prompt, {"role": "assistant", "content": raw["response"]}]
    else:
        found = ", ".join(sorted(map(str, raw)))[:200] or "nothing"
        raise DataError(f"{where}: needs `messages`, or `prompt` and `response`; found {found}")
    if not isinstance(messages, list) or len(messages) < 2:
        raise DataError(f"{where}: needs at least a prompt and a response")
    clean = [read_message(message, where) for message in messages[:-1]]
    clean.append(read_message(messages[-1], where, is_response=True))
    if clean[-1]["role"] != "assistant":
        raise DataError(
            f"{where}: the last message has to be the assistant's response, found role "
            f"{clean[-1]['role']!r}"
        )
    return clean


def read_message(message: object, where: str, *, is_response: bool = False) -> dict:
    """`role` and `content` of one turn. DataError when it is not made of these, is empty, or when
    something else in it would be lost."""
    if not isinstance(message, dict):
        raise DataError(f"{where}: a message has to be an object, found {reprlib.repr(message)}")
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not isinstance(content, str):
        raise DataError(f"{where}: a message needs `role` and `content` as text")
    for part in (role, content):
        encodable(part, f"a message of role {role!a}", where)
    if not content.strip():
        what = "the response" if is_response else f"a message of role {role}"
        raise DataError(f"{where}: {what} is empty")
    lost = [f"`{key}`" for key in _SAID_ELSEWHERE if message.get(key)]
    if lost:
        raise DataError(
            f"{where}: a message of role {role} has {', '.join(lost)}, which would be lost: "
            "put it into `content` as the tokenizer's chat template writes it"
        )
    return {"role": role, "content": content}
