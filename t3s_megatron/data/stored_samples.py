# SPDX-License-Identifier: Apache-2.0
"""Tokenised samples in a folder, written in pieces and mapped when read.

    samples.arrow    one row a sample, in an Arrow file
    corpus.json      what they are, with a digest of all but the tokens

Whoever maps the folder shares the memory of the tokens with every other process of its node, and a
process needs what it looks at. Damage is named: the digest is compared when the folder is opened,
the hash of a sample when it is first read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from t3s_megatron import __version__
from t3s_megatron.data.corpus import Columns, Corpus, counts_of, hash_of
from t3s_megatron.data.durable import sync_path, write_bytes
from t3s_megatron.data.tokenizing import Sample
from t3s_megatron.errors import DataError, MismatchError

FORMAT = 1
_SAMPLES, _HEADER = "samples.arrow", "corpus.json"
#: Tokens, and rows, of a piece: it is in memory while it is written.
_TOKENS, _ROWS = 2**20, 4096
_SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("prompt_length", pa.int32()),
        ("opens_thinking", pa.bool_()),
        ("answer", pa.string()),
        ("metadata", pa.string()),
        ("teacher", pa.string()),
        ("where", pa.string()),
        ("hash", pa.string()),
        ("rest", pa.string()),
    ]
)


def write_samples(folder: str, samples: Iterable[Sample]) -> None:
    """Make `folder`/samples.arrow; the targets of a sample are all its tokens behind the prompt.
    ValueError for one of which that is not so."""
    with (
        pa.OSFile(os.path.join(folder, _SAMPLES), "wb") as sink,
        pa.ipc.new_file(sink, _SCHEMA) as writer,
    ):
        piece: list[Sample] = []
        tokens = 0
        for sample in samples:
            if piece and (tokens + len(sample.tokens) > _TOKENS or len(piece) == _ROWS):
                _write_piece(writer, piece)
                piece, tokens = [], 0
            piece.append(sample)
            tokens += len(sample.tokens)
        if piece:
            _write_piece(writer, piece)


def _write_piece(writer, piece: list[Sample]) -> None:
    rows = []
    for sample in piece:
        if sample.is_target[: sample.prompt_length].any() or not (
            sample.is_target[sample.prompt_length :].all()
        ):
            raise ValueError(f"{sample.where}: its targets are not what follows its prompt")
        hashed = hash_of(sample.tokens, sample.is_target)
        row = {
            "uid": sample.uid,
            "prompt_length": sample.prompt_length,
            "opens_thinking": sample.opens_thinking,
            "answer": sample.answer,
            "metadata": _as_json(sample),
            "teacher": sample.teacher,
            "where": sample.where,
            "hash": hashed,
        }
        rows.append(row | {"rest": _rest(row)})
    ends = np.cumsum([0, *(len(sample.tokens) for sample in piece)], dtype=np.int32)
    values = pa.array(np.concatenate([sample.tokens for sample in piece]), pa.int32())
    arrays = [
        pa.ListArray.from_arrays(pa.array(ends), values)
        if field.name == "tokens"
        else pa.array([row[field.name] for row in rows], field.type)
        for field in _SCHEMA
    ]
    writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA))


def _as_json(sample: Sample) -> str | None:
    try:
        return None if sample.metadata is None else json.dumps(sample.metadata)
    except TypeError as error:
        raise DataError(
            f"{sample.where}: `metadata` has a value that JSON has not ({error}): write it as text"
        ) from None


def _rest(row: dict) -> str:
    """16 hexadecimal digits for everything of a sample but its tokens."""
    names = [field.name for field in _SCHEMA if field.name not in ("tokens", "rest")]
    text = json.dumps([row[name] for name in names], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def seal(
    folder: str,
    tokenizer_fingerprint: str,
    counts: dict,
    teachers: list[str | None],
    block_size: int | None,
) -> None:
    """The end of a folder that `write_samples` has begun: durable from here on. `counts`: of
    `LengthLimit`; `teachers`: of all that was read, in order; `block_size`: as of a `Corpus`."""
    path = os.path.join(folder, _SAMPLES)
    sync_path(path)
    stored = StoredSamples(path)
    content = {
        "format": FORMAT,
        "created_by": __version__,
        "tokenizer_fingerprint": tokenizer_fingerprint,
        "counts": counts | counts_of(stored.columns),
        "teachers": teachers,
        "block_size": block_size,
        "digest": stored.digest(),
    }
    content["checksum"] = _checksum(content)
    write_bytes(os.path.join(folder, _HEADER), json.dumps(content).encode())


def open_corpus(folder: str) -> tuple[Corpus, list[str | None]]:
    """(the samples of a sealed folder, their teachers in order). MismatchError when it is missing
    or damaged."""
    try:
        with open(os.path.join(folder, _HEADER), encoding="utf-8") as file:
            content = json.load(file)
        checksum = content.pop("checksum")
        if checksum != _checksum(content) or content["format"] != FORMAT:
            raise MismatchError(f"{folder}: {_HEADER} is damaged or of another version")
        stored = StoredSamples(os.path.join(folder, _SAMPLES))
        if stored.digest() != content["digest"]:
            raise MismatchError(f"{folder}: {_SAMPLES} is not what was written")
    except MismatchError:
        raise
    # KeyError, TypeError, AttributeError: JSON of another form; pyarrow's are of many types.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise MismatchError(f"{folder}: cannot be read ({error!r})") from None
    corpus = Corpus(
        stored,
        content["tokenizer_fingerprint"],
        content["counts"],
        stored.columns,
        content["block_size"],
    )
    return corpus, content["teachers"]


def _checksum(content: dict) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


class StoredSamples(Sequence[Sample]):
    """The samples of a file, each made when it is asked for; tokens and targets are views."""

    def __init__(self, path: str):
        self._path = path
        reader = pa.ipc.open_file(pa.memory_map(path))
        if reader.schema != _SCHEMA:
            raise ValueError(f"other columns than {_SCHEMA.names}")
        self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self._first = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        self._ends = [b.column("tokens").offsets.to_numpy() for b in self._batches]
        self._values = [b.column("tokens").values.to_numpy() for b in self._batches]
        self._prompts = np.concatenate(
            [np.zeros(0, np.int32), *(b.column("prompt_length").to_numpy() for b in self._batches)]
        )
        n_tokens = np.concatenate([np.zeros(0, np.int64), *map(np.diff, self._ends)])
        known: dict[str | None, str | None] = {}  # one text for each teacher
        self.columns = Columns(
            self._column("uid"),
            [known.setdefault(teacher, teacher) for teacher in self._column("teacher")],
            n_tokens.astype(np.int64),
            n_tokens.astype(np.int64) - self._prompts,
            self._column("hash"),
        )
        # Where the targets of a sample are is a view of this: none, then all.
        self._longest = int(self._prompts.max(initial=0))
        self._ramp = np.arange(self._longest + int(n_tokens.max(initial=0))) >= self._longest
        self._ramp.flags.writeable = False
        self._checked = bytearray(len(self))

    def _column(self, name: str) -> list:
        return [value for batch in self._batches for value in batch.column(name).to_pylist()]

    def digest(self) -> str:
        """sha256 over all but the tokens, with their hashes."""
        columns = self.columns
        content = [
            columns.uids,
            columns.teachers,
            columns.n_tokens.tolist(),
            columns.n_targets.tolist(),
            columns.hashes,
            self._column("rest"),
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def __len__(self) -> int:
        return int(self._first[-1])

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        number = int(np.searchsorted(self._first, index, side="right")) - 1
        batch, place = self._batches[number], int(index - self._first[number])
        first, end = self._ends[number][place : place + 2]
        tokens = self._values[number][first:end]
        begin = self._longest - int(self._prompts[index])
        is_target = self._ramp[begin : begin + len(tokens)]
        row = {
            field.name: batch.column(field.name)[place].as_py()
            for field in _SCHEMA
            if field.name != "tokens"
        }
        if not self._checked[index]:
            if row["rest"] != _rest(row) or row["hash"] != hash_of(tokens, is_target):
                raise MismatchError(
                    f"{self._path}: damaged, sample {row['uid']!r} ({row['where']}) is not what "
                    "was written. Remove its folder and start again: it is made anew"
                )
            self._checked[index] = 1
        return Sample(
            row["uid"],
            tokens,
            is_target,
            row["prompt_length"],
            row["answer"],
            None if row["metadata"] is None else json.loads(row["metadata"]),
            self.columns.teachers[index],
            row["where"],
            opens_thinking=row["opens_thinking"],
        )
