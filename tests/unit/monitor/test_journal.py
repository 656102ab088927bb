# SPDX-License-Identifier: Apache-2.0
"""What a run says stands in its log, its curves and its summary, each thing once."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from t3s_megatron.accuracy.answers import Answer
from t3s_megatron.accuracy.measurement import measure
from t3s_megatron.accuracy.verdicts import Verdict
from t3s_megatron.method.phases import PhaseMachine
from t3s_megatron.monitor.curves import Curves
from t3s_megatron.monitor.journal import Journal
from t3s_megatron.monitor.progress import Progress
from t3s_megatron.monitor.summary import Summary
from tests.support.asked import asked


class Writer:
    """Takes the place of wandb, whose `log` is all that is called."""

    def __init__(self):
        self.points = {}

    def log(self, data: dict, step: int) -> None:
        for name, value in data.items():
            self.points[name, step] = value


class Said:
    def __init__(self, path: str | None = None):
        self.lines, self.writer, self.now = [], Writer(), 7
        self.journal = Journal(
            Summary(path),
            Progress(path and os.path.dirname(path), 5),
            Curves(wandb=self.writer),
            self.lines.append,
            lambda: self.now,
        )

    @property
    def summary(self) -> dict:
        return self.journal.to_state()


@pytest.fixture
def said():
    return Said()


def half_right():
    answers = [Answer("", 10, False)] * 4
    verdicts = [Verdict.CORRECT, Verdict.CORRECT, Verdict.WRONG, Verdict.WRONG]
    return measure(answers, verdicts, 0.1).with_context(step=3, phase="profile", temperature=0.6)


def test_a_line_is_printed_and_kept_and_what_is_only_told_is_not_kept(said):
    said.journal.say("kept")
    said.journal.tell("not kept")
    assert said.lines == ["[t3s] kept", "[t3s] not kept"] and said.summary["log"] == ["kept"]


def test_a_measurement_is_said_drawn_and_written(tmp_path):
    said = Said(str(tmp_path / "summary.json"))
    said.journal.measured(half_right(), None)
    (entry,) = json.loads((tmp_path / "summary.json").read_text())["measurements"]
    assert entry["accuracy"] == 0.5 and "teacher" not in entry
    assert said.writer.points["t3s/accuracy", 7] == 0.5
    assert said.lines[0].startswith("[t3s] profile step 3: accuracy 0.500 +- 0.250 (2/4,")


def test_of_several_teachers_each_has_its_own(said):
    said.journal.note(None, teachers={"big": {"samples": 3}})
    said.journal.measured(half_right(), "big")
    said.journal.note("big", theta_b_step=4)
    assert said.summary["teachers"] == {"big": {"samples": 3, "theta_b_step": 4}}
    assert said.summary["measurements"][0]["teacher"] == "big"
    assert said.summary["theta_b_step"] is None
    assert said.writer.points["t3s/accuracy/big", 7] == 0.5
    assert said.lines[0].startswith("[t3s] teacher big: profile step 3")


def test_what_is_evaluated_names_its_weights(said):
    said.journal.evaluated(half_right(), "theta_f")
    (entry,) = said.summary["evaluations"]
    assert entry["weights"] == "theta_f" and said.summary["measurements"] == []
    assert said.lines == [
        "[t3s] theta_f, train prompts at T = 0.6: accuracy 0.500 +- 0.250 (2/4, 0 truncated)"
    ]


def test_seconds_add_up_and_curves_show_each_part(said):
    for iteration, seconds in ((1, 0.5), (2, 0.25)):
        said.now = iteration
        said.journal.spent("scoring", seconds)
    assert said.summary["seconds"]["scoring"] == 0.75
    assert said.writer.points == {("t3s/seconds_scoring", 1): 0.5, ("t3s/seconds_scoring", 2): 0.25}


def test_a_phase_is_entered_once_also_by_a_run_that_goes_on(said):
    records = [{"phase": "profile", "first_iteration": 1, "last_iteration": 3}]
    said.journal.phases(records)
    said.journal.phases(records)
    resumed = Said()
    resumed.journal.restore(said.summary)
    resumed.journal.phases([*records, {"phase": "targeted", "last_iteration": 9}])
    assert [entry["phase"] for entry in resumed.summary["phases"]] == ["profile", "targeted"]
    assert all(entry["seconds"] >= 0 for entry in resumed.summary["phases"])


def test_confidence_stands_with_the_turn_that_was_found(said):
    machine = PhaseMachine(asked(signal="confidence", accuracy_interval=0))
    said.journal.confidence(2, -0.5, machine.profile)
    assert said.summary["confidence"] == [{"step": 2, "fall": -0.5}]
    assert said.writer.points == {("t3s/confidence_fall", 7): -0.5}, "there is no turn yet"
    said.journal.theta_b(machine.profile)
    assert said.summary["theta_b_step"] is said.summary["turn_step"] is None


def test_a_point_of_figure_4_stands_at_the_iteration_of_its_step(said):
    figures = {"kept": 3, "targets": 4, "loss_anchor": 0.5, "delta_anchor": float("nan")}
    said.journal.token_groups("profile", 2, figures, 5)
    said.journal.token_groups("profile", 3, {}, 6, "big")  # a stage before the last
    assert said.writer.points == {("t3s/loss_anchor", 5): 0.5}
    entry, nothing = said.summary["figure_4"]
    assert entry == {"phase": "profile", "step": 2} | figures | {"delta_anchor": None}
    assert nothing == {"phase": "profile", "step": 3, "teacher": "big"}
    said.journal.anchors(np.array([0.5, -0.5], np.float32), 0.5, None)
    assert said.writer.points["t3s/anchor_share", 7] == 0.5


def test_what_is_left_out_is_counted(said):
    said.journal.nothing_kept("targeted", 4)
    said.journal.nothing_kept("targeted", 5)
    said.journal.skipped("s1", "loss", "profile", 2)
    assert said.summary["empty_steps"] == 2
    assert said.summary["skipped_samples"] == [
        {"id": "s1", "what": "loss", "phase": "profile", "step": 2}
    ]
    assert "targeted step 4: no token of the batch is kept" in said.lines[0]


def test_the_end_is_written_and_says_whether_all_was_done(tmp_path):
    said = Said(str(tmp_path / "summary.json"))
    said.journal.close(finished=True)
    assert json.loads((tmp_path / "summary.json").read_text())["finished"] is True
