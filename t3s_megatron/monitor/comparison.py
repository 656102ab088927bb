# SPDX-License-Identifier: Apache-2.0
"""Who was better, by how much, and whether that may be chance: several models on the same problems.

The unit is the problem, not the answer: k answers to one problem move together. An accuracy is the
mean over problems of the share of right answers (mean of k), its standard error that of the mean
over problems. Two models are compared problem by problem; the p-value is that of the exact
sign-flip test (`method.paired`), two-sided. A difference of means without the pairing would hide
behind how much problems differ among themselves.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from t3s_megatron.errors import T3SError
from t3s_megatron.method.outcome import RIGHT, WRONG, Outcome
from t3s_megatron.method.paired import gains, sign_flip_tail

#: Of the files that hold comparisons.
FORMAT = 1
#: The untouched student: what every other model is compared with.
BASE = "base"
#: Plain fine-tuning: what a method has to beat as well.
SFT = "sft"


@dataclass(frozen=True)
class Answers:
    """What became of a model's answers to a set of problems.

    `marks`: those of `method.outcome`, `k` a problem, one problem after the other. `problems`:
    what tells the problems apart from those of another set; only equal ones are paired. `total`:
    answers that there are, of which `truncated` met their length limit before their end; `tokens`:
    in all of them, None where nobody has counted. `reported`: an accuracy where there are no marks.
    """

    marks: str
    k: int
    problems: str
    total: int
    truncated: int
    tokens: int | None
    reported: float | None = None

    @property
    def shares(self) -> list[float]:
        """Share of right answers by problem, of those with an answer that was judged."""
        found = []
        for first in range(0, len(self.marks), self.k):
            of_problem = self.marks[first : first + self.k]
            judged = of_problem.count(RIGHT) + of_problem.count(WRONG)
            if judged:
                found.append(of_problem.count(RIGHT) / judged)
        return found


def total_tokens(counts: Sequence[int | None]) -> int | None:
    """Of answers together; None where one of them was not counted."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


@dataclass(frozen=True)
class Score:
    """Accuracy of a model on a set. `standard_error`: None where problems are not known apart, or
    fewer than two. `unknown`: answers that a fault has taken, or the verifier."""

    accuracy: float | None
    standard_error: float | None
    problems: int
    truncated_share: float | None
    mean_tokens: float | None
    unknown: int


@dataclass(frozen=True)
class Difference:
    """How much `model` is above `minus`, over the `problems` that both were asked."""

    model: str
    minus: str
    difference: float
    standard_error: float | None
    p: float
    problems: int

    @property
    def between(self) -> str:
        """ "t3s - sft"."""
        return f"{self.model} - {self.minus}"

    @property
    def by(self) -> str:
        """ "+0.041 +- 0.019"."""
        error = "" if self.standard_error is None else f" +- {self.standard_error:.3f}"
        return f"{self.difference:+.3f}{error}"

    @property
    def chance(self) -> str:
        """The p-value: "0.02", or "< 0.001"."""
        return "< 0.001" if self.p < 0.001 else f"{self.p:.2g}"

    def describe(self) -> str:
        """For a person: "t3s - sft: +0.041 +- 0.019, p = 0.02"."""
        sign = "" if self.chance.startswith("<") else "= "
        return f"{self.between}: {self.by}, p {sign}{self.chance}"


@dataclass(frozen=True)
class Comparison:
    """All models on one set of problems, `k` answers to each. `notes`: what a reader has to know
    before the figures are believed."""

    name: str
    k: int
    scores: dict[str, Score]
    differences: list[Difference]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict) -> Comparison:
        """KeyError or TypeError for what `to_dict` has not made."""
        return cls(
            content["name"],
            content["k"],
            {name: Score(**score) for name, score in content["scores"].items()},
            [Difference(**difference) for difference in content["differences"]],
            list(content["notes"]),
        )


def compare(name: str, models: dict[str, Answers], notes: Iterable[str] = ()) -> Comparison:
    """The models in their order. Each is compared with BASE and with SFT, where those are there and
    were asked the same problems as often."""
    scores = {model: score(answers) for model, answers in models.items()}
    differences = [
        found
        for model, answers in models.items()
        for minus in (BASE, SFT)
        if minus in models and minus != model and (model, minus) != (BASE, SFT)
        if (found := difference(model, answers, minus, models[minus])) is not None
    ]
    return Comparison(
        name,
        max((answers.k for answers in models.values()), default=1),
        scores,
        differences,
        list(notes),
    )


def score(answers: Answers) -> Score:
    """The accuracy of one model."""
    shares = answers.shares
    mean = sum(shares) / len(shares) if shares else answers.reported
    judged = answers.marks.count(RIGHT) + answers.marks.count(WRONG)
    return Score(
        accuracy=mean,
        standard_error=_error_of_mean(shares),
        problems=len(shares),
        truncated_share=answers.truncated / answers.total if answers.total else None,
        mean_tokens=None if answers.tokens is None or not answers.total
        else answers.tokens / answers.total,
        unknown=len(answers.marks) - judged,
    )  # fmt: skip


def difference(model: str, now: Answers, minus: str, then: Answers) -> Difference | None:
    """None where the two cannot be paired."""
    same = (now.problems, now.k, len(now.marks)) == (then.problems, then.k, len(then.marks))
    if not same or not now.marks:
        return None
    gained = gains(Outcome(0.0, now.marks, now.k), Outcome(0.0, then.marks, then.k))
    shares = [gain / now.k for gain in gained]
    above, below = sign_flip_tail(gained), sign_flip_tail(-gain for gain in gained)
    return Difference(
        model,
        minus,
        sum(shares) / len(shares),
        _error_of_mean(shares),
        min(1.0, 2 * min(above, below)),
        len(shares),
    )


def _error_of_mean(values: Sequence[float]) -> float | None:
    n = len(values)
    if n < 2:
        return None
    mean = sum(values) / n
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)


def read_comparisons(path: str) -> list[Comparison]:
    """T3SError for a file that is none of `report --json` or `evaluate`."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        if content["format"] != FORMAT:
            raise T3SError(
                f"{path}: of format {content['format']}, expected {FORMAT}; make it anew"
            )
        return [Comparison.from_dict(found) for found in content["comparisons"]]
    except T3SError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise T3SError(f"{path}: cannot be read as an evaluation ({error!r})") from error


def as_text(comparisons: Sequence[Comparison]) -> str:
    """Tables for the terminal: a column a model."""
    if not comparisons:
        return ""
    parts = ["comparison: mean over problems +- its standard error; paired by problem, two-sided"]
    for found in comparisons:
        names = list(found.scores)
        width = max(14, *map(len, names)) + 2
        lines = [f"{found.name}, {_of_each(found)}"]
        lines.append(" " * 18 + "".join(f"{name:>{width}}" for name in names))
        for title, cell in ROWS:
            cells = [cell(found.scores[name]) for name in names]
            if any(text != "-" for text in cells):
                lines.append(f"  {title:<16}" + "".join(f"{text:>{width}}" for text in cells))
        lines += [f"  {one.describe()}" for one in found.differences]
        lines += [f"  WARNING: {note}" for note in found.notes]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _of_each(found: Comparison) -> str:
    problems = max((score.problems for score in found.scores.values()), default=0)
    answers = "1 answer" if found.k == 1 else f"{found.k} answers"
    return f"{problems} problems, {answers} each"


def _accuracy(found: Score) -> str:
    if found.accuracy is None:
        return "-"
    error = "" if found.standard_error is None else f" +- {found.standard_error:.3f}"
    return f"{found.accuracy:.3f}{error}"


def _truncated(found: Score) -> str:
    return "-" if found.truncated_share is None else f"{found.truncated_share:.1%}"


def _tokens(found: Score) -> str:
    return "-" if found.mean_tokens is None else f"{found.mean_tokens:.1f}"


def _unknown(found: Score) -> str:
    return str(found.unknown) if found.unknown else "-"


#: What stands of each model in a table: (title, cell); "-" where it is not known, or nothing.
ROWS = (
    ("accuracy", _accuracy),
    ("truncated", _truncated),
    ("tokens an answer", _tokens),
    ("without verdict", _unknown),
)


# --------------------------------------------------------------------------------- finished runs


def of_runs(summaries: Sequence[dict]) -> list[Comparison]:
    """Finished runs from one student against that student and one another: what was measured with
    --t3s-report-temperatures, or else the first and the last training accuracy."""
    if len(summaries) < 2:
        return []
    names = _names(summaries)
    sets: dict[str, dict[str, Answers]] = {}
    for name, summary in zip(names, summaries, strict=True):
        for title, others, mine in _measured(summary):
            models = sets.setdefault(title, {})
            for other, its in others.items():
                # RRT's theta_f is plain fine-tuning, where no run of that is at hand.
                if other == BASE or SFT not in names:
                    models.setdefault(other, its)
            models[name] = mine
    return [compare(title, models, _other_problems(models)) for title, models in sets.items()]


def _other_problems(models: dict[str, Answers]) -> list[str]:
    first, *others = models.items()
    odd = [name for name, answers in others if answers.problems != first[1].problems]
    what = f"{', '.join(odd)}: asked other problems than {first[0]}, so nothing is paired"
    return [what] if odd else []


def _names(summaries: Sequence[dict]) -> list[str]:
    """What a run was called, or its method; with its number where several have the same."""
    methods = [summary.get("name") or summary["method"] for summary in summaries]
    return [
        method if methods.count(method) == 1 else f"{number}. {method}"
        for number, method in enumerate(methods, start=1)
    ]


def _measured(summary: dict) -> Iterable[tuple[str, dict[str, Answers], Answers]]:
    """(set, what BASE and SFT answered on the way, what the result of the run answered) of every
    set that the run has measured."""
    prints = summary.get("fingerprints", {})
    evaluated = [e for e in summary["evaluations"] if e.get("marks")]
    sets = dict.fromkeys((e["split"], e["temperature"]) for e in evaluated)
    for split, temperature in sets:
        of_set = [e for e in evaluated if (e["split"], e["temperature"]) == (split, temperature)]
        data = str(prints.get("dataset" if split == "train" else split))
        at = {e["weights"]: _answers(e, data) for e in of_set}
        final = [weights for weights in at if weights not in ("theta_0", "theta_f")] or ["theta_f"]
        if final[-1] in at:
            mine = at[final[-1]]
            passed = {BASE: at.get("theta_0"), SFT: at.get("theta_f")}
            others = {name: its for name, its in passed.items() if its and its is not mine}
            yield f"{split} prompts at T = {temperature:g}", others, mine
    measured = [m for m in summary["measurements"] if m.get("marks")]
    if not evaluated and len(measured) > 1:
        data = str(prints.get("dataset"))
        others = {BASE: _answers(measured[0], data)} if measured[0]["step"] == 0 else {}
        title = f"train prompts at T = {measured[0]['temperature']:g}"
        yield title, others, _answers(measured[-1], data)


def _answers(measured: dict, data: str) -> Answers:
    return Answers(
        marks=measured["marks"],
        k=measured["samples_per_prompt"],
        problems=data,
        total=measured["total"],
        truncated=measured["truncated"],
        tokens=measured["generated_tokens"],
    )
