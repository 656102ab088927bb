# SPDX-License-Identifier: Apache-2.0
"""What is learned is what is in the record: rows of public reports, and what becomes of each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_families import FAMILIES

from t3s_megatron.data.records import load_records
from t3s_megatron.data.tokenizing import tokenize
from t3s_megatron.errors import DataError
from t3s_megatron.teacher_data.prompts import load_prompts
from t3s_megatron.teacher_data.traces import load_traces

CASES = json.loads(Path(__file__).with_name("said_cases.json").read_text())["cases"]
GOOD = {"prompt": "q", "response": "<think>\nt\n</think>\n\na"}


@pytest.fixture(scope="module")
def tokenizer():
    return FAMILIES["qwen3"].tokenizer()


def write(folder, *rows: dict) -> str:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_a_row(case, tmp_path, tokenizer):
    path = write(tmp_path, GOOD, case["row"])
    if "refused" in case:
        with pytest.raises(DataError, match=r"data\.jsonl, line 2: ") as caught:
            [tokenize(one, tokenizer, prompt_format="chat") for one in load_records(path)]
        assert case["refused"] in str(caught.value)
        return
    made = tokenize(load_records(path)[1], tokenizer, prompt_format="chat")
    prompt, target = made.tokens[: made.prompt_length], made.tokens[made.prompt_length :]
    assert case["source"] and {"prompt", "target"} & set(case)
    if "prompt" in case:
        assert tokenizer.decode(prompt) == case["prompt"]
    if "target" in case:
        assert tokenizer.decode(target) == case["target"]
    if "ends_in_prompt" in case:
        assert prompt.tolist().count(tokenizer.eos_token_id) == case["ends_in_prompt"]
    assert target.tolist().count(tokenizer.eos_token_id) == 1
    assert target[-1] == tokenizer.eos_token_id


def test_what_is_ignored_is_as_if_it_were_not_there(tmp_path, tokenizer):
    row = GOOD | {"system": "in French", "hint": "Use that it is even.", "tools": [{"name": "f"}]}
    ignored = ("system", "hint", "tools")
    (one,) = load_records(write(tmp_path, row), ignored=ignored)
    assert [turn["role"] for turn in one.messages] == ["user", "assistant"]
    with pytest.raises(DataError, match="--t3s-ignore-fields hint tools$"):
        load_records(write(tmp_path, row))


def test_a_field_of_a_message_can_be_ignored_as_one_of_a_row(tmp_path):
    said = {"role": "assistant", "content": "a", "explanation": "because", "weight": 0}
    messages = [{"role": "user", "content": "q", "context": "in French"}, said]
    ignored = ("context", "explanation", "weight")
    for row in ({"messages": messages}, {"messages": json.dumps(messages)}):
        path = write(tmp_path, row)
        (one,) = load_records(path, ignored=ignored)
        assert [turn["content"] for turn in one.messages] == ["q", "a"]
    path = write(tmp_path, {"prompt": "q", "responses": [{"content": "a", "explanation": "since"}]})
    with pytest.raises(DataError, match="--t3s-ignore-fields explanation"):
        load_traces([path])
    assert load_traces([path], ignored=ignored)[0].traces[0].response == "a"


# ------------------------------------------------------------------------ the same rule everywhere


@pytest.mark.parametrize(
    "field",
    [
        {"history": [["a", "b"]]},
        {"instruction": "briefly"},
        {"tools": [{"name": "f"}]},
        {"cot": "since"},
        {"hint": "Use that it is even."},
    ],
    ids=lambda field: next(iter(field)),
)
def test_what_would_be_lost_is_refused_by_all_three_readers(tmp_path, field):
    path = write(tmp_path, GOOD | {"answer": "1"} | field)
    name = next(iter(field))
    for reader in (load_records, load_prompts, lambda path: load_traces([path])):
        with pytest.raises(DataError, match=rf"line 1: has text in `{name}`"):
            reader(path)
    ignored = (name,)
    assert load_records(path, ignored=ignored) and load_prompts(path, ignored=ignored)
    assert load_traces([path], ignored=ignored)


def test_a_system_column_is_asked_kept_and_learned(tmp_path):
    path = write(tmp_path, GOOD | {"system": "Think in French."})
    wanted = [
        {"role": "system", "content": "Think in French."},
        {"role": "user", "content": "q"},
    ]
    assert list(load_records(path)[0].messages[:-1]) == wanted
    assert list(load_prompts(path)[0].messages) == wanted
    assert load_traces([path])[0].prompt == wanted


@pytest.mark.parametrize("field", ["thinking", "reasoning", "reasoning_content"])
def test_a_field_of_thinking_is_the_same_for_filter_and_for_a_run(tmp_path, field):
    rows = [
        {"prompt": "q", "response": "a", field: "t"},
        {"prompt": "q", "responses": [{"content": "a", field: "t"}]},
        {"messages": [{"role": "user", "content": "q"},
                      {"role": "assistant", "content": "a", field: "t"}]},
    ]  # fmt: skip
    for row in rows:
        path = write(tmp_path, row)
        assert load_records(path)[0].messages[-1]["content"] == GOOD["response"]
        assert load_traces([path])[0].traces[0].response == GOOD["response"]


@pytest.mark.parametrize(
    ("response", "flaw"),
    [
        ("<thoughts>\\boxed{1}</thoughts>\nI could not solve it.", "malformed"),
        ("<Think>t</Think>\na", "malformed"),
        ("<think>t", "truncated"),
        ("<|im_end|>", "empty"),
        ("<|begin_of_thought|>t<|end_of_thought|><|begin_of_solution|>a<|end_of_solution|>", None),
        ("a<|im_end|>\n", None),
    ],
)
def test_filter_counts_what_a_run_refuses(tmp_path, response, flaw):
    path = write(tmp_path, {"prompt": "q", "answer": "1", "response": response})
    (trace,) = load_traces([path])[0].traces
    assert trace.flaw == flaw
    if flaw is None:
        assert load_records(path)[0].messages[-1]["content"] == trace.response
    else:
        with pytest.raises(DataError, match="line 1: the response"):
            load_records(path)


@pytest.mark.parametrize("mark", ["<|im_end|>", "<｜User｜>", "<start_of_turn>", "<|eot_id|>"])
def test_a_prompt_with_marks_of_a_chat_template_is_not_sent_to_a_server(tmp_path, mark):
    path = write(tmp_path, {"prompt": f"What is {mark}?"})
    with pytest.raises(DataError, match="which a server takes for its own control token"):
        load_prompts(path)
