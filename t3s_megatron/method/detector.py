# SPDX-License-Identifier: Apache-2.0
"""Find the Imitation Bottleneck while training goes on (Eq. 1, section 3.5).

The shape is that of early stopping, looking for a minimum: a measurement is a new minimum when it
is lower than the lowest so far by more than `min_delta`. The minimum is confirmed as theta_b when
`patience` measurements in a row were no new minimum, or, with a `confirm_level`, as soon as one of
them is above the minimum by the paired test of `method.paired`. There is no minimum to confirm
before accuracy has fallen below step 0: that fall is the Imitation Shock, and with a `shock_level`
it has to be significant by the same test.
"""

from __future__ import annotations

from dataclasses import asdict

from t3s_megatron.method.evidence import Evidence, evidence
from t3s_megatron.method.outcome import RIGHT, UNKNOWN, Outcome
from t3s_megatron.method.paired import p_above
from t3s_megatron.method.patience import Observation, PatientMinimum


class BottleneckDetector(PatientMinimum):
    """Argmin of training accuracy over the steps, confirmed by a paired test or by patience.

    `confirm_level`: of all the tests together that may confirm one minimum; 0 leaves that to
    patience. `shock_level`: of each comparison with step 0; 0 takes any fall. ValueError on misuse.
    """

    def __init__(
        self,
        patience: int,
        min_delta: float = 0.0,
        confirm_level: float = 0.0,
        shock_level: float = 0.0,
    ):
        super().__init__(patience, first_step=0)
        if min_delta < 0:
            raise ValueError("min_delta must not be negative")
        if not (0 <= confirm_level < 1 and 0 <= shock_level < 1):
            raise ValueError("a level of a test lies between 0 and 1")
        self.min_delta = min_delta
        self.confirm_level = confirm_level
        self.shock_level = shock_level
        self.first: Outcome | None = None
        self.lowest: Outcome | None = None
        self.highest: Outcome | None = None  # since the lowest, up to its confirmation
        self.compared = 0  # of those measured, what could have become the minimum

    @property
    def minimum(self) -> float | None:
        """The lowest accuracy since the shock."""
        return None if self.lowest is None else self.lowest.accuracy

    def observe(self, step: int, outcome: Outcome) -> Observation:
        """The outcome after `step` training steps; steps increase, step 0 comes first.

        A void measurement is counted and otherwise ignored.
        """
        accuracy = outcome.accuracy
        if self.first is None and (step != 0 or outcome.void):
            raise ValueError("the first measurement has to be a finite accuracy at step 0")
        self._come_to(step)
        new_minimum = False
        if outcome.void:
            self.void += 1
            reason = f"step {step}: the measurement is void and ignored"
        elif self.first is None:
            self.first = outcome
            reason = f"step 0: accuracy {accuracy:.3f} is the reference"
        else:
            self.measured += 1
            new_minimum, reason = self._compare(step, outcome)
        return Observation(step, accuracy, new_minimum, reason)

    def _compare(self, step: int, outcome: Outcome) -> tuple[bool, str]:
        said = f"step {step}: accuracy {outcome.accuracy:.3f}"
        if outcome.ended_early:
            said += " of the prompts asked"
        if self.confirmed:  # RRT, and plain fine-tuning, are measured further
            return False, f"{said}; theta_b is already confirmed at step {self.theta_b_step}"
        self.compared += 1
        if self.lowest is None:
            return self._compare_with_step_0(step, outcome, said)
        lowest, at = self.lowest.accuracy, f"step {self.theta_b_step}"
        if self._is_lower(outcome, self.lowest):
            self._take_lowest(step, outcome)
            return True, f"{said} is a new minimum (was {lowest:.3f} at {at})"
        if self.highest is None or outcome.accuracy > self.highest.accuracy:
            self.highest = outcome
        found = f"theta_b = {at} (accuracy {lowest:.3f})"
        if self._wait():
            return False, (
                f"{said}: {self.patience} measurements without a new minimum confirm {found}"
            )
        if self.confirm_level and (p := p_above(outcome, self.lowest)) <= self.look_level:
            self.confirmed_by = f"paired test at step {step}, p = {p:.2g}"
            return False, f"{said} is above the minimum by a paired test, p = {p:.2g}: {found}"
        return False, (
            f"{said} is above the minimum {lowest:.3f} of {at} ({self.waited} of {self.patience})"
        )

    def _compare_with_step_0(self, step: int, outcome: Outcome, said: str) -> tuple[bool, str]:
        assert self.first is not None  # step 0 is measured first
        reference = f"{self.first.accuracy:.3f}"
        if not self._is_lower(outcome, self.first):
            return False, f"{said} has not fallen below step 0 ({reference})"
        if self.shock_level and (p := p_above(self.first, outcome)) > self.shock_level:
            return False, f"{said} may be below step 0 ({reference}) by chance: p = {p:.2g}"
        self._take_lowest(step, outcome)
        return True, f"{said} is a new minimum (was {reference} at step 0)"

    def _take_lowest(self, step: int, outcome: Outcome) -> None:
        self._take(step)
        self.lowest, self.highest = outcome, None

    def evidence(self) -> Evidence | None:
        """How sure the fall to the minimum is, and the rise after it; None without a minimum."""
        if self.first is None or self.lowest is None:
            return None
        return evidence(self.compared, self.first, self.lowest, self.highest)

    @property
    def look_level(self) -> float:
        """Of one of the tests that may confirm a minimum. There are at most patience - 1 of them:
        at the last measurement patience is up."""
        return self.confirm_level / max(1, self.patience - 1)

    def rules_out(self, so_far: Outcome, level: float = 0.0) -> str | None:
        """Why a measurement that has come this far can be no new minimum; None while it may.

        For certain, when it is not lower even if every answer still to come is wrong; or, with a
        `level`, when it is above the minimum so far by the paired test over what was asked.
        """
        reference = self.lowest or self.first
        if reference is None or not so_far.ended_early:
            return None
        right = so_far.marks.count(RIGHT)
        at_least = right / (len(so_far.marks) - so_far.marks.count(UNKNOWN))
        if at_least >= reference.accuracy - self.min_delta:
            return f"with {right} right answers it can be no new minimum"
        if level and (p := p_above(so_far, reference)) <= level:
            return f"it is above the minimum so far by a paired test, p = {p:.2g}"
        return None

    def _is_lower(self, outcome: Outcome, than: Outcome) -> bool:
        return not outcome.ended_early and outcome.accuracy < than.accuracy - self.min_delta

    def state_dict(self) -> dict:
        """JSON-able; `load_state_dict` restores it exactly."""
        outcomes = {name: getattr(self, name) for name in ("first", "lowest", "highest")}
        kept = {name: outcome and asdict(outcome) for name, outcome in outcomes.items()}
        return super().state_dict() | kept

    def load_state_dict(self, state: dict) -> None:
        """Go on from a state that `state_dict` gave."""
        kept = {
            name: state[name] and Outcome(**state[name]) for name in ("first", "lowest", "highest")
        }
        super().load_state_dict(state | kept)
