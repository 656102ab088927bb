# SPDX-License-Identifier: Apache-2.0
"""Several students and their base on the same problems: ask, judge, compare, say.

Everything lies in one folder, and nothing is asked or judged twice: a student that no server holds
now is left for another call of the same command, and the tables are over those that there are.

    OUTPUT/<set>/<student>.jsonl             answers, one a line, as they come
    OUTPUT/<set>/<student>.verdicts.jsonl    what became of each
    OUTPUT/evaluation.json                   the comparison, for `report --evaluation`
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import t3s_megatron
from t3s_megatron.accuracy.pool import VerifierPool
from t3s_megatron.data.durable import check_folder, sha256_file, write_bytes
from t3s_megatron.errors import MismatchError, T3SError
from t3s_megatron.evaluation.judging import judge, usable
from t3s_megatron.evaluation.students import Served, Student, check_context, find_servers, probe
from t3s_megatron.monitor.comparison import FORMAT, Answers, Comparison, compare
from t3s_megatron.servers.client import Client
from t3s_megatron.teacher_data.generating import Sampling, generate
from t3s_megatron.teacher_data.prompts import Prompt, load_prompts
from t3s_megatron.teacher_data.sample_file import SampleFile

#: A share of truncated answers above which their limit, and not the student, may be what is seen.
_MANY_TRUNCATED = 0.05
#: What an answer's line says of its problem.
_OF_PROBLEM = ("prompt", "answer", "metadata")


@dataclass(frozen=True)
class Asking:
    """How students are asked. `probes`: prompts by which a server is compared with the folder it
    should hold; 0: it is believed. `timeout`: seconds that one answer may take."""

    urls: tuple[str, ...]
    reload: str
    samples: int
    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    concurrency: int
    timeout: float
    retries: int
    probes: int
    extra: dict | None = None


@dataclass
class Evaluated:
    """What came of a call. `left`: why students have no (or not all) answers yet."""

    comparisons: list[Comparison] = field(default_factory=list)
    about: dict[str, dict] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


class Servers:
    """Where each student is asked, found when it is first needed; with `reload` the servers hold
    one at a time."""

    def __init__(self, asking: Asking, prompts: Sequence[Prompt], say: Callable[[str], None]):
        self.asking = asking
        self.prompts = prompts
        self.say = say
        self.agreement: dict[str, float] = {}

    def of(self, student: Student) -> Served:
        """T3SError, and ServerError, where no server can be asked for it."""
        asking = self.asking
        served = find_servers(student, asking.urls, asking.reload, asking.timeout)
        check_context(student, served, self.prompts, asking.max_tokens)
        if asking.probes:
            chosen = self.prompts[:: max(1, len(self.prompts) // asking.probes)][: asking.probes]
            agreed = probe(student, served, chosen, asking.timeout)
            self.agreement[student.name] = agreed
            self.say(f"{student.name}: the servers agree to {agreed:.2f} with {student.folder}")
        return served


def evaluate_file(
    path: str,
    students: Sequence[Student],
    asking: Asking,
    pool: VerifierPool,
    output: str,
    say: Callable[[str], None],
) -> Evaluated:
    """The students on the prompts and gold answers of one file. DataError and T3SError for what is
    wrong with the file or the command; a student without a server is `left`."""
    name = os.path.splitext(os.path.basename(os.path.normpath(path)))[0]
    folder = os.path.join(output, name)
    check_folder(folder)
    problems = load_prompts(path)
    prompts, out = usable(problems, pool)
    done = Evaluated()
    notes = []
    if out:
        notes.append(f"{len(out)} problems have a gold answer that {pool.spec} cannot use, first "
                     f"{out[0][0]}: {out[0][1]}")  # fmt: skip
    servers = Servers(asking, prompts, say)
    models: dict[str, Answers] = {}
    for student in students:
        with SampleFile(os.path.join(folder, f"{student.name}.jsonl")) as file:
            _check_begun(file, problems, asking)
            if len(file.rows()) < len(prompts) * asking.samples:
                try:
                    served = servers.of(student)
                    refused = _ask(student, served, prompts, asking, file, say)
                    notes += [f"{student.name}: {why}" for why in refused]
                except T3SError as error:
                    done.left.append(str(error))
            rows = [row for _, row in file.rows()]
        if not rows:
            continue
        with SampleFile(os.path.join(folder, f"{student.name}.verdicts.jsonl")) as kept:
            judged = judge(prompts, asking.samples, rows, kept, pool, say)
        if judged.missing:
            done.left.append(f"{student.name}: {judged.missing} answers are missing in {name}")
        models[student.name] = judged.answers
        notes += note_truncation(student.name, judged.answers, asking.max_tokens)
        done.about[student.name] = {
            "folder": student.folder,
            "fates": judged.fates,
            "missing": judged.missing,
            "probe_agreement": servers.agreement.get(student.name),
        }
    done.comparisons.append(compare(name, models, notes))
    return done


def _check_begun(file: SampleFile, prompts: Sequence[Prompt], asking: Asking) -> None:
    """MismatchError for answers to other problems, or that were asked for otherwise."""
    asked = {prompt.uid: prompt.to_row() for prompt in prompts}
    how = {"temperature": asking.temperature, "top_p": asking.top_p,
           "max_tokens": asking.max_tokens}  # fmt: skip
    for where, row in file.rows():
        now = asked.get(str(row.get("id")))
        if now is None:
            raise MismatchError(
                f"{where}: an answer to {row.get('id')!r}, which is not among the problems; give "
                "the suite that it was begun with, or another --output"
            )
        of_row = row | {name: (row.get("sampling") or {}).get(name) for name in how}
        for name, value in ({key: now.get(key) for key in _OF_PROBLEM} | how).items():
            if of_row.get(name) != value:
                raise MismatchError(
                    f"{where}: begun with another `{name}`, {of_row.get(name)!r} there and "
                    f"{value!r} now. Ask as before, or give another --output"
                )


def _ask(
    student: Student,
    served: Served,
    prompts: Sequence[Prompt],
    asking: Asking,
    file: SampleFile,
    say: Callable[[str], None],
) -> list[str]:
    """Answers that are missing; why some will never come."""
    # Every sample has a seed of its own: one for all would give equal answers.
    sampling = Sampling(
        student.name, served.model, asking.samples, asking.temperature, asking.top_p,
        asking.max_tokens, asking.seed, asking.extra,
    )  # fmt: skip
    client = Client(
        served.urls, served.model, concurrency=asking.concurrency, timeout=asking.timeout,
        retries=asking.retries, extra=asking.extra, say=say,
    )  # fmt: skip
    say(f"{student.name}: {', '.join(served.urls)} as {served.model}")
    made = generate(prompts, sampling, client, file, say)
    if made.failed:
        say(f"{student.name}: {made.failed} answers did not come, first: {made.why}")
    if not made.refused:
        return []
    return [f"{len(made.refused)} answers were refused, first: {made.refused[0][1]}"]


def probe_prompts(count: int) -> list[Prompt]:
    """Prompts that any student can be asked, where those of a benchmark are not at hand."""
    return [
        Prompt(
            f"probe-{n}", ({"role": "user", "content": f"What is {n} + {n + 3}?"},), None, None, ""
        )
        for n in range(1, count + 1)
    ]


def note_truncation(name: str, answers: Answers, limit: int) -> list[str]:
    """A line where so many answers were cut off that their limit may be what is seen."""
    share = answers.truncated / answers.total if answers.total else 0.0
    if share <= _MANY_TRUNCATED:
        return []
    return [
        f"{name}: {share:.0%} of the answers met --max-tokens {limit}, or never left their "
        "thinking, and count as wrong: with a larger limit it may be a better student"
    ]


def write(path: str, evaluated: Sequence[Evaluated], settings: dict) -> None:
    """What `report --evaluation` reads. WriteError."""
    content = {
        "format": FORMAT,
        "comparisons": [found.to_dict() for one in evaluated for found in one.comparisons],
        "students": [one.about for one in evaluated],
        "settings": settings,
        "versions": {"t3s_megatron": t3s_megatron.__version__},
    }
    write_bytes(path, json.dumps(content, indent=1, allow_nan=False).encode())


def fingerprint(path: str) -> str | None:
    """Of a file; None for a folder."""
    return sha256_file(path) if os.path.isfile(path) else None
