# SPDX-License-Identifier: Apache-2.0
"""One HTTP request to a server, and its whole reply.

httpx2 and not the `openai` package: its retries stay with one URL, its timeouts restart with every
byte that a server sends, and it hands malformed replies through.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from dataclasses import dataclass

from t3s_megatron.errors import T3SError

#: Sent as a bearer token when it is set. Not OPENAI_API_KEY, which is meant for another host.
API_KEY = "T3S_SERVER_API_KEY"
LONGEST_PAUSE = 30.0

_CONNECT_TIMEOUT = 10.0
_LONGEST_EXCERPT = 300
#: Of the 4xx, those that say "not now": the same request may well be answered later.
_NOT_NOW = (408, 425, 429)
#: Of the 4xx, those that speak of key, account, path or model, which requests have in common.
_OF_ALL_REQUESTS = (401, 402, 404, 405, 407)


class ServerError(T3SError):
    """A server cannot be reached, or says something that cannot be right. It asks not to be tried
    again for `retry_after` seconds. `unreachable`: no request came through to it. `wrong_server`:
    it is not the one that was meant, whatever it is asked."""

    def __init__(
        self,
        why: str,
        retry_after: float = 0.0,
        *,
        unreachable: bool = False,
        wrong_server: bool = False,
    ):
        super().__init__(why)
        self.retry_after = retry_after
        self.unreachable = unreachable
        self.wrong_server = wrong_server


class RefusedError(ServerError):
    """A server works, and does not answer this request: another attempt would end the same.
    `its_own`: what was said is about the request itself, not about what requests have in common."""

    def __init__(self, why: str, *, its_own: bool = True):
        super().__init__(why)
        self.its_own = its_own


@dataclass(frozen=True)
class Reply:
    """A reply of whatever status."""

    url: str
    status: int
    content: bytes
    retry_after: float

    def require_success(self) -> None:
        """RefusedError for a status that blames the request (4xx but 408, 425 and 429), ServerError
        for any other but 200. An error object in a reply of status 200 counts with its `code`."""
        status = _status_inside(self.content) if self.status == 200 else self.status
        if status == 200:
            return
        said = f"{self.url}: HTTP status {self.status}: {excerpt(self.content)}"
        if 400 <= status < 500 and status not in _NOT_NOW:
            raise RefusedError(said, its_own=status not in _OF_ALL_REQUESTS)
        raise ServerError(said, self.retry_after)


def exchange(
    method: str, url: str, body: dict | None = None, *, timeout: float, limit: int = 2**20
) -> Reply:
    """One request and its reply within `timeout` seconds in all. `limit` of the reply in bytes.

    ServerError, naming the URL, when there is no connection, no reply in time, or too much of it.
    Any status is a reply.
    """
    require_httpx()

    async def alone() -> Reply:
        async with http_client() as http:
            return await exchange_with(http, method, url, body, timeout, limit)

    return asyncio.run(alone())


def http_client():
    """An httpx2.AsyncClient without a limit of connections, with the key of T3S_SERVER_API_KEY."""
    import httpx2

    # It tells of each request: a line for each answer would bury the log of a job.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    key = os.environ.get(API_KEY)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx2.AsyncClient(limits=httpx2.Limits(max_connections=None), headers=headers)


async def exchange_with(
    http, method: str, url: str, body: dict | None, timeout: float, limit: int
) -> Reply:
    """`exchange` through an open `http_client`."""
    import httpx2

    # Apart from this, httpx2's timeouts begin again with every byte.
    connecting = httpx2.Timeout(None, connect=min(_CONNECT_TIMEOUT, timeout))
    content = bytearray()
    try:
        async with (
            asyncio.timeout(timeout),
            http.stream(method, url, json=body, timeout=connecting) as response,
        ):
            async for part in response.aiter_bytes():
                content += part
                if len(content) > limit:
                    raise ServerError(f"{url}: the reply is longer than {limit} bytes")
            return Reply(url, response.status_code, bytes(content), _retry_after(response))
    except TimeoutError:
        raise ServerError(f"{url}: no whole reply within {timeout:g} s") from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        said = str(error) or type(error).__name__
        unreachable = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
        raise ServerError(f"{url}: {said}", unreachable=unreachable) from None


def base_url(url: str) -> str:
    """The URL without a final `/` or `/v1`. T3SError for what is no HTTP URL."""
    plain = url.rstrip("/").removesuffix("/v1")
    if not plain.startswith(("http://", "https://")) or not plain.split("://", 1)[1]:
        raise T3SError(f"{url} is no URL of a server: http://HOST:PORT is one")
    return plain


def require_httpx() -> None:
    """T3SError when httpx2 is not installed."""
    try:
        import httpx2  # noqa: F401
    except ImportError as error:
        raise T3SError(
            f"asking a server needs httpx2: pip install 't3s-megatron[server]' ({error})"
        ) from error


def excerpt(content: bytes) -> str:
    """The beginning of a reply, for a message."""
    text = content.decode(errors="replace").strip()
    return text[:_LONGEST_EXCERPT] + ("..." if len(text) > _LONGEST_EXCERPT else "") or "(empty)"


def _status_inside(content: bytes) -> int:
    """The `code` of an error object, as gateways send them with status 200; 200 without one."""
    try:
        reply = json.loads(content)
    except (ValueError, RecursionError):
        return 200
    error = reply.get("error") if isinstance(reply, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if type(code) is int and 400 <= code < 600 else 200


def _retry_after(response) -> float:
    with contextlib.suppress(ValueError):  # it may also be a date
        seconds = float(response.headers.get("retry-after", 0))
        if seconds > 0:
            return min(seconds, LONGEST_PAUSE)
    return 0.0
