# SPDX-License-Identifier: Apache-2.0
"""`--t3s-generation server --t3s-server-reload vllm` against the real vLLM, on this CPU.

`bash tests/servers/run_vllm.sh` installs it and runs these tests; without it they are skipped.
Greedily and in float32 its answers are the live weights', token for token.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from t3s_megatron.errors import T3SError
from t3s_megatron.servers import reload
from t3s_megatron.servers.client import Client
from t3s_megatron.servers.completion import Finish, Request
from t3s_megatron.servers.sleeping import wake_for_answers, wake_for_weights
from tests.conftest import pretrain_student
from tests.support.launch import run
from tests.support.ports import free_port
from tests.support.reference import read_tensors
from tests.support.resumable import SCHEDULE, errors_of
from tests.support.servers import scripted_server

VLLM = os.environ.get("T3S_TEST_VLLM")
pytestmark = pytest.mark.skipif(VLLM is None, reason="bash tests/servers/run_vllm.sh runs these")

GREEDY = ["--t3s", "--t3s-max-new-tokens", 16, "--t3s-temperature", 0, "--t3s-patience", 2,
          "--t3s-profile-iters", 8, "--t3s-simple-step", 2,
          "--t3s-targeted-accuracy-interval", 2]  # fmt: skip
#: vLLM's attention for CPUs has no heads of 16.
WIDE = ["--kv-channels", 32]
#: Seconds until a server is up, on a machine that is busy.
_START = 900


@contextlib.contextmanager
def vllm_serve(folder: str, log: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """(URL, process) of a vLLM that holds the weights in `folder`, in float32."""
    assert VLLM is not None
    port = free_port()
    command = [
        VLLM, "serve", folder, "--port", str(port), "--dtype", "float32", "--enforce-eager",
        "--max-model-len", "64", "--max-num-seqs", "64", "--generation-config", "vllm",
        "--served-model-name", "student",
    ]  # fmt: skip
    environment = os.environ | {
        "VLLM_SERVER_DEV_MODE": "1",  # the routes of the reload
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    environment.pop("PYTHONPATH", None)
    with open(log, "w") as output:
        # A group of its own: vLLM's engine is a child, which ends with the group.
        server = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    url = f"http://localhost:{port}"
    try:
        until = time.monotonic() + _START
        while not _healthy(url):
            if server.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"vLLM does not start:\n{log.read_text()[-5000:]}")
            time.sleep(1)
        yield url, server
    finally:
        kill(server)


def kill(server: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture(scope="session")
def wide_student(once, task) -> str:
    """Folder of a checkpoint, as `student`, of a model that vLLM can run."""
    return once("wide_student", lambda folder: pretrain_student(folder, task[1], WIDE))


@pytest.fixture(scope="session")
def exported(once, wide_student, task) -> str:
    """The student as a Hugging Face folder: what vLLM is started with."""

    def export(folder: str) -> None:
        run(
            [*WIDE, "--tokenizer-model", task[1],
             "--load", wide_student, "--t3s-hf-export", f"{folder}/student"],
            module="t3s_megatron.convert",
        )  # fmt: skip

    return once("exported", export) + "/student"


@pytest.fixture(scope="session")
def vllm(exported, tmp_path_factory) -> Iterator[str]:
    with vllm_serve(exported, tmp_path_factory.mktemp("vllm") / "log") as (url, _):
        yield url


@pytest.fixture(scope="session")
def start(wide_student, data_arguments):
    def arguments(folder, *extra) -> list:
        return [*WIDE, *data_arguments, *SCHEDULE, *GREEDY,
                "--save", folder, "--load", folder, "--pretrained-checkpoint", wide_student,
                "--save-interval", 2, *extra]  # fmt: skip

    return arguments


@pytest.fixture(scope="session")
def live(once, start) -> Path:
    """Folder of the run that asks its own weights."""
    return Path(once("live", lambda folder: run(start(folder))))


def served(*urls) -> list:
    return ["--t3s-generation", "server", "--t3s-server-url", *urls,
            "--t3s-server-reload", "vllm"]  # fmt: skip


def measurements(folder) -> list[dict]:
    with open(f"{folder}/t3s/summary.json") as file:
        found = json.load(file)["measurements"]
    return [{k: v for k, v in one.items() if k != "seconds"} for one in found]


def assert_same_run(wanted: Path, got: Path) -> None:
    """Measurements, theta_b, selection and final weights, bit for bit."""
    assert measurements(got) == measurements(wanted)
    for name in ("selection", "c_theta_0", "c_theta_b"):
        files = [folder / "t3s" / f"{name}.safetensors" for folder in (wanted, got)]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    tensors = read_tensors(str(wanted)), read_tensors(str(got))
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensor, tensors[1][key]) for key, tensor in tensors[0].items())


def test_a_whole_run_is_that_of_the_live_weights(tmp_path, start, vllm, live):
    job = run(start(tmp_path, *served(vllm)))
    assert_same_run(live, tmp_path)
    assert "agreement 1.00 over 16 greedy answers" in job.output


def test_a_server_that_is_killed_in_the_middle(tmp_path, start, vllm, live, exported):
    """Of two, one dies by SIGKILL while it has requests of the profile: the other answers them."""
    with vllm_serve(exported, tmp_path / "log") as (mortal, process):
        seen: set[str] = set()

        def answer(call):
            if call.path == "/collective_rpc":
                seen.add(call.body["kwargs"]["weights_path"])
            is_answer = call.path == "/v1/completions" and call.body["max_tokens"] == 17
            if len(seen) == 3 and is_answer and process.poll() is None:
                kill(process)
            if process.poll() is None:
                call.forward(mortal)

        with scripted_server(answer) as url:
            job = run(start(tmp_path / "run", *served(url, vllm), "--t3s-server-retries", 2))
    assert process.poll() is not None
    assert_same_run(live, tmp_path / "run")
    assert "1 of 2 servers ready" in job.output


def test_a_folder_that_is_none_is_refused_and_the_next_one_is_loaded(vllm, exported, tmp_path):
    """With the reason that the server gives. vLLM 0.32 has taken its layers apart by then, and the
    first request would end its engine: nothing is asked of a server whose reload has failed."""
    reload.load("vllm", vllm, exported, 300)
    (wanted,) = ask(vllm)
    with pytest.raises(T3SError, match=f"{vllm}/collective_rpc: "):
        reload.load("vllm", vllm, str(tmp_path / "no such folder"), 300)
    reload.load("vllm", vllm, exported, 300)
    assert wanted and ask(vllm) == [wanted]


def test_waking_what_is_awake_changes_nothing(vllm, exported):
    """The endpoints are there. Sleep itself vLLM has on CUDA only."""
    reload.load("vllm", vllm, exported, 300)
    (wanted,) = ask(vllm)
    wake_for_weights(vllm, 60)
    wake_for_answers(vllm, 60)
    assert wanted and ask(vllm) == [wanted]


def test_other_weights_are_found_out_before_the_job_trains(tmp_path, start, exported):
    """A server that says that it has loaded what it was given, and has not."""
    other = tmp_path / "other"
    shutil.copytree(exported, other)
    torch.manual_seed(0)
    for path in other.glob("*.safetensors"):
        tensors = load_file(path)
        save_file(
            {name: t + torch.randn_like(t) for name, t in tensors.items()}, path, {"format": "pt"}
        )
    with vllm_serve(str(other), tmp_path / "log") as (vllm, _):

        def answer(call):
            if call.path == "/collective_rpc":
                return call.send({"results": [None]})
            return call.forward(vllm)

        with scripted_server(answer) as url:
            job = run(start(tmp_path / "run", *served(url)), expect=1)
    assert f"{url}: its greedy answers agree with the live weights' to 0." in errors_of(job)


def test_what_vllm_has_no_room_for_fails_alone(vllm):
    """Over --max-model-len, between others: a prompt, which it refuses, and an answer, which it
    cuts short as if that were all that was asked for."""
    prompts = [[4, 5, 6], [4] * 60, [5, 6, 7], [4] * 70]
    requests = [Request(prompt, 16, 0.0, seed=0) for prompt in prompts]
    found = Client([vllm], "student", retries=1).complete(requests)
    answered = [one.finish in (Finish.STOP, Finish.LENGTH) for one in found]
    assert answered == [True, False, True, False]
    assert {one.finish for one in found[1::2]} == {Finish.REFUSED}
    assert "the server's own limit is lower" in str(found[1].why)
    assert "HTTP status 400" in str(found[3].why)


def ask(url: str) -> list[str]:
    request = Request([4, 5, 6], 16, 0.0, seed=0)
    return [one.text for one in Client([url], "student").complete([request])]
