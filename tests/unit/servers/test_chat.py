# SPDX-License-Identifier: Apache-2.0
"""Chat turns through the client, and what it takes for an answer to them."""

from __future__ import annotations

import json

import pytest

from t3s_megatron.servers.client import Client
from t3s_megatron.servers.completion import Completion, Finish, Request, read_completion
from tests.support.servers import scripted_server

TURNS = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"})


def reply(message, reason="stop", tokens=3, **changed) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": reason}
    usage = {"completion_tokens": tokens}
    return json.dumps({"model": "m", "choices": [choice], "usage": usage} | changed).encode()


def test_turns_are_sent_to_the_chat_endpoint():
    calls = []

    def answer(call):
        calls.append((call.path, call.body))
        call.send(reply({"role": "assistant", "content": "4"}))

    with scripted_server(answer) as url:
        asked = [Request(TURNS, max_tokens=5, temperature=0.6, seed=7)]
        extra = {"chat_template_kwargs": {"enable_thinking": True}}
        (found,) = Client([url], "m", extra=extra).complete(asked)
    assert found == Completion("4", 3, Finish.STOP)
    assert calls == [
        (
            "/v1/chat/completions",
            {"model": "m", "messages": list(TURNS), "max_tokens": 5, "temperature": 0.6,
             "top_p": 1.0, "seed": 7, **extra},
        )
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("message", "text", "thinking"),
    [
        ({"content": "4"}, "4", None),
        ({"content": "4", "reasoning_content": None}, "4", None),
        ({"content": "4", "reasoning_content": "2+2"}, "4", "2+2"),
        ({"content": "4", "reasoning": "2+2"}, "4", "2+2"),
        ({"content": None, "reasoning": "2+2"}, "", "2+2"),
    ],
)
def test_what_servers_call_thinking(message, text, thinking):
    found = read_completion(reply(message), 5, "m", is_chat=True)
    assert (found.text, found.thinking) == (text, thinking)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (reply({"content": None}), "the text is none"),
        (reply({"content": "4", "reasoning": 3}), "the text is none"),
        (reply({"content": "4", "reasoning": "\ud800"}), "the text is none"),
        (reply({}), "no completion .KeyError"),
        (reply("4"), "no completion .AttributeError"),
        (reply({"content": "4"}, "tool_calls"), "finish reason is 'tool_calls'"),
        (reply({"content": "4"}, "length"), "the server's own limit is lower"),
        (reply({"content": "4"}, model="other"), "of model 'other'"),
    ],
)
def test_what_is_no_answer(content, says):
    with pytest.raises(ValueError, match=says):
        read_completion(content, 5, "m", is_chat=True)
