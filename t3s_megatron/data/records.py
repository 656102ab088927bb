# SPDX-License-Identifier: Apache-2.0
"""Read training samples: JSONL, Parquet, or a Hugging Face dataset.

A record holds `messages` (chat turns, the last one the assistant's), or `prompt` and `response`;
`answer` (gold, where accuracy is measured); and optionally `id`, `teacher`, `metadata`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from t3s_megatron.errors import DataError


@dataclass(frozen=True)
class Record:
    """One sample as read. `where` names file and line (or row) for messages to people.

    `uid`: the given `id`, else 16 hex digits of sha256 over the content, with "#2", "#3", ... when
    the same content comes again.
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
    places: dict[str, str] = {}
    contents: dict[str, int] = {}
    for where, raw in _raw_rows(source, split):
        record = _parse(raw, where, contents)
        if record.uid in places:
            raise DataError(
                f"{where}: id {record.uid!r} was already used by {places[record.uid]}; "
                "ids have to be unique"
            )
        places[record.uid] = where
        records.append(record)
    if not records:
        raise DataError(f"{source}: no samples in it")
    return records


def _raw_rows(source: str, split: str) -> Iterator[tuple[str, object]]:
    if source.endswith((".jsonl", ".json")):
        yield from _json_lines(source)
        return
    for number, row in enumerate(_dataset(source, split), start=1):
        yield f"{source}, row {number}", row


def _json_lines(path: str) -> Iterator[tuple[str, object]]:
    if not os.path.isfile(path):
        raise DataError(f"{path}: no such file")
    with open(path, "rb") as file:  # bytes: a line that is not UTF-8 is named like any other
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                yield where, json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: not UTF-8 text ({error})") from None
            except (json.JSONDecodeError, RecursionError) as error:
                raise DataError(f"{where}: not a line of JSON ({error})") from None


def _dataset(source: str, split: str) -> Iterable[dict]:
    import datasets

    try:
        if source.endswith(".parquet"):
            return datasets.load_dataset("parquet", data_files=source, split="train")
        if os.path.isdir(source) and os.path.exists(os.path.join(source, "dataset_info.json")):
            return datasets.load_from_disk(source)
        if os.path.isdir(source) and os.path.exists(os.path.join(source, "dataset_dict.json")):
            return datasets.load_from_disk(source)[split]
        return datasets.load_dataset(source, split=split)
    except Exception as error:  # datasets raises many types for "cannot be read"
        raise DataError(
            f"{source}: cannot be read as .jsonl, .parquet, a saved dataset or a dataset name "
            f"({type(error).__name__}: {error})"
        ) from error


def _parse(raw: object, where: str, contents: dict[str, int]) -> Record:
    if not isinstance(raw, dict):
        raise DataError(f"{where}: a sample has to be an object, found {type(raw).__name__}")
    # A table has every column in every row: null means not given, in JSONL too.
    raw = {key: value for key, value in raw.items() if value is not None}
    messages = _messages(raw, where)
    answer = _text(raw, "answer", where)
    teacher = _text(raw, "teacher", where)
    uid = _text(raw, "id", where)
    if uid is None:
        content = json.dumps([messages, answer, teacher], sort_keys=True, ensure_ascii=False)
        uid = hashlib.sha256(content.encode()).hexdigest()[:16]
        # The same content twice is two samples; they are told apart in file order.
        contents[uid] = contents.get(uid, 0) + 1
        if contents[uid] > 1:
            uid = f"{uid}#{contents[uid]}"
    return Record(uid, tuple(messages), answer, teacher, _metadata(raw, where), where)


def _text(raw: dict, key: str, where: str) -> str | None:
    value = raw.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise DataError(f"{where}: `{key}` has to be text or a number, found {value!r}")
    value = str(value)
    if not value.strip():
        raise DataError(f"{where}: `{key}` is empty; leave it out if there is none")
    return _encodable(value, f"`{key}`", where)


def _encodable(value: str, what: str, where: str) -> str:
    """JSON can spell half a surrogate pair, which is no text: it has no UTF-8 and no tokens."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: {what} is not valid Unicode ({error})") from None
    return value


def _metadata(raw: dict, where: str) -> dict | None:
    value = raw.get("metadata")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
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
        found = ", ".join(sorted(map(str, raw))) or "nothing"
        raise DataError(f"{where}: needs `messages`, or `prompt` and `response`; found {found}")
    if not isinstance(messages, list) or len(messages) < 2:
        raise DataError(f"{where}: needs at least a prompt and a response")
    clean = []
    for message in messages:
        if not isinstance(message, dict):
            raise DataError(f"{where}: a message has to be an object, found {message!r}")
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(f"{where}: a message needs `role` and `content` as text")
        if not content.strip():
            what = "the response" if message is messages[-1] else f"a message of role {role}"
            raise DataError(f"{where}: {what} is empty")
        for part in (role, content):
            _encodable(part, f"a message of role {role!a}", where)
        clean.append({"role": role, "content": content})
    if clean[-1]["role"] != "assistant":
        raise DataError(
            f"{where}: the last message has to be the assistant's response, found role "
            f"{clean[-1]['role']!r}"
        )
    return clean
