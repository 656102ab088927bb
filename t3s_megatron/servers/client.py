# SPDX-License-Identifier: Apache-2.0
"""Completions from OpenAI-compatible servers, of which none is trusted to answer, or to be right.

    client = Client(["http://a:8000", "http://b:8000"], "Qwen/Qwen3-32B", concurrency=32)
    completions = client.complete([Request(prompt, max_tokens=512, temperature=0.6, seed=1)])

A prompt of text or token ids goes to `POST /v1/completions`: the caller has rendered it, and no
server's chat template takes part. Chat turns go to `POST /v1/chat/completions`, for models whose
template only their server has. Every request has a deadline and a number of attempts;
each URL has its own workers, who take requests from one queue, so that a slow server gets fewer
and the failed attempt of one is made up for by another. What is not answered in the end is
`UNFINISHED`, with the reason.

httpx2 and not the `openai` package: its retries stay with one URL, its timeouts restart with every
byte that a server sends, and it hands malformed replies through.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from t3s_megatron.errors import T3SError

#: Sent as a bearer token when it is set. Not OPENAI_API_KEY, which is meant for another host.
API_KEY = "T3S_SERVER_API_KEY"

_CONNECT_TIMEOUT = 10.0
_LONGEST_PAUSE = 30.0
_WATCH = 0.1
#: More than a JSON string needs for one token, and room for everything else in a reply.
_BYTES_A_TOKEN, _BYTES_A_REPLY = 1024, 2**20
_LONGEST_EXCERPT = 300


class Finish(enum.StrEnum):
    STOP = "stop"  # ended by itself
    LENGTH = "length"  # met max_tokens
    UNFINISHED = "unfinished"  # never answered


@dataclass(frozen=True)
class Request:
    """`prompt`: text, token ids for servers that take them, or chat turns (`role` and `content`).
    temperature 0 is greedy. The same seed goes along with every attempt."""

    prompt: str | list[int] | tuple[dict[str, str], ...]
    max_tokens: int
    temperature: float
    seed: int | None = None
    top_p: float = 1.0

    @property
    def is_chat(self) -> bool:
        return isinstance(self.prompt, tuple)


@dataclass(frozen=True)
class Completion:
    """`tokens`: as the server counts, with the end token. `why`: of an UNFINISHED one. `thinking`:
    what a chat server has taken out of the text (vLLM's and SGLang's --reasoning-parser)."""

    text: str
    tokens: int
    finish: Finish
    why: str | None = None
    thinking: str | None = None


class ServerError(T3SError):
    """A server cannot be reached, refuses, or says something that cannot be right. It asks not to
    be tried again for `retry_after` seconds."""

    def __init__(self, why: str, retry_after: float = 0.0):
        super().__init__(why)
        self.retry_after = retry_after


class Client:
    """`concurrency`: requests in flight at each URL. `timeout`: seconds that one attempt may take,
    from the connection to the last byte. `retries`: attempts after the first one, the first of them
    after `pause` seconds and each later one after twice as long. `extra`: further fields of every
    request. `say(line)` is told when a URL is given up. When `cancelled()` becomes true, what has
    no answer is UNFINISHED at once.

    A URL is given up when it has failed `retries + 1` times in a row, over at least the time that
    the pauses of one request take; the others then get its requests. T3SError for a URL that is
    none, and when httpx2 is not installed.
    """

    def __init__(
        self,
        urls: Sequence[str],
        model: str,
        *,
        concurrency: int = 16,
        timeout: float = 600.0,
        retries: int = 4,
        pause: float = 1.0,
        extra: dict[str, Any] | None = None,
        say: Callable[[str], None] = lambda line: None,
        cancelled: Callable[[], bool] = lambda: False,
    ):
        require_httpx()
        if not urls:
            raise T3SError("no URL of a server was given")
        self.urls = [base_url(url) for url in urls]
        self.model = model
        self.concurrency, self.timeout = concurrency, timeout
        self.retries, self.pause = retries, pause
        self.extra = extra or {}
        self.say = say
        self.cancelled = cancelled

    def complete(
        self,
        requests: Sequence[Request],
        *,
        timeout: float | None = None,
        finished: Callable[[int, Completion], None] = lambda number, completion: None,
    ) -> list[Completion]:
        """One completion for each request, in their order; never raises for what a server does.

        `timeout`: seconds for all of them together; what has no answer by then is UNFINISHED.
        `finished(i, completion)` is called as soon as requests[i] has its completion, in the
        calling thread. Not for use inside a running event loop.
        """
        job = _Job(requests, finished, self._pauses())
        if requests:
            asyncio.run(self._complete(job, timeout))
        return [one or job.unfinished(i) for i, one in enumerate(job.completions)]

    async def _complete(self, job: _Job, timeout: float | None) -> None:
        import httpx2

        job.begin()
        servers = [_Server(url, self._pauses()) for url in self.urls]
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(limits=limits, headers=_headers()) as http:
            workers = [
                asyncio.create_task(self._work(http, server, servers, job))
                for server in servers
                for _ in range(self.concurrency)
            ]
            workers.append(asyncio.create_task(self._watch(job)))
            try:
                async with asyncio.timeout(timeout) as time_limit:
                    await job.over
            except TimeoutError:
                if not time_limit.expired():
                    raise
                job.why = f"no answer within the {timeout:g} s of all {len(job.requests)} requests"
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _watch(self, job: _Job) -> None:
        while not self.cancelled():
            await asyncio.sleep(_WATCH)
        job.why = "cancelled"
        job.end()

    async def _work(self, http, server: _Server, servers: list[_Server], job: _Job) -> None:
        """One of the workers of one URL. Ends when the URL is given up, or is cancelled."""
        try:
            while not server.given_up:
                number = await job.queue.get()
                if server.given_up:
                    job.queue.put_nowait(number)
                    return
                started = time.monotonic()
                try:
                    completion = await self._attempt(http, server.url, job.requests[number])
                except ServerError as error:
                    before, pause = server.given_up, server.fails(started)
                    if server.given_up and not before:
                        self.say(f"{server.url} is given up: {error}")
                    job.failed(number, error)
                    if all(one.given_up for one in servers):
                        job.end()
                    await asyncio.sleep(pause)
                else:
                    server.works()
                    job.finish(number, completion)
        except Exception as error:  # of `finished`: it is the caller's
            job.end(error)

    def _pauses(self) -> list[float]:
        return [min(self.pause * 2.0**n, _LONGEST_PAUSE) for n in range(self.retries)]

    async def _attempt(self, http, url: str, request: Request) -> Completion:
        body = {
            "model": self.model,
            "messages" if request.is_chat else "prompt": request.prompt,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            **({} if request.seed is None else {"seed": request.seed}),
            **self.extra,
        }
        where = f"{url}/v1/chat/completions" if request.is_chat else f"{url}/v1/completions"
        limit = _BYTES_A_REPLY + _BYTES_A_TOKEN * request.max_tokens
        reply = await _exchange(http, "POST", where, body, self.timeout, limit)
        reply.require_success()
        try:
            return read_completion(
                reply.content, request.max_tokens, self.model, is_chat=request.is_chat
            )
        except ValueError as error:
            raise ServerError(f"{where}: {error}") from None


def read_completion(
    content: bytes, max_tokens: int, model: str, *, is_chat: bool = False
) -> Completion:
    """The reply of `/v1/completions`, or of `/v1/chat/completions`. ValueError, saying what is
    wrong, for one that cannot be the answer to a request for one completion of `max_tokens` by
    `model`."""
    try:
        reply = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError(f"the reply is no JSON: {_excerpt(content)}") from None
    try:
        found, choices = reply["model"], reply["choices"]
        tokens = reply["usage"]["completion_tokens"]
        texts = [
            (*(_said(one["message"]) if is_chat else (one["text"], None)), one["finish_reason"])
            for one in choices
        ]
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"the reply is no completion ({type(error).__name__}: {error}): {_excerpt(content)}"
        ) from None
    if found != model:
        raise ValueError(f"the reply is of model {found!r}, asked for was {model!r}")
    if len(texts) != 1:
        raise ValueError(f"the reply has {len(texts)} choices, asked for was 1")
    text, thinking, reason = texts[0]
    for part in (text, thinking or ""):
        if not isinstance(part, str) or not _is_unicode(part):
            raise ValueError(f"the text is none: {_excerpt(content)}")
    if reason not in (Finish.STOP, Finish.LENGTH):
        raise ValueError(f"the finish reason is {reason!r}, and has to be stop or length")
    if type(tokens) is not int or not 0 <= tokens <= max_tokens:
        raise ValueError(f"the reply has {tokens!r} tokens, asked for were at most {max_tokens}")
    if reason == Finish.LENGTH and tokens < max_tokens:
        raise ValueError(
            f"the reply ends for its length after {tokens} of {max_tokens} tokens: the server's "
            "own limit is lower (vLLM: --max-model-len, SGLang: --context-length)"
        )
    return Completion(text, tokens, Finish(reason), thinking=thinking)


def _said(message: dict) -> tuple[Any, Any]:
    """(text, thinking or None). vLLM has renamed `reasoning_content` to `reasoning`; the text is
    null where all that came is thinking."""
    thinking = message.get("reasoning_content") or message.get("reasoning") or None
    text = message["content"]
    return ("" if text is None and thinking is not None else text), thinking


# ------------------------------------------------------------------------------ one HTTP exchange


@dataclass(frozen=True)
class Reply:
    """Of whatever status."""

    url: str
    status: int
    content: bytes
    retry_after: float

    def require_success(self) -> None:
        """ServerError for any status but 200."""
        if self.status != 200:
            said = f"{self.url}: HTTP status {self.status}: {_excerpt(self.content)}"
            raise ServerError(said, self.retry_after)


def exchange(
    method: str, url: str, body: dict | None = None, *, timeout: float, limit: int = 2**20
) -> Reply:
    """One request and its reply within `timeout` seconds in all. `limit` of the reply in bytes.

    ServerError, naming the URL, when there is no connection, no reply in time, or too much of it.
    Any status is a reply.
    """
    require_httpx()
    return asyncio.run(_exchange_alone(method, url, body, timeout, limit))


async def _exchange_alone(method: str, url: str, body, timeout: float, limit: int) -> Reply:
    import httpx2

    async with httpx2.AsyncClient(headers=_headers()) as http:
        return await _exchange(http, method, url, body, timeout, limit)


async def _exchange(http, method: str, url: str, body, timeout: float, limit: int) -> Reply:
    """ServerError for everything but a whole reply."""
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
        raise ServerError(f"{url}: {said}") from None


def base_url(url: str) -> str:
    """Without a final `/` or `/v1`. T3SError for what is no HTTP URL."""
    plain = url.rstrip("/").removesuffix("/v1")
    if not plain.startswith(("http://", "https://")) or not plain.split("://", 1)[1]:
        raise T3SError(f"{url} is no URL of a server: http://HOST:PORT is one")
    return plain


def require_httpx() -> None:
    try:
        import httpx2  # noqa: F401
    except ImportError as error:
        raise T3SError(
            f"asking a server needs httpx2: pip install 't3s-megatron[server]' ({error})"
        ) from error


# ------------------------------------------------------------------------------------- inside


class _Server:
    """One URL while a job is done. `failures`: in a row; `failing_since`: their first one began."""

    def __init__(self, url: str, pauses: list[float]):
        self.url = url
        self.pauses = pauses
        self.failures = 0
        self.failing_since = 0.0
        self.given_up = False

    def works(self) -> None:
        self.failures = 0

    def fails(self, started: float) -> float:
        """An attempt that began at `started` has failed: how long a worker pauses."""
        if self.failures == 0:
            self.failing_since = started
        self.failures += 1
        # Many requests fail at once when a server restarts: the number alone says little.
        long_enough = time.monotonic() - self.failing_since >= sum(self.pauses)
        if self.failures > len(self.pauses) and long_enough:
            self.given_up = True
        return 0.0 if self.given_up else self.pauses[min(self.failures, len(self.pauses)) - 1]


class _Job:
    """The requests of one `complete`. `why`: what has ended it."""

    def __init__(
        self,
        requests: Sequence[Request],
        finished: Callable[[int, Completion], None],
        pauses: list[float],
    ):
        self.requests = requests
        self.finished = finished
        self.pauses = pauses
        self.completions: list[Completion | None] = [None] * len(requests)
        self.attempts = [0] * len(requests)
        self.last_failure: dict[int, str] = {}
        self.why = "every URL was given up"

    def begin(self) -> None:
        """In the running event loop."""
        self.queue: asyncio.Queue[int] = asyncio.Queue()
        self.over = asyncio.get_running_loop().create_future()
        self._open = len(self.requests)
        for number in range(len(self.requests)):
            self.queue.put_nowait(number)

    def finish(self, number: int, completion: Completion) -> None:
        self.completions[number] = completion
        self._open -= 1
        self.finished(number, completion)
        if not self._open:
            self.end()

    def failed(self, number: int, error: ServerError) -> None:
        self.last_failure[number] = str(error)
        attempts = self.attempts[number] = self.attempts[number] + 1
        if attempts > len(self.pauses):
            self.finish(number, self.unfinished(number))
        else:
            pause = max(self.pauses[attempts - 1], error.retry_after)
            asyncio.get_running_loop().call_later(pause, self.queue.put_nowait, number)

    def end(self, error: Exception | None = None) -> None:
        if self.over.done():
            return
        if error is None:
            self.over.set_result(None)
        else:
            self.over.set_exception(error)

    def unfinished(self, number: int) -> Completion:
        return Completion("", 0, Finish.UNFINISHED, self.last_failure.get(number, self.why))


def _headers() -> dict[str, str]:
    key = os.environ.get(API_KEY)
    return {"Authorization": f"Bearer {key}"} if key else {}


def _retry_after(response) -> float:
    with contextlib.suppress(ValueError):  # it may also be a date
        seconds = float(response.headers.get("retry-after", 0))
        if seconds > 0:
            return min(seconds, _LONGEST_PAUSE)
    return 0.0


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _excerpt(content: bytes) -> str:
    text = content.decode(errors="replace").strip()
    return text[:_LONGEST_EXCERPT] + ("..." if len(text) > _LONGEST_EXCERPT else "") or "(empty)"
