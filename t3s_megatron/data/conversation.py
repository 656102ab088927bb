# SPDX-License-Identifier: Apache-2.0
"""What is said in a row, wherever the row keeps it: the one rule for training samples, for prompts
that a teacher is asked, and for the answers that it gave.

A row has `messages` (or `conversations`), or `prompt` with `response` or `responses`; a system
prompt and the thinking may stand in fields of their own. What can be put into its place without a
guess is; other text that a reader would take for part of the conversation is refused, until
`--t3s-ignore-fields` says that it is none.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass

from t3s_megatron.data.fields import encodable, refuse_unread, refuse_weights
from t3s_megatron.data.responses import Trace, has_ended, whole
from t3s_megatron.errors import DataError

#: Fields of a row, or of a message of the assistant, that hold its thinking.
_THINKING = ("reasoning_content", "reasoning", "thinking")
_SYSTEM = ("system", "system_prompt")
_TURNS = ("messages", "conversations")
#: What else is known of a row, and is no part of the conversation.
_BESIDE = ("answer", "id", "teacher", "metadata", "sample", "sampling")
_OF_RESPONSES = ("response", "responses", "finish_reason", "finish_reasons", "tokens")
_OF_ONE = ("response", "responses", "finish_reason", *_THINKING)
#: What a message has beside `content` that a chat template may render, and that is not read here.
_CALLS = ("tool_calls", "function_call", "tool_call_id", "tools", "functions", "refusal", "audio")

#: ShareGPT's names, which mean nothing else.
_ROLES = {"human": "user", "gpt": "assistant"}

#: What chat templates put between turns: a server takes them for its own wherever they stand.
_CONTROL = re.compile(
    r"<\|(?:im_start|im_end|im_sep|endoftext|begin_of_text|end_of_text|start_header_id|"
    r"end_header_id|eot_id|eom_id|start|end|return|channel|message|user|assistant|system)\|>"
    r"|<｜[^｜<>\s]{1,40}｜>|<(?:start|end)_of_turn>"
)


@dataclass(frozen=True)
class Conversation:
    """`prompt`: turns (`role`, `content`) up to where the assistant answers; `responses`: what it
    answered, in the row's order."""

    prompt: tuple[dict, ...]
    responses: tuple[Trace, ...]


def read_conversation(row: dict, where: str) -> Conversation:
    """The conversation of a row that `fields_of` gave. DataError, with file and line, when it is
    incomplete or something in it would be lost."""
    name = next((name for name in _TURNS if name in row), None)
    if name is not None:
        turns = _list_of_turns(row[name], name, where)
        if len(turns) < 2:
            raise DataError(f"{where}: needs at least a prompt and a response")
        *asked, last = [_message(turn, where) for turn in turns]
        if last.role != "assistant":
            raise DataError(
                f"{where}: the last message has to be the assistant's response, found role "
                f"{last.role!r}"
            )
        prompt = _prompt(asked, row, where)
        given = _given_beside(row, last.content, last.thinking, last.unread, where)
        answers = [(given, where)]
        read: tuple[str, ...] = (name, *_THINKING, *_SYSTEM, "finish_reason", "tokens")
    elif "prompt" in row and any(row.get(name) is not None for name in _OF_ONE):
        prompt = _prompt(_asked(row["prompt"], where), row, where)
        if "responses" in row:
            answers = list(_several(row, where))
            read = ("prompt", *_SYSTEM, "responses", "finish_reasons")
        else:
            text = row.get("response", "")
            if not isinstance(text, str):
                raise DataError(f"{where}: a message needs `role` and `content` as text")
            answers = [(_given_beside(row, text, None, {}, where), where)]
            read = ("prompt", "response", *_THINKING, *_SYSTEM, "finish_reason", "tokens")
    else:
        found = ", ".join(sorted(map(str, row)))[:200] or "nothing"
        raise DataError(f"{where}: needs `messages`, or `prompt` and `response`; found {found}")
    asked_for = "\n".join(turn["content"] for turn in prompt)
    responses = tuple(_response(given, asked_for, place) for given, place in answers)
    said = [turn["content"] for turn in prompt] + [one.response for one in responses]
    rest = {key: value for key, value in row.items() if key not in (*read, *_BESIDE)}
    for given, place in answers:
        refuse_unread(given.unread, said, place)
        refuse_weights(given.unread, place, of_response=True)
    refuse_unread(rest, said, where)
    refuse_weights(rest, where)
    return Conversation(prompt, responses)


def read_prompt(row: dict, where: str) -> tuple[dict, ...]:
    """The turns that a teacher is asked to answer, of a row that `fields_of` gave; what it says of
    responses is not looked at. DataError when there are none, when something would be lost, or when
    a server would take a part of the text for its own control tokens."""
    if "prompt" not in row:
        raise DataError(f"{where}: needs `prompt`, found {', '.join(sorted(map(str, row)))}")
    prompt = _prompt(_asked(row["prompt"], where), row, where)
    said = [turn["content"] for turn in prompt]
    for text in said:
        if found := _CONTROL.search(text):
            raise DataError(
                f"{where}: the prompt has {found[0]!r} in it, which a server takes for its own "
                "control token; take it out, a prompt is text without a chat template's marks"
            )
    known = ("prompt", *_SYSTEM, *_BESIDE, *_OF_RESPONSES, *_THINKING)
    refuse_unread({key: value for key, value in row.items() if key not in known}, said, where)
    return prompt


# -------------------------------------------------------------------------------------- the prompt


@dataclass(frozen=True)
class _Turn:
    """`thinking`: what stands in a field for it; `unread`: other fields of the message."""

    role: str
    content: str
    thinking: str | None
    unread: dict


def _list_of_turns(value: object, name: str, where: str) -> list:
    if not isinstance(value, list):
        raise DataError(f"{where}: `{name}` has to be a list of messages, or its JSON")
    return value


def _asked(value: object, where: str) -> list[_Turn]:
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: `prompt` has to be text or a list of messages")
    return [_message(turn, where) for turn in value]


def _message(turn: object, where: str) -> _Turn:
    """DataError when it is not made of role and content, or when something else would be lost."""
    if not isinstance(turn, dict):
        raise DataError(f"{where}: a message has to be an object, found {reprlib.repr(turn)}")
    names = ("from", "value") if "role" not in turn and "from" in turn else ("role", "content")
    role, content = (turn.get(name) for name in names)
    if role == "assistant" and content is None:
        content = ""  # a server that was cut off in the thinking has said nothing yet
    if not isinstance(role, str) or not isinstance(content, str):
        raise DataError(f"{where}: a message needs `role` and `content` as text")
    for part in (role, content):
        encodable(part, f"a message of role {role!a}", where)
    role = _ROLES.get(role, role)
    if not role.isidentifier():
        raise DataError(f"{where}: {role!a} is no role: user, assistant, system, ...")
    lost = [f"`{key}`" for key in _CALLS if turn.get(key)]
    if role != "assistant":
        lost += [f"`{key}`" for key in _THINKING if turn.get(key)]
    if lost:
        raise DataError(
            f"{where}: a message of role {role} has {', '.join(lost)}, which would be lost: "
            "put it into `content` as the tokenizer's chat template writes it"
        )
    read = (*names, *_CALLS, *_THINKING)
    unread = {key: value for key, value in turn.items() if key not in read}
    return _Turn(role, content, _thinking(turn, where), unread)


def _prompt(turns: list[_Turn], row: dict, where: str) -> tuple[dict, ...]:
    made: list[dict] = []
    for turn in turns:
        content = turn.content
        if turn.role == "assistant":
            content, flaw, why = whole(content, turn.thinking, ended=True)
            if flaw is not None:
                raise DataError(f"{where}: an earlier answer {why}")
        elif not content.strip():
            raise DataError(f"{where}: a message of role {turn.role} is empty")
        made.append({"role": turn.role, "content": content})
    made = _with_system(made, row, where)
    if not made:
        raise DataError(f"{where}: needs at least a prompt and a response")
    if made[-1]["role"] == "assistant":
        raise DataError(f"{where}: the prompt ends with an answer; it has to end with a question")
    said = [turn["content"] for turn in made]
    for turn in turns:
        refuse_unread(turn.unread, said, where)
    return tuple(made)


def _with_system(turns: list[dict], row: dict, where: str) -> list[dict]:
    """With the system prompt that stands in a field of its own in front."""
    for name in _SYSTEM:
        text = row.get(name, "")
        if not isinstance(text, str):
            raise DataError(f"{where}: `{name}` has to be text, found {reprlib.repr(text)}")
        if not encodable(text, f"`{name}`", where).strip():
            continue
        if not turns or turns[0]["role"] != "system":
            turns = [{"role": "system", "content": text}, *turns]
        elif turns[0]["content"].strip() != text.strip():
            raise DataError(f"{where}: `{name}` is another system prompt than the conversation's")
    return turns


# ----------------------------------------------------------------------------------- the responses


@dataclass(frozen=True)
class _Given:
    """What a row says of one response: its text, thinking that stands apart, and the rest."""

    content: str
    thinking: str | None
    finish_reason: object
    tokens: object
    unread: dict


def _given_beside(
    row: dict, content: str, thinking: str | None, unread: dict, where: str
) -> _Given:
    """The one response of a row, with what the row says of it beside its text."""
    encodable(content, "the response", where)
    beside = _thinking(row, where)
    if None not in (thinking, beside) and thinking != beside:
        raise DataError(f"{where}: its thinking stands in two fields, and is not the same there")
    both = beside if thinking is None else thinking
    return _Given(content, both, row.get("finish_reason"), row.get("tokens"), unread)


def _several(row: dict, where: str) -> Iterator[tuple[_Given, str]]:
    responses, reasons = row["responses"], row.get("finish_reasons")
    if not isinstance(responses, list) or not responses:
        raise DataError(f"{where}: `responses` has to be a list that is not empty")
    if reasons is not None and (not isinstance(reasons, list) or len(reasons) != len(responses)):
        raise DataError(f"{where}: `finish_reasons` has to be a list as long as `responses`")
    for number, one in enumerate(responses):
        place = f"{where}, response {number + 1}"
        sample = one if isinstance(one, dict) else {"content": one}
        sample = {key: value for key, value in sample.items() if value is not None}
        content = sample.get("content", "")
        if not isinstance(content, str):
            raise DataError(f"{place}: `content` has to be text, found {reprlib.repr(content)}")
        encodable(content, "the response", place)
        reason = sample.get("finish_reason", reasons[number] if reasons else None)
        read = ("role", "content", "finish_reason", "tokens", *_THINKING)
        unread = {key: value for key, value in sample.items() if key not in read}
        thinking = _thinking(sample, place)
        yield _Given(content, thinking, reason, sample.get("tokens"), unread), place


def _thinking(fields: dict, where: str) -> str | None:
    """The thinking that stands in a field of its own. DataError when two differ."""
    found = None
    for name in _THINKING:
        value = fields.get(name)
        if isinstance(value, bool | int | float) or not value:
            continue
        if not isinstance(value, str):
            raise DataError(f"{where}: `{name}` has to be text, found {reprlib.repr(value)}")
        text = encodable(value, f"`{name}`", where)
        if not text.strip():
            continue
        if found is not None and found != text:
            raise DataError(f"{where}: its thinking stands in two fields, and is not the same")
        found = text
    return found


def _response(given: _Given, asked_for: str, where: str) -> Trace:
    tokens = given.tokens
    if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int)):
        raise DataError(f"{where}: `tokens` has to be a whole number, found {tokens!r}")
    ended = has_ended(given.finish_reason, where)
    text, flaw, why = whole(given.content, given.thinking, ended=ended, asked_for=asked_for)
    return Trace(text, ended, tokens, where, flaw, why)
