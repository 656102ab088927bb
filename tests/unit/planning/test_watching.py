# SPDX-License-Identifier: Apache-2.0
"""`watch`: where a run is by its files, and what it has still to do by the plan's own walk."""

from __future__ import annotations

import json
import os

import pytest

from t3s_megatron.cli import main
from t3s_megatron.cli.watch import describe
from t3s_megatron.monitor.progress import Progress, Reached, read_progress
from t3s_megatron.options import all_values
from t3s_megatron.planning.remaining import finder_of, options_of_run, remaining
from tests.support.arguments import config
from tests.support.asked import asked
from tests.unit.monitor.made_summaries import measurement, t3s_summary, write

ASKED = "--t3s-patience 3 --t3s-targeted-accuracy-interval 5"
OPTIONS = config(ASKED, train_iters=20)


def under_way(accuracies: list[float], **changed) -> dict:
    """In a profile: an accuracy a step, over 4 answers."""
    measured = [
        measurement("profile", step, share, marks=("1" * round(4 * share)).ljust(4, "0"),
                    samples_per_prompt=1, truncated=0, seconds=2.0)
        for step, share in enumerate(accuracies)
    ]  # fmt: skip
    arguments = all_values(OPTIONS)
    return t3s_summary(
        finished=False, theta_b_step=None, theta_b_reason=None, measurements=measured,
        evaluations=[], phases=[], arguments=arguments, confidence=[],
    ) | changed  # fmt: skip


def test_the_options_of_a_run_are_those_that_it_wrote_down():
    assert options_of_run(json.loads(json.dumps(under_way([1.0]))), budget=20) == OPTIONS


def test_the_detector_has_seen_what_the_run_has_measured():
    finder = finder_of(under_way([1.0, 0.75, 0.25, 0.5]), OPTIONS)
    assert (finder.theta_b_step, finder.waited, finder.confirmed) == (2, 1, False)
    assert finder_of(under_way([1.0, 0.25, 0.5, 0.5, 0.5]), OPTIONS).confirmed
    assert finder_of(under_way([1.0]), asked(method="sft", budget=20)) is None


def test_what_is_left_is_what_the_plan_would_have_left():
    """theta_b at step 2, patience 3: the profile ends with step 5, 20 steps follow."""
    summary = under_way([1.0, 0.75, 0.25, 0.5])
    soonest, longest = remaining(summary, OPTIONS, done=3, phase="profile", step_seconds=10.0)
    assert soonest.steps == 2 + 20
    assert soonest.measurements == 2 + 20 // 5
    assert soonest.seconds == pytest.approx(22 * 10 + 6 * 2)
    # The lowest at the last step that a profile may have.
    assert longest.steps == 17 + 20 and longest.measurements == 17 + 4


def test_after_the_profile_only_the_targeted_phase_is_left():
    phases = [{"phase": "profile", "first_iteration": 1, "last_iteration": 5}]
    summary = under_way([1.0, 0.25, 0.5, 0.5, 0.5, 0.5], phases=phases)
    both = remaining(summary, OPTIONS, done=5 + 7, phase="targeted", step_seconds=10.0)
    assert both[0] == both[1] and (both[0].steps, both[0].measurements) == (13, 3)


@pytest.mark.parametrize(
    "line", ["--t3s-diffusion --t3s-block-size 16 --t3s-method sft", "--t3s-selection-load s"]
)
def test_a_run_without_a_profile_has_its_steps_left(line):
    """A diffusion student has none, whatever its options would be for another one."""
    line = f"{line} --t3s-targeted-accuracy-interval 5"
    options = config(line, train_iters=20, distributed_backend="gloo")
    summary = json.loads(json.dumps(under_way([], arguments=all_values(options))))
    found = options_of_run(summary, budget=20)
    assert found == options
    both = remaining(summary, found, done=7, phase="targeted", step_seconds=10.0)
    assert {one.steps for one in both} == {13}


def test_a_person_reads_phase_accuracy_and_what_is_missing():
    reached = Reached("profile", 3, 3, 40, 20, 10.0, 1000.0)
    summary = under_way(
        [1.0, 0.75, 0.25, 0.5], heldout=[measurement("profile", 2, 0.125, seconds=1.0)]
    )
    said = describe("OUT/t3s", summary, reached, now=1002.0)
    assert "phase profile, step 3; 3 training steps of at most 40, 10.0 s each" in said
    assert (
        "accuracy: 0.500 ± 0.050 at profile step 3; lowest 0.250 ± 0.050 at profile step 2" in said
    )
    assert "held-out: 0.125" in said
    assert "lowest is step 2; confirmed after 2 more measurements without a new minimum" in said
    assert "left: about 4 min to 7 min (22 to 37 steps, 6 to 21 measurements)" in said
    assert "WARNING" not in said
    assert "WARNING: nothing for" in describe("OUT/t3s", summary, reached, now=2000.0)


def test_a_run_of_several_is_found_and_a_finished_one_said_to_be(tmp_path, capsys):
    for name, when in (("sft", 100), ("t3s", 200)):
        (tmp_path / name / "t3s").mkdir(parents=True)
        path = write(tmp_path / name / "t3s/summary.json", t3s_summary(method=name))
        os.utime(path, (when, when))
    assert main(["watch", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"t3s, {tmp_path}/t3s/t3s\nfinished after 3 s")
    assert main(["watch", str(tmp_path / "nowhere")]) == 2
    assert "no summary.json there" in capsys.readouterr().err


def test_progress_is_written_by_one_rank_and_read_by_anybody(tmp_path):
    folder = str(tmp_path / "t3s")
    assert read_progress(folder) is None
    Progress(None, 20).write("profile", 1, 1, 40, 2.0)
    mine = Progress(folder, 20)
    for step in (1, 2):
        mine.write("profile", step, step, 40, float(step))
    found = read_progress(folder)
    assert (found.phase, found.step, found.budget, found.step_seconds) == ("profile", 2, 20, 1.5)
    (tmp_path / "t3s/progress.json").write_text("{")
    assert read_progress(folder) is None
