# SPDX-License-Identifier: Apache-2.0
"""Lines about progress: now and then, and none for what is done at once."""

from __future__ import annotations

from t3s_megatron.accuracy.answers import Progress


def test_nothing_is_said_of_what_is_done_soon():
    said = []
    progress = Progress(3, said.append)
    for _ in range(3):
        progress.add(1, 100)
    assert not said


def test_what_is_said_counts_everything_since_the_start():
    said = []
    progress = Progress(40, said.append, every=0.0)
    progress.add(8, 100)
    progress.add(8, 50)
    assert [line.split(" answers, ")[0] for line in said] == ["8 of 40", "16 of 40"]
    assert all(line.endswith(" tokens/s") for line in said)
    assert (progress.answers, progress.tokens) == (16, 150)
