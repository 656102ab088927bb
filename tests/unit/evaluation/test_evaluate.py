# SPDX-License-Identifier: Apache-2.0
"""`t3s-megatron evaluate` on a file, against servers whose replies the test decides."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from t3s_megatron.cli import main
from t3s_megatron.cli.prepare import INCOMPLETE
from t3s_megatron.monitor.comparison import read_comparisons
from tests.support.servers import scripted_server
from tests.support.task import make_samples, make_tokenizer

PROBLEMS = make_samples(4, seed=0)
GOLD = {sample["prompt"]: sample["answer"] for sample in PROBLEMS}


class Engine:
    """A server of one model. `right(prompt, times asked)`: whether it answers rightly."""

    def __init__(self, model: str, right, context: int | None = 4096):
        self.model, self.right, self.context = model, right, context
        self.asked: dict[str, int] = {}
        self.bodies: list[dict] = []
        self.lock = threading.Lock()
        self.broken = False

    def __call__(self, call):
        if call.path == "/health":
            return call.send({})
        if call.path == "/v1/models":
            return call.send({"data": [{"id": self.model, "max_model_len": self.context}]})
        prompt = call.body["messages"][-1]["content"]
        with self.lock:
            number = self.asked[prompt] = self.asked.get(prompt, 0) + 1
            self.bodies.append(call.body)
        if self.broken:
            return call.send({"error": "busy"}, status=503)
        answer = GOLD[prompt] if self.right(prompt, number) else "no"
        message = {"content": f"It is {answer}.", "reasoning_content": "Is it 7? <answer>7"}
        reason, tokens = "stop", 9
        if self.right(prompt, number) is None:
            message = {"content": None, "reasoning_content": "7 7 7"}
            reason, tokens = "length", call.body["max_tokens"]
        choice = {"index": 0, "message": message, "finish_reason": reason}
        usage = {"completion_tokens": tokens}
        call.send({"model": call.body["model"], "choices": [choice], "usage": usage})


@pytest.fixture
def folders(tmp_path) -> dict[str, str]:
    found = {}
    for name in ("base", "t3s"):
        folder = tmp_path / name / "hf"
        make_tokenizer(str(folder))
        (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 64}))
        found[name] = str(folder)
    return found


@pytest.fixture
def suite(tmp_path) -> str:
    path = tmp_path / "sums.jsonl"
    rows = [{key: one[key] for key in ("id", "prompt", "answer")} for one in PROBLEMS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def evaluate(folders, suite, tmp_path):
    def run(*urls, **more) -> int:
        given = {"base": folders["base"], "model": folders["t3s"], "suite": suite,
                 "output": tmp_path / "out", "samples": 2, "max-tokens": 32, "probes": 0,
                 "verifier": "numeric", "retries": 0, "workers": 1}  # fmt: skip
        words = [word for url in urls for word in ("--url", url)]
        for name, value in (given | more).items():
            words += [f"--{name}", str(value)]
        return main(["evaluate", *words])

    run.output = tmp_path / "out"
    return run


def test_students_are_asked_judged_and_compared(evaluate, folders, capsys):
    """The base is right on the first try of each problem alone; the other on three of four."""
    first = PROBLEMS[0]["prompt"]
    base = Engine(folders["base"], lambda prompt, number: number == 1)
    t3s = Engine("t3s", lambda prompt, number: None if prompt == first else True)
    with scripted_server(base) as a, scripted_server(t3s) as b:
        assert evaluate(a, b) == 0
    (found,) = read_comparisons(str(evaluate.output / "evaluation.json"))
    assert (found.name, found.k) == ("sums", 2)
    assert found.scores["base"].accuracy == 0.5 and found.scores["t3s"].accuracy == 0.75
    assert (found.scores["t3s"].truncated_share, found.scores["base"].truncated_share) == (0.25, 0)
    assert found.scores["t3s"].mean_tokens == (6 * 9 + 2 * 32) / 8
    (gain,) = found.differences
    assert (gain.model, gain.minus, gain.difference, gain.problems) == ("t3s", "base", 0.25, 4)
    assert found.notes and "25% of the answers met --max-tokens 32" in found.notes[0]
    assert "t3s - base: +0.250" in capsys.readouterr().out
    # Every sample has a seed of its own, or sixteen would be one.
    seeds = {(body["messages"][-1]["content"], body["seed"]) for body in base.bodies}
    assert len(seeds) == 8 and {body["temperature"] for body in base.bodies} == {0.6}


def test_what_is_there_is_neither_asked_nor_judged_again(evaluate, folders, capsys):
    base = Engine(folders["base"], lambda prompt, number: True)
    with scripted_server(base) as url:
        # The other student is served by nobody yet.
        assert evaluate(url) == INCOMPLETE
        assert "no server holds" in capsys.readouterr().err
        verdicts = (evaluate.output / "sums/base.verdicts.jsonl").read_bytes()
        t3s = Engine("t3s", lambda prompt, number: False)
        with scripted_server(t3s) as other:
            assert evaluate(other) == 0
    assert sum(base.asked.values()) == 8
    assert (evaluate.output / "sums/base.verdicts.jsonl").read_bytes() == verdicts
    (found,) = read_comparisons(str(evaluate.output / "evaluation.json"))
    assert {name: one.accuracy for name, one in found.scores.items()} == {"base": 1.0, "t3s": 0.0}


def test_a_torn_line_and_a_server_that_fails_are_made_good(evaluate, folders):
    engine = Engine(folders["base"], lambda prompt, number: True)
    with scripted_server(engine) as url:
        assert evaluate(url, model=f"same={folders['base']}") == 0
        path = Path(evaluate.output / "sums/base.jsonl")
        whole = path.read_bytes()
        path.write_bytes(whole[:-40])
        engine.broken = True
        assert evaluate(url, model=f"same={folders['base']}") == INCOMPLETE
        (found,) = read_comparisons(str(evaluate.output / "evaluation.json"))
        # The answer that is missing is unknown: neither right nor wrong.
        assert found.scores["base"].unknown == 1 and found.scores["base"].accuracy == 1.0
        engine.broken = False
        assert evaluate(url, model=f"same={folders['base']}") == 0
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())


def test_a_context_that_is_too_small_is_said_before_anything_is_asked(evaluate, folders, capsys):
    engine = Engine(folders["base"], lambda prompt, number: True, context=35)
    with scripted_server(engine) as url:
        assert evaluate(url) == INCOMPLETE
    said = capsys.readouterr().err
    assert "answers may have 32: more than the server's context (max_model_len), 35" in said
    assert not engine.asked


def test_another_gold_answer_is_not_taken_for_the_same_set(evaluate, folders, suite, capsys):
    engine = Engine(folders["base"], lambda prompt, number: True)
    with scripted_server(engine) as url:
        evaluate(url)
        text = Path(suite).read_text().replace(f'"answer": "{PROBLEMS[0]["answer"]}"',
                                               '"answer": "99"', 1)  # fmt: skip
        Path(suite).write_text(text)
        assert evaluate(url) == 2
    assert "begun with another `answer`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"suite": "nowhere.jsonl"}, "no file, and none of aime, ood, forgetting, paper"),
        ({"suite": "aime"}, "give --evalscope-python"),
        ({"base": "/nowhere"}, "no Hugging Face folder"),
        ({"top-p": 0}, "--top-p in"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_command_is_said_first(changed, says, evaluate, capsys):
    assert evaluate("http://localhost:1", **changed) == 2
    assert says in capsys.readouterr().err
    assert not evaluate.output.exists()


def test_two_students_of_one_name_are_refused(evaluate, folders, capsys):
    assert evaluate("http://localhost:1", model=f"base={folders['t3s']}") == 2
    assert "two students have one name" in capsys.readouterr().err
