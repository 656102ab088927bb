# SPDX-License-Identifier: Apache-2.0
"""Files of samples in every form that is taken, and what is refused."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset
from made_samples import row, shuffled, write

from t3s_megatron.errors import DataError
from t3s_megatron.teacher_data.filtering import Fate
from t3s_megatron.teacher_data.traces import load_traces

ASK = {"id": "a", "prompt": "1 + 1?", "answer": "2"}
TURNS = [{"role": "user", "content": "1 + 1?"}]


@pytest.fixture
def load(tmp_path):
    return lambda *rows, **options: load_traces(
        [write(tmp_path / "raw.jsonl", list(rows))], **options
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"response": "<think>\nx\n</think>\n\ny"},
        {"response": "y", "reasoning_content": "x"},
        {"response": "\n\ny", "reasoning": "x\n"},
        {"responses": ["<think>\nx\n</think>\n\ny"]},
        {"responses": [{"content": "y", "reasoning_content": "x", "finish_reason": "stop"}]},
        {"prompt": TURNS, "response": "<think>\nx\n</think>\n\ny"},
        {"messages": [*TURNS, {"role": "assistant", "content": "y", "reasoning_content": "x"}]},
    ],
)
def test_one_sample_in_every_form(load, fields):
    given = {
        key: value for key, value in ASK.items() if "messages" not in fields or key != "prompt"
    }
    (asked,) = load(given | fields)
    (trace,) = asked.traces
    assert trace.response == "<think>\nx\n</think>\n\ny" and trace.ended
    assert (asked.uid, asked.prompt, asked.answer) == ("a", "1 + 1?", "2")


@pytest.mark.parametrize(
    ("fields", "ended", "response"),
    [
        ({"response": "y", "finish_reason": "length"}, [False], "y"),
        ({"response": "y", "finish_reason": "abort"}, [False], "y"),
        ({"response": "y", "finish_reason": "eos_token"}, [True], "y"),
        ({"response": "y"}, [True], "y"),
        ({"response": None, "reasoning": "x", "finish_reason": "length"}, [False], "<think>\nx"),
        ({"response": "", "finish_reason": "stop"}, [True], ""),
        ({"responses": ["y", "z"], "finish_reasons": ["length", "stop"]}, [False, True], "y"),
    ],
)
def test_whether_an_answer_came_to_its_own_end(load, fields, ended, response):
    (asked,) = load(ASK | fields)
    assert [trace.ended for trace in asked.traces] == ended
    assert asked.traces[0].response == response


def test_parquet_and_saved_datasets_are_the_same_as_jsonl(tmp_path):
    rows = [row(Fate.CORRECT, 1, b, n, teacher="t") for b in range(3) for n in range(2)]
    jsonl = write(tmp_path / "raw.jsonl", rows)
    Dataset.from_list(rows).to_parquet(tmp_path / "raw.parquet")
    Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))

    def content(path):
        return [
            (a.uid, a.prompt, a.answer, a.teacher, [(t.response, t.ended) for t in a.traces])
            for a in load_traces([str(path)])
        ]

    assert content(jsonl) == content(tmp_path / "raw.parquet") == content(tmp_path / "saved")
    assert len(content(jsonl)) == 3


def test_one_prompt_in_several_spellings_is_one_prompt_in_any_order(load):
    rows = [
        ASK | {"response": "x"},
        ASK | {"prompt": " 1  +\n1?", "id": "b", "answer": " 2", "response": "y"},
        ASK | {"prompt": "1 + 2?", "id": "c", "answer": "3", "response": "z"},
    ]
    for seed in range(6):
        first, second = load(*shuffled(rows, seed))
        assert (first.uid, first.answer, first.uids) == ("a", " 2", {"a", "b"})
        assert first.prompt == " 1  +\n1?" and len(first.traces) == 2 and second.uid == "c"


def test_gold_answers_that_contradict_each_other_are_no_gold_answer(load):
    (asked,) = load(ASK | {"response": "x"}, ASK | {"answer": "3", "response": "x"})
    assert asked.answer is None and set(asked.answers) == {"2", "3"}


def test_teachers_are_apart(load):
    rows = [ASK | {"teacher": name, "response": "x"} for name in ("qwq", "r1", None)]
    assert [one.teacher for one in load(*rows)] == [None, "qwq", "r1"]
    assert [one.teacher for one in load(*rows, teacher="r1")] == ["qwq", "r1"]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([[1]], "entry 1: has to be an object"),
        (["{"], "line 1: not a line of JSON"),
        ([], "no samples in it"),
        ([{"response": "x"}], "line 1: needs `messages`, or `prompt`"),
        ([ASK | {"prompt": 3, "response": "x"}], "`prompt` has to be text or a list"),
        (
            [ASK | {"prompt": [{"role": "user"}], "response": "x"}],
            "a message needs `role` and `content`",
        ),
        ([ASK | {"messages": TURNS}], "needs at least a prompt and a response"),
        ([ASK | {"responses": []}], "`responses` has to be a list that is not empty"),
        ([ASK | {"responses": ["x"], "finish_reasons": []}], "as long as `responses`"),
        ([ASK | {"response": 3}], "needs `role` and `content` as text"),
        (
            [ASK | {"responses": [3, {"content": 3}]}],
            "response 1: `content` has to be text, found 3",
        ),
        ([ASK | {"response": "x", "tokens": True}], "`tokens` has to be a whole number"),
        ([ASK | {"response": "x", "finish_reason": 1}], "`finish_reason` has to be text"),
        ([ASK | {"response": "x", "answer": " "}], "`answer` is empty"),
        ([json.dumps(ASK | {"response": "\ud800"})], "not valid Unicode"),
        (
            [ASK | {"response": "x"}, ASK | {"prompt": "else?", "response": "x"}],
            "line 2: id 'a' belongs to another prompt in .*line 1",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_line(load, rows, says):
    with pytest.raises(DataError, match=says):
        load(*rows)


@pytest.mark.parametrize(
    ("reason", "ended"), [("eos", True), ("STOP", True), ("max_tokens", False), ("refusal", False)]
)
def test_finish_reasons_of_other_servers(load, reason, ended):
    assert load(ASK | {"response": "y", "finish_reason": reason})[0].traces[0].ended is ended


def test_a_finish_reason_that_nobody_knows_is_named(load):
    with pytest.raises(DataError, match="line 1: finish_reason 'done' is not known"):
        load(ASK | {"response": "y", "finish_reason": "done"})


@pytest.mark.parametrize(
    ("fields", "flaw"),
    [
        ({"response": None}, "empty"),
        ({"response": None, "reasoning_content": "x"}, "empty"),
        ({"response": None, "reasoning_content": "x", "finish_reason": "length"}, "truncated"),
        ({"prompt": None, "messages": [*TURNS, {"role": "assistant", "content": None}]}, "empty"),
        (
            {
                "prompt": None,
                "messages": [*TURNS, {"role": "assistant", "content": None, "reasoning": "x"}],
            },
            "empty",
        ),
    ],
)
def test_a_sample_without_an_answer_is_counted_and_ends_nothing(load, fields, flaw):
    assert load(ASK | fields)[0].traces[0].flaw == flaw
