# SPDX-License-Identifier: Apache-2.0
"""Rows out of files: JSON lines or an array, CSV, TSV, Parquet, Arrow, each of them compressed or
not, a saved dataset, or a dataset of the Hugging Face hub.

What a name ends with says how it is read, in small letters or capitals. A file that is there is
never looked up on the hub, nor is a name that ends as a file's does.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import lzma
import os
import reprlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import IO

from t3s_megatron.data.names import is_missing_path
from t3s_megatron.errors import DataError

_CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".xz": None}
#: csv refuses longer cells than this; its own limit is shorter than a trace.
_LONGEST_CELL = 2**31 - 1


def raw_rows(source: str, split: str) -> Iterator[tuple[str, object]]:
    """(file and line or row, what stands there) of a file or a dataset. DataError when it cannot be
    read."""
    ending, codec = _endings(source)
    if ending in _READERS:
        if not os.path.isfile(source):
            raise DataError(f"{source}: {'not a file' if os.path.exists(source) else _GONE}")
        yield from _READERS[ending](source, codec)
    elif os.path.isfile(source):
        raise DataError(
            f"{source}: does not end as a file that can be read. Rename it after what it is: "
            f"{', '.join(_READERS)}, and {', '.join(_CODECS)} behind it if it is compressed"
        )
    else:
        yield from _numbered(source, lambda: _dataset(source, split), f"split {split!r} of it")


_GONE = "no such file"


def is_missing(source: str) -> bool:
    """Whether it is a file or folder that is not there, and no dataset of the hub."""
    is_file = _endings(source)[0] in _READERS
    return not os.path.exists(source) and (is_file or is_missing_path(source))


def without_endings(name: str) -> str:
    """A file's name without what says how it is read."""
    name, ending = os.path.splitext(name)
    return os.path.splitext(name)[0] if ending.lower() in _CODECS else name


def _endings(source: str) -> tuple[str, str | None]:
    """(ending, ending of a compressed file), in small letters."""
    name, ending = os.path.splitext(source)
    codec = None
    if ending.lower() in _CODECS:
        codec = ending.lower()
        name, ending = os.path.splitext(name)
    return ending.lower(), codec


# --------------------------------------------------------------------------------- JSON, CSV, TSV


def _open(path: str, codec: str | None) -> IO[bytes]:
    if codec is None:
        return open(path, "rb")
    if codec == ".xz":
        return lzma.open(path, "rb")
    import pyarrow

    # It notices a file that was cut off, and reads the members of one after another.
    inner = pyarrow.CompressedInputStream(pyarrow.OSFile(path), _CODECS[codec])
    return io.BufferedReader(inner)


def _reading(read: Callable[[str, IO[bytes]], Iterator[tuple[str, object]]]):
    """A reader of an opened file, as one of a path and how it is compressed."""

    def reader(path: str, codec: str | None) -> Iterator[tuple[str, object]]:
        try:
            with _open(path, codec) as file:
                yield from read(path, file)
        # EOFError, zlib's and lzma's: what is compressed is damaged.
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            what = getattr(error, "strerror", None) or error
            raise DataError(f"{path}: cannot be read ({what})") from None

    return reader


@_reading
def _json_rows(path: str, file: IO[bytes]) -> Iterator[tuple[str, object]]:
    lines = _written_lines(file)
    first = next(lines, None)
    if first is None:
        return
    if first[1].lstrip().startswith(b"["):
        lines = iter(rest := list(lines))
        if not rest or not _is_json(first[1]):
            content = b"".join(line for _, line in (first, *rest))
            entries = _strict_json(content, f"{path}, one array from line {first[0]} on")
            assert isinstance(entries, list)  # it begins with a bracket
            for place, entry in enumerate(entries, start=1):
                yield f"{path}, entry {place}", entry
            return
    for number, line in chain((first,), lines):
        where = f"{path}, line {number}"
        yield where, _strict_json(line, where)


def _written_lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Number and content of the lines that are not blank, as bytes: a line that is not UTF-8 is
    named like any other."""
    for number, line in enumerate(file, start=1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield number, line


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _strict_json(text: bytes, where: str) -> object:
    """Without what Python adds to JSON, and without dropping the first of two equal keys."""
    try:
        return json.loads(
            text.decode("utf-8"), parse_constant=_no_number, object_pairs_hook=_unique_keys
        )
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 text ({error})") from None
    except (ValueError, RecursionError) as error:  # ValueError: integers of thousands of digits too
        raise DataError(
            f"{where}: not a line of JSON ({error}); a file has one object a line, or is one array"
        ) from None


def _no_number(name: str):
    raise ValueError(f"{name} is no JSON")


def _unique_keys(pairs: list[tuple[str, object]]) -> dict:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {reprlib.repr(twice)} comes twice in one object")
    return made


def _separated(separator: str):
    """A reader of CSV. Every cell is text, so that an answer stays as it is written; an empty one
    is not given."""

    @_reading
    def read(path: str, file: IO[bytes]) -> Iterator[tuple[str, object]]:
        csv.field_size_limit(_LONGEST_CELL)
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        rows = csv.reader(text, delimiter=separator, strict=True)
        try:
            names = next(rows, [])
            if len(set(names)) < len(names) or not all(names):
                raise DataError(f"{path}: its first line has to name each column once, not {names}")
            for cells in rows:
                if not cells:
                    continue
                where = f"{path}, line {rows.line_num}"
                if len(cells) != len(names):
                    raise DataError(f"{where}: {len(cells)} cells for {len(names)} columns")
                pairs = zip(names, cells, strict=True)
                yield where, {name: cell if cell else None for name, cell in pairs}
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text ({error})") from None
        except csv.Error as error:
            raise DataError(f"{path}, line {rows.line_num}: {error}") from None

    return read


# ---------------------------------------------------------------------- Parquet, Arrow, datasets


@contextlib.contextmanager
def _readable(source: str, what: str) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # pyarrow and datasets raise many types for "cannot be read"
        raise DataError(
            f"{source}: cannot be read as a file, a saved dataset or a dataset's name, {what} "
            f"({type(error).__name__}: {error})"
        ) from error


def _numbered(
    source: str, rows: Callable[[], Iterable[dict]], what: str
) -> Iterator[tuple[str, object]]:
    with _readable(source, what):
        for number, row in enumerate(rows(), start=1):
            yield f"{source}, row {number}", row


def dataset_fingerprint(source: str, split: str) -> str:
    """What `datasets` calls the content of a dataset of the hub. DataError as of `raw_rows`."""
    import datasets

    with _readable(source, f"split {split!r} of it"):
        return datasets.load_dataset(source, split=split)._fingerprint


def _binary(read: Callable[[str], Iterable[dict]]):
    """A reader of a table in columns, which is compressed inside if it is at all."""

    def reader(path: str, codec: str | None) -> Iterator[tuple[str, object]]:
        if codec is not None:
            raise DataError(f"{path}: unpack it first; what is inside is compressed already")
        return _numbered(path, lambda: read(path), "as its name says")

    return reader


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


def _arrow_rows(path: str) -> Iterable[dict]:
    import datasets

    found = datasets.Dataset.from_file(path)
    found.data.validate(full=True)
    return found


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


#: By what a file's name ends with.
_READERS: dict[str, Callable[[str, str | None], Iterator[tuple[str, object]]]] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), _json_rows),
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".parquet": _binary(_parquet_rows),
    ".arrow": _binary(_arrow_rows),
}
