# SPDX-License-Identifier: Apache-2.0
"""`SERVE=colocate`: which servers a script starts, and that they live as long as the job. Stand-ins
for Python and vLLM, whose health is asked over real HTTP."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.servers import scripted_server

ROOT = Path(__file__).parents[2]
SCRIPT = "run_t3s_qwen3_8b.sh"

PYTHON = f"""#!/usr/bin/env bash
case "$*" in
    "-c import urllib"*) exec {sys.executable} "$@" ;;
    "-m torch.distributed.run --help") echo "  --shutdown-timeout N" ;;
    "-m torch.distributed.run"*)
        trap 'ls "$RECORDS"; echo saved; exit 7' TERM
        echo "started $*"
        [ -z "${{WAITS:-}}" ] || while :; do sleep 0.1; done ;;
esac
exit 0
"""

VLLM = f"""#!{sys.executable}
import http.server, json, os, signal, sys
port = int(sys.argv[sys.argv.index("--port") + 1])
record = os.path.join(os.environ["RECORDS"], f"server-{{port}}")
with open(record, "w") as file:
    json.dump({{"arguments": sys.argv[1:], "environment": dict(os.environ)}}, file)
def end(*_):
    os.rename(record, record + "-ended")
    os._exit(0)
signal.signal(signal.SIGTERM, end)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("localhost", port), Handler).serve_forever()
"""


def executable(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def start(tmp_path):
    """start(**environment): the script's process, in a group of its own."""
    (tmp_path / "student").mkdir()
    (tmp_path / "student/config.json").write_text("{}")
    (tmp_path / "records").mkdir()
    environment = {
        "PATH": os.environ["PATH"], "PYTHON": executable(tmp_path / "python", PYTHON),
        "VLLM": executable(tmp_path / "vllm", VLLM), "RECORDS": str(tmp_path / "records"),
        "HF_MODEL": str(tmp_path / "student"), "DATA": "traces.jsonl",
        "OUT": str(tmp_path / "out"), "SERVE_PORT": str(free_port()), "SERVE_TP": "8",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "PYTHONPATH": "/mine",
    }  # fmt: skip
    jobs = []

    def start(**given: str) -> subprocess.Popen:
        job = subprocess.Popen(
            ["bash", str(ROOT / "examples" / SCRIPT)],
            env=environment | given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        jobs.append(job)
        return job

    yield start
    for job in jobs:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
        job.communicate()


@pytest.fixture
def records(tmp_path) -> Path:
    return tmp_path / "records"


def test_a_server_for_each_group_of_gpus_before_the_job_and_until_its_end(start, records):
    job = start(SERVE_TP="4", SERVE_MEMORY="0.4")
    out, errors = job.communicate(timeout=60)
    assert job.returncode == 0, errors
    assert "--t3s-server-colocated" in out and "--t3s-server-reload vllm" in out
    ended = sorted(records.iterdir())
    assert [file.name.endswith("-ended") for file in ended] == [True, True]
    for file, gpus in zip(ended, ("0,1,2,3", "4,5,6,7"), strict=True):
        server = json.loads(file.read_text())
        environment, words = server["environment"], server["arguments"]
        after = dict(zip(words, words[1:], strict=False))
        assert environment["CUDA_VISIBLE_DEVICES"] == gpus
        assert environment["VLLM_SERVER_DEV_MODE"] == "1"
        assert not {"PYTORCH_CUDA_ALLOC_CONF", "PYTHONPATH", "CUDA_DEVICE_MAX_CONNECTIONS"} & set(
            environment
        )
        assert after["--tensor-parallel-size"] == "4"
        assert after["--gpu-memory-utilization"] == "0.4"
        assert after["--max-model-len"] == "32770"
        assert after["--generation-config"] == "vllm" and "--enable-sleep-mode" in words
        assert f"http://localhost:{after['--port']}" in out


def test_the_end_of_time_reaches_the_ranks_and_not_the_servers(start, records):
    """As Slurm sends it, to every process at once."""
    job = start(WAITS="1")
    assert job.stdout.readline().startswith("started ")
    os.killpg(job.pid, signal.SIGURG)
    out, _ = job.communicate(timeout=60)
    assert job.returncode == 7, "the job's own"
    (alive, saved) = out.splitlines()
    assert alive.startswith("server-") and not alive.endswith("-ended") and saved == "saved"
    assert [file.name.endswith("-ended") for file in records.iterdir()] == [True]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGURG"])
def test_a_signal_to_the_script_alone_reaches_the_ranks(start, name):
    job = start(WAITS="1", SERVE="live")
    assert job.stdout.readline().startswith("started ")
    job.send_signal(signal.Signals[name])
    out, _ = job.communicate(timeout=60)
    assert (job.returncode, out.splitlines()[-1]) == (7, "saved")


def test_a_server_that_does_not_start_ends_it_before_the_job(start, tmp_path):
    broken = executable(tmp_path / "broken", "#!/bin/sh\necho no such GPU\nexit 3\n")
    out, errors = start(VLLM=broken).communicate(timeout=60)
    assert "does not start" in errors and "no such GPU" in errors and "started" not in out


def test_a_server_that_is_there_already_is_not_taken_for_its_own(start):
    with scripted_server(lambda call: call.send({})) as url:
        job = start(SERVE_PORT=url.rpartition(":")[2])
        out, errors = job.communicate(timeout=60)
    assert job.returncode == 2 and "answers at port" in errors and "started" not in out


def test_no_vllm_is_warned_of_dry_and_refused_at_the_start(start):
    for dry, code in (("1", 0), ("0", 2)):
        job = start(VLLM="/no/vllm", DRY_RUN=dry)
        _, errors = job.communicate(timeout=60)
        assert job.returncode == code and "there is no /no/vllm to start" in errors
    job = start(VLLM="/no/vllm", SERVE="live")
    job.communicate(timeout=60)
    assert job.returncode == 0


def test_a_dry_run_shows_the_servers_of_all_nodes(start):
    out, errors = start(DRY_RUN="1", NNODES="2", SERVE_TP="4", SERVE_PORT="8100").communicate(
        timeout=60
    )
    line, *beside = out.split("\n\n")[0].splitlines()
    words = shlex.split(line)
    at = words.index("--t3s-server-url")
    assert words[at + 1 : at + 5] == [
        f"http://node{node}:{port}" for node in (0, 1) for port in (8100, 8101)
    ]
    assert words[words.index("--t3s-server-weights") + 1].startswith("/dev/shm/t3s-")
    assert len(beside) == 2 and all("--host 0.0.0.0" in one for one in beside)
    assert all("VLLM_SERVER_DEV_MODE=1" in one for one in beside), errors


def test_servers_elsewhere_share_the_folder_and_are_not_put_to_sleep(start):
    out, _ = start(DRY_RUN="1", SERVE="http://a:1 http://b:2").communicate(timeout=60)
    words = shlex.split(out.splitlines()[0])
    at = words.index("--t3s-server-url")
    assert words[at + 1 : at + 3] == ["http://a:1", "http://b:2"]
    assert words[words.index("--t3s-server-weights") + 1].endswith("/out/weights")
    assert "--t3s-server-colocated" not in words
