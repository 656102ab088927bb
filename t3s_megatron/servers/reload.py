# SPDX-License-Identifier: Apache-2.0
"""How a server comes to hold new weights: what it is asked, and what it has to say to that.

    model    `transformers serve`: the folder is the name of the model in every request
    sglang   POST /update_weights_from_disk
    vllm     POST /collective_rpc with the workers' reload_weights, then /reset_prefix_cache; both
             exist with VLLM_SERVER_DEV_MODE=1 only
    command  a command of yours, with the folder in T3S_WEIGHTS; then /health is waited for

Every function raises ServerError, naming the URL, when it does not work.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time

from t3s_megatron.servers.exchange import Reply, ServerError, exchange

RELOADS = ("model", "sglang", "vllm", "command")
#: The folder, for `command`.
WEIGHTS = "T3S_WEIGHTS"
_SHORT = 10.0
_LONGEST_OUTPUT = 2000


def takes_token_ids(kind: str) -> bool:
    """Whether prompts go as token ids. `transformers serve` takes text only."""
    return kind in ("sglang", "vllm")


def sampling_fields(kind: str) -> dict:
    """What the folder's generation_config.json says to `transformers serve`, vLLM and SGLang have
    to be told in each request: they keep the defaults that they were started with."""
    if kind not in ("sglang", "vllm"):
        return {}
    return {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}


def require_alive(url: str) -> None:
    reply = exchange("GET", f"{url}/health", timeout=_SHORT)
    if reply.status != 404:  # a gateway may have no such path
        reply.require_success()


def load(kind: str, url: str, folder: str, timeout: float) -> None:
    """Make the server at `url` hold the weights in `folder`. For `command` see `run_command`."""
    if kind == "model":
        # It would keep every folder that it was ever asked for in memory.
        reply = exchange("POST", f"{url}/reset", {}, timeout=timeout)
        if reply.status != 404:
            reply.require_success()
    elif kind == "sglang":
        path = f"{url}/update_weights_from_disk"
        reply = exchange("POST", path, {"model_path": folder}, timeout=timeout)
        reply.require_success()
        if _json(reply).get("success") is not True:
            raise ServerError(f"{path}: {reply.content.decode(errors='replace')[:300]}")
    elif kind == "vllm":
        body = {"method": "reload_weights", "kwargs": {"weights_path": folder}}
        exchange("POST", f"{url}/collective_rpc", body, timeout=timeout).require_success()
        exchange("POST", f"{url}/reset_prefix_cache", {}, timeout=timeout).require_success()


def run_command(command: str, folder: str, urls: list[str], timeout: float) -> None:
    """Run `command` in a shell with the folder in T3S_WEIGHTS, then wait until a URL is healthy.
    All of it within `timeout` seconds."""
    until = time.monotonic() + timeout
    # To a file: a server that the command leaves running would keep a pipe open for ever.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            shell=True,
            env=os.environ | {WEIGHTS: folder},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a group, to be killed as one
        )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise ServerError(f"{command}: did not end within {timeout:g} s") from None
        output.seek(max(0, output.seek(0, os.SEEK_END) - _LONGEST_OUTPUT))
        said = output.read().decode(errors="replace").strip()
    if status:
        raise ServerError(f"{command}: exit status {status}: {said}")
    while True:
        why = []
        for url in urls:
            try:
                return require_alive(url)
            except ServerError as error:
                why.append(str(error))
        if time.monotonic() > until:
            raise ServerError(f"{command}: no server within {timeout:g} s: {'; '.join(why)}")
        time.sleep(0.5)


def served_model(url: str) -> str:
    """The name of the only model that the server says it has."""
    path = f"{url}/v1/models"
    reply = exchange("GET", path, timeout=_SHORT)
    reply.require_success()
    try:
        names = [model["id"] for model in _json(reply)["data"]]
    except (KeyError, TypeError) as error:
        raise ServerError(f"{path}: no list of models ({error!r})") from None
    if len(names) != 1 or not isinstance(names[0], str):
        raise ServerError(f"{path}: {len(names)} models: say which with --t3s-server-model")
    return names[0]


def _json(reply: Reply) -> dict:
    try:
        content = json.loads(reply.content)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ServerError(f"{reply.url}: the reply is no JSON object")
    return content
