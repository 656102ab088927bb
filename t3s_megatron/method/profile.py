# SPDX-License-Identifier: Apache-2.0
"""What is known of one teacher's profile: its detectors, when it measures, and its theta_b."""

from __future__ import annotations

from dataclasses import dataclass

from t3s_megatron.method.confidence import ConfidenceDetector
from t3s_megatron.method.detector import BottleneckDetector
from t3s_megatron.method.schedule import MeasurementSchedule

#: Fields with a state of their own.
_PARTS = ("detector", "turn", "schedule")


@dataclass
class Profile:
    """`teacher`: None where the profile is that of all samples. Steps are counted from theta_0.

    `candidate_step`: whose weights are kept as what may become theta_b. `closed`: the run has
    scored its tokens and gone on.
    """

    teacher: str | None
    detector: BottleneckDetector
    turn: ConfidenceDetector
    schedule: MeasurementSchedule
    candidate_step: int | None = None
    theta_b_step: int | None = None
    theta_b_reason: str | None = None
    closed: bool = False

    def close(self) -> None:
        """The candidate is of no more use."""
        self.candidate_step, self.closed = None, True

    def state_dict(self) -> dict:
        """JSON-able; `load_state_dict` restores it exactly."""
        return vars(self) | {name: getattr(self, name).state_dict() for name in _PARTS}

    def load_state_dict(self, state: dict) -> None:
        state = dict(state)
        for name in _PARTS:
            getattr(self, name).load_state_dict(state.pop(name))
        vars(self).update(state)
