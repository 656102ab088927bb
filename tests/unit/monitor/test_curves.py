# SPDX-License-Identifier: Apache-2.0
"""Curves as TensorBoard reads them back from its own files, and as wandb is handed them."""

from __future__ import annotations

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from t3s_megatron.accuracy.answers import Answer
from t3s_megatron.accuracy.measurement import measure
from t3s_megatron.accuracy.verdicts import Verdict
from t3s_megatron.monitor.curves import Curves, measurement_figures

NAN = float("nan")


class Recorder:
    """What wandb's module-level `log` is called with."""

    def __init__(self):
        self.calls = []

    def log(self, data: dict, step: int) -> None:
        self.calls.append((data, step))


@pytest.fixture
def board(tmp_path):
    """(writer, read): `read` gives what is in the files by then."""
    writer = SummaryWriter(str(tmp_path))

    def read() -> EventAccumulator:
        writer.flush()
        found = EventAccumulator(str(tmp_path), size_guidance={"histograms": 0, "scalars": 0})
        return found.Reload()

    yield writer, read
    writer.close()


def series(found: EventAccumulator, name: str) -> list[tuple]:
    return [(event.step, pytest.approx(event.value)) for event in found.Scalars(name)]


def test_scalars_stand_at_their_iterations_under_t3s(board):
    writer, read = board
    curves = Curves(writer)
    curves.scalars({"accuracy": 0.5, "kept_tokens": 12}, 1)
    curves.scalars({"accuracy": np.float32(0.25)}, 3)
    found = read()
    assert found.Tags()["scalars"] == ["t3s/accuracy", "t3s/kept_tokens"]
    assert series(found, "t3s/accuracy") == [(1, 0.5), (3, 0.25)]
    assert series(found, "t3s/kept_tokens") == [(1, 12)]


def test_wandb_is_given_the_same_scalars_at_the_same_iterations(board):
    recorder = Recorder()
    Curves(board[0], recorder).scalars({"accuracy": 0.5, "phase": 0}, 7)
    assert recorder.calls == [({"t3s/accuracy": 0.5}, 7), ({"t3s/phase": 0}, 7)]


def test_a_figure_that_does_not_exist_is_left_out_and_not_drawn_as_zero(board):
    writer, read = board
    recorder = Recorder()
    figures = {"loss_anchor": NAN, "loss_other": 1.5, "delta": None, "share": float("inf")}
    Curves(writer, recorder).scalars(figures, 2)
    assert read().Tags()["scalars"] == ["t3s/loss_other"]
    assert recorder.calls == [({"t3s/loss_other": 1.5}, 2)]


@pytest.mark.parametrize("crashed", [1, 4])
def test_a_measurement_has_curves_of_its_faults_and_a_void_one_no_accuracy(board, crashed):
    verdicts = [Verdict.CORRECT] * (10 - crashed) + [Verdict.CRASHED] * crashed
    measured = measure([Answer("", 3, False)] * 10, verdicts, max_failed_share=0.1)
    writer, read = board
    Curves(writer).scalars(measurement_figures(measured), 5)
    found = read()
    values = {tag: found.Scalars(tag)[0].value for tag in found.Tags()["scalars"]}
    assert values["t3s/answers_crashed"] == crashed and values["t3s/answer_tokens"] == 3
    assert values["t3s/measurement_void"] == (crashed > 1)
    assert values.get("t3s/accuracy") == (None if crashed > 1 else 1.0)


def test_answers_of_which_a_forward_sets_several_tokens(board):
    answers = [Answer("", 9, False, forwards=3, blocks=3), Answer("", 3, False, False, 5, 2)]
    measured = measure(answers, [Verdict.CORRECT] * 2, max_failed_share=0.1)
    writer, read = board
    Curves(writer).scalars(measurement_figures(measured), 5)
    found = read()
    values = {tag: found.Scalars(tag)[0].value for tag in found.Tags()["scalars"]}
    assert values["t3s/tokens_per_forward"] == 1.5 and values["t3s/answer_forwards"] == 4
    assert values["t3s/answer_tokens"] == 6 and values["t3s/answer_blocks"] == 2.5


def test_a_histogram_holds_every_value(board):
    writer, read = board
    values = np.array([-2.0, -1.0, 0.0, 0.5, 3.0], dtype=np.float32)
    Curves(writer).histogram("delta_c", values, 4)
    (event,) = read().Histograms("t3s/delta_c")
    shape = event.histogram_value
    assert event.step == 4 and (shape.num, shape.min, shape.max) == (5, -2.0, 3.0)
    assert shape.sum == pytest.approx(0.5)


def test_a_histogram_counts_finite_values_only(board):
    writer, read = board
    values = np.array([np.nan, 1.0, -np.inf, 2.0], dtype=np.float32)
    Curves(writer).histogram("delta_c", values, 1)
    (event,) = read().Histograms("t3s/delta_c")
    assert (event.histogram_value.num, event.histogram_value.min) == (2, 1.0)


@pytest.mark.parametrize("values", [[], [NAN]])
def test_a_histogram_of_nothing_is_not_there(board, values):
    writer, read = board
    Curves(writer).histogram("delta_c", np.array(values, dtype=np.float32), 1)
    assert read().Tags()["histograms"] == []


def test_flushing_is_passed_on(board, monkeypatch):
    # Not read back from the file: the writer has a thread that may get there first.
    flushed = []
    monkeypatch.setattr(board[0], "flush", lambda: flushed.append(True))
    Curves(board[0]).flush()
    assert flushed == [True]


def test_nothing_happens_on_ranks_without_writers():
    curves = Curves(None, None)
    curves.scalars({"accuracy": 0.5}, 1)
    curves.histogram("delta_c", np.ones(3), 1)
    curves.flush()


def test_wandb_alone_is_enough():
    recorder = Recorder()
    curves = Curves(None, recorder)
    curves.scalars({"accuracy": 0.5}, 1)
    curves.histogram("delta_c", np.ones(3), 1)
    curves.flush()
    assert recorder.calls == [({"t3s/accuracy": 0.5}, 1)]
