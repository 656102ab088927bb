# SPDX-License-Identifier: Apache-2.0
"""`t3s-megatron evaluate --suite AIME24` through the real evalscope, with made-up problems.

`bash tests/servers/run_evalscope.sh` installs it and runs these tests; without it they are skipped.
"""

from __future__ import annotations

import json
import os
import re
import threading

import pytest

from t3s_megatron.cli import main
from t3s_megatron.monitor.comparison import read_comparisons
from tests.support.servers import scripted_server
from tests.support.task import make_tokenizer

PYTHON = os.environ.get("T3S_TEST_EVALSCOPE")
pytestmark = pytest.mark.skipif(
    PYTHON is None, reason="bash tests/servers/run_evalscope.sh runs these"
)


class Engine:
    """Thinks in tags, where a decoy stands, and answers; `right(n, times asked)`."""

    def __init__(self, name: str, right):
        self.name, self.right = name, right
        self.asked: dict[int, int] = {}
        self.bodies: list[dict] = []
        self.lock = threading.Lock()

    def __call__(self, call):
        if call.path == "/health":
            return call.send({})
        if call.path == "/v1/models":
            return call.send({"data": [{"id": self.name, "max_model_len": 4096}]})
        n = int(re.search(r"Find (\d+)\+", call.body["messages"][-1]["content"])[1])
        with self.lock:
            times = self.asked[n] = self.asked.get(n, 0) + 1
            self.bodies.append(call.body)
        value = 2 * n if self.right(n, times) else 0
        text = f"<think>\\boxed{{{2 * n}}}?</think> It is \\boxed{{{value}}}."
        choice = {"index": 0, "message": {"role": "assistant", "content": text},
                  "finish_reason": "length" if n == 8 else "stop"}  # fmt: skip
        usage = {"prompt_tokens": 5, "completion_tokens": 10 + n, "total_tokens": 15 + n}
        call.send({"id": "c", "object": "chat.completion", "created": 1,
                   "model": call.body["model"], "choices": [choice], "usage": usage})  # fmt: skip


def test_two_students_on_made_up_problems(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data = tmp_path / "data/aime24"
    data.mkdir(parents=True)
    rows = [{"problem": f"Find {n}+{n}.", "answer": str(2 * n), "id": n, "solution": "", "url": ""}
            for n in (3, 5, 8)]  # fmt: skip
    for split in ("train", "test"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (data / f"{split}.jsonl").write_text(text)
    folders = []
    for name in ("base", "t3s"):
        make_tokenizer(str(tmp_path / name))
        (tmp_path / name / "config.json").write_text("{}")
        folders.append(str(tmp_path / name))
    base = Engine(folders[0], lambda n, times: n == 3)
    t3s = Engine(folders[1], lambda n, times: n == 3 or (n == 5 and times % 2))
    out = tmp_path / "out"
    command = ["evaluate", "--base", folders[0], "--model", folders[1], "--suite", "AIME24",
               "--samples", "4", "--probes", "0", "--max-tokens", "64", "--concurrency", "2",
               "--datasets", str(tmp_path / "data"), "--evalscope-python", str(PYTHON),
               "--output", str(out)]  # fmt: skip
    with scripted_server(base) as a, scripted_server(t3s) as b:
        assert main([*command, "--url", a, "--url", b]) == 0
    (found,) = read_comparisons(str(out / "evaluation.json"))
    scores = found.scores
    assert scores["base"].accuracy == pytest.approx(1 / 3)
    assert scores["t3s"].accuracy == pytest.approx((1 + 0.5) / 3)
    assert scores["t3s"].truncated_share == pytest.approx(1 / 3)
    (gain,) = found.differences
    assert gain.problems == 3 and gain.difference == pytest.approx(0.5 / 3)
    assert not any("75.83" in note for note in found.notes)  # 3 problems say too little
    # Sixteen answers would be one with a seed.
    assert len(t3s.bodies) == 12 and not any("seed" in body for body in t3s.bodies)
    # Nothing is asked again, by nobody.
    assert main([*command, "--url", "http://localhost:1"]) == 0
    assert read_comparisons(str(out / "evaluation.json")) == [found]
