# SPDX-License-Identifier: Apache-2.0
"""Rows of the published datasets: which problem stands in one, and what its gold answer is.

Where the fields are known from: docs/teacher_data.md. A row that is not wanted, or not whole, is
left out with its reason; only the fields that a wanted row needs are looked at.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from t3s_megatron.accuracy.extraction import boxed
from t3s_megatron.data.fields import encodable
from t3s_megatron.data.thinking import join_thinking
from t3s_megatron.errors import DataError
from t3s_megatron.teacher_data.prompts import Prompt, prompt_key
from t3s_megatron.teacher_data.rendered import take_apart

#: Sources of s1K whose `solution` is the bare answer, by the beginning of `source_type`:
#: simplescaling/s1, data/add_aime.py and data/collect_data.py (`Answer` of TheoremQA and of the
#: teasers, `gold` of JEEBench).
_BARE_ANSWERS = (
    "qq8933/AIME_1983_2024",
    "TIGER-Lab/TheoremQA/",
    "daman1209arora/jeebench/",
    "simplescaling/s1-teasers",
    "qfq/quant",
)
#: Sources of s1K whose `metadata`, the rest of the source's row, has the answer in this field.
_ANSWERS_IN_METADATA = {"KbsdJames/Omni-MATH": "answer"}
#: A bare answer is no longer than this, and on one line.
_LONGEST_BARE_ANSWER = 200

_PROOF = re.compile(r"\b(?:prove[sdn]?|proofs?|show that|demonstrate that)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Published:
    """A problem as published. `traces`: the answers that the file has, by teacher."""

    prompt: Prompt
    traces: dict[str, str]


class LeftOut(Exception):
    """A row that gives no problem. `source`: the dataset that it came from, as far as it says."""

    def __init__(self, why: str, source: str = ""):
        super().__init__(why)
        self.source = source


class OtherFields(LeftOut):
    """A row without a field that a problem needs."""


def boba_problem(row: dict, where: str) -> Published:
    """A row of AReaL-boba. LeftOut."""
    if row.get("task", "math") != "math":
        raise LeftOut("not mathematics")
    try:
        turns = take_apart(_text(row, "prompt"))
    except ValueError as error:
        raise LeftOut(str(error)) from None
    metadata = {"dataset": "AReaL-boba"}
    if row.get("query_id") is not None:
        metadata["query_id"] = str(row["query_id"])
    solutions = row.get("solutions")
    if solutions is None:
        # The shape of AReaL's files for supervised fine-tuning: the answer is a whole response.
        gold = _only_answer([boxed(_text(row, "answer"))])
        metadata["gold"] = "boxed in the published response"
    elif isinstance(solutions, list) and all(isinstance(text, str) for text in solutions):
        gold = _only_answer([boxed(text) or _bare(text) for text in solutions])
    else:
        raise OtherFields("`solutions` is no list of texts")
    return Published(_prompt(turns, gold, metadata, where), {})


def s1k_problem(row: dict, where: str) -> Published:
    """A row of s1K or s1K-1.1. LeftOut."""
    source = str(row.get("source_type") or "")
    try:
        return _s1k_problem(row, source, where)
    except LeftOut as left_out:
        left_out.source = source
        raise


def _s1k_problem(row: dict, source: str, where: str) -> Published:
    if row.get("cot_type", "math") != "math":
        raise LeftOut("not mathematics")
    question = _text(row, "question").strip()
    if _PROOF.search(question) or "proof" in source.lower():
        raise LeftOut("asks for a proof")
    solution = row.get("solution")
    if solution is None and "solution" in row:
        raise LeftOut("no solution is published")
    is_number = isinstance(solution, int | float) and not isinstance(solution, bool)
    solution = str(solution) if is_number else _text(row, "solution")
    answers: list[str | None] = list(_all_boxed(solution))
    if not answers and source.startswith(_BARE_ANSWERS):
        answers = [_bare(solution)]
    if not answers:
        answers = [_answer_in_metadata(row, source)]
    turns = ({"role": "user", "content": question},)
    metadata = {"dataset": "s1K", "source_type": source}
    prompt = _prompt(turns, _only_answer(answers), metadata, where)
    return Published(prompt, _s1k_traces(row))


def _answer_in_metadata(row: dict, source: str) -> str | None:
    """s1K's `metadata` is the text of a Python dict."""
    name = _ANSWERS_IN_METADATA.get(source)
    text = row.get("metadata")
    if name is None or not isinstance(text, str):
        return None
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    answer = value.get(name) if isinstance(value, dict) else None
    return _bare(answer) if isinstance(answer, str) else None


def _s1k_traces(row: dict) -> dict[str, str]:
    """s1K-1.1 has those of two teachers, s1K those of Gemini, the thinking as a list."""
    trajectories = row.get("thinking_trajectories")
    first = trajectories[0] if isinstance(trajectories, list) and trajectories else None
    parts = {
        "deepseek-r1": (row.get("deepseek_thinking_trajectory"), row.get("deepseek_attempt")),
        "gemini-2.0-flash-thinking": (
            row.get("gemini_thinking_trajectory") or first,
            row.get("gemini_attempt") or row.get("attempt"),
        ),
    }
    return {
        teacher: join_thinking(thought.strip(), answer.strip())
        for teacher, (thought, answer) in parts.items()
        if isinstance(thought, str) and isinstance(answer, str)
    }


def _prompt(turns: tuple[dict[str, str], ...], gold: str, metadata: dict, where: str) -> Prompt:
    if not turns[-1]["content"]:
        raise LeftOut("the problem is empty")
    try:
        for text in (gold, *(turn["content"] for turn in turns)):
            encodable(text, "the problem", where)
    except DataError:
        raise LeftOut("its text is not valid Unicode") from None
    return Prompt(prompt_key(turns), turns, gold, metadata, where)


def _text(row: dict, name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise OtherFields(f"`{name}` is no text" if name in row else f"there is no `{name}`")
    return value


def _only_answer(answers: list[str | None]) -> str:
    found = {" ".join((answer or "").split()) for answer in answers}
    if not found or "" in found:
        raise LeftOut("no answer, in a box or alone")
    if len(found) > 1:
        raise LeftOut("several gold answers")
    return found.pop()


def _bare(text: str) -> str | None:
    r"""The answer in a text that is nothing else, without dollar signs around it; None for a text
    that is more than that."""
    text = text.strip()
    if "\n" in text or len(text) > _LONGEST_BARE_ANSWER or "\\boxed" in text:
        return None
    for sign in ("$$", "$"):
        inside = text.removeprefix(sign).removesuffix(sign)
        if text == f"{sign}{inside}{sign}" and "$" not in inside:
            return inside.strip()
    return text


def _all_boxed(text: str) -> list[str]:
    r"""Contents of every `\boxed{...}`, the last one first, up to one that does not close."""
    contents = []
    while (content := boxed(text)) is not None:
        contents.append(content)
        text = text[: max(text.rfind("\\boxed"), text.rfind("\\fbox"))]
    return contents
