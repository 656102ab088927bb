# SPDX-License-Identifier: Apache-2.0
"""What teachers answered: several samples of each to each prompt.

A row is one sample (`response`, and `finish_reason` where it is known) or all samples of a prompt
(`responses`: texts, or objects with `content`, `reasoning_content` and `finish_reason`), with
`prompt`, `answer`, `teacher`, `id` and `metadata` beside them. `messages` that end with the answer
do as well.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from t3s_megatron.data.finish import End, end_of
from t3s_megatron.data.records import encodable, optional_metadata, optional_text, raw_rows
from t3s_megatron.data.thinking import join_thinking
from t3s_megatron.errors import DataError
from t3s_megatron.teacher_data.prompts import prompt_key, read_messages, written

#: Under which servers keep the thinking that they have taken out of an answer.
_THINKING = ("reasoning_content", "reasoning")


@dataclass(frozen=True)
class Trace:
    """One sample. `response`: thinking between tags, then the answer, "" when there is none;
    `ended`: its end is its own, not that of a length limit, as far as the server said; `tokens`:
    its length where the server said it; `unknown_finish`: what the server called its end, where
    nobody knows that word: it counts as cut off."""

    response: str
    ended: bool
    tokens: int | None
    where: str
    unknown_finish: str | None = None


@dataclass
class Asked:
    """Everything that one teacher answered to one prompt.

    The first spelling, id, gold answer and metadata in alphabetical order stand for all that come:
    order in a file means nothing. `answers` are the different gold answers, white space aside.
    """

    key: str
    teacher: str | None
    spellings: set[str] = field(default_factory=set)
    uids: set[str] = field(default_factory=set)
    answers: dict[str, str] = field(default_factory=dict)
    metadata: set[str] = field(default_factory=set)
    traces: list[Trace] = field(default_factory=list)
    places: list[str] = field(default_factory=list)

    @property
    def prompt(self) -> str | list[dict]:
        return json.loads(min(self.spellings))

    @property
    def uid(self) -> str:
        """Of the prompt. Not unique among teachers."""
        return min(self.uids, default=self.key)

    @property
    def answer(self) -> str | None:
        """The gold answer, where there is one and no other contradicts it."""
        return next(iter(self.answers.values())) if len(self.answers) == 1 else None

    @property
    def meta(self) -> dict | None:
        return json.loads(min(self.metadata)) if self.metadata else None


def load_traces(
    sources: Sequence[str], *, split: str = "train", teacher: str | None = None
) -> list[Asked]:
    """`Asked` of every teacher and prompt, in an order of their own: by teacher and id.

    `teacher`: the name of the teacher where a row has none. DataError names file and line of what
    is wrong, and of an id that stands for two prompts.
    """
    found: dict[tuple[str | None, str], Asked] = {}
    prompts: dict[str, tuple[str, str]] = {}
    for source in sources:
        for where, raw in raw_rows(source, split):
            asked = _add(raw, where, teacher, found)
            for uid in asked.uids:
                key, place = prompts.setdefault(uid, (asked.key, where))
                if key != asked.key:
                    raise DataError(
                        f"{where}: id {uid!r} belongs to another prompt in {place}; ids have to "
                        "name prompts"
                    )
    if not found:
        raise DataError(f"{', '.join(sources)}: no samples in it")
    return sorted(found.values(), key=lambda asked: (asked.teacher or "", asked.uid, asked.key))


def _add(
    raw: object, where: str, teacher: str | None, found: dict[tuple[str | None, str], Asked]
) -> Asked:
    if not isinstance(raw, dict):
        raise DataError(f"{where}: a sample has to be an object, found {type(raw).__name__}")
    raw = {key: value for key, value in raw.items() if value is not None}
    messages, traces = _conversation(raw, where)
    named = optional_text(raw, "teacher", where) or teacher
    key = prompt_key(messages)
    asked = found.setdefault((named, key), Asked(key, named))
    asked.spellings.add(json.dumps(written(messages), ensure_ascii=False))
    asked.traces += traces
    asked.places.append(where)
    if (uid := optional_text(raw, "id", where)) is not None:
        asked.uids.add(uid)
    if (answer := optional_text(raw, "answer", where)) is not None:
        words = " ".join(answer.split())
        asked.answers[words] = min(answer, asked.answers.get(words, answer))
    if (metadata := optional_metadata(raw, where)) is not None:
        asked.metadata.add(json.dumps(metadata, ensure_ascii=False, sort_keys=True))
    return asked


def _conversation(raw: dict, where: str) -> tuple[tuple[dict, ...], list[Trace]]:
    if "messages" in raw:
        messages = raw["messages"]
        last = messages[-1] if isinstance(messages, list) and messages else None
        if not isinstance(last, dict) or last.get("role") != "assistant":
            raise DataError(f"{where}: `messages` have to end with the teacher's answer")
        return read_messages(messages[:-1], where), [_trace(last | _rest(raw), where)]
    if "prompt" not in raw:
        found = ", ".join(sorted(map(str, raw)))[:200] or "nothing"
        raise DataError(f"{where}: needs `prompt` (or `messages`); found {found}")
    messages = read_messages(raw["prompt"], where)
    if "responses" not in raw:
        return messages, [_trace({"content": raw.get("response")} | _rest(raw), where)]
    return messages, list(_several(raw, where))


def _rest(raw: dict) -> dict:
    """What a row says of its one sample beside its text."""
    return {key: raw[key] for key in (*_THINKING, "finish_reason", "tokens") if key in raw}


def _several(raw: dict, where: str) -> Iterator[Trace]:
    responses, reasons = raw["responses"], raw.get("finish_reasons")
    if not isinstance(responses, list) or not responses:
        raise DataError(f"{where}: `responses` has to be a list that is not empty")
    if reasons is not None and (not isinstance(reasons, list) or len(reasons) != len(responses)):
        raise DataError(f"{where}: `finish_reasons` has to be a list as long as `responses`")
    for number, one in enumerate(responses):
        sample = dict(one) if isinstance(one, dict) else {"content": one}
        if reasons is not None:
            sample.setdefault("finish_reason", reasons[number])
        yield _trace(sample, f"{where}, response {number + 1}")


def _trace(sample: dict, where: str) -> Trace:
    texts: dict[str, str | None] = {}
    for name in ("content", "finish_reason", *_THINKING):
        value = sample.get(name)
        if value is not None and not isinstance(value, str):
            raise DataError(f"{where}: `{name}` has to be text, found {reprlib.repr(value)}")
        texts[name] = None if value is None else encodable(value, f"`{name}`", where)
    tokens = sample.get("tokens")
    if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int)):
        raise DataError(f"{where}: `tokens` has to be a whole number, found {tokens!r}")
    finish = texts["finish_reason"]
    end = End.ITSELF if finish is None else end_of(finish)
    ended = end is End.ITSELF
    separate = next((texts[name] for name in _THINKING if texts[name]), None)
    response = texts["content"] or ""
    if separate is not None:
        # Without an answer it is the thinking that was cut off.
        answer = response if response.strip() or ended else None
        response = join_thinking(separate, answer)
    return Trace(response, ended, tokens, where, finish if end is End.UNKNOWN else None)
