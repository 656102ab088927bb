# SPDX-License-Identifier: Apache-2.0
"""Tables and the picture of finished runs, and every file that is no summary."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from made_summaries import evaluation, measurement, sft_summary, t3s_summary, write

from t3s_megatron.errors import T3SError
from t3s_megatron.method.evidence import evidence
from t3s_megatron.method.outcome import Outcome
from t3s_megatron.monitor.report import draw, read_summary, tables
from t3s_megatron.monitor.summary import Summary

# ------------------------------------------------------------------------------------------- tables


def test_accuracy_by_step_of_one_run():
    said = tables([t3s_summary()]).split("\n\n")[0].splitlines()
    assert said == [
        "t3s: training accuracy by step at T = 0.6; theta_b = step 2 (patience 1); "
        "36% of 200 tokens masked, anchor share 0.36",
        "  profile     0:0.50  1:0.38  2:0.25  3:0.50",
        "  targeted    0:0.50  4:0.88",
    ]


def test_weights_are_told_by_their_mean():
    tokens = {"target_tokens": 200, "masked_share": 0.0, "mean_weight": 0.523}
    said = tables([t3s_summary(tokens=tokens)]).splitlines()[0]
    assert said.endswith("; 0% of 200 tokens masked, mean weight of the others 0.52")


def right(n: int) -> Outcome:
    return Outcome(n / 40, "1" * n + "0" * (40 - n))


def test_how_sure_theta_b_is_stands_below_the_headline():
    sure = evidence(8, right(30), right(10), right(30)).to_dict()
    assert tables([t3s_summary(theta_b_evidence=sure)]).splitlines()[1:3] == [
        "  accuracy fell from 0.750 to 0.250 (p = 7.6e-06) and has since risen to 0.750 "
        "(p = 2.7e-05); p for the lowest of 8 measurements",
        "  profile     0:0.50  1:0.38  2:0.25  3:0.50",
    ]


def test_what_may_be_chance_is_said_in_plain_words_for_each_teacher():
    unsure = evidence(8, right(30), right(28), None).to_dict()
    known = {"samples": 8, "theta_b_step": 3, "theta_b_reason": "patience 8"}
    teachers = {"r1": known | {"theta_b_evidence": unsure}, "qwq": known}
    said = tables([t3s_summary(theta_b_step=None, teachers=teachers)]).splitlines()
    assert said[1] == "  teacher r1: 8 samples; theta_b = step 3 (patience 8)"
    assert said[3].startswith("  the fall may be chance (p = 1): without any fall")
    assert said[4].startswith("  nothing was measured after theta_b")
    assert said[5] == "  teacher qwq: 8 samples; theta_b = step 3 (patience 8)"


def void(phase: str, step: int, **more) -> dict:
    return measurement(phase, step, None, standard_error=None, **more)


def test_a_void_measurement_is_no_number():
    steps = [measurement("profile", 0, 0.5), void("profile", 1), measurement("profile", 2, 0.25)]
    lost = void("targeted", 4, weights="theta_targeted", temperature=0.0)
    said = tables([t3s_summary(measurements=steps, evaluations=[lost])])
    assert "  profile     0:0.50  1:void  2:0.25" in said
    assert said.splitlines()[-1].split() == ["T3S", "void"]


def test_a_run_without_theta_b_or_tokens_says_nothing_of_them():
    said = tables([sft_summary()]).splitlines()
    assert said[0] == "sft: training accuracy by step at T = 0.6"
    assert said[1] == "  profile     0:0.50  1:0.60  2:0.70  3:0.80  4:0.90"


def test_an_accuracy_over_what_was_asked_is_marked():
    steps = [measurement("profile", 1, 0.5, marks="10"), measurement("profile", 2, 1, marks="1-")]
    assert "  1:0.50  2:~1.00" in tables([sft_summary(measurements=steps)])


def test_twelve_steps_stand_in_a_line():
    steps = [measurement("profile", step, 0.5) for step in range(25)]
    lines = tables([sft_summary(measurements=steps, evaluations=[])]).splitlines()[1:]
    assert [line.count(":") for line in lines] == [12, 12, 1]
    assert lines[1].startswith(" " * 14 + "12:0.50") and lines[2] == " " * 14 + "24:0.50"


def test_the_residual_transfer_is_a_line_of_its_own():
    steps = [measurement("profile", 4, 0.5), measurement("transferred", 4, 0.75)]
    said = tables([sft_summary(method="rrt", measurements=steps)])
    assert "\n  transferred 4:0.75\n" in said


def test_accuracy_by_weights_of_several_runs():
    said = tables([sft_summary(), t3s_summary()]).split("\n\n")[-1].splitlines()
    assert said == [
        "accuracy by weights (T=0 is greedy, one answer a prompt)",
        " " * 16 + "     train T=0   heldout T=0.6",
        "base (theta_0)  0.500 +- 0.050               -",
        "SFT (theta_f)   0.625 +- 0.050               -",
        "T3S             0.875 +- 0.050  0.750 +- 0.050",
    ]


def test_two_runs_of_one_method_both_keep_their_numbers():
    other = t3s_summary(evaluations=[evaluation("theta_0", 0.5), evaluation("theta_targeted", 0.9)])
    said = tables([t3s_summary(), other])
    rows = [line for line in said.splitlines() if "+-" in line]
    assert [row.split("  ")[0] for row in rows] == ["base (theta_0)", "T3S", "T3S, run 2"]
    assert "0.875" in rows[1] and "0.900" in rows[2]


def test_tokens_of_answers_stand_apart_where_a_forward_sets_several():
    assert "forwards" not in tables([t3s_summary()])
    counted = {"total": 4, "generated_tokens": 1200, "forwards": 800, "tokens_per_forward": 1.5}
    runs = [
        sft_summary(evaluations=[evaluation("theta_0", 0.5) | counted]),
        t3s_summary(
            evaluations=[
                evaluation("theta_0", 0.5) | counted,
                evaluation("theta_targeted", 0.9) | counted | {"generated_tokens": 1000},
            ]
        ),
    ]
    title, titles, *rows = tables(runs).split("\n\n")[-1].splitlines()
    assert title == "tokens of answers, and forwards that set them"
    assert titles.split()[-3:] == ["forwards", "a", "forward"]
    assert [row.split() for row in rows] == [
        "base (theta_0) train T=0 4 1,200 300.0 800 1.50".split(),
        "t3s train T=0 4 1,000 250.0 800 1.50".split(),
    ]


def test_no_table_of_weights_without_evaluations():
    assert "accuracy by weights" not in tables([sft_summary(evaluations=[])])


def test_a_run_that_has_just_begun_has_a_table(tmp_path):
    summary = Summary(str(tmp_path / "summary.json"))
    summary.update(method="t3s", arguments={"temperature": 0.6})
    summary.write()
    found = read_summary(str(tmp_path / "summary.json"))
    assert tables([found]) == "t3s: training accuracy by step at T = 0.6"
    draw([found], str(tmp_path / "picture.png"))


# -------------------------------------------------------------------------------------- the picture


def pixels(path) -> np.ndarray:
    from matplotlib import pyplot

    return pyplot.imread(path)[..., :3]


def share_of(image: np.ndarray, colour: tuple) -> float:
    """Of the pixels: those that are nearly `colour`."""
    return float((np.abs(image - np.array(colour)).max(-1) < 0.12).mean())


BLUE, GREEN, RED = (0.12, 0.47, 0.71), (0.17, 0.63, 0.17), (0.84, 0.15, 0.16)


def test_the_picture_shows_each_phase_in_its_colour(tmp_path):
    path = str(tmp_path / "picture.png")
    draw([t3s_summary()], path)
    image = pixels(path)
    assert image.shape[0] > 200 and image.shape[1] > 500
    assert share_of(image, BLUE) > 0.0005 and share_of(image, GREEN) > 0.0005
    assert share_of(image, RED) == 0
    # Shaded: far more of it is neither white nor a line.
    assert 0.2 < float((image.min(-1) < 0.99).mean()) < 0.99


def test_a_panel_for_each_run(tmp_path):
    one, two = str(tmp_path / "one.png"), str(tmp_path / "two.png")
    draw([t3s_summary()], one)
    draw([t3s_summary(), sft_summary()], two)
    assert pixels(two).shape[0] == pytest.approx(2 * pixels(one).shape[0], abs=2)


def test_the_targeted_phase_stands_after_the_profile(tmp_path, monkeypatch):
    from matplotlib import axes

    drawn = []
    original = axes.Axes.errorbar

    def errorbar(self, x, y, **kwargs):
        drawn.append((list(x), list(y)))
        return original(self, x, y, **kwargs)

    monkeypatch.setattr(axes.Axes, "errorbar", errorbar)
    draw([t3s_summary()], str(tmp_path / "picture.png"))
    assert drawn == [([0, 1, 2, 3], [0.5, 0.375, 0.25, 0.5]), ([3, 7], [0.5, 0.875])]


def test_a_void_measurement_is_not_drawn(tmp_path, monkeypatch):
    from matplotlib import axes

    drawn = []
    monkeypatch.setattr(axes.Axes, "errorbar", lambda self, x, y, **_: drawn.append((x, y)))
    steps = [measurement("profile", 0, 0.5), void("profile", 1), measurement("profile", 2, 0.25)]
    draw([t3s_summary(measurements=steps)], str(tmp_path / "picture.png"))
    assert drawn == [([0, 2], [0.5, 0.25])]


def test_a_picture_that_cannot_be_written(tmp_path):
    with pytest.raises(T3SError, match=r"--picture .*/gone/p\.png: cannot be written \(.*No such"):
        draw([t3s_summary()], str(tmp_path / "gone" / "p.png"))
    with pytest.raises(T3SError, match=r"--picture .*p\.xyz: cannot be written \(.*png"):
        draw([t3s_summary()], str(tmp_path / "p.xyz"))


def test_without_matplotlib_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    with pytest.raises(T3SError, match=r'needs matplotlib: pip install "t3s-megatron\[pictures\]"'):
        draw([t3s_summary()], str(tmp_path / "p.png"))


# ------------------------------------------------------------------------ files that are no summary


def test_a_summary_is_read_as_it_was_written(tmp_path):
    assert read_summary(write(tmp_path / "summary.json", t3s_summary())) == t3s_summary()


@pytest.mark.parametrize("content", ["", "{", "not json", "[" * 100_000])
def test_a_file_that_is_not_json(tmp_path, content):
    with pytest.raises(T3SError, match=r"summary\.json: cannot be read as a t3s/summary\.json \("):
        read_summary(write(tmp_path / "summary.json", content))


def test_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    with pytest.raises(T3SError, match=r"picture\.png: cannot be read as"):
        read_summary(str(path))


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(T3SError, match=r"gone\.json: cannot be read as .*No such file"):
        read_summary(str(tmp_path / "gone.json"))
    with pytest.raises(T3SError, match="cannot be read as .*directory"):
        read_summary(str(tmp_path))


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"loss": 1}'])
def test_json_of_someone_else(tmp_path, content):
    with pytest.raises(T3SError, match=r"summary\.json: not a t3s/summary\.json"):
        read_summary(write(tmp_path / "summary.json", content))


def test_a_summary_of_another_format(tmp_path):
    path = write(tmp_path / "summary.json", t3s_summary(format=1))
    with pytest.raises(
        T3SError, match="a summary of format 1, expected 2; read it with the version"
    ):
        read_summary(path)


def test_a_summary_that_lacks_what_the_tables_read(tmp_path):
    summary = t3s_summary()
    del summary["phases"], summary["arguments"]
    with pytest.raises(T3SError, match="damaged, it lacks arguments, phases; run it again"):
        read_summary(write(tmp_path / "summary.json", summary))


# ----------------------------------------------------------------------------- several teachers


def two_teachers() -> dict:
    def of(teacher: str, step: int, accuracy: float) -> dict:
        return measurement("profile", step, accuracy, teacher=teacher)

    whole = t3s_summary()
    return whole | {
        "theta_b_step": None,
        "theta_b_reason": None,
        "teachers": {
            name: {
                "samples": n,
                "theta_b_step": step,
                "theta_b_reason": "patience 1",
                "tokens": {"target_tokens": 100, "masked_share": share, "anchor_share": share},
            }
            for name, n, step, share in (("r1", 8, 1, 0.5), ("qwq", 5, 2, 0.22))
        },
        "measurements": [
            *(of("r1", *one) for one in enumerate((0.5, 0.25, 0.5))),
            *(of("qwq", *one) for one in enumerate((0.5, 0.375, 0.25, 0.5))),
            measurement("targeted", 4, 0.875),
        ],
        "phases": [
            {"phase": "profile", "teacher": "r1", "first_iteration": 1, "last_iteration": 2},
            {"phase": "profile", "teacher": "qwq", "first_iteration": 3, "last_iteration": 5},
            {"phase": "targeted", "first_iteration": 6, "last_iteration": 9},
        ],
    }


def test_each_teacher_has_its_lines():
    assert tables([two_teachers()]).split("\n\n")[0].splitlines() == [
        "t3s: training accuracy by step at T = 0.6; 36% of 200 tokens masked, anchor share 0.36",
        "  teacher r1: 8 samples; theta_b = step 1 (patience 1); 50% of 100 tokens masked, "
        "anchor share 0.50",
        "  teacher qwq: 5 samples; theta_b = step 2 (patience 1); 22% of 100 tokens masked, "
        "anchor share 0.22",
        "  profile r1  0:0.50  1:0.25  2:0.50",
        "  profile qwq 0:0.50  1:0.38  2:0.25  3:0.50",
        "  targeted    4:0.88",
    ]


def test_profiles_stand_one_after_the_other_with_a_theta_b_each(tmp_path, monkeypatch):
    from matplotlib import axes

    drawn, lines = [], []
    monkeypatch.setattr(axes.Axes, "errorbar", lambda self, x, y, **_: drawn.append(x))
    monkeypatch.setattr(axes.Axes, "axvline", lambda self, x, **_: lines.append(x))
    draw([two_teachers()], str(tmp_path / "picture.png"))
    assert drawn == [[0, 1, 2], [2, 3, 4, 5], [9]]
    assert lines == [1, 2 + 2]
