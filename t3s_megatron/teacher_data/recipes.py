# SPDX-License-Identifier: Apache-2.0
"""The paper's prompts out of the published datasets (Appendix I): BOBA-200 and S1K-200.

A recipe knows the fields of a published file, which of its problems qualify, and what a problem's
gold answer is. Where the field names come from: docs/teacher_data.md.
"""

from __future__ import annotations

import re
import reprlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from t3s_megatron.accuracy.extraction import boxed
from t3s_megatron.accuracy.gold import readable
from t3s_megatron.accuracy.pool import VerifierPool
from t3s_megatron.data.fields import encodable
from t3s_megatron.data.files import raw_rows
from t3s_megatron.data.thinking import join_thinking
from t3s_megatron.errors import DataError
from t3s_megatron.teacher_data.draw import draw
from t3s_megatron.teacher_data.prompts import Prompt, prompt_key

#: DeepSeek's and Qwen's own advice for problems in mathematics; BOBA's prompts end with it.
INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."

_PROOF = re.compile(r"\b(?:prove[sdn]?|proofs?|show that|demonstrate that)\b", re.IGNORECASE)
# BOBA's prompts are rendered for DeepSeek-R1: its turn markers are no part of the problem.
_R1_USER, _R1_ASSISTANT = "<｜User｜>", "<｜Assistant｜>"


@dataclass(frozen=True)
class Published:
    """A problem as published. `traces`: the answers that the file has, by teacher."""

    prompt: Prompt
    traces: dict[str, str]


@dataclass(frozen=True)
class Recipe:
    """`read(row, where)`: the problem in a row as published, or why it does not qualify."""

    name: str
    read: Callable[[dict, str], Published | str]
    instruction: str


@dataclass(frozen=True)
class Chosen:
    """`problems` in the order in which they were drawn; `left_out`: how many rows for which reason;
    `rows` in all; `qualified`: distinct problems to choose from."""

    problems: list[Published]
    left_out: Counter[str]
    rows: int
    qualified: int


def _boba(row: dict, where: str) -> Published | str:
    if row.get("task", "math") != "math":
        return "not mathematics"
    text = _field(row, "prompt", where)
    text = text.removeprefix("<｜begin▁of▁sentence｜>").strip().removeprefix(_R1_USER)
    text = text.partition(_R1_ASSISTANT)[0].strip()
    metadata = {"dataset": "AReaL-boba"}
    if row.get("query_id") is not None:
        metadata["query_id"] = str(row["query_id"])
    if row.get("solutions") is not None:
        solutions = row["solutions"]
        if not isinstance(solutions, list) or not all(isinstance(one, str) for one in solutions):
            raise DataError(f"{where}: `solutions` has to be a list of texts")
        answers = {_words(boxed(one) or "") for one in solutions}
        if "" in answers or not answers:
            return "no boxed answer"
        if len(answers) > 1:
            return "several gold answers"
        gold = answers.pop()
    else:
        # The shape of AReaL's files for supervised fine-tuning: the answer is a whole response.
        gold = _words(boxed(_field(row, "answer", where)) or "")
        if not gold:
            return "no boxed answer"
        metadata["gold"] = "boxed in the published response"
    return Published(_prompt(text, gold, metadata, where), {})


def _s1k(row: dict, where: str) -> Published | str:
    question = _field(row, "question", where).strip()
    solution = _field(row, "solution", where)
    source = str(row.get("source_type") or "")
    if row.get("cot_type", "math") != "math":
        return "not mathematics"
    if _PROOF.search(question) or "proof" in source.lower():
        return "asks for a proof"
    gold = _words(boxed(solution) or "")
    if not gold:
        return "no boxed answer"
    if len({_words(one) for one in _all_boxed(solution)}) > 1:
        return "several gold answers"
    metadata = {"dataset": "s1K", "source_type": source}
    return Published(_prompt(question, gold, metadata, where), _s1k_traces(row))


def _s1k_traces(row: dict) -> dict[str, str]:
    """s1K-1.1 has those of two teachers, s1K those of Gemini, the thinking as a list."""
    trajectories = row.get("thinking_trajectories") or []
    parts = {
        "deepseek-r1": (row.get("deepseek_thinking_trajectory"), row.get("deepseek_attempt")),
        "gemini-2.0-flash-thinking": (
            row.get("gemini_thinking_trajectory") or (trajectories[0] if trajectories else None),
            row.get("gemini_attempt") or row.get("attempt"),
        ),
    }
    return {
        teacher: join_thinking(thought.strip(), answer.strip())
        for teacher, (thought, answer) in parts.items()
        if isinstance(thought, str) and isinstance(answer, str)
    }


RECIPES = {
    recipe.name: recipe
    for recipe in (Recipe("boba-200", _boba, ""), Recipe("s1k-200", _s1k, INSTRUCTION))
}


def choose(
    recipe: Recipe,
    source: str,
    *,
    seed: int,
    count: int,
    instruction: str | None = None,
    split: str = "train",
    pool: VerifierPool | None = None,
) -> Chosen:
    """`count` problems of `source`, uniform over those that qualify, by `seed`; all, when there are
    no more. Independent of their order in the file.

    `instruction` follows a prompt that does not speak of a box (None: the recipe's own). With
    `pool`, a problem qualifies only when that verifier can read the gold answer. DataError when the
    file has other fields, or none qualifies.
    """
    left_out: Counter[str] = Counter()
    same: dict[str, list[Published]] = {}
    rows = 0
    for where, row in raw_rows(source, split):
        rows += 1
        if not isinstance(row, dict):
            raise DataError(f"{where}: a problem has to be an object, found {type(row).__name__}")
        read = recipe.read(row, where)
        if isinstance(read, str):
            left_out[read] += 1
        else:
            same.setdefault(read.prompt.key, []).append(read)
    problems = []
    for found in same.values():
        if len({one.prompt.answer for one in found}) > 1:
            left_out["its gold answers contradict each other"] += len(found)
            continue
        left_out["the same problem again"] += len(found) - 1
        problems.append(min(found, key=_content))
    problems.sort(key=lambda one: draw(seed, "prompt", one.prompt.key))
    taken = problems[:count] if pool is None else _readable(problems, count, pool, left_out)
    if not taken:
        reasons = ", ".join(f"{n} {why}" for why, n in left_out.most_common()) or "it is empty"
        raise DataError(f"{source}: no problem for {recipe.name} in {rows} rows ({reasons})")
    instruction = recipe.instruction if instruction is None else instruction
    return Chosen([_asked(one, instruction) for one in taken], +left_out, rows, len(problems))


def _readable(
    problems: Sequence[Published], count: int, pool: VerifierPool, left_out: Counter[str]
) -> list[Published]:
    """The first `count` whose gold answer the verifier can read."""
    taken: list[Published] = []
    start = 0
    while len(taken) < count and start < len(problems):
        some = problems[start : start + count - len(taken)]
        start += len(some)
        good = readable(pool.spec, [one.prompt for one in some], pool)
        taken += [one for one, is_good in zip(some, good, strict=True) if is_good]
        left_out[f"a gold answer that {pool.spec} cannot read"] += good.count(False)
    return taken


def _content(problem: Published) -> tuple[str, str]:
    """For an order that is not the file's."""
    rest = sorted(problem.traces.items()), sorted((problem.prompt.metadata or {}).items())
    return problem.prompt.messages[0]["content"], repr(rest)


def _asked(problem: Published, instruction: str) -> Published:
    prompt = problem.prompt
    content = prompt.messages[0]["content"]
    if not instruction or "\\boxed" in content:
        return problem
    messages = ({"role": "user", "content": f"{content}\n\n{instruction}"},)
    return replace(problem, prompt=replace(prompt, messages=messages))


def trace_rows(problems: Sequence[Published]) -> list[dict]:
    """The published answers to the problems, one sample a row, as `prepare filter` reads them."""
    return [
        {**one.prompt.to_row(), "teacher": teacher, "response": response}
        for one in problems
        for teacher, response in one.traces.items()
    ]


def _prompt(text: str, gold: str, metadata: dict, where: str) -> Prompt:
    if not text:
        raise DataError(f"{where}: the problem is empty")
    messages = ({"role": "user", "content": text},)
    return Prompt(prompt_key(messages), messages, gold, metadata, where)


def _field(row: dict, name: str, where: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        found = f"found {reprlib.repr(value)}" if name in row else f"the row has {', '.join(row)}"
        raise DataError(
            f"{where}: a row of the published file has `{name}` as text; {found}. Another file, or "
            "another release of it?"
        )
    return encodable(value, f"`{name}`", where)


def _words(text: str) -> str:
    return " ".join(text.split())


def _all_boxed(text: str) -> list[str]:
    r"""Contents of every `\boxed{...}`, the last one first."""
    found = []
    while (content := boxed(text)) is not None:
        found.append(content)
        text = text[: text.rfind("\\boxed{" + content + "}")]
    return found
