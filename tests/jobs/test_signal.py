# SPDX-License-Identifier: Apache-2.0
"""theta_b by the confidence of the falling tokens, in real jobs; killed ones are in test_resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from t3s_megatron.data.selection_file import Selection
from t3s_megatron.data.stores import LogProbStore
from t3s_megatron.method.confidence import confidence_fall
from tests.support.launch import FRESH, run

PROFILE = 8
SCHEDULE = "--train-iters 3 --lr 2e-3 --min-lr 1e-4 --lr-warmup-iters 1".split()
LAYOUTS = {
    "one": (1, ""),
    "TP2-PP2": (4, "--tensor-model-parallel-size 2 --pipeline-model-parallel-size 2"),
}


class Outcome:
    def __init__(self, folder: Path, corpus):
        self.folder = folder
        self.summary = json.loads((folder / "summary.json").read_text())
        self.falls = [one["fall"] for one in self.summary["confidence"]]
        self.c_0, self.c_b = (
            LogProbStore.load(f"{folder}/c_{tag}.safetensors", corpus).c
            for tag in ("theta_0", "theta_b")
        )
        self.keep = Selection.load(f"{folder}/selection.safetensors", corpus).keep


@pytest.fixture(scope="session")
def outcome(once, task, student, corpus) -> Callable[[str], Outcome]:
    """outcome(layout) of the one job, on samples without gold answers."""

    def of(name: str) -> Outcome:
        processes, layout = LAYOUTS[name]

        def make(folder: str) -> None:
            samples = [json.loads(line) for line in Path(task[0]).read_text().splitlines()]
            for sample in samples:
                del sample["answer"]
            without = Path(folder, "without.jsonl")
            without.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
            run(
                ["--t3s-data", without, "--tokenizer-model", task[1], "--load", student, *FRESH,
                 *SCHEDULE, *layout.split(), "--t3s", "--t3s-signal", "confidence",
                 "--t3s-patience", 2, "--t3s-profile-iters", PROFILE, "--t3s-simple-step", 1,
                 "--t3s-dir", folder, "--tensorboard-dir", f"{folder}/tensorboard"],
                processes=processes,
            )  # fmt: skip

        return Outcome(Path(once(f"signal-{name}", make)), corpus)

    return of


@pytest.mark.parametrize("name", LAYOUTS)
def test_theta_b_is_the_lowest_fall_and_nothing_is_generated(name, outcome):
    got = outcome(name)
    assert got.falls[0] == 0 and min(got.falls) < 0
    assert got.summary["theta_b_step"] == int(np.argmin(got.falls)) == got.summary["turn_step"]
    # Scored again from the candidate's weights, to the last bit.
    assert min(got.falls) == confidence_fall(got.c_b, got.c_0)
    assert got.summary["measurements"] == [] and "generation" not in got.summary["seconds"]
    assert got.summary["finished"]


def test_every_layout_finds_the_same(outcome):
    one, other = map(outcome, LAYOUTS)
    assert other.summary["theta_b_step"] == one.summary["theta_b_step"]
    assert np.abs(np.subtract(other.falls, one.falls)).max() < 1e-5
    decided = np.abs(one.c_b - one.c_0) >= 1e-5
    assert (one.keep == other.keep)[decided].all()


def test_the_curves_show_it(outcome):
    one = outcome("one")
    curves = EventAccumulator(str(one.folder / "tensorboard"))
    curves.Reload()
    drawn = [event.value for event in curves.Scalars("t3s/confidence_fall")]
    assert drawn == pytest.approx(one.falls)
    turn = curves.Scalars("t3s/confidence_turn")[-1].value
    assert turn == one.summary["theta_b_step"]
