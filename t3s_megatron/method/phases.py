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
from dataclasses import asdict, dataclass

from t3s_megatron.errors import VoidMeasurementError
from t3s_megatron.method.confidence import ConfidenceDetector
from t3s_megatron.method.detector import BottleneckDetector
from t3s_megatron.method.outcome import Outcome
from t3s_megatron.method.profile import Profile
from t3s_megatron.method.schedule import MeasurementSchedule
from t3s_megatron.method.selection import MASKING_BASELINES

#: What says which step of the profile is theta_b.
SIGNALS = ("accuracy", "confidence", "both", "fixed")


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


@dataclass(frozen=True)
class Plan:
    """What a run was asked to do. `budget` and `profile_iters` count training steps; the latter
    are the bound of each profile. `teachers`: their names where there are several, else empty."""

    method: str
    budget: int
    signal: str = "accuracy"
    simple_step: int = 10
    profile_iters: int = 50
    accuracy_interval: int = 1  # 0: never measured
    targeted_accuracy_interval: int = 1
    patience: int = 5
    min_delta: float = 0.0
    confirm_level: float = 0.0
    shock_level: float = 0.0
    coarse_interval: int = 0  # until the shock; 0: accuracy_interval from the start
    stop_level: float = 0.0
    no_shock: str = "simple"
    loaded_selection: bool = False
    share: float | None = None
    measure_final: bool = True
    teachers: tuple[str, ...] = ()

    @property
    def profiles(self) -> tuple[str | None, ...]:
        """Whose samples each profile trains on, in order; None: all samples together."""
        if self.starts_targeted or self.trains_to_theta_f or not self.teachers:
            return (None,)
        return self.teachers

    @property
    def starts_targeted(self) -> bool:
        return self.loaded_selection or (
            self.method in MASKING_BASELINES and self.share is not None
        )

    @property
    def trains_to_theta_f(self) -> bool:
        """The first phase is the whole of plain fine-tuning."""
        return self.method in ("sft", "rrt")

    @property
    def simple(self) -> bool:
        """T3S-simple: theta_b is fixed beforehand."""
        return self.signal == "fixed"

    @property
    def watches_confidence(self) -> bool:
        return self.detects and self.signal in ("confidence", "both")

    @property
    def detects(self) -> bool:
        return not (self.starts_targeted or self.simple or self.method == "sft")

    def validate(self) -> None:
        """ValueError for a plan that cannot be carried out."""
        if self.budget < 1 or self.profile_iters < 1:
            raise ValueError("budget and profile_iters must be at least 1 step")
        if self.signal not in SIGNALS:
            raise ValueError(f"unknown signal {self.signal!r}")
        if self.detects and self.signal != "confidence" and self.accuracy_interval < 1:
            raise ValueError("the detector needs accuracy measurements")
        if self.detects and self.signal == "confidence" and self.accuracy_interval:
            raise ValueError("by confidence nothing is measured in a profile: accuracy_interval 0")
        if self.teachers and self.method == "rrt":
            raise ValueError("a residual transfer has one theta_b: it is of one teacher")
        if len(self.profiles) > 1 and self.detects and self.no_shock == "sft":
            raise ValueError("one teacher's profile cannot go on as SFT of all of them")
        rewinds = self.detects and not self.trains_to_theta_f
        if rewinds and self.no_shock == "sft" and self.profile_iters > self.budget:
            raise ValueError(
                f"a profile of {self.profile_iters} steps cannot go on as SFT of {self.budget}"
            )
        needs_simple_step = self.simple or (self.detects and self.no_shock == "simple")
        last = self.budget if self.trains_to_theta_f else self.profile_iters
        if needs_simple_step and not self.starts_targeted and not 1 <= self.simple_step <= last:
            raise ValueError(
                f"step {self.simple_step}, which T3S-simple takes as theta_b, is not among the "
                f"{last} steps of the profile"
            )


class PhaseMachine:
    """See the module's docstring. `phase_step`: steps done in the phase; `total_steps`: in all.

    `profiles`: one for each teacher; `number`: of the one under way, and then of the last.
    """

    def __init__(self, plan: Plan):
        plan.validate()
        self.plan = plan
        self.phase = Phase.TARGETED if plan.starts_targeted else Phase.PROFILE
        self.phase_step = 0
        self.offset = 0
        self.goes_on_as_sft = False
        self.profiles = [self._new_profile(teacher) for teacher in plan.profiles]
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
    def turn(self) -> ConfidenceDetector:
        return self.profile.turn

    @property
    def finder(self) -> BottleneckDetector | ConfidenceDetector:
        """Which of the two says what theta_b is."""
        return self.turn if self.plan.signal == "confidence" else self.detector

    # ------------------------------------------------------------------------------- what to do

    @property
    def total_steps(self) -> int:
        return self.offset + self.phase_step

    @property
    def live_step(self) -> int:
        """The step of the phase that training has reached."""
        return self.phase_step

    @property
    def train_iters_now(self) -> int:
        """Steps of the whole run; an upper bound while the end of the profile is open."""
        plan = self.plan
        if self.phase is Phase.DONE:
            return self.total_steps
        if self.phase is not Phase.PROFILE or plan.trains_to_theta_f or self.goes_on_as_sft:
            return self.offset + plan.budget
        bound = plan.simple_step if plan.simple else plan.profile_iters
        return self.offset + bound * (len(self.profiles) - self.number) + plan.budget

    def next_action(self) -> Action | None:
        """What to do now; None when the next training step is due (or the run is done)."""
        return self._pending[0] if self._pending else None

    @property
    def seeks_minimum(self) -> bool:
        """Whether a measurement now is made to find theta_b, and for nothing else. The first one is
        what all others are compared with; those after theta_b show how training goes on."""
        looking = self.phase is Phase.PROFILE and self.plan.detects and not self.goes_on_as_sft
        return looking and self.phase_step > 0 and not self.detector.confirmed

    def settles(self, so_far: Outcome, looks: int) -> str | None:
        """Why the measurement under way, made while `seeks_minimum`, need not go on; None while it
        has to. `looks`: how often this is asked in one measurement; the plan's `stop_level` is
        divided between them."""
        return self.detector.rules_out(so_far, self.plan.stop_level / looks)

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
        if self._watching:
            self._pending = [Action(ActionKind.SCORE)]
        else:
            self._measure_or_decide(new_minimum=False)

    def scored(self, fall: float) -> None:
        """The SCORE action gave this `confidence_fall`; that of step 0 is the reference."""
        self._pop(ActionKind.SCORE)
        if self.phase_step == 0:
            return
        seen = self.turn.observe(self.phase_step, fall)
        self._say(seen.reason)
        if self.turn.near:
            self._measure_densely()
        self._measure_or_decide(seen.is_new_minimum and self.finder is self.turn)

    def measured(self, outcome: Outcome) -> None:
        """The MEASURE action gave this outcome.

        VoidMeasurementError when it is the first of the run or of a profile: what fails before
        training will fail after it, and the detector would have no reference.
        """
        self._pop(ActionKind.MEASURE)
        first = self.total_steps == 0 or (self.phase is Phase.PROFILE and self.phase_step == 0)
        if first and outcome.void:
            raise VoidMeasurementError(
                f"{self._of_teacher()}the accuracy before the first step could not be measured: "
                "too many of its answers failed. No step of it was made; see the faults above, and "
                "--t3s-verify-timeout, --t3s-verify-memory, --t3s-generation-timeout and "
                "--t3s-max-failed-share"
            )
        new_minimum = False
        if self.phase is Phase.PROFILE and not self.plan.simple:
            settled = self.detector.confirmed  # RRT goes on measuring up to theta_f
            seen = self.detector.observe(self.phase_step, outcome)
            new_minimum = seen.is_new_minimum
            if not settled:
                self._say(seen.reason)
            if self.detector.shock_seen:
                self._measure_densely()
        if self.phase_step > 0 and self.phase is not Phase.TRANSFERRED:
            self._decide(new_minimum)

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
            self._say(f"targeted training begins: {self.plan.budget} steps")
        elif action.kind is ActionKind.RESIDUAL_TRANSFER:
            self._say(f"weights are theta_0 + (theta_f - theta_b), theta_b = {self.theta_b_step}")
            self._close_record()
            self.phase = Phase.TRANSFERRED
        elif action.kind is ActionKind.FINISH:
            if self.phase is not Phase.TRANSFERRED:
                self._close_record()
            self.phase = Phase.DONE
            self._say("done")

    # --------------------------------------------------------------------------------- decisions

    def _begin(self) -> None:
        plan, actions = self.plan, []
        if plan.starts_targeted:
            if not plan.loaded_selection:
                if plan.method != "random":
                    actions.append(Action(ActionKind.SCORE_THETA_0))
                actions.append(Action(ActionKind.SELECT))
            if plan.targeted_accuracy_interval:
                actions.append(Action(ActionKind.MEASURE))
        else:
            if plan.method != "sft":
                actions.append(Action(ActionKind.KEEP_THETA_0))
            actions += self._at_step_0()
        self._pending = actions

    def _at_step_0(self) -> list[Action]:
        """Of a profile, at theta_0."""
        actions = []
        if self.plan.watches_confidence:
            actions.append(Action(ActionKind.SCORE))
        if self.plan.accuracy_interval:
            actions.append(Action(ActionKind.MEASURE))
        return actions

    @property
    def _watching(self) -> bool:
        """Whether the corpus is scored after this step."""
        open_profile = self.phase is Phase.PROFILE and not self.goes_on_as_sft
        return open_profile and self.plan.watches_confidence and not self.turn.confirmed

    def _measure_densely(self) -> None:
        if self.schedule.measure_densely(self.phase_step):
            self._say("from here on accuracy is measured every --t3s-accuracy-interval steps")

    def _measure_or_decide(self, new_minimum: bool) -> None:
        if self._measurement_is_due():
            self._pending = [Action(ActionKind.MEASURE)]
        else:
            self._decide(new_minimum)

    def _measurement_is_due(self) -> bool:
        plan, step = self.plan, self.phase_step
        if self.phase is Phase.PROFILE:
            final = (plan.trains_to_theta_f or self.goes_on_as_sft) and step == plan.budget
            # The last profile step is measured too, or the minimum could hide behind the interval.
            ends = plan.detects and not plan.trains_to_theta_f and step == plan.profile_iters
            due = self.schedule.is_due(step)
            return bool(plan.accuracy_interval) and (due or final or ends)
        interval = plan.targeted_accuracy_interval
        final = plan.measure_final and step == plan.budget
        return final or (bool(interval) and step % interval == 0)

    def _decide(self, new_minimum: bool) -> None:
        """After each training step and its measurement, if any."""
        plan, step = self.plan, self.phase_step
        if self.phase is Phase.TARGETED:
            if step == plan.budget:
                self._pending.append(Action(ActionKind.FINISH))
            return
        if plan.method == "sft" or self.goes_on_as_sft:
            if step >= plan.budget:
                self._pending.append(Action(ActionKind.FINISH))
            return
        if plan.method == "rrt":
            self._decide_rrt(new_minimum)
        else:
            self._decide_selecting(new_minimum)

    def _decide_selecting(self, new_minimum: bool) -> None:
        """Methods that rewind and train on with a selection."""
        plan, step = self.plan, self.phase_step
        if plan.simple:
            if step == plan.simple_step:
                self._fix_theta_b(step, f"T3S-simple takes step {step}")
                self._score_and_rewind()
            return
        if self.finder.confirmed:
            assert self.finder.confirmed_by is not None
            self._fix_theta_b(self.finder.theta_b_step, self.finder.confirmed_by)
            self._score_and_rewind()
        elif step >= plan.profile_iters:
            self._end_of_profile()
        else:
            self._keep_candidate(new_minimum)

    def _end_of_profile(self) -> None:
        plan = self.plan
        if self.finder.shock_seen:
            reason = f"lowest of all {self.phase_step} profile steps{self._void_count()}"
            self._fix_theta_b(self.finder.theta_b_step, reason)
            self._score_and_rewind()
            return
        self._refuse_blindness()
        seen = (
            f"no Imitation Shock in {self.phase_step} steps: {self._what_falls} never fell below "
            f"step 0{self._void_count()}"
        )
        if plan.no_shock == "simple":
            self._fix_theta_b(plan.simple_step, f"{seen}; going on as T3S-simple")
            self._score_and_rewind()
        elif plan.no_shock == "sft" and self.phase_step < plan.budget:
            self.goes_on_as_sft = True
            self.profile.theta_b_reason = f"{seen}; going on as plain SFT"
            self._say(self.profile.theta_b_reason)
        else:
            self.profile.theta_b_reason = seen
            self._say(f"{seen}; stopping here")
            self._pending.append(Action(ActionKind.FINISH))

    def _decide_rrt(self, new_minimum: bool) -> None:
        plan, step = self.plan, self.phase_step
        if plan.simple:
            if step == plan.simple_step:
                self._pending.append(Action(ActionKind.KEEP_CANDIDATE))
        else:
            self._keep_candidate(new_minimum)
        if step < plan.budget:
            return
        self._refuse_blindness()
        if plan.simple:
            self._fix_theta_b(plan.simple_step, f"T3S-simple takes step {plan.simple_step}")
        elif self.finder.shock_seen:
            self._fix_theta_b(self.finder.theta_b_step, f"lowest training {self._what_falls}")
        elif plan.no_shock == "simple":
            self._fix_theta_b(plan.simple_step, "no Imitation Shock; going on as T3S-simple")
        else:
            self.profile.theta_b_reason = "no Imitation Shock: theta_f is left as it is"
            self._say(self.profile.theta_b_reason)
            self._pending.append(Action(ActionKind.FINISH))
            return
        self._pending.append(Action(ActionKind.RESIDUAL_TRANSFER))
        if plan.measure_final:
            self._pending.append(Action(ActionKind.MEASURE))
        self._pending.append(Action(ActionKind.FINISH))

    @property
    def _what_falls(self) -> str:
        return "confidence" if self.finder is self.turn else "accuracy"

    def _void_count(self) -> str:
        return f" ({self.finder.void} unmeasured)" if self.finder.void else ""

    def _refuse_blindness(self) -> None:
        """No shock was seen, but was anything? VoidMeasurementError when it was not."""
        if self.finder.void and not self.finder.measured:
            raise VoidMeasurementError(
                f"{self._of_teacher()}every one of the {self.finder.void} accuracy measurements "
                "of the profile was "
                "void: there is nothing to find theta_b by. Start again from the last checkpoint "
                "once generation and verification work, or from the start with --t3s-simple"
            )

    def _keep_candidate(self, new_minimum: bool) -> None:
        """Host memory holds theta_0 and one candidate, never more: step 10 until a real minimum."""
        fallback = (
            self.plan.no_shock == "simple"
            and self.phase_step == self.plan.simple_step
            and not self.finder.shock_seen
        )
        if new_minimum or fallback:
            self._pending.append(Action(ActionKind.KEEP_CANDIDATE))

    def _fix_theta_b(self, step: int | None, reason: str) -> None:
        assert step is not None  # the detector has seen a minimum
        self.profile.theta_b_step, self.profile.theta_b_reason = step, reason
        self._say(f"theta_b is step {step} ({reason})")

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
        if not self.plan.accuracy_interval and self.plan.targeted_accuracy_interval:
            self._pending.append(Action(ActionKind.MEASURE))  # step 0 was never measured

    # ------------------------------------------------------------------------------- bookkeeping

    def _new_profile(self, teacher: str | None) -> Profile:
        plan = self.plan
        return Profile(
            teacher,
            BottleneckDetector(plan.patience, plan.min_delta, plan.confirm_level, plan.shock_level),
            ConfidenceDetector(plan.patience),
            MeasurementSchedule(plan.accuracy_interval, plan.coarse_interval),
        )

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
        self._log.append(f"{self._of_teacher()}{line}")

    def _of_teacher(self) -> str:
        """The beginning of a sentence about one teacher's profile."""
        return "" if self.teacher is None else f"teacher {self.teacher}: "

    def state_dict(self) -> dict:
        """JSON-able; a machine that loads it takes the same decisions from there on."""
        state = {
            key: value
            for key, value in vars(self).items()
            if key not in ("plan", "profiles", "_pending", "phase")
        }
        state["plan"] = self._plan_state()
        state["phase"] = self.phase.value
        state["profiles"] = [profile.state_dict() for profile in self.profiles]
        state["_pending"] = [[a.kind.value, a.live] for a in self._pending]
        return {k: list(v) if isinstance(v, list) else v for k, v in state.items()}

    def load_state_dict(self, state: dict) -> None:
        """ValueError when the state was made by a run with another plan."""
        state = dict(state)
        if state.pop("plan") != self._plan_state():
            raise ValueError("the saved phases belong to a run with other --t3s arguments")
        self.phase = Phase(state.pop("phase"))
        for profile, saved in zip(self.profiles, state.pop("profiles"), strict=True):
            profile.load_state_dict(saved)
        self._pending = [Action(ActionKind(k), live) for k, live in state.pop("_pending")]
        vars(self).update({k: list(v) if isinstance(v, list) else v for k, v in state.items()})

    def _plan_state(self) -> dict:
        return asdict(self.plan) | {"teachers": list(self.plan.teachers)}  # as JSON has it
