# SPDX-License-Identifier: Apache-2.0
"""Why an answer ended: the words of servers and gateways for it, in one table.

Sources: OpenAI's reference (stop, length, content_filter, tool_calls, function_call), vLLM (abort,
error), TGI (eos_token, stop_sequence), Together (eos: openai/openai-dotnet #267), Anthropic
(end_turn, max_tokens, refusal, tool_use), Mistral (model_length), Cohere (complete), Gemini
(safety, recitation, ...; in capitals, which mean nothing here), DeepSeek
(insufficient_system_resource), gateways that say end (earendil-works/pi #2107).
"""

from __future__ import annotations

import enum


class End(enum.Enum):
    """What a word says of an answer."""

    ITSELF = enum.auto()  # the model ended it
    LENGTH = enum.auto()  # it was cut off at a limit of tokens
    REFUSED = enum.auto()  # another attempt would end the same: a filter, a call of a tool
    BROKEN_OFF = enum.auto()  # by the server, for reasons of its own
    UNKNOWN = enum.auto()  # a word that is not in the table


_WORDS = {
    End.ITSELF: ("stop", "eos", "eos_token", "stop_sequence", "end_turn", "end", "complete"),
    End.LENGTH: ("length", "max_tokens", "max_output_tokens", "max_new_tokens", "model_length"),
    End.REFUSED: (
        "content_filter", "content-filter", "safety", "recitation", "blocklist",
        "prohibited_content", "spii", "refusal", "tool_calls", "tool-calls", "tool_use",
        "function_call",
    ),
    End.BROKEN_OFF: ("abort", "aborted", "cancelled", "error", "insufficient_system_resource"),
}  # fmt: skip
_ENDS = {word: end for end, words in _WORDS.items() for word in words}


def end_of(word: object) -> End:
    """What a finish reason says. None, which a server sends for an answer that is not over, and
    what is no text at all is BROKEN_OFF."""
    if not isinstance(word, str):
        return End.BROKEN_OFF
    return _ENDS.get(word.lower(), End.UNKNOWN)


def known_words() -> str:
    """The words for an end and for a limit, for messages."""
    return ", ".join((*_WORDS[End.ITSELF], *_WORDS[End.LENGTH]))
