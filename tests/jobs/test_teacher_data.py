# SPDX-License-Identifier: Apache-2.0
"""`t3s-megatron prepare` as real processes: killed while a real `transformers serve` answers, and
as the example's script from a published file to what a run reads."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from t3s_megatron.data.records import load_records
from tests.support.hf_models import save_model
from tests.support.launch import ROOT
from tests.support.servers import scripted_server
from tests.support.task import make_samples, make_tokenizer

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": ROOT}


def command(*arguments) -> list[str]:
    return [sys.executable, "-m", "t3s_megatron.cli", "prepare", *map(str, arguments)]


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*arguments), env=ENVIRONMENT, capture_output=True, text=True, timeout=240
    )


class Proxy:
    """Passes requests on to `server`. `asked`: how often each came; after `answers` of them nobody
    is answered any more, and `stuck` is set."""

    def __init__(self, server: str):
        self.server = server
        self.asked: Counter[str] = Counter()
        self.answers = sys.maxsize
        self.stuck = threading.Event()

    def __call__(self, call):
        if sum(self.asked.values()) >= self.answers:
            self.stuck.set()
            return
        self.asked[json.dumps(call.body, sort_keys=True)] += 1
        request = urllib.request.Request(
            self.server + call.path,
            json.dumps(call.body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as reply:
            call.send(reply.read())


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    """A folder with a tiny model that samples, its tokenizer and its chat template."""
    folder = str(tmp_path_factory.mktemp("teacher"))
    tokenizer = make_tokenizer(folder)
    save_model(folder, vocab_size=len(tokenizer), seed=3)
    how = {"do_sample": True, "top_k": 0, "eos_token_id": 1, "pad_token_id": 0}
    (Path(folder) / "generation_config.json").write_text(json.dumps(how))
    return folder


def test_a_killed_generation_goes_on_and_ends_as_one_that_was_not(teacher, server, tmp_path):
    """SIGKILL after 3 of 8 samples, with one in flight that the server has not seen: one at a time,
    since `transformers serve` has one seed for all that it does."""
    samples = [{k: s[k] for k in ("id", "prompt", "answer")} for s in make_samples(4, 0)]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    proxy = Proxy(server)
    with scripted_server(proxy) as url:

        def ask(output: Path) -> list:
            how = f"--samples 2 --temperature 1 --max-tokens 12 --concurrency 1 --url {url}"
            return ["generate", prompts, *how.split(), "--model", teacher, "--output", output]

        whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
        done = run(*ask(whole))
        assert done.returncode == 0, done.stderr
        assert set(proxy.asked.values()) == {1} and len(proxy.asked) == 8
        requests, proxy.asked, proxy.answers = set(proxy.asked), Counter(), 3
        with subprocess.Popen(command(*ask(broken)), env=ENVIRONMENT) as process:
            assert proxy.stuck.wait(120)
            process.send_signal(signal.SIGKILL)
        lines = broken.read_bytes().splitlines(keepends=True)
        assert len(lines) == 3
        # A line whose end the kill cut off, as it would in the middle of a write.
        broken.write_bytes(b"".join(lines) + lines[0][:50])
        proxy.answers = sys.maxsize
        done = run(*ask(broken))
        assert done.returncode == 0 and "3 samples are there, 5 are asked for" in done.stderr
    assert set(proxy.asked) == requests and set(proxy.asked.values()) == {1}
    assert sorted(broken.read_text().splitlines()) == sorted(whole.read_text().splitlines())
    rows = [json.loads(line) for line in whole.read_text().splitlines()]
    assert len({row["response"] for row in rows}) > 4  # it does sample
    for row in rows:
        assert row["finish_reason"] == ("length" if row["tokens"] == 12 else "stop")


def sum_of(n: int) -> str:
    return f"What is {n} + {n}? Put it within \\boxed{{}}."


def test_the_example_script_from_a_published_file_to_training_data(tmp_path):
    """A teacher that is right but for every third answer, and thinks apart."""
    published = tmp_path / "AReaL-boba-SFT-200.jsonl"
    problems = [
        {
            "prompt": f"<｜User｜>\n{sum_of(n)}<｜Assistant｜><think>\n",
            "task": "math",
            "query_id": str(n),
            "solutions": [f"\\boxed{{{2 * n}}}"],
        }
        for n in range(6)
    ]
    published.write_text("".join(json.dumps(one) + "\n" for one in problems))
    asked: Counter[int] = Counter()

    def answer(call):
        content, seed = call.body["messages"][0]["content"], call.body["seed"]
        asked[seed] += 1
        n = int(content.split()[2])
        right = seed % 3 > 0
        message = {
            "role": "assistant",
            "reasoning_content": f"twice {n}, {seed}",
            "content": f"\n\nIt is \\boxed{{{2 * n if right else 2 * n + 1}}}.",
        }
        choice = {"message": message, "finish_reason": "stop"}
        usage = {"completion_tokens": 7}
        call.send({"model": call.body["model"], "choices": [choice], "usage": usage})

    with scripted_server(answer) as url:
        environment = ENVIRONMENT | {
            "PUBLISHED": str(published),
            "URL": url,
            "OUT": str(tmp_path / "data"),
            "MODEL": "r1",
            "VERIFIER": "numeric",
            "WORKERS": "1",
            "PYTHON": sys.executable,
        }
        script = [shutil.which("bash"), f"{ROOT}/examples/prepare_boba_200.sh"]
        done = subprocess.run(
            script, env=environment, capture_output=True, text=True, timeout=240, cwd=tmp_path
        )
    assert done.returncode == 0, done.stderr
    assert len(asked) == 6 * 16 and set(asked.values()) == {1}
    records = load_records(str(tmp_path / "data" / "train.jsonl"))
    assert len(records) == 6 and {record.teacher for record in records} == {"r1"}
    for record in records:
        n = int(record.answer) // 2
        question, response = (message["content"] for message in record.messages)
        assert question == sum_of(n)
        assert response.startswith(f"<think>\ntwice {n}, ")
        assert response.endswith(f"\n</think>\n\nIt is \\boxed{{{2 * n}}}.")
    report = json.loads((tmp_path / "data" / "train.report.json").read_text())
    wrong = sum(seed % 3 == 0 for seed in asked)
    fates = report["teachers"]["r1"]["samples_by_fate"]
    assert (fates["correct"], fates["wrong"]) == (96 - wrong, wrong)


def test_errors_of_the_command_are_one_line(tmp_path):
    gone = run("filter", tmp_path / "gone.jsonl", "--output", tmp_path / "train.jsonl")
    assert gone.returncode == 2 and gone.stderr.startswith("t3s-megatron: error: ")
    assert "no such file" in gone.stderr and gone.stderr.count("\n") == 1
