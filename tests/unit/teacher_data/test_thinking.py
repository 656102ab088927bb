# SPDX-License-Identifier: Apache-2.0
"""Thinking and answer, apart and together again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t3s_megatron.teacher_data.thinking import join, split


@pytest.mark.parametrize(
    ("response", "thinking", "answer"),
    [
        ("4", None, "4"),
        ("<think>\n2+2\n</think>\n\n4", "\n2+2\n", "\n\n4"),
        ("2+2\n</think>\n\n4", "2+2\n", "\n\n4"),  # the prompt had the opening tag
        ("\n<think>2+2</think>", "2+2", ""),
        ("<think>2+2", "2+2", None),
    ],
)
def test_a_response_is_taken_apart(response, thinking, answer):
    assert split(response) == (thinking, answer)


@pytest.mark.parametrize(
    "response",
    [
        "<think>a</think>b</think>c",
        "<think>a<think>b</think>c",
        "a<think>b</think>c",
        "</think>a<think>b",
    ],
)
def test_tags_that_do_not_pair_up_are_refused(response):
    with pytest.raises(ValueError, match="think>"):
        split(response)


parts = st.text("ab \n\\{}").filter(lambda text: "think>" not in text)


@given(thinking=st.none() | parts, answer=parts)
def test_what_is_joined_comes_apart_as_it_was_but_for_line_breaks_around(thinking, answer):
    back = split(join(thinking, answer))
    assert [part and part.strip("\n") for part in back] == [
        thinking and thinking.strip("\n"),
        answer.strip("\n") if thinking is not None else answer,
    ] or (thinking is None and back == (None, answer))
    assert join(*back) == join(thinking, answer)


def test_thinking_without_an_answer_stays_open():
    assert join("\na\n", None) == "<think>\na" and split("<think>\na") == ("\na", None)
