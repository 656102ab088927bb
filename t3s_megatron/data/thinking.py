# SPDX-License-Identifier: Apache-2.0
"""The thinking of a response, and what it answers after it.

Two readers with two needs. What is to be trained on is taken apart strictly (`split_thinking`): a
chat template would lose what it cannot place. What is to be verified is cut (`answer_of`): a
student in mid-training may write anything, and each of it has an answer or none.

Tags of what is trained on are those of DeepSeek-R1, QwQ and Qwen3, in the form in which Qwen3's
chat template writes them, so that the template changes nothing in it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

OPEN, CLOSE = "<think>", "</think>"

#: Openings and closings that other families write: OpenThoughts, Magistral, Gemma, and prompts that
#: ask for "thinking", "thought" or "reasoning" in tags.
_OTHER_TAGS = (
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("[THINK]", "[/THINK]"),
    ("<|channel>thought", "<channel|>"),
    *((f"<{word}>", f"</{word}>") for word in ("thinking", "thought", "thoughts", "reasoning")),
)
_OPENINGS = "|".join(re.escape(opening) for opening, _ in _OTHER_TAGS)
_CLOSINGS = "|".join(re.escape(closing) for _, closing in _OTHER_TAGS)
# In another family's tags only what begins a line opens: prose and programs may speak of such tags.
_OPENED = re.compile(rf"<think>|^[ \t]*(?:{_OPENINGS})", re.IGNORECASE | re.MULTILINE)
_CLOSED = re.compile(rf"</think>|{_CLOSINGS}", re.IGNORECASE)
_FOREIGN = re.compile(rf"{_OPENINGS}|{_CLOSINGS}", re.IGNORECASE)


class Parts(NamedTuple):
    """The two parts of a response. `thinking`: None where there are no tags; `answer`: None where
    the thinking never ends."""

    thinking: str | None
    answer: str | None


def split_thinking(response: str) -> Parts:
    """The parts of a response that is to be trained on. It may begin inside its thinking: some
    templates put the opening tag into the prompt.

    ValueError when tags do not pair up, once: a chat template would lose what stands between.
    """
    opens, closes = response.count(OPEN), response.count(CLOSE)
    if not opens and not closes:
        return Parts(None, response)
    before, _, inside = response.partition(OPEN) if opens else ("", "", response)
    if opens > 1 or closes > 1 or before.strip():
        raise ValueError(f"{opens} {OPEN} and {closes} {CLOSE}, or text before the first")
    thinking, end, answer = inside.partition(CLOSE)
    return Parts(thinking, answer if end else None)


def join_thinking(thinking: str | None, answer: str | None) -> str:
    """What `split_thinking` takes apart, as Qwen3's chat template writes it. Line breaks around the
    two parts are the template's."""
    if thinking is None:
        return answer or ""
    opened = f"{OPEN}\n{thinking.strip('\n')}"
    if answer is None:
        return opened
    return f"{opened}\n{CLOSE}\n\n{answer.strip('\n')}"


def answer_of(response: str, *, opened: bool = False) -> str | None:
    """What a verifier is to read: the text after the last closing tag, of whatever family; all of
    it where nobody thinks. None when thinking is left open, and so has no answer yet.

    `opened`: the prompt ended inside the thinking, so that a response without a closing tag never
    left it. Total, and linear in the text.
    """
    closings = [match.end() for match in _CLOSED.finditer(response)]
    if opened and not closings:
        return None
    after = response[closings[-1] :] if closings else response
    return None if _OPENED.search(after) else after


def has_tags(response: str) -> bool:
    """Whether there is a tag of thinking in a response: otherwise it has none, or its server has
    taken the tags and left the thinking."""
    return OPEN in response or CLOSE in response


def foreign_tag(text: str) -> str | None:
    """The first thinking tag of another family in `text`, as it stands there; None without one."""
    match = _FOREIGN.search(text)
    return match[0] if match else None
