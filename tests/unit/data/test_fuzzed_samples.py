# SPDX-License-Identifier: Apache-2.0
"""Whatever stands in a file of samples: every one of them comes out, or a DataError names the file.

Found by these tests and kept as examples: what each `@example` and named case shows ended in a
traceback, or went by unnoticed.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from made_data import byte_tokenizer

from t3s_megatron.data.corpus import Corpus
from t3s_megatron.data.records import Record, load_records
from t3s_megatron.errors import DataError

GOOD = [
    {"prompt": "one and two", "response": "three", "answer": "3", "id": "a"},
    {"messages": [{"role": "user", "content": "é ∑"}, {"role": "assistant", "content": "𝄞"}]},
    {"prompt": "x", "response": "y", "answer": 2.5, "teacher": "t", "metadata": {"k": [1, None]}},
]
LINES = "".join(json.dumps(one) + "\n" for one in GOOD).encode()

#: Any text that JSON can spell: halves of surrogate pairs and NUL too.
texts = st.text(st.characters(), max_size=8) | st.sampled_from(["", " ", "user", "assistant", "\0"])
numbers = st.integers() | st.floats() | st.sampled_from([10**400, -(2**64), 1e308, True, False])
plain = st.none() | numbers | texts
keys = st.sampled_from(["role", "content", "id", "k", "tool_calls"]) | texts
values = st.recursive(
    plain, lambda v: st.lists(v, max_size=3) | st.dictionaries(keys, v, max_size=3), max_leaves=6
)
roles = st.sampled_from(["user", "assistant", "system"]) | texts
messages = st.lists(
    st.fixed_dictionaries({"role": roles, "content": texts}, optional={"name": values})
    | st.fixed_dictionaries({"role": roles, "content": values})
    | values,
    max_size=4,
)
rows = st.fixed_dictionaries(
    {},
    optional={
        "messages": messages | values,
        "prompt": texts | messages | values,
        "response": texts | values,
        "answer": plain | values,
        "id": st.sampled_from(["a", "b", 1]) | plain,
        "teacher": plain,
        "metadata": values | st.sampled_from(["{}", "{", "[" * 10_000, "1" * 5_000, "NaN"]),
        "other": values,
    },
)
likely_rows = st.fixed_dictionaries(
    {"prompt": texts, "response": texts},
    optional={"answer": plain, "id": plain, "teacher": plain, "metadata": values},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("fuzzed"))


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def read(path: str, tokenizer) -> list[Record] | None:
    """The records of `path`, each of them tokenised; None for a clear refusal."""
    try:
        records = load_records(path)
        made = Corpus.build(records, tokenizer, seq_length=10**6)
    except DataError as error:
        assert path in str(error)
        str(error).encode()  # it can be printed
        return None
    named = {(sample.teacher, sample.uid) for sample in made.samples}
    assert len(made.samples) == len(records) == len(named)
    assert all(sample.n_targets > 1 for sample in made.samples)
    return records


def check(path: str, content: bytes, tokenizer) -> list[Record] | None:
    with open(path, "wb") as file:
        file.write(content)
    records = read(path, tokenizer)
    if records is not None:
        lines = [line for line in content.split(b"\n") if line.strip()]
        assert len(records) == len(lines), "a sample was dropped without a word"
        for record, line in zip(records, lines, strict=True):
            raw = json.loads(line.removeprefix(b"\xef\xbb\xbf"))
            turns = raw.get("messages")  # null is as if it were not there
            said = raw["response"] if turns is None else turns[-1]["content"]
            assert record.messages[-1]["content"] == said
    return records


# ------------------------------------------------------------------------------------------- JSONL


@settings(max_examples=1000, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(rows | likely_rows | values, max_size=3))
@example([GOOD[0] | {"answer": float("nan")}])
@example([GOOD[0] | {"answer": float("inf")}])
@example([GOOD[0] | {"metadata": "[" * 100_000}])
@example([GOOD[0] | {"metadata": "1" * 5_000}])
@example([{"messages": [{"role": "\udc80", "content": ""}] * 2}])
@example([{"\udc80": 1}])
def test_any_json(folder, tokenizer, samples):
    lines = [json.dumps(one) for one in samples]
    check(f"{folder}/any.jsonl", "\n".join(lines).encode(), tokenizer)


@settings(max_examples=1000)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["cut", "flip", "insert", "delete", "double"]),
            st.integers(0, len(LINES) - 1),
            st.binary(min_size=1, max_size=3)
            | st.sampled_from([b"\0", b"\r\n", b"\r", b"\n", b"\xef\xbb\xbf", b"\\ud800", b"1e999"])
            | st.sampled_from([b"NaN", b"-Infinity", b"9" * 5_000, b"[" * 5_000, b'"id":"a",']),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_damaged_lines(folder, tokenizer, damages):
    content = LINES
    for what, place, inserted in damages:
        content = damaged(content, what, place % (len(content) + 1), inserted)
    check(f"{folder}/damaged.jsonl", content, tokenizer)


def damaged(content: bytes, what: str, place: int, inserted: bytes) -> bytes:
    before, after = content[:place], content[place:]
    return {
        "cut": before,
        "flip": before + bytes(b ^ 1 << inserted[0] % 8 for b in after[:1]) + after[1:],
        "insert": before + inserted + after,
        "delete": before + after[len(inserted) :],
        "double": before + after + after,
    }[what]


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_any_bytes(folder, tokenizer, content):
    check(f"{folder}/bytes.jsonl", content, tokenizer)


def test_a_byte_order_mark_and_line_ends_of_windows_are_no_obstacle(folder, tokenizer):
    content = b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n")
    assert len(check(f"{folder}/windows.jsonl", content, tokenizer)) == 3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"prompt": "a", "response": "b", "response": "c"}', "'response' comes twice"),
        (b'{"prompt": "a", "response": "b", "answer": NaN}', "NaN is no JSON"),
        (b'{"prompt": "a", "response": "b", "metadata": {"x": -Infinity}}', "-Infinity is no JSON"),
        (b'{"prompt": "a", "response": "b", "answer": 1e999}', "a finite number, found inf"),
        (b'{"prompt": "a", "response": "b", "answer": ' + b"9" * 5_000 + b"}", "not a line of JSO"),
        (b"[" * 100_000, "not a line of JSON"),
        (b'{"prompt": "a", "response": "b"}\0', "not a line of JSON"),
        (gzip.compress(LINES), "not UTF-8"),
        (
            b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", '
            b'"tool_calls": [{"name": "f"}], "content": "b"}]}',
            "role assistant has `tool_calls`, which would be lost",
        ),
    ],
)
def test_what_would_change_or_lose_something_is_named_with_its_line(tmp_path, line, said):
    path = str(tmp_path / "data.jsonl")
    with open(path, "wb") as file:
        file.write(LINES + line)
    with pytest.raises(DataError, match=r"data\.jsonl, line 4: ") as caught:
        load_records(path)
    assert said in str(caught.value)


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".parquet", ""])
@pytest.mark.parametrize("kind", ["folder", "loop", "dangling", "pipe", "nothing", "unreadable"])
def test_what_is_no_file(tmp_path, kind, ending, monkeypatch):
    path = str(tmp_path / "sub" / f"data{ending}")
    os.mkdir(tmp_path / "sub")
    if kind == "folder":
        os.mkdir(path)
    elif kind == "loop":
        os.symlink(path, path)
    elif kind == "dangling":
        os.symlink(f"{path}.gone", path)
    elif kind == "pipe":
        if not ending.startswith(".json"):
            pytest.skip("pyarrow and datasets wait for a writer, as for any pipe")
        os.mkfifo(path)
    elif kind == "unreadable":
        if os.geteuid() == 0 or not ending:
            pytest.skip("root reads every file; a folder's files are for datasets to open")
        with open(path, "wb") as file:
            file.write(LINES)
        os.chmod(path, 0)
    with pytest.raises(DataError) as caught:
        load_records(path)
    assert path in str(caught.value)


# ------------------------------------------------------------------------- Parquet, saved datasets


columns = {
    "text": st.lists(st.text(max_size=6) | st.none(), min_size=2, max_size=2),
    "number": st.lists(st.floats() | st.none(), min_size=2, max_size=2),
    "bytes": st.lists(st.binary(max_size=4), min_size=2, max_size=2),
    "list": st.lists(st.lists(st.text(max_size=3), max_size=2), min_size=2, max_size=2),
    "turns": st.lists(
        st.lists(st.fixed_dictionaries({"role": roles, "content": st.text(max_size=4)})),
        min_size=2,
        max_size=2,
    ),
    "time": st.lists(st.datetimes(), min_size=2, max_size=2),
    "bool": st.lists(st.booleans(), min_size=2, max_size=2),
    "null": st.just([None, None]),
}
tables = st.dictionaries(
    st.sampled_from(["prompt", "response", "messages", "answer", "id", "teacher", "metadata"]),
    st.sampled_from(sorted(columns)).flatmap(columns.get),
    min_size=1,
)


def parquet(rows: list[dict] = GOOD) -> bytes:
    as_text = [row | {"answer": str(row.get("answer")), "metadata": "{}"} for row in rows]
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(as_text), sink)
    return sink.getvalue().to_pybytes()


PARQUET = parquet([GOOD[0], GOOD[2]])


@settings(max_examples=200)
@given(tables)
def test_parquet_of_any_schema(folder, tokenizer, table):
    path = f"{folder}/any.parquet"
    try:
        made = pyarrow.table(table)
    except (pyarrow.ArrowInvalid, UnicodeEncodeError):
        return  # Arrow has no half surrogates
    pyarrow.parquet.write_table(made, path)
    records = read(path, tokenizer)
    assert records is None or len(records) == 2


@settings(max_examples=1000)
@given(
    st.sampled_from(["cut", "flip", "delete"]),
    st.integers(0, len(PARQUET) - 1),
    st.binary(min_size=1, max_size=3),
)
def test_damaged_parquet(folder, tokenizer, what, place, inserted):
    """Parquet has no checksums of ours: what is refused names the file, and rows do not vanish."""
    path = f"{folder}/damaged.parquet"
    with open(path, "wb") as file:
        file.write(damaged(PARQUET, what, place, inserted))
    read(path, tokenizer)


def test_two_columns_of_one_name(tmp_path):
    path = str(tmp_path / "twice.parquet")
    arrays = [pyarrow.array([text]) for text in ("a", "b", "c")]
    names = ["prompt", "response", "response"]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(arrays, names=names), path)
    with pytest.raises(DataError, match=r"twice\.parquet: two columns have the same name"):
        load_records(path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("saved") / "dataset")
    rows = [{"prompt": row["prompt"], "response": row["response"]} for row in (GOOD[0], GOOD[2])]
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows).save_to_disk(path)
    return path


@settings(max_examples=500)
@given(data=st.data())
def test_a_damaged_saved_dataset(folder, tokenizer, saved, data):
    path = f"{folder}/dataset"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(saved, path)
    victim = os.path.join(path, data.draw(st.sampled_from(sorted(os.listdir(path)))))
    with open(victim, "rb") as file:
        content = file.read()
    what = data.draw(st.sampled_from(["cut", "flip", "delete", "remove"]))
    if what == "remove":
        os.unlink(victim)
    else:
        place = data.draw(st.integers(0, len(content) - 1))
        with open(victim, "wb") as file:
            file.write(damaged(content, what, place, data.draw(st.binary(min_size=1, max_size=3))))
    read(path, tokenizer)
