# SPDX-License-Identifier: Apache-2.0
"""The words of servers and gateways for the end of an answer."""

from __future__ import annotations

import pytest

from t3s_megatron.data.finish import End, end_of, known_words


@pytest.mark.parametrize(
    ("word", "end"),
    [
        ("stop", End.ITSELF),
        pytest.param("eos", End.ITSELF, id="openai-dotnet #267, ragas #1548: Together"),
        pytest.param("eos_token", End.ITSELF, id="spring-ai #4900: TGI"),
        ("stop_sequence", End.ITSELF),
        ("end_turn", End.ITSELF),
        pytest.param("end", End.ITSELF, id="earendil-works/pi #2107"),
        ("COMPLETE", End.ITSELF),
        ("length", End.LENGTH),
        ("max_tokens", End.LENGTH),
        ("MAX_TOKENS", End.LENGTH),
        ("model_length", End.LENGTH),
        ("content_filter", End.REFUSED),
        ("tool_calls", End.REFUSED),
        pytest.param("refusal", End.REFUSED, id="BerriAI/litellm #23800"),
        ("abort", End.BROKEN_OFF),
        pytest.param("error", End.BROKEN_OFF, id="BerriAI/litellm #33968"),
        (None, End.BROKEN_OFF),
        ({"type": "stop"}, End.BROKEN_OFF),
        ("mood", End.UNKNOWN),
        ("", End.UNKNOWN),
    ],
)
def test_words(word, end):
    assert end_of(word) is end


def test_the_words_of_an_end_and_of_a_limit_are_named_and_nothing_else():
    named = known_words().split(", ")
    assert {end_of(word) for word in named} == {End.ITSELF, End.LENGTH}
