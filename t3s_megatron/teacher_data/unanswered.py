# SPDX-License-Identifier: Apache-2.0
"""Which samples could not be had, and why: a file beside that of the samples.

A sample that was *refused* (the server answers others, and not this one: a prompt that is too long,
a content filter) is not asked for again with the same settings, unless `ask_refused` is given. One
that had no answer after all its attempts is asked for again, after all others: a job that is broken
off by it again and again still gets everything else.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

from t3s_megatron.servers.completion import Completion, Finish
from t3s_megatron.teacher_data.sample_file import SampleFile

_ENDING = ".unanswered.jsonl"


class Unanswered:
    """The samples that the file beside `samples` (the path of the sample file) tells of.

    `refused`: (id of the prompt, number) -> why; `failed`: those to be asked for last. Of a sample
    that comes several times the last line counts, and only lines with the settings that it would be
    asked with now.
    """

    def __init__(self, samples: str):
        self.path = os.path.splitext(samples)[0] + _ENDING
        self._file: SampleFile | None = None
        self._rows: dict[tuple[object, object], dict] = {}
        if os.path.exists(self.path):
            for _, row in self._open().rows():
                self._rows[row.get("id"), row.get("sample")] = row

    def __enter__(self) -> Unanswered:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def why_refused(self, uid: str, number: int, sampling: dict) -> str | None:
        """Why a sample was refused when it was asked for with `sampling`; None if it was not."""
        row = self._row(uid, number, sampling)
        return str(row.get("why")) if row.get("finish") == Finish.REFUSED else None

    def has_failed(self, uid: str, number: int, sampling: dict) -> bool:
        """Whether a sample that was asked for with `sampling` had no answer."""
        return bool(self._row(uid, number, sampling))

    def _row(self, uid: str, number: int, sampling: dict) -> dict:
        row = self._rows.get((uid, number), {})
        return row if row.get("sampling") == sampling else {}

    def add(self, uid: str, number: int, sampling: dict, completion: Completion) -> None:
        """A sample that has no answer. WriteError when it cannot be written."""
        row = {
            "id": uid,
            "sample": number,
            "finish": str(completion.finish),
            "why": completion.why,
            "sampling": sampling,
        }
        self._open().append(row)

    def _open(self) -> SampleFile:
        if self._file is None:
            self._file = SampleFile(self.path)
        return self._file


def by_prompt(refused: Sequence[tuple[str, str]], most: int = 10) -> list[str]:
    """Lines that name the prompts of refused samples, given as (id, why)."""
    counts = Counter(uid for uid, _ in refused)
    first = dict(reversed(refused))
    lines = [f"refused: {n} of prompt {uid}: {first[uid]}" for uid, n in counts.most_common(most)]
    if len(counts) > most:
        lines.append(f"... and of {len(counts) - most} more prompts")
    return lines
