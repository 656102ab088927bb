# SPDX-License-Identifier: Apache-2.0
"""`prepare generate` with samples that cannot be had, against real HTTP servers."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from made_samples import write

from t3s_megatron.cli import main
from t3s_megatron.errors import T3SError
from t3s_megatron.teacher_data.generating import Sampling
from tests.support.servers import scripted_server


class Teacher:
    """Answers every prompt, but for what `faults` does for some: text of the prompt -> a function
    of the call. `asked`: how often each prompt came, in order."""

    def __init__(self, faults=None, seconds=0.0, message=None):
        self.faults, self.seconds = faults or {}, seconds
        self.message = message or {"content": "4", "reasoning_content": "hm"}
        self.asked: list[str] = []
        self._lock = threading.Lock()

    def __call__(self, call):
        prompt = call.body["messages"][-1]["content"]
        with self._lock:
            self.asked.append(prompt)
        if prompt in self.faults:
            return self.faults[prompt](call)
        time.sleep(self.seconds)
        choice = {"message": self.message, "finish_reason": "stop"}
        usage = {"completion_tokens": 3}
        return call.send({"model": "m", "choices": [choice], "usage": usage})


def refuse(call):
    call.send({"message": "maximum context length is 4096 tokens", "code": 400}, 400)


def fail(call):
    call.send(b"CUDA error", 500)


@pytest.fixture
def prompts(tmp_path) -> Path:
    rows = [{"id": f"p{i}", "prompt": f"{i} + 1?", "answer": str(i + 1)} for i in range(4)]
    return Path(write(tmp_path / "prompts.jsonl", rows))


@pytest.fixture
def generate(tmp_path, prompts, capsys):
    """generate(teacher, *arguments): (exit status, what was said)."""

    def generated(teacher, *arguments):
        with scripted_server(teacher) as url:
            status = main(
                ["prepare", "generate", str(prompts), "--url", url, "--model", "m",
                 "--output", str(tmp_path / "samples.jsonl"), "--samples", "2", "--retries", "1",
                 "--max-tokens", "9", *arguments]
            )  # fmt: skip
        return status, "".join(capsys.readouterr())

    return generated


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("concurrency", ["1", "8"])
@pytest.mark.parametrize("poisoned", [0, 3])
def test_one_bad_prompt_starves_nothing(generate, tmp_path, poisoned, concurrency):
    """instructlab/sdg #276, instructlab #1024, NVIDIA-NeMo/Skills #663: one prompt over the context
    length, and answers that take longer than all attempts."""
    bad = f"{poisoned} + 1?"
    teacher = Teacher({bad: refuse}, seconds=0.3)
    status, said = generate(teacher, "--concurrency", concurrency)
    assert status == 0 and Counter(teacher.asked)[bad] == 2
    assert {row["id"] for row in rows(tmp_path / "samples.jsonl")} == {
        f"p{i}" for i in range(4) if i != poisoned
    }
    assert f"refused: 2 of prompt p{poisoned}: http://" in said and "context length" in said
    assert "6 of 8 samples" in said
    told = rows(tmp_path / "samples.unanswered.jsonl")
    assert [(row["id"], row["finish"]) for row in told] == [(f"p{poisoned}", "refused")] * 2

    # Once more: it is known, named again, and not asked for.
    again = Teacher()
    status, said = generate(again)
    assert status == 0 and not again.asked and f"2 of prompt p{poisoned}" in said
    # Unless that is wanted, or it would be asked for in another way.
    status, said = generate(again, "--ask-refused")
    assert status == 0 and again.asked == [bad, bad] and "8 of 8 samples" in said


def test_what_fails_is_asked_for_again_and_last(generate, tmp_path):
    teacher = Teacher({"0 + 1?": fail})
    status, said = generate(teacher)
    assert status == 3 and "6 of 8" in said and "2 were not answered, the first one" in said
    assert {row["finish"] for row in rows(tmp_path / "samples.unanswered.jsonl")} == {"unfinished"}
    status, _ = generate(Teacher(), "--samples", "3", "--concurrency", "1")
    assert status == 0

    # In the order that was asked for: new ones first.
    (tmp_path / "samples.jsonl").write_text("")
    teacher = Teacher()
    assert generate(teacher, "--concurrency", "1")[0] == 0
    assert teacher.asked == [f"{i} + 1?" for i in (1, 2, 3, 1, 2, 3, 0, 0)]


def test_a_wrong_model_name_refuses_nothing_for_good(generate, tmp_path):
    wrong = Teacher({f"{i} + 1?": lambda call: call.send({"error": "no"}, 404) for i in range(4)})
    status, said = generate(wrong)
    assert status == 3 and "8 were not answered" in said and "a wrong model name, path" in said
    assert not (tmp_path / "samples.unanswered.jsonl").exists()
    assert generate(Teacher())[0] == 0


def test_a_gateway_with_names_of_its_own(generate, tmp_path):
    """IBM/chuk-llm #3."""

    def answer(call):
        assert call.body["max_completion_tokens"] == 9
        choice = {"message": {"content": "4", "thinking": "hm"}, "finish_reason": "eos"}
        call.send({"model": "m-2024-08-06", "choices": [choice]})

    arguments = ["--max-tokens-name", "max_completion_tokens", "--no-usage",
                 "--answering-model", "m-2024-08-06"]  # fmt: skip
    status, _ = generate(answer, *arguments)
    found = rows(tmp_path / "samples.jsonl")
    assert status == 0 and len(found) == 8 and "tokens" not in found[0]
    assert found[0]["response"] == "<think>\nhm\n</think>\n\n4"  # litellm #27956: Ollama's name
    assert found[0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("message", "says"),
    [
        pytest.param(
            {"content": "Thinking Process: 3 and 1. It is 4."}, True, id="vLLM #34684: no parser"
        ),
        ({"content": "4", "reasoning": "hm"}, False),
        ({"content": "<think>\nhm\n</think>\n\n4"}, False),
        ({"content": "hm\n</think>\n\n4"}, False),
    ],
)
def test_thoughts_that_stand_in_answers_are_spoken_of(generate, message, says):
    _, said = generate(Teacher(message=message))
    assert ("8 of 8 answers have no thinking" in said) is says


@pytest.mark.parametrize("name", ["temperature", "max_tokens", "max_completion_tokens", "seed", "n",
                                  "model", "messages", "top_p", "stream"])  # fmt: skip
def test_fields_that_have_arguments_of_their_own_are_refused(generate, name):
    with pytest.raises(T3SError, match=f"--extra: .*`{name}`"):
        Sampling("r1", "m", extra={"top_k": 5, name: 1})
    teacher = Teacher()
    status, said = generate(teacher, "--extra", json.dumps({name: 1}))
    assert status not in (0, 3) and f"`{name}`" in said and not teacher.asked
