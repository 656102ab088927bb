# SPDX-License-Identifier: Apache-2.0
"""A conversation as the tokenizer's chat template writes it, and the proof that it is all there.

Templates drop roles that they do not know, the thinking of a response, or what stands before it,
and say nothing. So a conversation of the same shape is rendered beside it, with a mark in the place
of every text: what the template writes around the marks is its own, and the conversation has to be
exactly that, with its texts in the marks' places. Only white space around a text may differ, and
the thinking of earlier answers may be gone, as it is when the student is asked. Nothing here
depends on the family.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from t3s_megatron.data.records import Record
from t3s_megatron.data.thinking import OPEN, join_thinking, split_thinking
from t3s_megatron.errors import DataError

#: Some templates write today's date, and the same data would be other samples tomorrow: in front of
#: a template, this says that it is always the day of Llama's own fallback.
_TODAY = (
    "{%- macro strftime_now(form) -%}{{ form"
    ".replace('%Y', '2024').replace('%y', '24').replace('%m', '07').replace('%d', '26')"
    ".replace('%B', 'July').replace('%b', 'Jul') }}{%- endmacro -%}"
)
#: Keys of a message in which templates take the thinking apart from the answer.
_FIELDS = ("reasoning_content", "thinking")
_MARK = re.compile(r"t3sPart(\d+)Of")


@dataclass(frozen=True)
class Rendered:
    """`prompt`: what generation is given; `response`: what the template writes behind it, of which
    the record's own text ends at `response_end`. `said`: where in `prompt` the texts of messages
    stand, (start, end), in order."""

    prompt: str
    response: str
    response_end: int
    said: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Part:
    """One text of a conversation. `name`: what to call it to people; `message`: its number, from
    1; `of_response`: that is the last one; `may_go`: it is the thinking of an earlier answer;
    `may_move`: it is a system prompt, which some templates write in front of the last question."""

    text: str
    name: str
    message: int
    of_response: bool
    may_go: bool
    may_move: bool


class _Lost(Exception):
    """The rendered conversation is not the record's; the message says what is missing."""


def render_chat(record: Record, tokenizer) -> Rendered:
    """`tokenizer`: a Hugging Face one. DataError when it has no template, when the template refuses
    the record, or when a part of it does not come out where it belongs."""
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise DataError(
            "the tokenizer has no chat template: give one that has, or set "
            "--t3s-prompt-format raw to train on prompt and response as they are"
        )
    # A template that takes the thinking in a field of its own knows best where it goes.
    fields = [name for name in _FIELDS if name in str(template)]
    for field in (*fields, None):
        try:
            return _render(record, tokenizer, field)
        except _Lost as lost:
            why = lost  # that of the last of these ways: tags in the text
    with contextlib.suppress(_Lost):
        return _render_opened(record, tokenizer)
    raise DataError(
        f"{record.where}: {why}. Nothing of a record may be lost: change the record, or give the "
        "tokenizer a chat template that writes it"
    )


def _render(record: Record, tokenizer, field: str | None) -> Rendered:
    messages, whole, around, texts, places = _written(record, tokenizer, field)
    prompt = _apply(record, tokenizer, messages[:-1], add_generation_prompt=True)
    first = next(place for place, part in enumerate(texts) if part.of_response)
    start, end = places[first][0], places[-1][1]
    if not whole.startswith(prompt) or len(prompt) > start:
        raise _Lost(
            "the chat template renders the prompt differently once the response is there, so the "
            "response cannot be told apart; its generation prompt has to be a prefix of the "
            "rendered conversation (one that opens the thinking needs a response that thinks)"
        )
    if _thought(record.messages[-1]) is None and whole[len(prompt) : start].strip():
        # Empty thinking tags, or a header: the record does not have them, so they are context. The
        # white space that the template writes behind them is, that of the response is not.
        own = around[first][len(around[first].rstrip()) :]
        prompt = whole[:start].rstrip() + own
    said = tuple(place for place in places if place[1] <= len(prompt))
    return Rendered(prompt, whole[len(prompt) :], end - len(prompt), said)


def _render_opened(record: Record, tokenizer) -> Rendered:
    """For a template that opens the thinking in its generation prompt and leaves it out of every
    answer, as R1-Distill's does: behind that prompt a student says its thinking, the closing tag
    and the answer, and so does the response. _Lost for any other template or response."""
    *before, last = record.messages
    thinking, answer = split_thinking(last["content"])
    prompt = _apply(record, tokenizer, list(before), add_generation_prompt=True)
    bare = prompt.rstrip().removesuffix(OPEN)
    if thinking is None or answer is None or not prompt.rstrip().endswith(OPEN):
        raise _Lost
    answered = replace(record, messages=(*before, {**last, "content": answer.strip("\n")}))
    _, whole, _, _, places = _written(answered, tokenizer, None)
    start, end = places[-1]
    if whole[:start].rstrip() != bare.rstrip():
        raise _Lost
    said = join_thinking(thinking, answer.rstrip()).removeprefix(OPEN).removeprefix("\n")
    return Rendered(prompt, said + whole[end:], len(said), tuple(places[:-1]))


class _Written(NamedTuple):
    """A conversation as the template writes it: `whole`, with what is the template's own `around`
    the `texts`, which stand at `places`, (start, end). `messages`: as the template was given
    them."""

    messages: list[dict]
    whole: str
    around: list[str]
    texts: list[_Part]
    places: list[tuple[int, int]]


def _written(record: Record, tokenizer, field: str | None) -> _Written:
    """_Lost where a part of it does not come out in its place. `field`: as of `_taken_apart`."""
    parts, messages, marked = _taken_apart(record, field)
    whole = _apply(record, tokenizer, messages)
    around, order = _read_skeleton(_apply(record, tokenizer, marked), parts)
    texts = [parts[number] for number in order]
    return _Written(messages, whole, around, texts, _find(whole, around, texts))


def _apply(record: Record, tokenizer, turns: list[dict], **how: Any) -> str:
    """What the template writes. DataError for what it raises."""
    try:
        template = tokenizer.get_chat_template()
        if "strftime_now" in template:
            how["chat_template"] = _TODAY + template
        return str(tokenizer.apply_chat_template(turns, tokenize=False, **how))
    except Exception as error:  # a template may raise anything, jinja's own types included
        raise DataError(f"{record.where}: the chat template refuses it ({error})") from error


def _thought(message: dict) -> str | None:
    return split_thinking(message["content"]).thinking if message["role"] == "assistant" else None


def _taken_apart(record: Record, field: str | None) -> tuple[list[_Part], list[dict], list[dict]]:
    """(every text of the conversation, its messages, the same with marks for texts). `field`: the
    key of a message under which the template is given thinking; None: in tags in its text."""
    parts: list[_Part] = []
    messages: list[dict] = []
    marked: list[dict] = []

    def mark(text: str, name: str, **kind: bool) -> str:
        if not text.strip():
            return text  # nothing that could be lost, and a template may ask whether it is empty
        parts.append(_Part(text, name, number, of_response=is_last, **kind))
        return f"t3sPart{len(parts) - 1}Of"

    for number, message in enumerate(record.messages, start=1):
        role, content = message["role"], message["content"]
        is_last = number == len(record.messages)
        name = "the response" if is_last else f"message {number}, of role {role}"
        thought = _thought(message)
        answer = content if thought is None else split_thinking(content).answer or ""
        made = mark(answer, name, may_go=False, may_move=role == "system")
        if thought is None:
            messages.append({"role": role, "content": content})
            marked.append({"role": role, "content": made})
            continue
        in_thought = mark(thought, f"the thinking of {name}", may_go=not is_last, may_move=False)
        if field is not None:
            said = {"content": answer.strip("\n"), field: thought.strip("\n")}
            messages.append({"role": role, **said})
            marked.append({"role": role, "content": made, field: in_thought})
        else:
            messages.append({"role": role, "content": content})
            marked.append({"role": role, "content": join_thinking(in_thought, made)})
    return parts, messages, marked


def _read_skeleton(skeleton: str, parts: list[_Part]) -> tuple[list[str], list[int]]:
    """(what the template writes around the texts, in its order; which text stands between)."""
    found = _MARK.split(skeleton)
    around, order = found[::2], [int(number) for number in found[1::2]]
    for number, part in enumerate(parts):
        times = order.count(number)
        if times == 0 and not part.may_go:
            raise _Lost(f"the chat template does not write {part.name}")
        if times > 1:
            raise _Lost(f"the chat template writes {part.name} {times} times")
    messages = [parts[number].message for number in order if not parts[number].may_move]
    if messages != sorted(messages):
        raise _Lost("the chat template changes the order of the messages")
    return around, order


def _find(whole: str, around: list[str], texts: list[_Part]) -> list[tuple[int, int]]:
    """Where each text stands in `whole`, white space around it aside."""
    places: list[tuple[int, int]] = []
    at = 0
    for own, part in zip(around, texts, strict=False):
        at = _behind(whole, at, own, part)
        end = _behind(whole, at, part.text, part)
        places.append((end - len(part.text.strip()), end))
        at = end
    if whole[_behind(whole, at, around[-1], texts[-1]) :].strip():
        raise _Lost(f"the chat template changes {texts[-1].name}")
    return places


def _behind(whole: str, at: int, text: str, part: _Part) -> int:
    """Where `whole` goes on after `text`, which has to stand at `at`, white space aside."""
    text = text.strip()
    while text and at < len(whole) and whole[at].isspace():
        at += 1
    if not whole.startswith(text, at):
        raise _Lost(f"the chat template changes {part.name}, or writes it in another place")
    return at + len(text)
