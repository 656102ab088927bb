# SPDX-License-Identifier: Apache-2.0
"""`--t3s-generation server` against a real `transformers serve` on this CPU.

Greedily and in float32 its answers are the live weights', token for token, so that a whole run
measures the same, takes the same theta_b and ends with the same weights. Where something has to go
wrong, a proxy stands between.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from t3s_megatron.servers.client import Client
from t3s_megatron.servers.completion import Request
from tests.support.hf_models import save_model
from tests.support.launch import run
from tests.support.ports import free_port
from tests.support.reference import read_tensors
from tests.support.resumable import SCHEDULE, errors_of
from tests.support.servers import scripted_server

GREEDY = ["--t3s", "--t3s-max-new-tokens", 16, "--t3s-temperature", 0, "--t3s-patience", 2,
          "--t3s-profile-iters", 8, "--t3s-simple-step", 2,
          "--t3s-targeted-accuracy-interval", 2]  # fmt: skip
#: Two data-parallel ranks whose parameters are gathered late: an export has to wait for that.
DISTRIBUTED = "--use-distributed-optimizer --overlap-grad-reduce --overlap-param-gather".split()


@pytest.fixture(scope="session")
def start(student, data_arguments):
    def arguments(folder, *extra) -> list:
        return [*data_arguments, *SCHEDULE, *GREEDY, *DISTRIBUTED,
                "--save", folder, "--load", folder, "--pretrained-checkpoint", student,
                "--save-interval", 2, "--dist-ckpt-optim-fully-reshardable", *extra]  # fmt: skip

    return arguments


@pytest.fixture(scope="session")
def live(once, start) -> Path:
    """Folder of the run that asks its own weights."""
    return Path(once("live", lambda folder: run(start(folder), processes=2)))


def served(*urls_and_more) -> list:
    return ["--t3s-generation", "server", "--t3s-server-url", *urls_and_more]


def measurements(folder) -> list[dict]:
    with open(f"{folder}/t3s/summary.json") as file:
        found = json.load(file)["measurements"]
    return [{k: v for k, v in one.items() if k != "seconds"} for one in found]


def assert_same_end(wanted, got) -> None:
    """theta_b, selection and final weights, bit for bit."""
    for name in ("selection", "c_theta_0", "c_theta_b"):
        files = [folder / "t3s" / f"{name}.safetensors" for folder in (wanted, got)]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    tensors = read_tensors(str(wanted)), read_tensors(str(got))
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensor, tensors[1][key]) for key, tensor in tensors[0].items())


class Proxy:
    """Between a job and its server, which it makes worse. `folders`: as they were asked for; those
    of the check and of step 0 are one. `stale`: the number of the folder that is never loaded: the
    server goes on with the one before. Once each: a request that fails with 500, one that is
    answered with garbage, one whose connection is closed, and one that is never answered."""

    def __init__(self, url: str, stale: int, copies):
        self.url, self.stale, self.copies = url, stale, copies
        self.folders: list[str] = []
        self.faults = ["500", "garbage", "closed", "hangs"]

    def answer(self, call) -> None:
        if call.path != "/v1/completions":
            return call.forward(self.url) if call.method == "GET" else call.send({})
        folder = call.body["model"]
        if folder not in self.folders:
            if len(self.folders) == self.stale - 1:
                shutil.copytree(folder, self.copies)
            self.folders.append(folder)
        if len(self.folders) == 3 and call.body["max_tokens"] == 17 and self.faults:
            fault = self.faults.pop(0)
            if fault == "500":
                return call.send({"detail": "out of memory"}, 500)
            if fault == "garbage":
                return call.send(b"\x00\xff<html>")
            if fault == "hangs":
                time.sleep(15)
            return None
        if self.folders.index(folder) != self.stale:
            return call.forward(self.url)
        call.body["model"] = str(self.copies)
        loaded, asked = json.dumps(str(self.copies)), json.dumps(folder)
        return call.forward(self.url, lambda b: b.replace(loaded.encode(), asked.encode()))


def test_a_server_and_the_live_weights_find_the_same_through_every_fault(
    tmp_path, start, server, live
):
    """Single requests fail in four ways and are made up for. One measurement of the targeted phase
    meets a server that still holds the weights of the step before: it is void, and no other is.
    Asked in blocks, of which a measurement that cannot be the minimum leaves some out."""
    profile = sum(one["phase"] == "profile" for one in measurements(live))
    proxy = Proxy(server, stale=profile, copies=tmp_path / "copy")
    with scripted_server(proxy.answer) as url:
        dead = f"http://localhost:{free_port()}"
        job = run(
            start(tmp_path, *served(url, dead), "--t3s-server-timeout", 10,
                  "--t3s-measurement-retries", 1, "--t3s-accuracy-blocks", 8),
            processes=2,
        )  # fmt: skip
    assert proxy.faults == []
    assert_same_end(live, tmp_path)
    wanted, got = measurements(live), measurements(tmp_path)
    assert [one["void"] for one in got] == [i == profile for i in range(len(got))]
    assert got[profile]["unfinished"] == got[profile]["total"] == 24
    del got[profile], wanted[profile]
    ended = ["-" in one["marks"] for one in got]
    assert any(ended)
    for one, whole, early in zip(got, wanted, ended, strict=True):
        if early:
            marks = zip(one["marks"], whole["marks"], strict=True)
            assert all(mark in ("-", answered) for mark, answered in marks)
        else:
            assert one == whole
    assert "it has not loaded the weights it was given" in job.output
    assert f"{dead}/health" in job.output and "1 of 2 servers ready" in job.output
    assert not os.listdir(tmp_path / "t3s" / "weights"), "exports are left"


def test_a_prompt_that_the_server_refuses_is_asked_once_a_measurement(
    tmp_path, start, server, task
):
    """One of 24 is too long for the server, say, a probe too: the others are measured, and nothing
    is loaded or asked again for its sake."""
    with open(task[0]) as file:
        refused = json.loads(file.readline())["prompt"]
    asked: list[str] = []

    def answer(call):
        if call.path == "/v1/completions" and f"<user>{refused}<" in call.body["prompt"]:
            asked.append(call.body["model"])
            return call.send({"message": "maximum context length is 8 tokens"}, 400)
        return call.forward(server)

    with scripted_server(answer) as url:
        job = run(start(tmp_path, *served(url)))
    found = measurements(tmp_path)
    assert [(one["unfinished"], one["void"], one["retries"]) for one in found] == [
        (1, False, 0)
    ] * len(found)
    # As a probe, and in the measurement.
    assert max(asked.count(folder) for folder in asked) <= 3
    assert "1 of 24 answers refused: " in job.output and "1 of 16 probes refused: " in job.output


class LikeVLLM:
    """vLLM's routes in front of `transformers serve`, whose answers it gives: one model's name,
    weights by a call to the workers, prompts as token ids."""

    def __init__(self, url: str, tokenizer: str):
        self.url = url
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        self.folder = None
        self.calls: list[str] = []

    def answer(self, call) -> None:
        self.calls.append(call.path)
        if call.path == "/v1/models":
            return call.send({"object": "list", "data": [{"id": "student"}]})
        if call.path == "/collective_rpc":
            assert call.body["method"] == "reload_weights"
            self.folder = call.body["kwargs"]["weights_path"]
            return call.send({"results": [None]})
        if call.path != "/v1/completions":
            return call.send({})
        assert call.body["model"] == "student" and call.body["top_k"] == -1
        call.body["model"] = self.folder
        call.body["prompt"] = self.tokenizer.decode(call.body["prompt"])
        for name in ("top_k", "min_p", "repetition_penalty"):
            del call.body[name]
        folder = json.dumps(self.folder).encode()
        return call.forward(self.url, lambda reply: reply.replace(folder, b'"student"'))


class Sleeper(LikeVLLM):
    """The same on the GPUs of the job: what is asked for while it has not the memory fails, and so
    does what `fails(path)` says. It is awake at first, as it is after its start."""

    def __init__(self, url: str, tokenizer: str):
        super().__init__(url, tokenizer)
        self.has = {"weights", "kv_cache"}
        self.asked = 0  # to wake
        self.fails = lambda path: False

    def answer(self, call) -> None:
        needs = {"/collective_rpc": {"weights"}, "/v1/completions": {"weights", "kv_cache"}}
        self.asked += call.path == "/wake_up?tags=weights"
        if self.fails(call.path) or not needs.get(call.path, set()) <= self.has:
            self.calls.append(f"{call.path} fails")
            return call.send({"detail": "no memory"}, 500)
        if call.path == "/sleep?level=2":
            self.has, self.folder = set(), None
        elif call.path.startswith("/wake_up?tags="):
            self.has.add(call.path.partition("=")[2])
        return super().answer(call)


def test_a_server_on_the_gpus_of_the_job_sleeps_but_while_it_measures(
    tmp_path, start, server, live, task
):
    """It does not go to sleep after the fourth measurement, and the job ends. Found awake by the
    next one, it is put to sleep before anything else; once it does not wake, and is asked again."""
    proxy = Sleeper(server, task[1])

    def fourth_sleep(path: str) -> bool:
        # Before it: at the start of the job, after the check, and three times.
        return path == "/sleep?level=2" and proxy.calls.count(path) == 5

    def second_wake(path: str) -> bool:
        return path == "/wake_up?tags=weights" and proxy.asked == 2

    with scripted_server(proxy.answer) as url:
        how = served(url, "--t3s-server-colocated", "--t3s-server-reload", "vllm",
                     "--t3s-server-weights", tmp_path / "memory",
                     "--t3s-measurement-retries", 1)  # fmt: skip
        proxy.fails = fourth_sleep
        job = run(start(tmp_path, *how), processes=2, expect=1)
        (error,) = set(errors_of(job).splitlines())
        assert f"does not go to sleep: {url}/sleep?level=2: HTTP status 500" in error
        assert proxy.has, "it is left awake"
        first, proxy.calls, proxy.fails, proxy.asked = proxy.calls, [], second_wake, 0
        job = run(start(tmp_path, *how, "--exit-interval", 4), processes=2)
    assert "resumed at iteration 2" in job.output
    wanted, got = measurements(live)[:5], measurements(tmp_path)
    assert [one["retries"] for one in got] == [0, 0, 0, 1, 0]
    assert [one | {"retries": 0} for one in got] == wanted
    assert not proxy.has, "asleep, since the job has left"
    woken = ["/wake_up?tags=weights", "/collective_rpc", "/reset_prefix_cache",
             "/wake_up?tags=kv_cache", "/v1/completions", "/sleep?level=2"]  # fmt: skip
    for calls in (first, proxy.calls):
        assert calls[0] == "/sleep?level=2", "before the model is built"
        for n, path in enumerate(calls):
            if path == woken[0] and not calls[n - 1].endswith("fails"):
                rest = [p for p in dict.fromkeys(calls[n:]) if p in woken]
                assert rest == woken[: len(rest)]


def test_training_goes_on_while_the_server_measures(tmp_path, start, server, live, task):
    """Two measurements in flight, and killed with both of them: started again, it has the
    measurements, theta_b and end of a run that waits, bit for bit."""
    proxy = LikeVLLM(server, task[1])
    death = {"KILL_AT": "with measurements in flight", "KILL_MARK": str(tmp_path / "mark")}
    again = dict(processes=2, module="tests.jobs.killed_job", environment=death)
    with scripted_server(proxy.answer) as url:
        how = served(url, "--t3s-accuracy-overlap", 2, "--t3s-server-reload", "vllm")
        run(start(tmp_path, *how), **again, expect=1)
        job = run(start(tmp_path, *how), **again)
    assert "resumed at iteration 4" in job.output
    assert "steps beyond the decision are thrown away" in job.output
    assert_same_end(live, tmp_path)
    assert measurements(tmp_path) == measurements(live)
    assert proxy.calls.count("/collective_rpc") == proxy.calls.count("/reset_prefix_cache") > 5


def test_servers_of_no_use_end_the_job_before_it_trains(tmp_path, start):
    """One is not there, and one has another model. Every rank ends with the reason."""

    def answer(call):
        call.complete("0+0=0") if call.method == "POST" and call.body else call.send({})

    dead = f"http://localhost:{free_port()}"
    with scripted_server(answer) as url:
        job = run(start(tmp_path, *served(dead, url)), processes=2, expect=1)
    (error,) = set(errors_of(job).splitlines())
    assert f"no server is of use: {dead}/reset: " in error
    assert f"{url}: its greedy answers agree with the live weights' to 0." in error
    assert "iteration        1/" not in job.output


def test_transformers_serve_keeps_to_its_seeds_one_request_at_a_time(tmp_path, server, task):
    """And takes nothing but the temperature from the request: the settings are the folder's."""
    folder = save_model(str(tmp_path / "model"), vocab_size=20)
    shutil.copytree(task[1], folder, dirs_exist_ok=True)
    settings = {"do_sample": True, "temperature": 1.0, "top_k": 0, "eos_token_id": 1}
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(settings))
    asked = [Request("<user>1+2<assistant>", 12, 1.0, seed=seed) for seed in range(6)]
    client = Client([server], folder, concurrency=1)
    first = client.complete(asked)
    assert len({one.text for one in first}) > 3
    assert client.complete(asked[::-1]) == first[::-1]
    greedy = client.complete([Request("<user>1+2<assistant>", 12, 0.0, seed=i) for i in (1, 2)])
    assert greedy[0] == greedy[1]
