# SPDX-License-Identifier: Apache-2.0
"""Several samples of a teacher to each prompt, through an OpenAI-compatible server (Appendix I: 16
at temperature 0.6, at most 32,768 tokens).

Each sample has a seed of its own, made of the seed, the prompt and its number. It is on the disk as
soon as it is there; started again, only what is missing is asked for, with the seeds that it would
have had. What could not be had is told by a file of its own (`unanswered`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from t3s_megatron.data.thinking import has_tags, join_thinking
from t3s_megatron.errors import MismatchError, T3SError
from t3s_megatron.servers.client import Client
from t3s_megatron.servers.completion import Completion, Finish, Request
from t3s_megatron.teacher_data.draw import draw_seed
from t3s_megatron.teacher_data.prompts import Prompt
from t3s_megatron.teacher_data.sample_file import SampleFile
from t3s_megatron.teacher_data.unanswered import Unanswered

_SECONDS_BETWEEN_LINES = 10.0
#: Fields of a request that arguments of `prepare generate` set, and what sets them.
_SET_ELSEWHERE = {
    "model": "--model",
    "messages": "the prompts",
    "prompt": "the prompts",
    "temperature": "--temperature",
    "top_p": "--top-p",
    "max_tokens": "--max-tokens",
    "max_completion_tokens": "--max-tokens and --max-tokens-name",
    "seed": "--seed",
    "n": "--samples",
}
#: Fields of a request that would bring replies which cannot be read.
_NOT_READ = ("stream", "stream_options", "echo")


@dataclass(frozen=True)
class Sampling:
    """How samples are asked for.

    `samples` a prompt. `teacher`: the name that the samples carry; `model`: what the server calls
    it; `extra`: further fields of every request. T3SError for an `extra` with fields that are set
    by other arguments, or whose replies cannot be read.
    """

    teacher: str
    model: str
    samples: int = 16
    temperature: float = 0.6
    top_p: float = 1.0
    max_tokens: int = 32_768
    seed: int = 0
    extra: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in self.extra or {}:
            if name in _SET_ELSEWHERE:
                raise T3SError(
                    f"--extra: `{name}` is set by {_SET_ELSEWHERE[name]}; what is said of the "
                    "sampling in the file would be untrue. Use that, and take it out of --extra"
                )
            if name in _NOT_READ:
                raise T3SError(f"--extra: replies with `{name}` are not read; take it out")

    def of(self, prompt: Prompt, number: int) -> dict[str, Any]:
        """Everything that a sample depends on beside its prompt, as its line says it."""
        return {
            "model": self.model,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "seed": draw_seed(self.seed, "sample", prompt.key, number),
            **({"extra": self.extra} if self.extra else {}),
        }


@dataclass(frozen=True)
class Generated:
    """What came of one call of `generate`.

    `before`: samples that were there; `asked`, of which `failed` have no answer, `why` being what
    was said of the first of these, and others were refused; `refused`: (id of the prompt, why) of
    all samples that are refused, of earlier calls too; `thinking`: of the samples that were
    answered now, those with a thinking part; `path_of_unanswered`: where it is told.
    """

    before: int
    asked: int
    failed: int
    tokens: int
    truncated: int
    why: str | None
    refused: list[tuple[str, str]]
    answered: int
    thinking: int
    path_of_unanswered: str


def generate(
    prompts: Sequence[Prompt],
    sampling: Sampling,
    client: Client,
    file: SampleFile,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    *,
    ask_refused: bool = False,
) -> Generated:
    """Ask for every sample that `file` does not have, and append it there.

    A sample that is not answered is left out: the same call asks for it again, last; one that was
    refused only with `ask_refused`. MismatchError when the file has samples of other prompts, or
    that were asked for otherwise.
    """
    have = _samples_of(file, prompts, sampling)
    with Unanswered(file.path) as unanswered:
        # The first sample of every prompt, then the second: a prompt that nobody can answer stands
        # between others, and prompts that a job has not come to are few.
        missing = [
            (prompt, number)
            for number in range(sampling.samples)
            for prompt in prompts
            if (prompt.uid, number) not in have
        ]
        before = len(prompts) * sampling.samples - len(missing)
        refused: list[tuple[str, str]] = []
        wanted, last = [], []
        for prompt, number in missing:
            how = sampling.of(prompt, number)
            why = unanswered.why_refused(prompt.uid, number, how)
            if why is not None and not ask_refused:
                refused.append((prompt.uid, why))
            elif unanswered.has_failed(prompt.uid, number, how):
                last.append((prompt, number))
            else:
                wanted.append((prompt, number))
        wanted += last
        if file.torn:
            say(f"{file.path}: a line of {file.torn} bytes without an end was cut off")
        say(f"{before} samples are there, {len(wanted)} are asked for")
        if refused:
            say(f"{len(refused)} were refused before and are not (--ask-refused asks again)")
        count = _Count(len(wanted), say)

        def finished(number: int, completion: Completion) -> None:
            prompt, sample = wanted[number]
            if completion.is_answer:
                file.append(
                    _row(prompt, sample, sampling, completion, client.dialect.counts_tokens)
                )
            else:
                unanswered.add(prompt.uid, sample, sampling.of(prompt, sample), completion)
            if completion.finish is Finish.REFUSED:
                refused.append((prompt.uid, str(completion.why)))
            count.add(completion)

        requests = [_request(*one, sampling) for one in wanted]
        completions = client.complete(requests, finished=finished)
    # All of them: what was left when the last URL was given up was never called finished.
    failures = [one.why for one in completions if one.finish is Finish.UNFINISHED]
    return Generated(
        before=before,
        asked=len(wanted),
        failed=len(failures),
        tokens=count.tokens,
        truncated=count.truncated,
        why=failures[0] if failures else None,
        refused=refused,
        answered=count.answered,
        thinking=count.thinking,
        path_of_unanswered=unanswered.path,
    )


def _request(prompt: Prompt, number: int, sampling: Sampling) -> Request:
    how = sampling.of(prompt, number)
    return Request(
        prompt.messages,
        max_tokens=how["max_tokens"],
        temperature=how["temperature"],
        seed=how["seed"],
        top_p=how["top_p"],
    )


def _row(
    prompt: Prompt, number: int, sampling: Sampling, completion: Completion, counted: bool
) -> dict:
    answer: str | None = completion.text
    if completion.finish is Finish.LENGTH and not completion.text.strip():
        answer = None  # it was cut off while it thought
    return {
        **prompt.to_row(),
        "sample": number,
        "teacher": sampling.teacher,
        "response": join_thinking(completion.thinking, answer),
        "finish_reason": str(completion.finish),
        **({"tokens": completion.tokens} if counted else {}),
        "sampling": sampling.of(prompt, number),
    }


def _samples_of(
    file: SampleFile, prompts: Sequence[Prompt], sampling: Sampling
) -> set[tuple[str, int]]:
    """(id of the prompt, number) of the samples that are there."""
    by_uid = {prompt.uid: prompt for prompt in prompts}
    found: set[tuple[str, int]] = set()
    for where, row in file.rows():
        uid, number = row.get("id"), row.get("sample")
        prompt = by_uid.get(uid) if isinstance(uid, str) else None
        if prompt is None or not isinstance(number, int):
            raise MismatchError(
                f"{where}: a sample of prompt {uid!r}, which is not among those to be asked. Give "
                "the prompts that the file was begun with, or another --output"
            )
        expected = {
            **prompt.to_row(),
            "teacher": sampling.teacher,
            "sampling": sampling.of(prompt, number),
        }
        for name in ("prompt", "answer", "metadata", "teacher", "sampling"):
            if row.get(name) != expected.get(name):
                raise MismatchError(
                    f"{where}: begun with another `{name}`, {row.get(name)!r} there and "
                    f"{expected.get(name)!r} now. Ask as before, or give another --output"
                )
        if (prompt.uid, number) in found:
            raise MismatchError(f"{where}: sample {number} of prompt {uid!r} for the second time")
        found.add((prompt.uid, number))
    return found


class _Count:
    """What came, and a line about it now and then."""

    def __init__(self, total: int, say: Callable[[str], None]):
        self.total = total
        self.done = self.answered = self.tokens = self.truncated = self.thinking = 0
        self._say = say
        self._start = self._last = time.monotonic()

    def add(self, completion: Completion) -> None:
        self.done += 1
        self.tokens += completion.tokens
        self.truncated += completion.finish is Finish.LENGTH
        self.answered += completion.is_answer
        self.thinking += completion.thinking is not None or has_tags(completion.text)
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_LINES or self.done == self.total:
            self._last = now
            rate = self.tokens / max(now - self._start, 1e-9)
            self._say(
                f"{self.done} of {self.total} samples, {self.tokens} tokens ({rate:.0f} a second), "
                f"{self.truncated} truncated, {self.done - self.answered} not answered"
            )
