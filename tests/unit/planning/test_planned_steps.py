# SPDX-License-Identifier: Apache-2.0
"""Steps, measurements and copies of a planned run."""

from __future__ import annotations

import pytest

from t3s_megatron.planning.walk import expected_and_longest, walk
from tests.support.asked import asked


def test_a_detected_bottleneck_ends_the_profile_when_patience_is_up():
    run = walk(asked(budget=50, patience=5), bottleneck=10)
    assert run.theta_b_step == 10
    assert (run.profile_steps, run.targeted_steps, run.steps) == (15, 50, 65)
    assert run.measurements == 1 + 15 + 50  # step 0 included
    assert run.scoring_passes == 2 and run.snapshots == 2


def test_at_the_most_the_profile_uses_its_bound_up():
    expected, longest = expected_and_longest(asked(budget=50, profile_iters=40))
    assert (expected.profile_steps, longest.profile_steps) == (15, 40)


@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("min_delta", [0.0, 0.5])
def test_every_step_of_the_way_down_is_a_new_minimum(interval, min_delta):
    plan = asked(budget=50, accuracy_interval=interval, min_delta=min_delta)
    assert walk(plan, bottleneck=12).theta_b_step == 12


def test_before_the_shock_measurements_are_coarse_and_its_level_has_no_noise_to_tell():
    plan = asked(budget=50, accuracy_interval_coarse=4, shock_level=0.05, confirm_level=0.05)
    run = walk(plan, bottleneck=10)
    assert (run.theta_b_step, run.profile_steps) == (10, 15)
    assert run.measurements == 1 + (15 - 3) + 50, "steps 1 to 3 go unmeasured"


def test_the_simple_method_keeps_no_candidate_and_measures_nothing():
    plan = asked(budget=50, simple=True,
                targeted_accuracy_interval=0)  # fmt: skip
    run, longest = expected_and_longest(plan)
    assert run == longest
    assert (run.profile_steps, run.measurements, run.snapshots) == (10, 0, 1)
    assert run.theta_b_step == 10


def test_by_confidence_a_scoring_pass_takes_the_place_of_each_measurement():
    plan = asked(budget=50, signal="confidence", patience=5,
                targeted_accuracy_interval=0)  # fmt: skip
    run = walk(plan, bottleneck=10)
    assert (run.theta_b_step, run.profile_steps, run.measurements) == (10, 15, 0)
    assert run.watching_passes == 1 + 15  # at step 0, and after each step
    assert run.scoring_passes == 2  # of both at the end


def test_entropies_take_a_pass_of_their_own_and_tail_sft_one_over_each_step():
    entropies = walk(asked("keep-top-entropy", budget=50, mask_share=0.8), bottleneck=10)
    assert (entropies.scoring_passes, entropies.scored_steps, entropies.profile_steps) == (2, 0, 0)
    tail = walk(asked("tail-sft", budget=50, mask_share=0.25), bottleneck=10)
    assert (tail.scoring_passes, tail.scored_steps, tail.snapshots) == (1, 50, 0)
    assert (tail.profile_steps, tail.targeted_steps) == (50, 0)


def test_plain_training_keeps_and_scores_nothing():
    run = walk(asked("sft", budget=50), bottleneck=10)
    assert (run.profile_steps, run.targeted_steps) == (50, 0)
    assert (run.scoring_passes, run.snapshots) == (0, 0)


def test_rrt_keeps_both_and_evaluates_theta_f_as_well():
    run = walk(asked("rrt", budget=50), bottleneck=10)
    assert (run.steps, run.snapshots, run.evaluations) == (50, 2, 3)


def test_a_loaded_selection_goes_straight_to_the_targeted_phase():
    run = walk(asked(budget=50, selection_load="s"), bottleneck=10)
    assert (run.profile_steps, run.targeted_steps, run.snapshots) == (0, 50, 0)


def test_each_teacher_has_its_profile_and_all_of_them_one_targeted_phase():
    plan = asked(budget=150, profile_iters=50, teachers=("r1", "235b", "qwq"))
    run = walk(plan, bottleneck=10)
    assert (run.profiles, run.profile_steps, run.targeted_steps) == (3, 3 * 15, 150)
    assert (run.measurements, run.targeted_measurements) == (3 * 16 + 150, 150)
    # Each teacher's samples at theta_0 and at its own theta_b: all of them twice.
    assert run.scoring_passes == 2 and run.snapshots == 2
    plain = walk(asked("sft", budget=150, teachers=("r1", "qwq")), bottleneck=10)
    assert (plain.profiles, plain.profile_steps) == (1, 150)
