# SPDX-License-Identifier: Apache-2.0
"""Fields of a row: what they hold, and which of them nobody reads though they say something."""

from __future__ import annotations

import contextlib
import json
import math
import re
import reprlib
from collections.abc import Collection, Iterable, Iterator

from t3s_megatron.errors import DataError

#: Names that say of a field that it is part of the conversation, however short it is.
_NAMED = re.compile(
    r"(system|reasoning|thinking|thought)\w*|tools?|functions?|history|instructions?|input|output|"
    r"context|question|query|problem|completion|cot|chain_of_thought|rationale|explanation|text|"
    r"content|dialog(ue)?|conversations?|messages|prompt|responses?",
    re.IGNORECASE,
)
#: Of any other field, text with this many words, or that ends as a sentence does.
_PROSE = 6
_SENTENCE_ENDS = tuple(".?!:。？！：…")
#: By these names other trainers say how much of a response, or of a row, is learned.
_WEIGHTS = ("weight", "loss_weight", "loss_scale", "loss_mask")
_OF_A_ROW = (*_WEIGHTS, "sample_weight")
_OF_A_RESPONSE = (*_WEIGHTS, "loss", "mask", "train", "training", "train_detail", "training_detail")
#: Fields of a row that hold messages or answers, which have fields of their own.
_TURNS = ("messages", "conversations")
_OBJECTS = (*_TURNS, "prompt", "responses")
_WITHOUT_SPACES = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]")


def fields_of(raw: object, where: str, ignored: Collection[str] = ()) -> dict:
    """The fields that a row gives, but for those `ignored`, in its messages too; messages that are
    JSON text are read. DataError when the row is no object."""
    if not isinstance(raw, dict):
        raise DataError(f"{where}: has to be an object, found {type(raw).__name__}")
    # A table has every column in every row: null means not given, in JSONL too.
    row = {key: value for key, value in raw.items() if value is not None and key not in ignored}
    for name in _TURNS:
        if isinstance(row.get(name), str):
            with contextlib.suppress(ValueError, RecursionError):
                row[name] = json.loads(row[name])
    if ignored:
        row |= {name: _without(row[name], ignored) for name in _OBJECTS if name in row}
    return row


def _without(value: object, ignored: Collection[str]) -> object:
    """A list of objects without these fields of theirs; anything else as it is."""
    if not isinstance(value, list):
        return value
    return [
        {key: field for key, field in part.items() if key not in ignored}
        if isinstance(part, dict)
        else part
        for part in value
    ]


def encodable(value: str, what: str, where: str) -> str:
    """JSON can spell half a surrogate pair, which is no text: it has no UTF-8 and no tokens."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: {what} is not valid Unicode ({error})") from None
    return value


def optional_text(raw: dict, key: str, where: str) -> str | None:
    """`key` of a row as text, None when it is not given. DataError when it is anything else than
    text or a finite number, or empty."""
    value = raw.get(key)
    if value is None:
        return None
    is_number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    if isinstance(value, bool) or not (is_number or isinstance(value, str)):
        raise DataError(
            f"{where}: `{key}` has to be text or a finite number, found {reprlib.repr(value)}"
        )
    value = str(value)
    if not value.strip():
        raise DataError(f"{where}: `{key}` is empty; leave it out if there is none")
    return encodable(value, f"`{key}`", where)


def optional_metadata(raw: dict, where: str) -> dict | None:
    """The `metadata` of a row: an object, or its JSON. DataError when it is neither."""
    value = raw.get("metadata")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: `metadata` is not JSON ({error})") from None
    if value is not None and not isinstance(value, dict):
        raise DataError(f"{where}: `metadata` has to be an object, found {type(value).__name__}")
    return value


def refuse_weights(fields: dict, where: str, *, of_response: bool = False) -> None:
    """DataError when one of `fields`, of a row or of a response, says that less of it, or more, is
    learned than all of it: what is learned is decided here by the method alone."""
    for name in _OF_A_RESPONSE if of_response else _OF_A_ROW:
        value = fields.get(name)
        said = value if isinstance(value, list) else [value]
        if value is None or all(weight == 1 for weight in said):
            continue
        raise DataError(
            f"{where}: has `{name}` {reprlib.repr(value)}, but a response is learned as a whole. "
            f"Take the sample out, or --t3s-ignore-fields {name}"
        )


def refuse_unread(fields: dict, said: Iterable[str], where: str) -> None:
    """DataError when one of `fields`, which nobody reads, would be taken for part of what is
    said."""
    speaking = {
        name: texts
        for name, value in fields.items()
        if (texts := list(_texts(value)))
        and (_NAMED.fullmatch(str(name)) or _is_turns(value) or any(map(_is_prose, texts)))
    }
    if not speaking:
        return
    conversation = _words(" ".join(said))
    lost = [
        name
        for name, texts in speaking.items()
        if any(_words(text) not in conversation for text in texts)
    ]
    if lost:
        names = " ".join(map(str, lost))
        raise DataError(
            f"{where}: has text in {', '.join(f'`{name}`' for name in lost)} that would be lost. "
            "Put it into the conversation (system, messages, reasoning_content), or, if it is no "
            f"part of it, --t3s-ignore-fields {names}"
        )


def _texts(value: object) -> Iterator[str]:
    """Every text in a value that has something in it."""
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _is_turns(value: object) -> bool:
    return isinstance(value, list) and any(
        isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in value
    )


def _is_prose(text: str) -> bool:
    words = len(text.split()) + len(_WITHOUT_SPACES.findall(text))
    return words >= _PROSE or (words > 1 and text.rstrip().endswith(_SENTENCE_ENDS))


def _words(text: str) -> str:
    return " ".join(text.split())
