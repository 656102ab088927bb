# SPDX-License-Identifier: Apache-2.0
"""The client against real HTTP servers that answer, refuse, hang, lie or are not there."""

from __future__ import annotations

import threading
import time

import pytest

from t3s_megatron.errors import T3SError
from t3s_megatron.servers.client import Client
from t3s_megatron.servers.completion import Finish, Request
from t3s_megatron.servers.exchange import API_KEY, ServerError, exchange
from tests.support.ports import free_port
from tests.support.servers import scripted_server

#: The time for a reply is what a busy machine may need; only who does not answer uses it up.
QUICK = dict(timeout=30.0, retries=1, pause=0.02)


def requests(n: int, **changed) -> list[Request]:
    return [
        Request(f"prompt {i}", **(dict(max_tokens=8, temperature=0.0, seed=i) | changed))
        for i in range(n)
    ]


def ask(answer, n: int = 1, **how):
    """(completions, what the client said) of one server."""
    said: list[str] = []
    with scripted_server(answer) as url:
        client = Client([url], "m", say=said.append, **(QUICK | how))
        return client.complete(requests(n)), said


def test_each_request_gets_its_own_answer_whatever_the_order():
    def answer(call):
        number = int(call.body["prompt"].split()[1])
        time.sleep(0.002 * (7 - number % 8))
        call.complete(f"a{number}")

    finished = []
    with scripted_server(answer) as url:
        found = Client([f"{url}/v1/"], "m", concurrency=5).complete(
            requests(40), finished=lambda i, completion: finished.append((i, completion.text))
        )
    assert [one.text for one in found] == [f"a{i}" for i in range(40)]
    assert sorted(finished) == [(i, f"a{i}") for i in range(40)]
    assert {one.finish for one in found} == {Finish.STOP}


def test_what_is_sent(monkeypatch):
    calls = []

    def answer(call):
        calls.append((call.path, call.body, call.headers["Authorization"]))
        call.complete("", "length")

    monkeypatch.setenv(API_KEY, "secret")
    with scripted_server(answer) as url:
        asked = [Request([3, 1, 2], max_tokens=5, temperature=0.6, seed=7)]
        (found,) = Client([url], "org/model", extra={"top_k": -1}).complete(asked)
    assert calls == [
        (
            "/v1/completions",
            {"model": "org/model", "prompt": [3, 1, 2], "max_tokens": 5, "temperature": 0.6,
             "top_p": 1.0, "seed": 7, "top_k": -1},
            "Bearer secret",
        )
    ]  # fmt: skip
    assert (found.finish, found.tokens) == (Finish.LENGTH, 5)


def test_no_more_requests_in_flight_than_asked_for():
    lock, now, most = threading.Lock(), [0], [0]

    def answer(call):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.01)
        with lock:
            now[0] -= 1
        call.complete()

    ask(answer, n=24, concurrency=3)
    assert most[0] == 3


SLOW = "no whole reply within 2 s"
LIES = {
    "no JSON": lambda call: call.send(b"<html>502 Bad Gateway</html>"),
    "is no completion": lambda call: call.send({"choices": [{}]}),
    "the reply has 2 choices": lambda call: call.complete(
        choices=[{"text": "a", "finish_reason": "stop"}] * 2
    ),
    "the reply has 0 choices": lambda call: call.complete(choices=[]),
    "the finish reason is 'abort'": lambda call: call.complete("4", "abort"),
    "the finish reason is None": lambda call: call.complete("4", None),
    "the reply has 9 tokens": lambda call: call.complete(usage={"completion_tokens": 9}),
    "the reply has True tokens": lambda call: call.complete(usage={"completion_tokens": True}),
    "does not say how many tokens": lambda call: call.complete(usage=None),
    "the text is none": lambda call: call.complete("\ud800"),
    "HTTP status 500": lambda call: call.send(b"out of memory", 500),
    "HTTP status 408": lambda call: call.send({"error": "too slow"}, 408),
    "HTTP status 429": lambda call: call.send({"error": "too many"}, 429),
    "'code': 503": lambda call: call.send({"error": {"code": 503}}),
    SLOW: lambda call: call.trickle(60),
    "longer than": lambda call: call.send(b"x" * (2**20 + 9000)),
    "/v1/completions: ": lambda call: None,
}  # fmt: skip


def timeout_for(why: str) -> dict:
    return {"timeout": 2.0} if why == SLOW else {}


@pytest.mark.parametrize("why", LIES)
def test_no_lie_is_an_answer(why):
    asked = []

    def answer(call):
        asked.append(call.body["seed"])
        LIES[why](call)

    (found,), _ = ask(answer, **timeout_for(why))
    assert found.finish is Finish.UNFINISHED and (found.text, found.tokens) == ("", 0)
    assert why in found.why.replace('"', "'") and found.why.startswith("http://localhost:")
    assert asked == [0, 0]


@pytest.mark.parametrize("why", LIES)
def test_a_lie_is_made_up_for_by_another_attempt_with_the_same_seed(why):
    seeds = []

    def answer(call):
        seeds.append(call.body["seed"])
        LIES[why](call) if len(seeds) == 1 else call.complete("right")

    (found,), said = ask(answer, **timeout_for(why))
    assert found.text == "right" and seeds == [0, 0] and not said


def test_a_dead_url_is_given_up_and_the_other_answers_everything():
    said = []
    dead = f"http://localhost:{free_port()}"
    with scripted_server(lambda call: call.complete("alive")) as url:
        client = Client([dead, url], "m", say=said.append, concurrency=2, **QUICK)
        found = client.complete(requests(30))
        assert [one.text for one in found] == ["alive"] * 30
    assert not said or said[0].startswith(f"{dead} is given up: {dead}/v1/completions")


def test_a_dead_url_alone_ends_the_work_before_its_time():
    client = Client([f"http://localhost:{free_port()}"], "m", **QUICK)
    found = client.complete(requests(200), timeout=60)
    assert {one.finish for one in found} == {Finish.UNFINISHED}
    assert sum("localhost" in one.why for one in found) >= 2


def test_time_for_all_is_a_deadline_and_what_was_answered_is_kept():
    over = threading.Event()

    def answer(call):
        if call.body["prompt"] == "prompt 1":
            over.wait(60)
        call.complete()

    with scripted_server(answer) as url:
        client = Client([url], "m", concurrency=1, retries=0)
        found = client.complete(requests(3), timeout=2)
        over.set()
    assert [one.finish for one in found] == [Finish.STOP, Finish.UNFINISHED, Finish.UNFINISHED]
    assert found[1].why == "no answer within the 2 s of all 3 requests"


def test_many_requests_that_fail_at_once_are_no_reason_to_give_up():
    """As when a server restarts: every request in flight fails, more of them than `retries`."""
    seen = set()

    def answer(call):
        prompt = call.body["prompt"]
        if prompt in seen:
            call.complete("back")
        else:
            seen.add(prompt)
            call.send(b"", 503, {"Retry-After": "0.05"})

    found, said = ask(answer, n=8, retries=4, pause=0.2)
    assert {one.text for one in found} == {"back"} and not said


def test_a_callback_that_fails_fails_the_call():
    with scripted_server(lambda call: call.complete()) as url, pytest.raises(OSError, match="full"):
        Client([url], "m").complete(requests(5), finished=_disk_is_full)


def _disk_is_full(*_):
    raise OSError("the disk is full")


def test_nothing_to_ask():
    assert Client([f"http://localhost:{free_port()}"], "m").complete([]) == []


@pytest.mark.parametrize("url", ["", "localhost:8000", "http://", "ftp://host"])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(T3SError, match="is no URL of a server"):
        Client([url], "m")


def test_one_exchange():
    with scripted_server(lambda call: call.send({"got": call.body}, 201)) as url:
        reply = exchange("POST", f"{url}/x", {"a": 1}, timeout=5)
        assert (reply.status, reply.content) == (201, b'{"got": {"a": 1}}')
        with pytest.raises(ServerError, match=f"{url}/x: HTTP status 201"):
            reply.require_success()
    with pytest.raises(ServerError, match=url):
        exchange("GET", url, timeout=1)
