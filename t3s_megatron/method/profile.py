# SPDX-License-Identifier: Apache-2.0
"""One teacher's profile: when it measures, what its detectors have seen, and which step is theta_b.

`method.phases` says what is done about it, and when.
"""

from __future__ import annotations

from collections.abc import Callable

from t3s_megatron.errors import NoReferenceError, VoidMeasurementError
from t3s_megatron.method.confidence import ConfidenceDetector
from t3s_megatron.method.detector import BottleneckDetector
from t3s_megatron.method.evidence import Evidence, why_nothing_can_fall
from t3s_megatron.method.options import MethodOptions
from t3s_megatron.method.outcome import Outcome
from t3s_megatron.method.patience import PatientMinimum
from t3s_megatron.method.schedule import MeasurementSchedule

#: Members with a state of their own.
_PARTS = ("detector", "turn", "schedule")


class Profile:
    """`teacher`: None where the profile is that of all samples. Steps are counted from theta_0.

    `candidate_step`: whose weights are kept as what may become theta_b. `closed`: the run has
    scored its tokens and gone on. `goes_on_as_sft`: no shock came, and it goes on to the end of
    plain fine-tuning. `log`: takes plain sentences about what was seen and decided.
    """

    def __init__(self, options: MethodOptions, teacher: str | None, log: Callable[[str], None]):
        self.options = options
        self.teacher = teacher
        self.log = log
        self.detector = BottleneckDetector(
            options.patience, options.min_delta, options.confirm_level, options.shock_level
        )
        self.turn = ConfidenceDetector(options.patience)
        self.schedule = MeasurementSchedule(options.profile_interval, options.coarse_interval)
        self.candidate_step: int | None = None
        self.theta_b_step: int | None = None
        self.theta_b_reason: str | None = None
        self.closed = False
        self.goes_on_as_sft = False

    @property
    def finder(self) -> PatientMinimum:
        """Which of the two detectors says what theta_b is."""
        return self.turn if self.options.by_confidence else self.detector

    @property
    def of_teacher(self) -> str:
        """The beginning of a sentence about this profile."""
        return "" if self.teacher is None else f"teacher {self.teacher}: "

    @property
    def last_step(self) -> int:
        """The step that it ends with, if nothing ends it before."""
        return self.options.budget if self.goes_on_as_sft else self.options.last_profile_step

    @property
    def seeks(self) -> bool:
        """theta_b is still looked for."""
        return self.options.detects and not self.goes_on_as_sft and not self.finder.confirmed

    @property
    def watches_confidence(self) -> bool:
        """The corpus is scored after the next step."""
        open_ended = self.options.watches_confidence and not self.goes_on_as_sft
        return open_ended and not self.turn.confirmed

    def is_due(self, step: int) -> bool:
        """Whether accuracy is measured after this step: at an interval, and at the end, or the
        minimum could hide behind the interval."""
        ends = step == self.last_step
        return bool(self.options.profile_interval) and (self.schedule.is_due(step) or ends)

    # ------------------------------------------------------------------------------------ events

    def scored(self, step: int, fall: float) -> bool:
        """The `confidence_fall` after this step. Whether its weights may be theta_b's."""
        seen = self.turn.observe(step, fall)
        self._say(seen.reason)
        if self.turn.near:
            self._measure_densely(step)
        return seen.is_new_minimum and self.finder is self.turn

    def measured(self, step: int, outcome: Outcome) -> bool:
        """The accuracy after this step. Whether its weights may be theta_b's.

        NoReferenceError when it is that of step 0 and nothing could be seen to fall below it.
        """
        if step == 0 and self.seeks:
            self._refuse_useless_reference(outcome)
        settled = self.detector.confirmed  # RRT goes on measuring up to theta_f
        seen = self.detector.observe(step, outcome)
        if not settled:
            self._say(seen.reason)
        if self.detector.shock_seen:
            self._measure_densely(step)
        return seen.is_new_minimum

    def _refuse_useless_reference(self, first: Outcome) -> None:
        why = why_nothing_can_fall(first, self.options.min_delta)
        if why is not None:
            raise NoReferenceError(
                f"{self.of_teacher}accuracy before the first step is no reference for the "
                f"bottleneck: {why}. --t3s-simple and --t3s-signal confidence need no accuracy"
            )

    def _measure_densely(self, step: int) -> None:
        if self.schedule.measure_densely(step):
            self._say("from here on accuracy is measured every --t3s-accuracy-interval steps")

    # ------------------------------------------------------------------------------------ theta_b

    def keeps(self, step: int, new_minimum: bool) -> bool:
        """Whether to keep the weights of this step as a candidate: those of a minimum; until there
        is one, those of the step that T3S-simple takes, where it may come to that."""
        options = self.options
        if not options.chosen.has_theta_b or self.goes_on_as_sft:
            return False
        at_simple_step = step == options.simple_step
        if options.simple:
            return options.trains_to_theta_f and at_simple_step
        fallback = options.no_shock == "simple" and at_simple_step and not self.finder.shock_seen
        return new_minimum or fallback

    def decide(self, step: int) -> bool:
        """Whether the profile ends with this step, of which all is known. If it does, theta_b is
        fixed, or `theta_b_reason` says why there is none. A profile that `goes_on_as_sft` does not
        end.

        VoidMeasurementError when it has nothing to go by.
        """
        options = self.options
        if not options.chosen.has_theta_b or self.goes_on_as_sft:
            return step >= self.last_step
        if options.trains_to_theta_f and step < self.last_step:
            return False
        if options.simple and step >= options.simple_step:
            self._fix(options.simple_step, f"T3S-simple takes step {options.simple_step}")
        elif options.trains_to_theta_f and self.finder.shock_seen:
            # All of plain fine-tuning was seen: it was not patience that ended the search.
            self._fix(self.finder.theta_b_step, "lowest training accuracy")
        elif self.finder.confirmed_by is not None:
            self._fix(self.finder.theta_b_step, self.finder.confirmed_by)
        elif step >= self.last_step:
            self._conclude(step)
        else:
            return False
        return not self.goes_on_as_sft

    def _conclude(self, step: int) -> None:
        """The last step there is has been made, and no minimum is confirmed."""
        finder, no_shock = self.finder, self.options.no_shock
        void = f" ({finder.void} unmeasured)" if finder.void else ""
        if finder.shock_seen:
            self._fix(finder.theta_b_step, f"lowest of all {step} profile steps{void}")
            return
        self._refuse_blindness()
        falls = "confidence" if finder is self.turn else "accuracy"
        seen = f"no Imitation Shock in {step} steps: {falls} never fell below step 0{void}"
        if no_shock == "simple":
            self._fix(self.options.simple_step, f"{seen}; going on as T3S-simple")
            return
        self.goes_on_as_sft = no_shock == "sft" and step < self.options.budget
        if self.goes_on_as_sft:
            follows = "going on as plain SFT"
        elif self.options.trains_to_theta_f:
            follows = "theta_f is left as it is"
        else:
            follows = "stopping here"
        self.theta_b_reason = f"{seen}; {follows}"
        self._say(self.theta_b_reason)

    def _refuse_blindness(self) -> None:
        """No shock was seen, but was anything?"""
        if self.finder.void and not self.finder.measured:
            raise VoidMeasurementError(
                f"{self.of_teacher}every one of the {self.finder.void} accuracy measurements of "
                "the profile was void: there is nothing to find theta_b by. Start again from the "
                "last checkpoint once generation and verification work, or from the start with "
                "--t3s-simple"
            )

    def _fix(self, step: int | None, reason: str) -> None:
        assert step is not None  # the detector has seen a minimum
        self.theta_b_step, self.theta_b_reason = step, reason
        self._say(f"theta_b is step {step} ({reason})")
        if (evidence := self.evidence) is not None:
            self._say(evidence.describe())
            for warning in evidence.warnings():
                self._say(f"WARNING: {warning}")

    @property
    def evidence(self) -> Evidence | None:
        """How sure theta_b is, where a minimum of accuracy is what decided it."""
        detector = self.detector
        decided = self.finder is detector and self.theta_b_step == detector.theta_b_step
        return detector.evidence() if decided else None

    def findings(self) -> dict:
        """What the summary says of this profile."""
        evidence = self.evidence
        return {
            "theta_b_step": self.theta_b_step,
            "theta_b_reason": self.theta_b_reason,
            "theta_b_evidence": None if evidence is None else evidence.to_dict(),
            "turn_step": self.turn.theta_b_step,
        }

    # -------------------------------------------------------------------------------- bookkeeping

    def close(self) -> None:
        """The candidate is of no more use."""
        self.candidate_step, self.closed = None, True

    def _say(self, line: str) -> None:
        self.log(f"{self.of_teacher}{line}")

    def state_dict(self) -> dict:
        """JSON-able; `load_state_dict` restores it exactly."""
        state = {key: value for key, value in vars(self).items() if key not in ("options", "log")}
        return state | {name: getattr(self, name).state_dict() for name in _PARTS}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a state that `state_dict` gave."""
        state = dict(state)
        for name in _PARTS:
            getattr(self, name).load_state_dict(state.pop(name))
        vars(self).update(state)
