# SPDX-License-Identifier: Apache-2.0
"""Whose fault is it? Real HTTP servers that fail single requests, all of them, or now and then.

The cases are those of people who do this job; their reports stand in the names of the tests.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter

import pytest

from t3s_megatron.servers.client import Client
from t3s_megatron.servers.completion import Dialect, Finish, Request
from tests.support.ports import free_port
from tests.support.servers import scripted_server

QUICK = dict(timeout=30.0, retries=3, pause=0.01, concurrency=4)
OVERLONG = {"object": "error", "message": "maximum context length is 4096 tokens", "code": 400}

#: What a server does with one request whose fault it is, and goes on doing.
REFUSALS = {
    "instructlab/sdg #276, NVIDIA-NeMo/Skills #663: a prompt over the context length":
        lambda call: call.send(OVERLONG, 400),
    "a prompt that is too large": lambda call: call.send(b"", 413),
    "a value that is not allowed": lambda call: call.send({"detail": []}, 422),
    "moderation": lambda call: call.send({"error": "flagged"}, 403),
    "a gateway's error object with status 200": lambda call: call.send({"error": {"code": 400}}),
    "a content filter": lambda call: call.complete("", "content_filter"),
    "Gemini's filter": lambda call: call.complete("", "SAFETY"),
    "a call of a tool": lambda call: call.complete("", "tool_calls"),
    "BerriAI/litellm #23800: a word that nobody knows": lambda call: call.complete("4", "mood"),
    "a limit of the server": lambda call: call.complete(
        "4", "length", usage={"completion_tokens": 3}
    ),
}  # fmt: skip


def prompts(n: int, first: int = 0) -> list[Request]:
    return [Request(f"prompt {i}", 8, 0.0, seed=i) for i in range(first, first + n)]


def number(call) -> int:
    return int(call.body["prompt"].split()[1])


def complete(answer, requests, **how):
    """(completions, how often each number was asked, what the client said)."""
    asked, said, lock = Counter(), [], threading.Lock()

    def counted(call):
        with lock:
            asked[number(call)] += 1
        answer(call)

    with scripted_server(counted) as url:
        client = Client([url], "m", say=said.append, **(QUICK | how))
        found = client.complete(requests, timeout=120)
    return found, asked, said


@pytest.mark.parametrize("why", REFUSALS)
@pytest.mark.parametrize("poisoned", [0, 5, 11])
def test_a_refused_request_fails_alone_and_at_once(why, poisoned):
    def answer(call):
        REFUSALS[why](call) if number(call) == poisoned else call.complete()

    found, asked, said = complete(answer, prompts(12))
    finishes = [one.finish for one in found]
    assert finishes.pop(poisoned) is Finish.REFUSED and set(finishes) == {Finish.STOP}
    assert set(asked.values()) == {1}
    assert found[poisoned].why.startswith("http://localhost:")
    assert [("NOT KNOWN" in line) for line in said] == ([True] if "nobody knows" in why else [])


@pytest.mark.parametrize("concurrency", [1, 4, 64])
def test_one_bad_prompt_first_and_slow_good_ones_in_flight(concurrency):
    """instructlab #1024: the answers of the others take longer than all attempts of the bad one."""

    def answer(call):
        if number(call) < 3:
            call.send(OVERLONG, 400)
        else:
            time.sleep(0.4)
            call.complete()

    found, asked, said = complete(answer, prompts(7), concurrency=concurrency)
    assert [one.finish for one in found] == [Finish.REFUSED] * 3 + [Finish.STOP] * 4
    assert set(asked.values()) == {1} and not said


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_when_everything_is_refused_it_is_the_servers_fault(status):
    """A wrong model name, path or key: nothing is taken for a request's own fault, so that it can
    be asked again when that is mended."""
    found, asked, said = complete(lambda call: call.send({"error": "no"}, status), prompts(30))
    assert {one.finish for one in found} == {Finish.UNFINISHED}
    assert set(asked.values()) == {1}
    (line,) = said
    assert "is given up: it has refused 30 different prompts, and nothing was answered" in line
    assert "a wrong model name, path, key or limit?" in line and f"HTTP status {status}" in line


def test_one_prompt_asked_often_is_one_prompt():
    """All that there is was refused, although it was 40 requests: two are enough to see it."""
    requests = [Request("prompt 0", 8, 0.6, seed=i) for i in range(40)]
    found, asked, _ = complete(lambda call: call.send(b"", 400), requests, concurrency=2)
    assert {one.finish for one in found} == {Finish.UNFINISHED} and asked[0] <= 3


def test_a_server_that_forgets_its_model_refuses_no_request_for_good():
    """It answers 10, and then says 404 to all: started again under another name, say."""

    def answer(call):
        call.complete() if number(call) < 10 else call.send({"error": "no such model"}, 404)

    found, _, said = complete(answer, prompts(40), concurrency=1)
    assert [one.finish for one in found[:10]] == [Finish.STOP] * 10
    assert {one.finish for one in found[10:]} == {Finish.UNFINISHED}
    assert "different prompts, since it last answered" in said[0]


def test_many_overlong_prompts_in_a_row_are_refused_when_the_server_answers_again():
    def answer(call):
        call.send(OVERLONG, 400) if 5 <= number(call) < 45 else call.complete()

    found, asked, said = complete(answer, prompts(50), concurrency=1)
    assert Counter(one.finish for one in found) == {Finish.STOP: 10, Finish.REFUSED: 40}
    assert set(asked.values()) == {1} and not said


def test_what_one_server_refuses_another_may_answer():
    """A URL of another service: everything goes to the one that answers."""
    with (
        scripted_server(lambda call: call.send({"error": "not found"}, 404)) as wrong,
        scripted_server(lambda call: (time.sleep(0.02), call.complete())) as right,
    ):
        found = Client([wrong, right], "m", **QUICK).complete(prompts(30), timeout=60)
    assert {one.finish for one in found} == {Finish.STOP}


def test_a_server_that_fails_fast_takes_no_attempts_from_one_that_answers_slowly():
    with (
        scripted_server(lambda call: call.send(b"bad gateway", 502)) as broken,
        scripted_server(lambda call: (time.sleep(0.03), call.complete())) as slow,
    ):
        client = Client([broken, slow], "m", **(QUICK | {"retries": 1}))
        found = client.complete(prompts(40), timeout=60)
    assert {one.finish for one in found} == {Finish.STOP}


def test_an_answer_in_flight_takes_the_verdict_back():
    """Every request but one closes its connection for longer than a server is given; the answer
    that was on its way counts, and the rest is asked."""
    slow, lock, failed = threading.Event(), threading.Lock(), [0]

    def answer(call):
        if number(call) == 0:
            slow.wait(30)
            return call.complete("late")
        with lock:
            failed[0] += 1
            fails = failed[0] <= 130
        if fails:
            return None
        return call.complete()

    def say(line):
        said.append(line)
        slow.set()

    said: list[str] = []
    with scripted_server(answer) as url:
        client = Client([url], "m", say=say, **(QUICK | {"retries": 2}))
        found = client.complete(prompts(160), timeout=60)
    assert found[0].text == "late"
    assert "is given up" in said[0] and said[1].endswith("answers again")
    assert Counter(one.finish for one in found)[Finish.STOP] >= 29


def test_a_server_that_was_started_again_is_not_asked_when_state_matters():
    """Its port is closed for a while, as when its process has died and comes back without the
    weights that it was given."""
    port, came_back = free_port(), threading.Event()

    def answer(call):
        call.complete("old" if not came_back.is_set() else "new")

    def finished(i, completion):
        if i == 1:
            stop()

    def serve():
        stack = contextlib.ExitStack()
        stack.enter_context(scripted_server(answer, port))
        return stack

    def stop():
        server.close()
        threading.Timer(0.3, start_again).start()

    def start_again():
        came_back.set()
        restarted.append(serve())

    for keeps_state, texts in ((True, {"old", ""}), (False, {"old", "new"})):
        came_back.clear()
        restarted, server = [], serve()
        try:
            how = QUICK | dict(retries=5, pause=0.1, concurrency=1)
            client = Client([f"http://localhost:{port}"], "m", keeps_state=keeps_state, **how)
            found = client.complete(prompts(8), timeout=60, finished=finished)
        finally:
            came_back.wait(10)
            time.sleep(0.1)
            for again in restarted:
                again.close()
        assert {one.text for one in found} == texts


def test_another_models_answer_ends_it_at_once():
    """Whatever it is asked, it is not the server that was meant: no generation is thrown away."""
    found, asked, said = complete(
        lambda call: call.complete(model="gpt-4o-2024-08-06"), prompts(50), concurrency=2
    )
    assert {one.finish for one in found} == {Finish.UNFINISHED} and sum(asked.values()) <= 3
    assert "asked for was 'm'" in said[0] and "--answering-model" in said[0]


def test_a_gateways_names():
    """IBM/chuk-llm #3, and gateways with a model name of their own and no usage."""
    bodies = []

    def answer(call):
        bodies.append(call.body)
        choice = {"text": "4", "finish_reason": "eos"}
        call.send({"model": "m-2024", "choices": [choice], "usage": None})

    dialect = Dialect("max_completion_tokens", "m-2024", counts_tokens=False)
    ((one,), _, _) = complete(answer, prompts(1), dialect=dialect)
    assert (one.text, one.finish, one.tokens) == ("4", Finish.STOP, 0)
    assert bodies[0]["max_completion_tokens"] == 8 and "max_tokens" not in bodies[0]


# ------------------------------------------------------------------------------ random histories

PASSING = {
    "500": lambda call: call.send(b"", 500),
    "503": lambda call: call.send(b"", 503, {"Retry-After": "0.01"}),
    "429": lambda call: call.send(b"", 429),
    "garbage": lambda call: call.send(b"\x00\xff<html>"),
    "closed": lambda call: None,
    "abort": lambda call: call.complete("", "abort"),
}
LASTING = {"400": REFUSALS["a value that is not allowed"], "filter": REFUSALS["a content filter"]}


@pytest.mark.parametrize("seed", range(40))
def test_random_histories(seed):
    """Every request has a history of its own: some failures, then an answer, a refusal, or nothing
    but failures. What can be answered within the attempts is answered, what is refused is refused,
    nothing is asked more often than allowed, and the call ends."""
    rng = random.Random(seed)
    n, retries = rng.randint(1, 40), rng.randint(0, 3)
    histories, ends = [], []
    for _ in range(n):
        end = rng.choices(["answer", "refusal", "never"], [6, 3, 1])[0]
        failures = rng.choices(range(retries + 1), [3] + [1] * retries)[0]
        histories.append([rng.choice(list(PASSING)) for _ in range(failures)])
        ends.append(end)
    came = Counter()
    lock = threading.Lock()

    def answer(call):
        i = number(call)
        with lock:
            nth = came[i]
            came[i] += 1
        if nth < len(histories[i]):
            PASSING[histories[i][nth]](call)
        elif ends[i] == "answer":
            call.complete(f"a{i}")
        elif ends[i] == "refusal":
            LASTING["filter" if i % 2 else "400"](call)
        else:
            PASSING["500" if i % 2 else "closed"](call)

    urls = [f"http://localhost:{free_port()}"] if rng.random() < 0.3 and retries else []
    finished = []
    with scripted_server(answer) as url:
        client = Client([*urls, url], "m", concurrency=rng.randint(1, 8), retries=retries,
                        pause=0.005, timeout=30)  # fmt: skip
        found = client.complete(
            prompts(n), timeout=100, finished=lambda i, completion: finished.append(i)
        )
    assert len(finished) == len(set(finished))
    answered = "answer" in ends
    for i, (one, history, end) in enumerate(zip(found, histories, ends, strict=True)):
        assert came[i] <= retries + 1
        if end == "answer":
            assert (one.finish, one.text) == (Finish.STOP, f"a{i}")
            assert came[i] == len(history) + 1
        elif end == "refusal" and answered:
            assert one.finish is Finish.REFUSED and came[i] == len(history) + 1
        else:
            assert one.finish is Finish.UNFINISHED and one.why
