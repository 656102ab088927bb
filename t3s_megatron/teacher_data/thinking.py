# SPDX-License-Identifier: Apache-2.0
"""The thinking of a response, and what it answers after it.

Tags are those of DeepSeek-R1, QwQ and Qwen3. A response that is to be trained on has them in the
form in which Qwen3's chat template writes them, so that the template changes nothing in it.
"""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


def split(response: str) -> tuple[str | None, str | None]:
    """(thinking, answer). Thinking is None where there are no tags; the answer is None where the
    thinking never ends. A response may begin inside its thinking: some templates put the opening
    tag into the prompt.

    ValueError when tags do not pair up, once: a chat template would lose what stands between.
    """
    opens, closes = response.count(OPEN), response.count(CLOSE)
    if not opens and not closes:
        return None, response
    before, _, inside = response.partition(OPEN) if opens else ("", "", response)
    if opens > 1 or closes > 1 or before.strip():
        raise ValueError(f"{opens} {OPEN} and {closes} {CLOSE}, or text before the first")
    thinking, end, answer = inside.partition(CLOSE)
    return thinking, (answer if end else None)


def has_tags(response: str) -> bool:
    """Whether there is a tag of thinking in a response: otherwise it has none, or its server has
    taken the tags and left the thinking."""
    return OPEN in response or CLOSE in response


def join(thinking: str | None, answer: str | None) -> str:
    """What `split` takes apart, as Qwen3's chat template writes it. Line breaks around the two
    parts are the template's."""
    if thinking is None:
        return answer or ""
    opened = f"{OPEN}\n{thinking.strip('\n')}"
    if answer is None:
        return opened
    return f"{opened}\n{CLOSE}\n\n{answer.strip('\n')}"
