# SPDX-License-Identifier: Apache-2.0
"""Rows out of files of every kind: the same rows, or a refusal that says what to do."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t3s_megatron.data.files import raw_rows
from t3s_megatron.data.records import load_records
from t3s_megatron.data.teachers import datasets_of, load_training_records, named_after
from t3s_megatron.errors import DataError

ROWS = [
    {"prompt": "1+1?\n", "response": '"2", he says', "answer": "007"},
    {"prompt": "é ∑ 五", "response": "x\ty", "answer": "1e-05"},
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    def asked(*args, **options):
        raise AssertionError(f"the hub was asked for {args}")

    monkeypatch.setattr(datasets, "load_dataset", asked)


def zstd(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as file:
        file.write(content)
    return sink.getvalue().to_pybytes()


def separated(delimiter: str) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(ROWS[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


def parquet() -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), sink)
    return sink.getvalue().to_pybytes()


def arrow() -> bytes:
    sink = pyarrow.BufferOutputStream()
    table = pyarrow.Table.from_pylist(ROWS)
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


FILES = {
    "a.jsonl": LINES,
    "a.JSONL": LINES,
    "a.ndjson": LINES,
    "a.json": json.dumps(ROWS).encode(),
    "pretty.json": b"\xef\xbb\xbf\n" + json.dumps(ROWS, indent=2).encode(),
    "array.jsonl": json.dumps(ROWS).encode(),
    "a.jsonl.gz": gzip.compress(LINES),
    "two.jsonl.gz": gzip.compress(LINES[: LINES.index(b"\n") + 1])
    + gzip.compress(LINES[LINES.index(b"\n") + 1 :]),
    "a.json.gz": gzip.compress(json.dumps(ROWS).encode()),
    "a.jsonl.bz2": bz2.compress(LINES),
    "a.jsonl.xz": lzma.compress(LINES),
    "a.JSONL.ZST": zstd(LINES),
    "a.csv": separated(","),
    "bom.CSV": b"\xef\xbb\xbf" + separated(","),
    "a.tsv": separated("\t"),
    "a.csv.gz": gzip.compress(separated(",")),
    "a.parquet": parquet(),
    "a.PARQUET": parquet(),
    "a.arrow": arrow(),
}


@pytest.mark.parametrize("name", FILES)
def test_the_same_rows_out_of_every_kind_of_file(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(FILES[name])
    found = list(raw_rows(str(path), "train"))
    assert [row for _, row in found] == ROWS
    assert all(where.startswith(f"{path}, ") for where, _ in found)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", LINES, "does not end as a file that can be read. Rename it"),
        ("a", LINES, "does not end as a file that can be read. Rename it"),
        ("a.zip", LINES, "does not end as a file that can be read. Rename it"),
        ("a.parquet.gz", gzip.compress(parquet()), "unpack it first"),
        ("a.json", json.dumps(ROWS[0], indent=2).encode(), "line 1: .*one object a line, or is"),
        ("a.json", b"[{},", "one array from line 1 on: not a line of JSON"),
        ("a.json", b"[]\n{}\n", "line 1: has to be an object, found list"),
        ("a.json", b"[1]", "entry 1: has to be an object, found int"),
        ("a.csv", b"prompt,response\nx\n", "line 2: 1 cells for 2 columns"),
        ("a.csv", b'prompt,response\nx,"y\n', "line 2: unexpected end of data"),
        ("a.csv", b"prompt,prompt\nx,y\n", "has to name each column once"),
        ("a.csv", b"prompt,response\n\xff,y\n", "not UTF-8"),
        ("a.csv", b"prompt,response\n", "no samples in it"),
        ("a.jsonl", LINES.decode().encode("utf-16"), "line 1: not UTF-8"),
    ],
)  # fmt: skip
def test_what_is_refused_says_what_to_do(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}.*{said}"):
        load_records(str(path))


@pytest.mark.parametrize("name", [name for name in FILES if "." in name[-4:] and name[-2:] != "on"])
def test_what_is_not_there_is_not_looked_for_on_the_hub(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (name, f"data/{name}"):
        with pytest.raises(DataError, match=f"{name}: no such file"):
            load_records(path)


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(["a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.xz", "a.JSONL.ZST", "a.csv.gz"]),
    place=st.integers(0, 10**6),
    what=st.sampled_from(["cut", "flip"]),
)
def test_a_damaged_file_gives_its_rows_or_its_name(tmp_path_factory, name, place, what):
    content = FILES[name]
    place %= len(content)
    damaged = content[:place]
    if what == "flip":
        damaged += bytes([content[place] ^ 4]) + content[place + 1 :]
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(damaged)
    try:
        rows = [row for _, row in raw_rows(str(path), "train")]
    except DataError as error:
        assert str(path) in str(error)
        return
    if what == "cut":
        assert rows == ROWS or not damaged  # an empty file has no rows
    # zstd and an uncovered header byte of gzip have no checksum: rows may differ, none vanishes.
    assert len(rows) == len(ROWS) or not damaged


# ------------------------------------------------------------------------------------------- shards


def shards(folder, name: str, *rows: list[dict]) -> list[str]:
    paths = []
    for number, some in enumerate(rows):
        path = folder / f"{name}-{number:05d}-of-{len(rows):05d}.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(some), path)
        paths.append(str(path))
    return paths


def test_shards_of_one_dataset_are_one_dataset(tmp_path):
    paths = shards(tmp_path, "train", ROWS, [ROWS[0] | {"prompt": "2?"}, ROWS[0]])
    records = load_training_records(tuple(paths))
    assert [record.teacher for record in records] == [None] * 4
    assert records[3].uid == f"{records[0].uid}#2"  # the same content in another shard
    assert [record.where for record in records[1:3]] == [f"{paths[0]}, row 2", f"{paths[1]}, row 1"]


def test_shards_of_two_teachers_are_two_teachers(tmp_path):
    first = shards(tmp_path, "r1", ROWS[:1], ROWS[1:])
    second = shards(tmp_path, "qwq", ROWS[:1], ROWS[1:])
    records = load_training_records((*first, *second))
    assert [record.teacher for record in records] == ["r1"] * 2 + ["qwq"] * 2


def test_a_dataset_is_named_without_its_shards_and_endings():
    assert named_after("data/r1-00000-of-00002.jsonl.gz") == "r1"
    assert named_after("data/r1.JSONL.zst") == "r1" == named_after("data/r1/")
    assert named_after("data/v1.5.jsonl") == "v1.5"
    assert list(datasets_of(["a/x-00000-of-00002.csv", "b/x-00001-of-00002.csv"])) == [
        "a/x.csv",
        "b/x.csv",
    ]
