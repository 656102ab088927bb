# SPDX-License-Identifier: Apache-2.0
"""When accuracy is measured: coarsely, densely, and who may ask for it."""

from __future__ import annotations

import json

import pytest

from t3s_megatron.method.schedule import MeasurementSchedule


def due(schedule: MeasurementSchedule, steps: int = 10) -> list[int]:
    return [step for step in range(1, steps + 1) if schedule.is_due(step)]


def test_without_a_coarse_interval_it_is_dense_from_the_start():
    schedule = MeasurementSchedule(3)
    assert schedule.is_dense and due(schedule) == [3, 6, 9]
    assert not schedule.measure_densely(4) and due(schedule) == [3, 6, 9]


def test_coarse_until_somebody_asks():
    schedule = MeasurementSchedule(1, coarse=4)
    assert not schedule.is_dense and due(schedule) == [4, 8]
    assert schedule.measure_densely(4) and not schedule.measure_densely(5)
    assert schedule.dense_since == 4 and due(schedule) == list(range(1, 11))


def test_never():
    assert due(MeasurementSchedule(0)) == due(MeasurementSchedule(0, coarse=2)) == []


def test_a_saved_schedule_goes_on_the_same():
    schedule = MeasurementSchedule(2, coarse=5)
    for ask in (False, True):
        if ask:
            schedule.measure_densely(5)
        again = MeasurementSchedule(2, coarse=5)
        again.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
        assert (again.dense_since, due(again)) == (schedule.dense_since, due(schedule))


@pytest.mark.parametrize("dense, coarse", [(-1, 0), (1, -1), (3, 2)])
def test_impossible_intervals(dense, coarse):
    with pytest.raises(ValueError, match="interval"):
        MeasurementSchedule(dense, coarse)
