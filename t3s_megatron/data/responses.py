# SPDX-License-Identifier: Apache-2.0
"""What makes a response one that can be trained on: it is whole, its thinking is told from its
answer, and it ends where its text ends."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from t3s_megatron.data.finish import End, end_of, known_words
from t3s_megatron.data.thinking import CLOSE, OPEN, foreign_tag, join_thinking, split_thinking
from t3s_megatron.errors import DataError

#: What ends a response in the files of one family or another: the run writes its own.
_ENDS = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|return|>",
    "</s>",
    "<eos>",
    "<end_of_turn>",
    "<｜end▁of▁sentence｜>",
)
_OPEN_THOUGHTS = re.compile(
    r"\s*<\|begin_of_thought\|>(.*)<\|end_of_thought\|>"
    r"\s*<\|begin_of_solution\|>(.*)<\|end_of_solution\|>\s*",
    re.DOTALL,
)


class Flaw(enum.StrEnum):
    """Why nothing can be learned from a response."""

    TRUNCATED = "truncated"  # met a length limit, or its thinking never ends
    EMPTY = "empty"  # nothing in it, or nothing after the thinking
    MALFORMED = "malformed"  # thinking tags that do not pair up, or another family's


@dataclass(frozen=True)
class Trace:
    """One answer of a teacher. `response`: thinking between tags, then the answer; `ended`: its end
    is its own, as far as the row says; `tokens`: its length where the row says it.

    `flaw` and `why`, a clause for people: None and "" where it can be trained on.
    """

    response: str
    ended: bool
    tokens: int | None
    where: str
    flaw: Flaw | None = None
    why: str = ""


def has_ended(reason: object, where: str) -> bool:
    """Whether a finish reason is that of a response's own end; None is taken for one. DataError for
    a reason that is not known."""
    if reason is None:
        return True
    if not isinstance(reason, str):
        raise DataError(f"{where}: `finish_reason` has to be text, found {reason!r}")
    end = end_of(reason)
    if end is End.UNKNOWN:
        raise DataError(
            f"{where}: finish_reason {reason!r} is not known, so nobody can say whether the "
            f"response is whole. Known for an end or a limit are {known_words()}; rename it, or "
            "--t3s-ignore-fields finish_reason finish_reasons"
        )
    return end is End.ITSELF


def whole(
    content: str, thinking: str | None, *, ended: bool, asked_for: str = ""
) -> tuple[str, Flaw | None, str]:
    """(text, flaw, why) of what was answered: thinking in tags and in front, without an end token.

    `thinking`: what stands in a field of its own; `asked_for`: the question, which may ask for
    tags of another family.
    """
    while (shorter := content.rstrip()).endswith(_ENDS):
        content = shorter[: -len(next(end for end in _ENDS if shorter.endswith(end)))]
    if not content.strip() and thinking is None:
        return ("", Flaw.EMPTY, "is empty") if ended else ("", Flaw.TRUNCATED, _CUT)
    if (other := _of_open_thoughts(content)) and "<|begin_of_thought|>" not in asked_for:
        content = join_thinking(*other)
    try:
        thought, answer = split_thinking(content)
    except ValueError as error:
        flaw, why = Flaw.MALFORMED, f"has thinking that cannot be told from its answer: {error}"
        return (content, flaw, why) if ended else (content, Flaw.TRUNCATED, _CUT)
    if thinking is not None and thought is None:
        if _ANY_TAG.search(thinking):
            return content, Flaw.MALFORMED, "has thinking tags in the field of its thinking"
        # Without an answer it is the thinking that was cut off.
        answer = content if content.strip() or ended else None
        content = join_thinking(thinking, answer)
    elif thinking is not None and thought is not None and thought.strip() != thinking.strip():
        return content, Flaw.MALFORMED, "has thinking in its text, and other in a field"
    elif thought is not None and OPEN not in content:
        content = join_thinking(thought, answer)  # it began inside its thinking
    if not ended:
        return content, Flaw.TRUNCATED, _CUT
    if answer is None:
        return content, Flaw.TRUNCATED, "was cut off: its thinking never ends"
    if not answer.strip():
        return content, Flaw.EMPTY, "says nothing after its thinking"
    tag = foreign_tag(answer) or next(iter(_ANY_TAG.findall(answer)), None)
    if tag is not None:
        why = f"has {tag!r} where thinking is written as {OPEN} and {CLOSE}: rewrite it so"
        return content, Flaw.MALFORMED, why
    return content, None, ""


_CUT = "was cut off: its finish reason is not that of an end"
_ANY_TAG = re.compile(r"</?think>", re.IGNORECASE)


def _of_open_thoughts(content: str) -> tuple[str, str] | None:
    """(thinking, answer) of a response that is wholly in OpenThoughts' tags, each of them once."""
    match = _OPEN_THOUGHTS.fullmatch(content)
    if match is None or content.count("_of_thought|>") + content.count("_of_solution|>") > 4:
        return None
    return match[1], match[2]
