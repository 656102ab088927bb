# SPDX-License-Identifier: Apache-2.0
"""What each kind of server is asked, over real HTTP; none of them is the real program."""

from __future__ import annotations

import os
import signal

import pytest

from t3s_megatron.servers import reload
from t3s_megatron.servers.exchange import ServerError
from tests.support.ports import free_port
from tests.support.servers import scripted_server


def calls_of(kind: str, reply=None, status: int = 200) -> list[tuple]:
    calls = []

    def answer(call):
        calls.append((call.method, call.path, call.body))
        call.send({} if reply is None else reply, status)

    with scripted_server(answer) as url:
        reload.load(kind, url, "/shared/w1", timeout=10)
    return calls


def test_transformers_serve_forgets_what_it_has_loaded():
    assert calls_of("model") == [("POST", "/reset", {})]
    assert calls_of("model", status=404) == [("POST", "/reset", {})]


def test_sglang_has_to_say_that_it_succeeded():
    asked = ("POST", "/update_weights_from_disk", {"model_path": "/shared/w1"})
    assert calls_of("sglang", {"success": True, "message": ""}) == [asked]
    with pytest.raises(ServerError, match="/update_weights_from_disk: .*wrong shape"):
        calls_of("sglang", {"success": False, "message": "wrong shape"})
    with pytest.raises(ServerError, match="HTTP status 400"):
        calls_of("sglang", {"success": False}, status=400)
    with pytest.raises(ServerError, match="no JSON object"):
        calls_of("sglang", [True])


def test_vllm_reloads_on_every_worker_and_forgets_its_cache():
    body = {"method": "reload_weights", "kwargs": {"weights_path": "/shared/w1"}}
    assert calls_of("vllm") == [
        ("POST", "/collective_rpc", body),
        ("POST", "/reset_prefix_cache", {}),
    ]
    with pytest.raises(ServerError, match="/collective_rpc: HTTP status 404"):
        calls_of("vllm", {"detail": "Not Found"}, status=404)


def test_a_command_is_given_the_folder_and_the_server_is_waited_for(tmp_path):
    seen, pid, dead = tmp_path / "seen", tmp_path / "pid", f"http://localhost:{free_port()}"
    with scripted_server(lambda call: call.send(b"", 200 if seen.exists() else 503)) as url:
        # What it leaves running keeps its output open, and is not waited for.
        command = f"sleep 90 & echo $! >> {pid}; echo $T3S_WEIGHTS > {seen}"
        reload.run_command(command, "/shared/w1", [dead, url], timeout=60)
        assert seen.read_text() == "/shared/w1\n"
        os.kill(int(pid.read_text()), signal.SIGKILL)  # still there, after less than 60 s


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("echo no such GPU; exit 3", "exit status 3: no such GPU"),
        ("sleep 60", "did not end within 0.5 s"),
        ("true", "no server within 0.5 s: http://localhost"),
    ],
)
def test_a_command_that_does_not_work(command, why):
    with pytest.raises(ServerError, match=why):
        reload.run_command(command, "/w", [f"http://localhost:{free_port()}"], 0.5)


def test_the_model_that_a_server_has():
    def models(*names):
        reply = {"object": "list", "data": [{"id": name} for name in names]}
        with scripted_server(lambda call: call.send(reply)) as url:
            return reload.served_model(url)

    assert models("Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"
    with pytest.raises(ServerError, match="2 models: say which with --t3s-server-model"):
        models("a", "b")
    with (
        scripted_server(lambda call: call.send({"data": [1]})) as url,
        pytest.raises(ServerError, match="no list of models"),
    ):
        reload.served_model(url)
