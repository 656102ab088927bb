# SPDX-License-Identifier: Apache-2.0
"""Teachers' samples from a real HTTP server whose replies depend on prompt and seed alone: asked
for once each, on the disk at once, and the same whatever was broken off in between."""

from __future__ import annotations

import json
import threading
from collections import Counter

import pytest
from made_samples import write

from t3s_megatron.errors import DataError, MismatchError, T3SError, WriteError
from t3s_megatron.servers.client import Client
from t3s_megatron.teacher_data.generating import Sampling, generate
from t3s_megatron.teacher_data.prompts import load_prompts
from t3s_megatron.teacher_data.sample_file import SampleFile
from t3s_megatron.teacher_data.traces import load_traces
from tests.support.servers import scripted_server

SAMPLING = Sampling("r1", "m", samples=3, max_tokens=9, seed=5)


def reply(body: dict) -> dict:
    """One in three without an end, the others with their thinking apart."""
    words = f"{body['messages'][-1]['content']} {body['seed']}"
    ended = body["seed"] % 3 != 0
    message = {"content": f"so {words}" if ended else None, "reasoning_content": f"hm {words}"}
    return {
        "model": body["model"],
        "choices": [{"message": message, "finish_reason": "stop" if ended else "length"}],
        "usage": {"completion_tokens": 4 if ended else body["max_tokens"]},
    }


class Teacher:
    """`asked`: how often each seed came. Those in `refuse` are refused."""

    def __init__(self, refuse=()):
        self.asked: Counter[int] = Counter()
        self.refuse = refuse
        self._lock = threading.Lock()

    def __call__(self, call):
        with self._lock:
            self.asked[call.body["seed"]] += 1
        if call.body["seed"] in self.refuse:
            call.send({"error": "busy"}, 503)
        else:
            call.send(reply(call.body))


@pytest.fixture
def prompts(tmp_path):
    rows = [{"id": f"p{i}", "prompt": f"{i} + 1?", "answer": str(i + 1)} for i in range(4)]
    rows[3]["metadata"] = {"level": 2}
    return load_prompts(write(tmp_path / "prompts.jsonl", rows))


@pytest.fixture
def ask(tmp_path, prompts):
    """ask(teacher, **changes): what `generate` says of a run into samples.jsonl."""

    def asked(teacher, sampling=SAMPLING, prompts=prompts, path="samples.jsonl"):
        with scripted_server(teacher) as url, SampleFile(str(tmp_path / path)) as file:
            client = Client([url], "m", retries=3, pause=0.01, concurrency=3, timeout=20)
            return generate(prompts, sampling, client, file, say=lambda line: None)

    return asked


def lines(path) -> list[str]:
    return sorted(path.read_text().splitlines())


@pytest.fixture
def whole(ask, tmp_path):
    """The lines of a run that nothing broke off."""
    ask(Teacher(), path="whole.jsonl")
    return lines(tmp_path / "whole.jsonl")


def test_every_sample_is_asked_for_once_with_a_seed_of_its_own(ask, tmp_path, prompts):
    teacher = Teacher()
    made = ask(teacher)
    assert len(teacher.asked) == 12 and set(teacher.asked.values()) == {1}
    assert all(0 <= seed < 2**31 for seed in teacher.asked)
    assert (made.before, made.asked, made.failed, made.why) == (0, 12, 0, None)
    rows = [json.loads(line) for line in lines(tmp_path / "samples.jsonl")]
    assert made.truncated == sum(row["finish_reason"] == "length" for row in rows)
    assert made.tokens == sum(row["tokens"] for row in rows)
    row = next(row for row in rows if row["id"] == "p3" and row["finish_reason"] == "stop")
    seed = row["sampling"].pop("seed")
    assert row == {
        "id": "p3",
        "prompt": "3 + 1?",
        "answer": "4",
        "metadata": {"level": 2},
        "sample": row["sample"],
        "teacher": "r1",
        "response": f"<think>\nhm 3 + 1? {seed}\n</think>\n\nso 3 + 1? {seed}",
        "finish_reason": "stop",
        "tokens": 4,
        "sampling": {"model": "m", "temperature": 0.6, "top_p": 1.0, "max_tokens": 9},
    }
    cut = next(row for row in rows if row["finish_reason"] == "length")
    assert cut["response"].startswith("<think>\nhm") and "</think>" not in cut["response"]
    # And it is what `filter` reads.
    asked = load_traces([str(tmp_path / "samples.jsonl")])
    assert [one.uid for one in asked] == ["p0", "p1", "p2", "p3"]
    assert sum(not trace.ended for one in asked for trace in one.traces) == made.truncated


def test_what_was_not_answered_is_asked_for_again_and_nothing_else(ask, tmp_path, prompts, whole):
    refused = {SAMPLING.of(prompts[i], number)["seed"] for i, number in ((0, 1), (1, 1), (1, 2))}
    first, again, nothing = Teacher(refused), Teacher(), Teacher()
    made = ask(first)
    assert made.failed == 3 and "503" in made.why and len(lines(tmp_path / "samples.jsonl")) == 9
    made = ask(again)
    assert (made.before, made.asked, made.failed) == (9, 3, 0)
    assert again.asked == dict.fromkeys(refused, 1)
    assert lines(tmp_path / "samples.jsonl") == whole
    assert ask(nothing).asked == 0 and not nothing.asked


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.9, 0.99])
def test_a_line_that_was_torn_is_asked_for_again(ask, tmp_path, whole, share):
    path = tmp_path / "samples.jsonl"
    ask(Teacher())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    there = path.read_bytes().count(b"\n")
    teacher = Teacher()
    assert ask(teacher).before == there and len(teacher.asked) == 12 - there
    assert lines(path) == whole


def test_a_tail_of_zeros_is_torn_too(ask, tmp_path, whole):
    path = tmp_path / "samples.jsonl"
    ask(Teacher())
    path.write_bytes(path.read_bytes() + bytes(2**17))  # what a lost power supply may leave
    assert ask(Teacher()).asked == 0 and lines(path) == whole


def test_more_samples_are_added_to_those_there(ask, tmp_path, prompts, whole):
    few, more = Teacher(), Teacher()
    ask(few, Sampling("r1", "m", samples=1, max_tokens=9, seed=5))
    ask(more)
    assert len(few.asked) == 4 and len(more.asked) == 8
    assert lines(tmp_path / "samples.jsonl") == whole


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"temperature": 0.7}, "another `sampling`.*0.6.*0.7"),
        ({"seed": 6}, "another `sampling`"),
        ({"teacher": "qwq"}, "another `teacher`, 'r1' there and 'qwq' now"),
        ({"extra": {"top_k": 5}}, "another `sampling`"),
    ],
)
def test_samples_that_were_asked_for_otherwise_are_refused(ask, changed, says):
    ask(Teacher())
    teacher = Teacher()
    fields = dict(teacher="r1", model="m", samples=3, max_tokens=9, seed=5)
    with pytest.raises(MismatchError, match=says):
        ask(teacher, Sampling(**(fields | changed)))
    assert not teacher.asked


def test_samples_of_other_prompts_are_refused(ask, tmp_path, prompts):
    ask(Teacher())
    with pytest.raises(MismatchError, match="a sample of prompt 'p0', which is not among"):
        ask(Teacher(), prompts=prompts[1:])
    rows = [one.to_row() for one in prompts]
    rows[1]["answer"] = "7"
    other = load_prompts(write(tmp_path / "other.jsonl", rows))
    with pytest.raises(MismatchError, match="another `answer`, '2' there and '7' now"):
        ask(Teacher(), prompts=other)


def test_a_damaged_line_and_a_repeated_one_are_named(ask, tmp_path):
    ask(Teacher())
    path = tmp_path / "samples.jsonl"
    good = path.read_text().splitlines()
    path.write_text("".join(line + "\n" for line in [*good, good[0]]))
    with pytest.raises(MismatchError, match="line 13: sample . of prompt 'p.' for the second time"):
        ask(Teacher())
    for bad, says in ((good[0][:-9], "line 1: not a line of JSON"), ("[]", "not a sample")):
        path.write_text("".join(line + "\n" for line in [bad, *good]))
        with pytest.raises(DataError, match=says):
            ask(Teacher())


def test_a_file_is_for_one_process(tmp_path):
    path = str(tmp_path / "samples.jsonl")
    with SampleFile(path), pytest.raises(T3SError, match="another process is writing to it"):
        SampleFile(path)
    with pytest.raises(WriteError, match="cannot be written"):
        SampleFile(str(tmp_path / "no" / "samples.jsonl"))


def test_a_full_disk_is_named_and_ends_the_asking(prompts):
    # In one test: two at once would lock each other out of this file.
    with SampleFile("/dev/full") as file, pytest.raises(WriteError, match="No space left"):
        file.append({"id": 1})
    with (
        scripted_server(Teacher()) as url,
        SampleFile("/dev/full") as file,
        pytest.raises(WriteError, match="No space left"),
    ):
        generate(prompts, SAMPLING, Client([url], "m"), file, say=lambda line: None)
