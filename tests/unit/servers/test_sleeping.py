# SPDX-License-Identifier: Apache-2.0
"""What a vLLM on the job's GPUs is asked, over real HTTP. vLLM itself sleeps on CUDA only."""

from __future__ import annotations

import pytest

from t3s_megatron.errors import T3SError
from t3s_megatron.servers.exchange import ServerError
from t3s_megatron.servers.sleeping import put_to_sleep, wake_for_answers, wake_for_weights
from tests.support.ports import free_port
from tests.support.servers import scripted_server


def test_it_wakes_in_two_steps_and_gives_everything_back():
    calls = []

    def answer(call):
        calls.append((call.method, call.path))
        call.send({})

    with scripted_server(answer) as url:
        wake_for_weights(url, 10)
        wake_for_answers(url, 10)
        assert put_to_sleep([url], 10, print) == []
    assert calls == [
        ("POST", "/wake_up?tags=weights"),
        ("POST", "/wake_up?tags=kv_cache"),
        ("POST", "/sleep?level=2"),
    ]


def test_one_that_does_not_wake_is_named():
    with scripted_server(lambda call: call.send({"detail": "out of memory"}, 500)) as url:
        for wake in (wake_for_weights, wake_for_answers):
            with pytest.raises(ServerError, match=rf"{url}/wake_up.*out of memory"):
                wake(url, 10)


def test_one_that_is_gone_holds_no_memory_and_one_that_stays_awake_ends_the_job():
    gone, told, asked = f"http://localhost:{free_port()}", [], []

    def sleeps(call):
        asked.append(call.path)
        call.send({})

    with (
        scripted_server(sleeps) as url,
        scripted_server(lambda call: call.send({"detail": "engine died"}, 500)) as awake,
    ):
        assert put_to_sleep([gone, url], 10, told.append) == told
        assert f"{gone}/sleep" in told[0]
        with pytest.raises(T3SError, match=f"does not go to sleep: {awake}.*engine died.* end it"):
            put_to_sleep([awake, url], 10, told.append)
    assert asked == ["/sleep?level=2"] * 2, "those that can are put to sleep all the same"


def test_one_that_hangs_is_not_waited_for_without_end():
    with (
        scripted_server(lambda call: call.trickle(20)) as url,
        pytest.raises(T3SError, match="does not go to sleep: .*no whole reply within 0.5 s"),
    ):
        put_to_sleep([url], 0.5, print)
