# SPDX-License-Identifier: Apache-2.0
"""Reading samples: every accepted form, and every refusal with file and line."""

from __future__ import annotations

import hashlib
import json

import datasets
import pytest

from t3s_megatron.data.records import load_records
from t3s_megatron.errors import DataError

GOOD = {"prompt": "1+1?", "response": "2"}
TURNS = ({"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"})


def write(folder, *lines) -> str:
    """Each line a dict, or text as it is."""
    path = folder / "data.jsonl"
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return str(path)


# ----------------------------------------------------------------------------------- what is read


def test_prompt_and_response(tmp_path):
    path = write(tmp_path, GOOD | {"answer": "2", "id": "x", "teacher": "R1", "metadata": {"k": 1}})
    (one,) = load_records(path)
    assert one.messages == TURNS
    assert (one.uid, one.answer, one.teacher, one.metadata) == ("x", "2", "R1", {"k": 1})
    assert one.where == f"{path}, line 1"


def test_messages_and_a_prompt_of_messages_are_the_same(tmp_path):
    turns = [{"role": "system", "content": "be brief"}, *TURNS]
    as_prompt = {"prompt": turns[:-1], "response": "2"}
    first, second = load_records(write(tmp_path, {"messages": turns}, as_prompt))
    assert first.messages == second.messages == tuple(turns)


def test_other_keys_of_a_message_are_left_behind(tmp_path):
    turns = [dict(turn, weight=1) for turn in TURNS]
    (one,) = load_records(write(tmp_path, {"messages": turns}))
    assert one.messages == TURNS


def test_numbers_become_text_and_metadata_may_be_json_text(tmp_path):
    path = write(tmp_path, GOOD | {"answer": 2, "id": 7, "metadata": '{"source_dataset": "s"}'})
    (one,) = load_records(path)
    assert (one.uid, one.answer, one.metadata) == ("7", "2", {"source_dataset": "s"})


def test_null_is_not_given(tmp_path):
    empty = dict.fromkeys(["messages", "answer", "id", "teacher", "metadata"])
    (one,) = load_records(write(tmp_path, GOOD | empty))
    assert (one.messages, one.answer, one.teacher, one.metadata) == (TURNS, None, None, None)


def test_lines_are_counted_with_the_blank_ones(tmp_path):
    records = load_records(write(tmp_path, GOOD, "", GOOD | {"id": "y"}))
    assert [one.where.rpartition(" ")[2] for one in records] == ["1", "3"]


def test_uid_is_the_hash_of_the_content(tmp_path):
    (one,) = load_records(write(tmp_path, GOOD | {"answer": "2"}))
    turns = '{"content": "1+1?", "role": "user"}, {"content": "2", "role": "assistant"}'
    content = f'[[{turns}], "2", null]'
    assert one.uid == hashlib.sha256(content.encode()).hexdigest()[:16]


def test_same_content_is_numbered_in_file_order(tmp_path):
    other = {"prompt": "1+2?", "response": "3"}
    uids = [one.uid for one in load_records(write(tmp_path, GOOD, other, GOOD, GOOD))]
    assert uids[2:] == [f"{uids[0]}#2", f"{uids[0]}#3"]
    assert "#" not in uids[0] + uids[1] and uids[0] != uids[1]


def test_uid_does_not_depend_on_the_file_or_its_spelling(tmp_path):
    (first,) = load_records(write(tmp_path, GOOD))
    second = tmp_path / "other.jsonl"
    second.write_text('{"response":"\\u0032", "prompt": "1+1?"}')
    assert load_records(str(second))[0].uid == first.uid


# --------------------------------------------------------------------------- parquet, hugging face


ROWS = [GOOD | {"answer": "2", "metadata": '{"k": 1}'}, GOOD | {"answer": None, "metadata": None}]


def check_rows(records, source):
    assert [one.messages for one in records] == [TURNS, TURNS]
    assert [one.answer for one in records] == ["2", None]
    assert [one.metadata for one in records] == [{"k": 1}, None]
    assert [one.where for one in records] == [f"{source}, row 1", f"{source}, row 2"]


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return datasets.Dataset.from_list(ROWS)


def test_parquet(table, tmp_path):
    path = str(tmp_path / "data.parquet")
    table.to_parquet(path)
    check_rows(load_records(path), path)


def test_saved_dataset(table, tmp_path):
    path = str(tmp_path / "saved")
    table.save_to_disk(path)
    check_rows(load_records(path), path)


def test_split_of_a_saved_dataset_dict(table, tmp_path):
    path = str(tmp_path / "saved")
    first = table.select([0])
    datasets.DatasetDict(train=first, test=table).save_to_disk(path)
    check_rows(load_records(path, split="test"), path)
    assert len(load_records(path)) == 1


def test_dataset_name_and_split_go_to_datasets(table, monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or table)
    check_rows(load_records("org/name", split="train[:2]"), "org/name")
    assert asked == [(("org/name",), {"split": "train[:2]"})]


def test_errors_in_a_table_name_the_row(tmp_path, table):
    path = str(tmp_path / "saved")
    datasets.Dataset.from_list([GOOD, GOOD | {"response": " "}]).save_to_disk(path)
    with pytest.raises(DataError, match="saved, row 2: the response is empty"):
        load_records(path)


@pytest.mark.parametrize(
    ("name", "why"), [("missing.parquet", "no such file"), ("broken.parquet", "cannot be read as")]
)
def test_a_table_that_cannot_be_read(tmp_path, table, name, why):
    (tmp_path / "broken.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match=f"{name}: {why}"):
        load_records(str(tmp_path / name))


def test_unknown_split(table, tmp_path):
    path = str(tmp_path / "saved")
    datasets.DatasetDict(train=table).save_to_disk(path)
    with pytest.raises(DataError, match="saved: has no split 'nowhere', only train"):
        load_records(path, split="nowhere")


# --------------------------------------------------------------------------------------- refusals


def turns(*pairs) -> dict:
    return {"messages": [{"role": role, "content": content} for role, content in pairs]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not a line of JSON"),
        ("[" * 100_000, "not a line of JSON"),
        ("[1]", "has to be an object, found list"),
        ({"prompt": "x"}, "needs `messages`, or `prompt` and `response`; found prompt"),
        ({"response": "x", "answer": 1}, "`prompt` and `response`; found answer, response"),
        ("{}", "found nothing"),
        ({"prompt": 3, "response": "x"}, "`prompt` has to be text or a list of messages"),
        ({"prompt": "", "response": "x"}, "a message of role user is empty"),
        ({"prompt": "x", "response": " \n"}, "the response is empty"),
        ({"prompt": "x", "response": 5}, "needs `role` and `content` as text"),
        ({"prompt": [], "response": "x"}, "`prompt` has to be text or a list of messages"),
        ({"messages": "hello"}, "`messages` has to be a list of messages, or its JSON"),
        ({"messages": ["hello", "you"]}, "a message has to be an object, found 'hello'"),
        (turns(("assistant", "x")), "at least a prompt and a response"),
        (turns(("user", "x"), ("user", "y")), "last message .* assistant.* found role 'user'"),
        (turns(("user", "x"), ("assistant", "")), "the response is empty"),
        (turns(("user", "x"), ("assistant", None)), "the response is empty"),
        (turns((None, "x"), ("assistant", "y")), "needs `role` and `content` as text"),
        (GOOD | {"answer": ["2"]}, r"`answer` has to be text or a finite number, found \['2'\]"),
        (GOOD | {"answer": True}, "`answer` has to be text or a finite number, found True"),
        (GOOD | {"answer": " "}, "`answer` is empty"),
        (GOOD | {"id": ""}, "`id` is empty"),
        (GOOD | {"teacher": {}}, "`teacher` has to be text"),
        (GOOD | {"metadata": "{"}, "`metadata` is not JSON"),
        (GOOD | {"metadata": [1]}, "`metadata` has to be an object, found list"),
        (GOOD | {"id": "\ud800"}, "`id` is not valid Unicode"),
        (GOOD | {"response": "x\udfff"}, "the response is not valid Unicode"),
    ],
)
def test_refusals_name_file_and_line(tmp_path, line, message):
    path = write(tmp_path, GOOD, line)
    with pytest.raises(DataError, match=rf"data\.jsonl, line 2: .*{message}"):
        load_records(path)


def test_a_line_that_is_not_utf_8(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "\xff"}\n')
    with pytest.raises(DataError, match=r"data\.jsonl, line 2: not UTF-8"):
        load_records(str(path))


def test_a_given_id_twice_names_both_lines(tmp_path):
    same = GOOD | {"id": "x"}
    path = write(tmp_path, same, GOOD, same)
    with pytest.raises(DataError, match=r"line 3: id 'x' was already used by .*line 1"):
        load_records(path)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_samples(tmp_path, content):
    path = tmp_path / "none.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=r"none\.jsonl: no samples"):
        load_records(str(path))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jsonl: no such file"):
        load_records(str(tmp_path / "gone.jsonl"))
