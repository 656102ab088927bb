# SPDX-License-Identifier: Apache-2.0
"""Real HTTP servers for tests: `transformers serve`, and one whose replies a test decides."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.ports import free_port


@contextlib.contextmanager
def transformers_serve(port: int | None = None) -> Iterator[str]:
    """The URL of a server on this CPU that loads the folder that a request names."""
    port = port or free_port()
    command = [
        sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve",
        "--port", str(port), "--device", "cpu", "--log-level", "error",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            url = f"http://localhost:{port}"
            until = time.monotonic() + 120
            while not _healthy(url):
                if server.poll() is not None or time.monotonic() > until:
                    output.seek(0)
                    raise AssertionError(f"transformers serve does not start:\n{output.read()}")
                time.sleep(0.2)
            yield url
        finally:
            server.kill()
            server.wait()


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
    except OSError:
        return False


class HTTPCall:
    """One request at a `ScriptedServer`. `send` what you like, or nothing."""

    def __init__(self, handler: BaseHTTPRequestHandler, method: str, body: bytes):
        self._handler = handler
        self.method, self.path = method, handler.path
        self.headers = handler.headers
        self.body = json.loads(body) if body else None

    def send(self, content, status: int = 200, headers: dict | None = None) -> None:
        """bytes as they are, anything else as JSON."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self._handler.send_response(status)
        for name, value in ({"Content-Length": len(data)} | (headers or {})).items():
            self._handler.send_header(name, str(value))
        self._handler.end_headers()
        self._handler.wfile.write(data)

    def trickle(self, seconds: float) -> None:
        """The beginning of a reply, then a byte now and then."""
        self._handler.send_response(200)
        self._handler.end_headers()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._handler.wfile.write(b" ")
            self._handler.wfile.flush()
            time.sleep(0.02)

    def forward(self, url: str, change: Callable[[bytes], bytes] = lambda reply: reply) -> None:
        """Let the server at `url` answer; `change` its reply."""
        body = None if self.body is None else json.dumps(self.body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(url + self.path, body, headers, method=self.method)
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                self.send(change(reply.read()), reply.status)
        except urllib.error.HTTPError as error:
            self.send(error.read(), error.code)

    def complete(self, text: str = "4", reason: str = "stop", **changed) -> None:
        """A completion as vLLM sends it."""
        tokens = self.body["max_tokens"] if reason == "length" else len(text) + 1
        choice = {"index": 0, "text": text, "finish_reason": reason, "logprobs": None}
        reply = {
            "id": "cmpl-1", "object": "text_completion", "created": 1,
            "model": self.body["model"], "choices": [choice],
            "usage": {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": 3 + tokens},
        }  # fmt: skip
        self.send(reply | changed)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024  # a connection that finds no room is tried again after a second


@contextlib.contextmanager
def scripted_server(answer: Callable[[HTTPCall], None], port: int = 0) -> Iterator[str]:
    """The URL of a server in which `answer(call)` decides what happens; a call that it leaves
    unanswered ends with a closed connection. One thread for each connection."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                answer(HTTPCall(self, self.command, body))
            self.close_connection = True

        do_GET = do_POST

        def log_message(self, *_):
            pass

    server = _Server(("localhost", port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
