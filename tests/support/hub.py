# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face hub on this machine: as much of its HTTP interface as fetching a model takes, for
huggingface_hub's own client (HF_ENDPOINT)."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
#: A model that is only for those who have accepted terms.
GATED = "tiny/gated"


class Hub:
    """`models`: folders by name. `downloads`: how often each file was sent."""

    def __init__(self, models: dict[str, str], home: str):
        self.models = {name: Path(folder) for name, folder in models.items()}
        self.home = home
        self.downloads: Counter[str] = Counter()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("localhost", 0), handler)
        self.url = f"http://localhost:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that asks this hub."""
        return {"HF_ENDPOINT": self.url, "HF_HOME": self.home, "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}  # fmt: skip

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words) -> None:
        return None

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        words = urlsplit(self.path).path.strip("/").split("/")
        if words[:2] == ["api", "models"]:
            repo, what, revision = "/".join(words[2:4]), words[4], words[5]
        else:
            repo, what, revision = "/".join(words[:2]), words[2], words[3]
        if repo == GATED:
            return self._refuse(403, "GatedRepo")
        if repo not in self.hub.models:
            return self._refuse(401, "RepoNotFound")
        if revision not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        folder = self.hub.models[repo]
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        names = {str(p.relative_to(folder)): p for p in files}
        if what == "revision":
            siblings = [{"rfilename": name} for name in names]
            return self._send(
                json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode()
            )
        if what == "tree":
            tree = [
                {"type": "file", "path": name, "size": p.stat().st_size, "oid": _digest(p)}
                for name, p in names.items()
            ]
            return self._send(json.dumps(tree).encode())
        name = "/".join(words[4:])
        if name not in names:
            return self._refuse(404, "EntryNotFound")
        content = names[name].read_bytes()
        if with_body:
            self.hub.downloads[name] += 1
        headers = {"ETag": f'"{_digest(names[name])}"', "X-Repo-Commit": COMMIT}
        return self._send(content, headers, with_body)

    def _refuse(self, status: int, code: str) -> None:
        self._send(b"{}", {"X-Error-Code": code, "X-Error-Message": code}, status=status)

    def _send(self, body: bytes, headers=None, with_body: bool = True, status: int = 200) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body and self.command != "HEAD":
            self.wfile.write(body)


def _digest(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()
