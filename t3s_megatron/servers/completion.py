# SPDX-License-Identifier: Apache-2.0
"""What is asked of a server, and what of its reply is believed."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import Any

from t3s_megatron.data.finish import End, end_of, known_words
from t3s_megatron.servers.exchange import excerpt

#: Under which servers keep the thinking that they have taken out of an answer: vLLM's and SGLang's
#: reasoning parsers (the second is vLLM's newer name), Ollama.
THINKING_FIELDS = ("reasoning_content", "reasoning", "thinking")


class Finish(enum.StrEnum):
    """How a request ended."""

    STOP = "stop"  # the answer ended by itself
    LENGTH = "length"  # it met max_tokens
    UNFINISHED = "unfinished"  # never answered, by nothing that is known to be its own fault
    REFUSED = "refused"  # a server that answers others will not answer it


@dataclass(frozen=True)
class Request:
    """`prompt`: text, token ids for servers that take them, or chat turns (`role` and `content`).
    temperature 0 is greedy. The same seed goes along with every attempt."""

    prompt: str | list[int] | tuple[dict[str, str], ...]
    max_tokens: int
    temperature: float
    seed: int | None = None
    top_p: float = 1.0

    @property
    def is_chat(self) -> bool:
        """Whether a server renders the prompt."""
        return isinstance(self.prompt, tuple)


@dataclass(frozen=True)
class Completion:
    """An answer, or why there is none.

    `tokens`: as the server counts, with the end token; 0 where it does not and need not
    (`Dialect`). `why`: of an UNFINISHED or REFUSED one. `thinking`: what a chat server has taken
    out of the text (vLLM's and SGLang's --reasoning-parser).
    """

    text: str
    tokens: int
    finish: Finish
    why: str | None = None
    thinking: str | None = None

    @property
    def is_answer(self) -> bool:
        """Whether the server has answered."""
        return self.finish in (Finish.STOP, Finish.LENGTH)


@dataclass(frozen=True)
class Dialect:
    """What a gateway has another name for than vLLM. `max_tokens`: the field of the limit (OpenAI:
    max_completion_tokens). `answering_model`: the name that replies carry, None: the name that was
    asked for. `counts_tokens`: replies have to carry `usage`."""

    max_tokens: str = "max_tokens"
    answering_model: str | None = None
    counts_tokens: bool = True


class NoAnswer(ValueError):
    """A sound reply that is no answer, nor will be with another attempt. `unknown_word`: the finish
    reason, when that is why and nobody knows it."""

    def __init__(self, why: str, unknown_word: str | None = None):
        super().__init__(why)
        self.unknown_word = unknown_word


class WrongModel(ValueError):
    """A reply of another model than was asked for."""


def read_completion(
    content: bytes,
    max_tokens: int,
    model: str,
    *,
    is_chat: bool = False,
    counts_tokens: bool = True,
) -> Completion:
    """The reply of `/v1/completions`, or of `/v1/chat/completions`.

    ValueError, saying what is wrong, for one that cannot be the reply to a request for one
    completion of `max_tokens` by `model`; WrongModel for one of another model; NoAnswer for one
    that can be the reply, and has no answer in it.
    """
    try:
        reply = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError(f"the reply is no JSON: {excerpt(content)}") from None
    try:
        found, choices, usage = reply["model"], reply["choices"], reply.get("usage") or {}
        tokens = usage.get("completion_tokens")
        said = [
            (*(_said(choice["message"]) if is_chat else (choice["text"], None)),
             choice["finish_reason"])
            for choice in choices
        ]  # fmt: skip
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"the reply is no completion ({type(error).__name__}: {error}): {excerpt(content)}"
        ) from None
    if found != model:
        raise WrongModel(
            f"the reply is of model {found!r}, asked for was {model!r} (`prepare generate` takes "
            "the name that a gateway answers with as --answering-model)"
        )
    if len(said) != 1:
        raise ValueError(f"the reply has {len(said)} choices, asked for was 1")
    text, thinking, word = said[0]
    finish = _finish(word)
    for part in (text, thinking or ""):
        if not isinstance(part, str) or not _is_unicode(part):
            raise ValueError(f"the text is none: {excerpt(content)}")
    if tokens is None:
        if not counts_tokens:
            return Completion(text, 0, finish, thinking=thinking)
        raise ValueError(
            "the reply does not say how many tokens it has (`usage`; `prepare generate` goes "
            "without with --no-usage)"
        )
    if type(tokens) is not int or not 0 <= tokens <= max_tokens:
        raise ValueError(f"the reply has {tokens!r} tokens, asked for were at most {max_tokens}")
    if finish is Finish.LENGTH and tokens < max_tokens:
        raise NoAnswer(
            f"the reply ends for its length after {tokens} of {max_tokens} tokens: the server's "
            "own limit is lower (vLLM: --max-model-len, SGLang: --context-length)"
        )
    return Completion(text, tokens, finish, thinking=thinking)


def _finish(word: object) -> Finish:
    end = end_of(word)
    if end is End.ITSELF:
        return Finish.STOP
    if end is End.LENGTH:
        return Finish.LENGTH
    if end is End.REFUSED:
        raise NoAnswer(f"the finish reason is {word!r}")
    if end is End.UNKNOWN:
        raise NoAnswer(
            f"the finish reason is {word!r}, which is not known; known are {known_words()}",
            str(word),
        )
    raise ValueError(f"the finish reason is {word!r}: the server has broken the answer off")


def _said(message: dict) -> tuple[Any, Any]:
    """(text, thinking or None). The text is null where all that came is thinking."""
    thinking = next((message[name] for name in THINKING_FIELDS if message.get(name)), None)
    text = message["content"]
    return ("" if text is None and thinking is not None else text), thinking


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True
