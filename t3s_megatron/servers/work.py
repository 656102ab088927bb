# SPDX-License-Identifier: Apache-2.0
"""Which request goes to which server next, and whose fault a failure is.

A failed attempt says little by itself: a server that is down fails every request, and some requests
fail at every server. So a request that failed is asked again last, and of another server first; a
server is judged by many different requests.

- A server that fails requests in a row, for as long as the pauses of one request take, is given up
  when it cannot be reached, or when the row has gone through many different requests; one that has
  answered nothing, and then answers for another model, at once.
- A request that is *refused* (`RefusedError`) by a server that answers others has failed for good,
  at once. While a server has answered nothing, or has refused several prompts since it last did,
  its refusals are held: its next answer makes them the requests' own, and if everything there is
  was refused, it is the server's fault (a wrong model name, path or setting).
- Nothing in flight is thrown away: an answer of a server that was given up counts, and takes the
  verdict back.

Nothing here waits or sends: `client` does.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Sequence

from t3s_megatron.servers.completion import Completion, Finish, Request
from t3s_megatron.servers.exchange import LONGEST_PAUSE, RefusedError, ServerError

#: Different requests in a row that a server fails before it is given up, when it can be reached.
_MANY_REQUESTS = 100
#: Different prompts in a row that a server may refuse, and be believed at once.
_MANY_PROMPTS = 8
#: Attempts' times in a row without an answer, after which a server that is in doubt is given up.
_PATIENCE = 3


class Server:
    """What is known of one URL while requests are worked off.

    `in_flight`: requests that it has; `given_up`: why, or None; `answered`: whether it has answered
    anything. In a row, since it last answered: `failures`, the first of which began at
    `failing_since`; `failed`, the requests that failed; `refused`, the prompts that it refused.
    """

    def __init__(self, url: str):
        self.url = url
        self.in_flight = 0
        self.given_up: str | None = None
        self.answered = False
        self.failures = 0
        self.failing_since = 0.0
        self.failed: set[int] = set()
        self.refused: set[int] = set()

    @property
    def is_believed(self) -> bool:
        """Whether what it refuses is taken for the request's fault at once."""
        return self.answered and len(self.refused) <= _MANY_PROMPTS

    def answers(self) -> None:
        """The server has answered a request."""
        self.answered = True
        self.failures = 0
        self.failed.clear()
        self.refused.clear()


class Work:
    """The requests of one call of `Client.complete`, and the servers that they go to.

    `pauses`: seconds before a request's 2nd, 3rd, ... attempt; `timeout`: seconds of one attempt;
    `keeps_state`: a server that cannot be reached is given up at once (see `Client`).
    `finished(number, completion)` is called once for each request that is over. Made in the running
    event loop; `over` is done when there is nothing more to wait for.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        urls: Sequence[str],
        pauses: Sequence[float],
        timeout: float,
        keeps_state: bool,
        finished: Callable[[int, Completion], None],
        say: Callable[[str], None],
    ):
        self.requests = requests
        self.servers = [Server(url) for url in urls]
        self.completions: list[Completion | None] = [None] * len(requests)
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.why = "every URL was given up"
        self._pauses, self._timeout = list(pauses), timeout
        self._keeps_state = keeps_state
        self._finished, self._say = finished, say
        self._open = len(requests)
        self._fresh = deque(range(len(requests)))
        self._again: dict[int, None] = {}  # in order: those whose pause is over
        self._pausing = 0
        self._attempts = [0] * len(requests)
        self._failed_at: dict[int, set[str]] = {}
        self._held: dict[int, Server] = {}
        self._last_fault: dict[int, str] = {}
        self._prompts = [_identity(request) for request in requests]
        self._all_prompts = len(set(self._prompts))
        self._changed = asyncio.Event()

    # ------------------------------------------------------------------------------- handing out

    async def next_for(self, server: Server) -> int:
        """The number of the request that `server` gets next, when there is one."""
        while (number := self._take(server)) is None:
            await self._changed.wait()
        server.in_flight += 1
        return number

    def _take(self, server: Server) -> int | None:
        if server.given_up is not None:
            return None
        if self._fresh:
            return self._fresh.popleft()
        for number in self._again:
            if not self._should_go_elsewhere(number, server):
                del self._again[number]
                return number
        return None

    def _should_go_elsewhere(self, number: int, server: Server) -> bool:
        """Whether `number` has failed at `server`, and not at another one that is not given up."""
        failed_at = self._failed_at.get(number, set())
        return server.url in failed_at and any(
            other.given_up is None and other.url not in failed_at for other in self.servers
        )

    # -------------------------------------------------------------------------- what came of it

    def answered(self, server: Server, number: int, completion: Completion) -> None:
        """`server` has answered."""
        server.in_flight -= 1
        server.answers()
        if server.given_up is not None:
            server.given_up = None
            self._say(f"{server.url} answers again")
        self._finish(number, completion)
        for other in [held for held, by in self._held.items() if by is server]:
            del self._held[other]
            self._finish(other, self._unanswered(other, Finish.REFUSED))
        self._settle()

    def failed(self, server: Server, number: int, error: ServerError, started: float) -> float:
        """An attempt that began at `started` has failed: seconds that `server` is to be left
        alone by whoever has made it."""
        server.in_flight -= 1
        self._last_fault[number] = str(error)
        self._failed_at.setdefault(number, set()).add(server.url)
        if isinstance(error, RefusedError):
            self._refuse(server, number, error)
            pause = 0.0
        else:
            pause = self._blame(server, number, error, started)
            self._ask_again(number, error)
        self._settle()
        return pause

    def _refuse(self, server: Server, number: int, error: RefusedError) -> None:
        server.refused.add(self._prompts[number])
        if server.given_up is not None:
            self._again[number] = None
        elif server.is_believed:
            finish = Finish.REFUSED if error.its_own else Finish.UNFINISHED
            self._finish(number, self._unanswered(number, finish))
        elif any(
            other.given_up is None and other.url not in self._failed_at[number]
            for other in self.servers
        ):
            self._again[number] = None
        else:
            self._held[number] = server

    def _blame(self, server: Server, number: int, error: ServerError, started: float) -> float:
        if server.failures == 0:
            server.failing_since = started
        server.failures += 1
        server.failed.add(number)
        # Many requests fail at once when a server restarts: the number alone says little.
        failing = time.monotonic() - server.failing_since
        gone = error.unreachable and self._keeps_state
        if gone or (error.wrong_server and not server.answered):
            self._give_up(server, str(error))
        elif server.failures > len(self._pauses) and failing >= sum(self._pauses):
            late = failing >= sum(self._pauses) + _PATIENCE * self._timeout
            if error.unreachable or late or len(server.failed) >= _MANY_REQUESTS:
                self._give_up(server, str(error))
        if server.given_up is not None or not self._pauses:
            return 0.0
        return self._pauses[min(server.failures, len(self._pauses)) - 1]

    def _ask_again(self, number: int, error: ServerError) -> None:
        if not error.unreachable:  # otherwise nobody was asked
            self._attempts[number] += 1
        if self._attempts[number] > len(self._pauses):
            self._finish(number, self._unanswered(number, Finish.UNFINISHED))
            return
        pause = self._pauses[max(self._attempts[number], 1) - 1] if self._pauses else 0.0

        def again() -> None:
            self._pausing -= 1
            self._again[number] = None
            self._settle()

        self._pausing += 1
        asyncio.get_running_loop().call_later(
            min(max(pause, error.retry_after), LONGEST_PAUSE), again
        )

    # ----------------------------------------------------------------------------------- the end

    def _settle(self) -> None:
        """Judge what can be judged, and wake who waits."""
        if not self._open:
            self.end()
        for server in self.servers:
            self._judge_refusals(server)
        if all(server.given_up is not None for server in self.servers) and not any(
            server.in_flight for server in self.servers
        ):
            self.end()
        self._changed.set()
        self._changed = asyncio.Event()

    def _judge_refusals(self, server: Server) -> None:
        """Give up a server that has refused every prompt, or all that was left to ask."""
        held = [number for number, by in self._held.items() if by is server]
        if not held or server.given_up is not None:
            return
        asked_all = not (self._fresh or self._again or self._pausing) and not any(
            other.in_flight for other in self.servers
        )
        if asked_all or len(server.refused) == self._all_prompts:
            self._give_up(server, self._of_refusals(server, held))

    def _of_refusals(self, server: Server, held: list[int]) -> str:
        since = "since it last answered" if server.answered else "and nothing was answered"
        return (
            f"it has refused {len(server.refused)} different prompts, {since}: a wrong model name, "
            f"path, key or limit? The first: {self._last_fault[held[0]]}"
        )

    def _give_up(self, server: Server, why: str) -> None:
        if server.given_up is not None:
            return
        server.given_up = why
        self._say(f"{server.url} is given up: {why}")
        for number in [held for held, by in self._held.items() if by is server]:
            del self._held[number]
            self._again[number] = None  # for another server, if there is one

    def _finish(self, number: int, completion: Completion) -> None:
        self.completions[number] = completion
        self._open -= 1
        self._finished(number, completion)

    def end(self, error: Exception | None = None) -> None:
        """Let `over` be done, with `error` if there is one."""
        if self.over.done():
            return
        if error is None:
            self.over.set_result(None)
        else:
            self.over.set_exception(error)

    def result(self) -> list[Completion]:
        """One completion for each request: what has none is UNFINISHED."""
        return [
            completion or self._unanswered(number, Finish.UNFINISHED)
            for number, completion in enumerate(self.completions)
        ]

    def _unanswered(self, number: int, finish: Finish) -> Completion:
        return Completion("", 0, finish, self._last_fault.get(number, self.why))


def _identity(request: Request) -> int:
    return hash(json.dumps(request.prompt, sort_keys=True))
