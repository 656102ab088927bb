# SPDX-License-Identifier: Apache-2.0
"""Completions from OpenAI-compatible servers, of which none is trusted to answer, or to be right.

    client = Client(["http://a:8000", "http://b:8000"], "Qwen/Qwen3-32B", concurrency=32)
    completions = client.complete([Request(prompt, max_tokens=512, temperature=0.6, seed=1)])

A prompt of text or token ids goes to `POST /v1/completions`: the caller has rendered it, and no
server's chat template takes part. Chat turns go to `POST /v1/chat/completions`, for models whose
template only their server has. Every request has a deadline and a number of attempts; each URL has
its own workers, so that a slow server gets fewer. Whose fault a failure is, is decided in `work`.
What is not answered in the end is `UNFINISHED` or `REFUSED`, with the reason.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from t3s_megatron.errors import T3SError
from t3s_megatron.servers.completion import (
    Completion,
    Dialect,
    NoAnswer,
    Request,
    WrongModel,
    read_completion,
)
from t3s_megatron.servers.exchange import (
    LONGEST_PAUSE,
    RefusedError,
    ServerError,
    base_url,
    exchange_with,
    http_client,
    require_httpx,
)
from t3s_megatron.servers.work import Server, Work

_WATCH = 0.1
_PLAIN = Dialect()
#: More than a JSON string needs for one token, and room for everything else in a reply.
_BYTES_A_TOKEN, _BYTES_A_REPLY = 1024, 2**20


class Client:
    """A way to ask one model of one or several servers.

    `concurrency`: requests in flight at each URL. `timeout`: seconds that one attempt may take,
    from the connection to the last byte. `retries`: attempts after the first one, the first of them
    after `pause` seconds and each later one after twice as long. `extra`: further fields of every
    request. `say(line)` is told when a URL is given up or answers again, and of finish reasons that
    nobody knows. `keeps_state`: servers hold what they were given before, and lose it with their
    process: one that cannot be reached is given up at once, and asked no more if it comes back.
    When `cancelled()` becomes true, what has no answer is UNFINISHED at once.

    T3SError for a URL that is none, and when httpx2 is not installed.
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
        dialect: Dialect = _PLAIN,
        keeps_state: bool = False,
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
        self.dialect = dialect
        self.keeps_state = keeps_state
        self.say = say
        self.cancelled = cancelled
        self._unknown_words: set[str] = set()

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
        calling thread; never for what is left when the last URL is given up or time is over. Not
        for use inside a running event loop.
        """
        if not requests:
            return []
        return asyncio.run(self._complete(requests, timeout, finished))

    async def _complete(
        self,
        requests: Sequence[Request],
        timeout: float | None,
        finished: Callable[[int, Completion], None],
    ) -> list[Completion]:
        pauses = [min(self.pause * 2.0**n, LONGEST_PAUSE) for n in range(self.retries)]
        work = Work(requests, self.urls, pauses, self.timeout, self.keeps_state, finished, self.say)
        async with http_client() as http:
            workers = [
                asyncio.create_task(self._work(http, server, work))
                for server in work.servers
                for _ in range(min(self.concurrency, len(requests)))
            ]
            workers.append(asyncio.create_task(self._watch(work)))
            try:
                async with asyncio.timeout(timeout) as time_limit:
                    await work.over
            except TimeoutError:
                if not time_limit.expired():
                    raise
                work.why = f"no answer within the {timeout:g} s of all {len(requests)} requests"
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
        return work.result()

    async def _watch(self, work: Work) -> None:
        while not self.cancelled():
            await asyncio.sleep(_WATCH)
        work.why = "cancelled"
        work.end()

    async def _work(self, http, server: Server, work: Work) -> None:
        """One of the workers of one URL, until it is cancelled."""
        try:
            while True:
                number = await work.next_for(server)
                started = time.monotonic()
                try:
                    completion = await self._attempt(http, server.url, work.requests[number])
                except ServerError as error:
                    await asyncio.sleep(work.failed(server, number, error, started))
                else:
                    work.answered(server, number, completion)
        except Exception as error:  # of `finished`: it is the caller's
            work.end(error)

    async def _attempt(self, http, url: str, request: Request) -> Completion:
        body = {
            "model": self.model,
            "messages" if request.is_chat else "prompt": request.prompt,
            self.dialect.max_tokens: request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            **({} if request.seed is None else {"seed": request.seed}),
            **self.extra,
        }
        where = f"{url}/v1/chat/completions" if request.is_chat else f"{url}/v1/completions"
        limit = _BYTES_A_REPLY + _BYTES_A_TOKEN * request.max_tokens
        reply = await exchange_with(http, "POST", where, body, self.timeout, limit)
        reply.require_success()
        try:
            return read_completion(
                reply.content,
                request.max_tokens,
                self.dialect.answering_model or self.model,
                is_chat=request.is_chat,
                counts_tokens=self.dialect.counts_tokens,
            )
        except NoAnswer as error:
            self._note(error.unknown_word, url)
            raise RefusedError(f"{where}: {error}") from None
        except ValueError as error:
            wrong = isinstance(error, WrongModel)
            raise ServerError(f"{where}: {error}", wrong_server=wrong) from None

    def _note(self, word: str | None, url: str) -> None:
        if word is not None and word not in self._unknown_words:
            self._unknown_words.add(word)
            self.say(f"{url} ends answers with the finish reason {word!r}, which is NOT KNOWN here")
