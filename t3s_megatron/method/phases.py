# SPDX-License-Identifier: Apache-2.0
"""The phases of a T3S run, as a plain object that consumes events and returns decisions.

    PROFILE ------ minimum confirmed / budget of the profile used up / step 10 (simple) -----+
      plain SFT from theta_0;                                                                |
      measured and/or scored,       score theta_b, REWIND to theta_0, score theta_0, select  |
      candidate theta_b kept                                                                 v
      |        |                                                                         TARGETED
      | sft    | rrt: theta_0 + (theta_f - theta_b)                  masked SFT, full budget |
      v        v                                                                             v
     DONE   TRANSFERRED ----------------------------------------------------------------> DONE

With a loaded selection, or a baseline with a share of its own, the run starts in TARGETED.

With several teachers (section 4.2) PROFILE comes once for each, every time from theta_0 and with
that teacher's samples only: score theta_b, REWIND, score theta_0, next profile. After the last one
there is one TARGETED phase over the samples of all.

The driver asks `next_action()` until it is None, carries each action out and reports it with
`measured(outcome)`, `scored(fall)` or `done(action)`; then it makes one training step and calls
`step_done()`. After a void measurement (too much of it failed) the step is unmeasured. Nothing here
knows what a weight or a rank is.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from t3s_megatron.errors import VoidMeasurementError
from t3s_megatron.method.confidence import ConfidenceDetector
from t3s_megatron.method.detector import BottleneckDetector
from t3s_megatron.method.options import MethodOptions
from t3s_megatron.method.outcome import Outcome
from t3s_megatron.method.profile import Profile
from t3s_megatron.method.schedule import MeasurementSchedule
from t3s_megatron.options import options_of


class Phase(enum.StrEnum):
    PROFILE = "profile"
    TARGETED = "targeted"
    TRANSFERRED = "transferred"
    DONE = "done"


class ActionKind(enum.StrEnum):
    KEEP_THETA_0 = "keep theta_0"
    MEASURE = "measure"
    SCORE = "score"
    KEEP_CANDIDATE = "keep candidate"
    SCORE_THETA_B = "score theta_b"
    REWIND = "rewind"
    SCORE_THETA_0 = "score theta_0"
    NEXT_PROFILE = "next profile"
    SELECT = "select"
    RESIDUAL_TRANSFER = "residual transfer"
    FINISH = "finish"
    # Of `overlap` alone:
    KEEP_WEIGHTS = "keep weights"
    BEGIN_MEASUREMENT = "begin measurement"
    COLLECT = "collect"
    DISCARD = "discard"


@dataclass(frozen=True)
class Action:
    """`live`, for SCORE_THETA_B: the current weights are theta_b, no candidate has to be loaded."""

    kind: ActionKind
    live: bool = False


class PhaseMachine:
    """See the module's docstring. `phase_step`: steps done in the phase; `total_steps`: in all.

    `profiles`: one for each teacher; `number`: of the one under way, and then of the last.
    T3SError for options that cannot be carried out.
    """

    def __init__(self, options: MethodOptions):
        options.check()
        self.options = options
        self.phase = Phase.TARGETED if options.starts_targeted else Phase.PROFILE
        self.phase_step = 0
        self.offset = 0
        self.profiles = [Profile(options, teacher, self._take_down) for teacher in options.profiles]
        self.number = 0
        self.records: list[dict] = []
        self._log: list[str] = []
        self._pending: list[Action] = []
        self._begin()

    # ---------------------------------------------------------------------------- what is known

    @property
    def profile(self) -> Profile:
        """The one under way; after the profiles, the last of them."""
        return self.profiles[self.number]

    @property
    def detector(self) -> BottleneckDetector:
        return self.profile.detector

    @property
    def turn(self) -> ConfidenceDetector:
        return self.profile.turn

    @property
    def schedule(self) -> MeasurementSchedule:
        return self.profile.schedule

    @property
    def candidate_step(self) -> int | None:
        return self.profile.candidate_step

    @property
    def theta_b_step(self) -> int | None:
        return self.profile.theta_b_step

    @property
    def theta_b_reason(self) -> str | None:
        return self.profile.theta_b_reason

    @property
    def teacher(self) -> str | None:
        """Whose samples are trained on; None: those of all."""
        return self.profile.teacher if self.phase is Phase.PROFILE else None

    @property
    def goes_on_as_sft(self) -> bool:
        """The profile has become plain fine-tuning to its end."""
        return self.profile.goes_on_as_sft

    # ------------------------------------------------------------------------------- what to do

    @property
    def total_steps(self) -> int:
        return self.offset + self.phase_step

    @property
    def live_step(self) -> int:
        """The step of the phase that training has reached."""
        return self.phase_step

    @property
    def last_step(self) -> int:
        """The step that the phase ends with, if nothing ends it before."""
        return self.profile.last_step if self.phase is Phase.PROFILE else self.options.budget

    @property
    def train_iters_now(self) -> int:
        """Steps of the whole run; an upper bound while the end of the profile is open."""
        options = self.options
        if self.phase is Phase.DONE:
            return self.total_steps
        whole = options.trains_to_theta_f or self.goes_on_as_sft
        if self.phase is not Phase.PROFILE or whole:
            return self.offset + options.targeted_steps
        profiles = len(self.profiles) - self.number
        return self.offset + options.longest_profile * profiles + options.targeted_steps

    def next_action(self) -> Action | None:
        """What to do now; None when the next training step is due (or the run is done)."""
        return self._pending[0] if self._pending else None

    @property
    def seeks_minimum(self) -> bool:
        """Whether a measurement now is made to find theta_b, and for nothing else. The first one is
        what all others are compared with; those after theta_b show how training goes on."""
        return self.phase is Phase.PROFILE and self.phase_step > 0 and self.profile.seeks

    def settles(self, so_far: Outcome, looks: int) -> str | None:
        """Why the measurement under way, made while `seeks_minimum`, need not go on; None while it
        has to. `looks`: how often this is asked in one measurement; `accuracy_stop_level` is
        divided between them."""
        return self.detector.rules_out(so_far, self.options.accuracy_stop_level / looks)

    def drain_log(self) -> list[str]:
        """Plain sentences about what was decided since the last call."""
        lines, self._log = self._log, []
        return lines

    # ------------------------------------------------------------------------------------ events

    def step_done(self) -> None:
        """One training step was made."""
        if self._pending or self.phase is Phase.DONE:
            raise ValueError(f"no training step was due: {self.next_action()}")
        self.phase_step += 1
        if self.phase is Phase.PROFILE and self.profile.watches_confidence:
            self._pending = [Action(ActionKind.SCORE)]
        else:
            self._measure_or_decide(may_be_theta_b=False)

    def scored(self, fall: float) -> None:
        """The SCORE action gave this `confidence_fall`; that of step 0 is the reference."""
        self._pop(ActionKind.SCORE)
        if self.phase_step > 0:
            self._measure_or_decide(self.profile.scored(self.phase_step, fall))

    def measured(self, outcome: Outcome) -> None:
        """The MEASURE action gave this outcome.

        VoidMeasurementError when it is the first of the run or of a profile: what fails before
        training will fail after it, and the detector would have no reference.
        """
        self._pop(ActionKind.MEASURE)
        profiling = self.phase is Phase.PROFILE
        if outcome.void and (self.total_steps == 0 or (profiling and self.phase_step == 0)):
            raise VoidMeasurementError(
                f"{self._of_teacher()}the accuracy before the first step could not be measured: "
                "too many of its answers failed. No step of it was made; see the faults above, and "
                "--t3s-verify-timeout, --t3s-verify-memory, --t3s-generation-timeout and "
                "--t3s-max-failed-share"
            )
        may_be_theta_b = profiling and self.profile.measured(self.phase_step, outcome)
        if self.phase_step > 0 and self.phase is not Phase.TRANSFERRED:
            self._decide(may_be_theta_b)

    def done(self, action: Action) -> None:
        """Any other action was carried out."""
        if action.kind in (ActionKind.MEASURE, ActionKind.SCORE):
            raise ValueError("what was measured is reported with measured() or scored()")
        self._pop(action.kind)
        if action.kind is ActionKind.KEEP_CANDIDATE:
            self.profile.candidate_step = self.phase_step
        elif action.kind is ActionKind.REWIND:
            self._say(f"rewound to theta_0 after {self.phase_step} profile steps")
            last = self.number == len(self.profiles) - 1
            self._enter(Phase.TARGETED if last else Phase.PROFILE)
        elif action.kind is ActionKind.NEXT_PROFILE:
            self.profile.close()
            self.number += 1
            self._say(f"profile {self.number + 1} of {len(self.profiles)} begins")
        elif action.kind is ActionKind.SELECT:
            self.profile.close()
            steps = self.options.targeted_steps
            self._say(f"targeted training begins: {steps} steps" if steps else "selection made")
        elif action.kind is ActionKind.RESIDUAL_TRANSFER:
            self._say(f"weights are theta_0 + (theta_f - theta_b), theta_b = {self.theta_b_step}")
            self._close_record()
            self.phase = Phase.TRANSFERRED
        elif action.kind is ActionKind.FINISH:
            if self.phase is not Phase.TRANSFERRED and not self.options.stop_after:
                self._close_record()
            self.phase = Phase.DONE
            self._say("done")

    # --------------------------------------------------------------------------------- decisions

    def _begin(self) -> None:
        options = self.options
        if not options.starts_targeted:
            keep = [Action(ActionKind.KEEP_THETA_0)] if options.chosen.has_theta_b else []
            score = [Action(ActionKind.SCORE_THETA_0)] if options.chosen.leaves_out else []
            self._pending = keep + score + self._at_step_0()
            return
        if not options.selected_before:
            if {"theta_0", "entropy"} & set(options.chosen.reads(options.mask_share)):
                self._pending.append(Action(ActionKind.SCORE_THETA_0))
            self._pending.append(Action(ActionKind.SELECT))
        if options.targeted_accuracy_interval:
            self._pending.append(Action(ActionKind.MEASURE))

    def _at_step_0(self) -> list[Action]:
        """What a profile begins with, at theta_0."""
        actions = []
        if self.options.watches_confidence:
            actions.append(Action(ActionKind.SCORE))
        if self.options.profile_interval:
            actions.append(Action(ActionKind.MEASURE))
        return actions

    def _measure_or_decide(self, may_be_theta_b: bool) -> None:
        if self._measurement_is_due(self.phase_step):
            self._pending = [Action(ActionKind.MEASURE)]
        else:
            self._decide(may_be_theta_b)

    def _measurement_is_due(self, step: int) -> bool:
        """Whether accuracy is measured after this step of the phase."""
        if self.phase is Phase.PROFILE:
            return self.profile.is_due(step)
        interval = self.options.targeted_accuracy_interval
        final = self.options.needs_answers and step == self.last_step
        return final or (bool(interval) and step % interval == 0)

    def _decide(self, may_be_theta_b: bool) -> None:
        """After each training step and its measurement, if any."""
        profiling, whole = self.phase is Phase.PROFILE, self.options.trains_to_theta_f
        step = self.phase_step
        ends = self.profile.decide(step) if profiling else step == self.last_step
        # A transfer takes theta_b from the candidate, also where that is the last step.
        if profiling and (whole or not ends) and self.profile.keeps(step, may_be_theta_b):
            self._pending.append(Action(ActionKind.KEEP_CANDIDATE))
        if not ends:
            return
        if not profiling or self.theta_b_step is None:
            self._pending.append(Action(ActionKind.FINISH))
        elif whole:
            self._transfer()
        else:
            self._score_and_rewind()

    def _transfer(self) -> None:
        self._pending.append(Action(ActionKind.RESIDUAL_TRANSFER))
        if self.options.needs_answers:
            self._pending.append(Action(ActionKind.MEASURE))
        self._pending.append(Action(ActionKind.FINISH))

    def _score_and_rewind(self) -> None:
        live = self.theta_b_step == self.phase_step
        self._pending += [
            Action(ActionKind.SCORE_THETA_B, live=live),
            Action(ActionKind.REWIND),
            Action(ActionKind.SCORE_THETA_0),
        ]
        if self.number < len(self.profiles) - 1:
            self._pending += [Action(ActionKind.NEXT_PROFILE), *self._at_step_0()]
            return
        self._pending.append(Action(ActionKind.SELECT))
        if self.options.stop_after:
            self._pending.append(Action(ActionKind.FINISH))
        elif not self.options.profile_interval and self.options.targeted_accuracy_interval:
            self._pending.append(Action(ActionKind.MEASURE))  # step 0 was never measured

    # ------------------------------------------------------------------------------- bookkeeping

    def _enter(self, phase: Phase) -> None:
        self._close_record()
        self.offset, self.phase_step, self.phase = self.total_steps, 0, phase

    def _close_record(self) -> None:
        whose = {} if self.teacher is None else {"teacher": self.teacher}
        self.records.append(
            {"phase": self.phase.value}
            | whose
            | {"first_iteration": self.offset + 1, "last_iteration": self.total_steps}
        )

    def _pop(self, kind: ActionKind) -> None:
        if not self._pending or self._pending[0].kind is not kind:
            raise ValueError(f"{kind.value} was reported, but due was {self.next_action()}")
        self._pending.pop(0)

    def _say(self, line: str) -> None:
        self._take_down(f"{self._of_teacher()}{line}")

    def _take_down(self, line: str) -> None:
        self._log.append(line)

    def _of_teacher(self) -> str:
        """The beginning of a sentence about one teacher's profile."""
        return self.profile.of_teacher if self.phase is Phase.PROFILE else ""

    def state_dict(self) -> dict:
        """JSON-able; a machine that loads it takes the same decisions from there on."""
        state = {
            key: value
            for key, value in vars(self).items()
            if key not in ("options", "profiles", "_pending", "phase")
        }
        state["asked"] = self._asked()
        state["phase"] = self.phase.value
        state["profiles"] = [profile.state_dict() for profile in self.profiles]
        state["_pending"] = [[a.kind.value, a.live] for a in self._pending]
        return {k: list(v) if isinstance(v, list) else v for k, v in state.items()}

    def load_state_dict(self, state: dict) -> None:
        """ValueError when the state was made by a run that was asked for something else."""
        state = dict(state)
        if state.pop("asked") != self._asked():
            raise ValueError("the saved phases belong to a run with other --t3s arguments")
        self.phase = Phase(state.pop("phase"))
        for profile, saved in zip(self.profiles, state.pop("profiles"), strict=True):
            profile.load_state_dict(saved)
        self._pending = [Action(ActionKind(k), live) for k, live in state.pop("_pending")]
        vars(self).update({k: list(v) if isinstance(v, list) else v for k, v in state.items()})

    def _asked(self) -> dict:
        """What the phases depend on, as JSON has it."""
        fixed = {
            declared.name: getattr(self.options, declared.name)
            for declared, about in options_of(MethodOptions)
            if not about.free
        }
        return fixed | {
            "budget": self.options.budget,
            "teachers": list(self.options.teachers),
            "starts_targeted": self.options.starts_targeted,
        }
