# SPDX-License-Identifier: Apache-2.0
"""The paper's prompts out of the published datasets (Appendix I): BOBA-200 and S1K-200.

A recipe says how a row of a published file is read (`published`), and how a problem is put to a
teacher. Where the field names come from: docs/teacher_data.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from t3s_megatron.accuracy.gold import objections
from t3s_megatron.accuracy.pool import VerifierPool
from t3s_megatron.data.files import raw_rows
from t3s_megatron.errors import DataError
from t3s_megatron.teacher_data.draw import draw
from t3s_megatron.teacher_data.published import (
    LeftOut,
    OtherFields,
    Published,
    boba_problem,
    s1k_problem,
)

#: DeepSeek's and Qwen's own advice for problems in mathematics; BOBA's prompts end with it.
INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True)
class Recipe:
    """`read(row, where)`: the problem in a row as published. LeftOut when it does not qualify."""

    name: str
    read: Callable[[dict, str], Published]
    instruction: str


@dataclass
class Tally:
    """The rows that gave no problem: how many for which reason, where the first of each stands, and
    from which dataset they came, as far as the rows say it."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    sources: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, why: str, where: str, source: str = "") -> None:
        """One row."""
        self.counts[why] += 1
        self.first.setdefault(why, where)
        if source:
            self.sources.setdefault(why, Counter())[source] += 1


@dataclass(frozen=True)
class Chosen:
    """`problems` in the order in which they were drawn; `left_out`: the rows that gave none; `rows`
    in all; `qualified`: distinct problems to choose from."""

    problems: list[Published]
    left_out: Tally
    rows: int
    qualified: int


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("boba-200", boba_problem, ""),
        Recipe("s1k-200", s1k_problem, INSTRUCTION),
    )
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
    `pool`, a problem qualifies only when that verifier can read the gold answer. DataError when no
    row has the fields of the published file, or none qualifies.
    """
    left_out = Tally()
    same: dict[str, list[Published]] = {}
    rows, other_fields, why_other = 0, 0, ""
    for where, row in raw_rows(source, split):
        rows += 1
        if not isinstance(row, dict):
            raise DataError(f"{where}: a problem has to be an object, found {type(row).__name__}")
        try:
            problem = recipe.read(row, where)
        except LeftOut as error:
            left_out.add(str(error), where, error.source)
            if isinstance(error, OtherFields):
                other_fields += 1
                why_other = why_other or f"{where}: {error}; the row has {', '.join(row)}"
        else:
            same.setdefault(problem.prompt.key, []).append(problem)
    if rows and other_fields == rows:
        raise DataError(
            f"{why_other}. No row has the fields that {recipe.name} reads: another file, or "
            "another release of it?"
        )
    problems = []
    for found in same.values():
        if len({one.prompt.answer for one in found}) > 1:
            for one in found:
                left_out.add("its gold answers contradict each other", one.prompt.where)
            continue
        for one in found[1:]:
            left_out.add("the same problem again", one.prompt.where)
        problems.append(min(found, key=_content))
    problems.sort(key=lambda one: draw(seed, "prompt", one.prompt.key))
    taken = problems[:count] if pool is None else _readable(problems, count, pool, left_out)
    if not taken:
        reasons = ", ".join(f"{n} {why}" for why, n in left_out.counts.most_common())
        reasons = reasons or "it is empty"
        raise DataError(f"{source}: no problem for {recipe.name} in {rows} rows ({reasons})")
    instruction = recipe.instruction if instruction is None else instruction
    return Chosen([_asked(one, instruction) for one in taken], left_out, rows, len(problems))


def _readable(
    problems: Sequence[Published], count: int, pool: VerifierPool, left_out: Tally
) -> list[Published]:
    """The first `count` whose gold answer the verifier can read."""
    taken: list[Published] = []
    start = 0
    while len(taken) < count and start < len(problems):
        some = problems[start : start + count - len(taken)]
        start += len(some)
        for problem, why in zip(some, objections([p.prompt for p in some], pool), strict=True):
            if why is None:
                taken.append(problem)
            else:
                left_out.add(f"a gold answer that {pool.spec} cannot use", problem.prompt.where)
    return taken


def _content(problem: Published) -> tuple[str, str]:
    """For an order that is not the file's."""
    rest = sorted(problem.traces.items()), sorted((problem.prompt.metadata or {}).items())
    return repr(problem.prompt.messages), repr(rest)


def _asked(problem: Published, instruction: str) -> Published:
    prompt = problem.prompt
    if not instruction or any("\\boxed" in turn["content"] for turn in prompt.messages):
        return problem
    *before, question = prompt.messages
    asked = question | {"content": f"{question['content']}\n\n{instruction}"}
    return replace(problem, prompt=replace(prompt, messages=(*before, asked)))


def trace_rows(problems: Sequence[Published]) -> list[dict]:
    """The published answers to the problems, one sample a row, as `prepare filter` reads them."""
    return [
        {**one.prompt.to_row(), "teacher": teacher, "response": response}
        for one in problems
        for teacher, response in one.traces.items()
    ]
