# SPDX-License-Identifier: Apache-2.0
"""Thinking and answer, apart and together again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t3s_megatron.data.thinking import answer_of, foreign_tag, join_thinking, split_thinking


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
    assert split_thinking(response) == (thinking, answer)


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
        split_thinking(response)


parts = st.text("ab \n\\{}").filter(lambda text: "think>" not in text)


@given(thinking=st.none() | parts, answer=parts)
def test_what_is_joined_comes_apart_as_it_was_but_for_line_breaks_around(thinking, answer):
    back = split_thinking(join_thinking(thinking, answer))
    assert [part and part.strip("\n") for part in back] == [
        thinking and thinking.strip("\n"),
        answer.strip("\n") if thinking is not None else answer,
    ] or (thinking is None and back == (None, answer))
    assert join_thinking(*back) == join_thinking(thinking, answer)


def test_thinking_without_an_answer_stays_open():
    assert join_thinking("\na\n", None) == "<think>\na" and split_thinking("<think>\na") == (
        "\na",
        None,
    )


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("4", "4"),
        ("<think>2+2</think>4", "4"),
        ("2+2</think>4", "4"),
        ("<think>2+2</think>", ""),
        ("<think>2+2 is 4", None),
        ("<think>a</think>5<think>b</think>4", "4"),
        ("<think>a</think>5<think>b, cut off", None),
        ("<think>the tag </think> ends it</think>4", "4"),
        ("first this: <think>2+2</think>4", "4"),
        # other families
        ("<|begin_of_thought|>\n2+2\n<|end_of_thought|>\n\n4", "\n\n4"),
        ("<Think>2+2</Think>4", "4"),
        ("<thought>2+2</thought>4", "4"),
        ("[THINK]2+2[/THINK]4", "4"),
        ("<reasoning>2+2, cut off", None),
        ("print('<thought>')", "print('<thought>')"),
    ],
)
def test_what_a_verifier_is_to_read(response, answer):
    assert answer_of(response) == answer


def test_a_response_to_a_prompt_that_opened_the_thinking():
    assert answer_of("2+2 is 4", opened=True) is None
    assert answer_of("2+2</think>4", opened=True) == "4"


@given(st.text("<>/think \n|_") | st.text(), st.booleans())
def test_any_response_has_an_answer_or_none(response, opened):
    answer = answer_of(response, opened=opened)
    assert answer is None or response.endswith(answer)


def test_tags_of_other_families_are_known():
    assert foreign_tag("a <|begin_of_thought|> b") == "<|begin_of_thought|>"
    assert foreign_tag("<think>a</think>b") is None
