# SPDX-License-Identifier: Apache-2.0
"""A T3S run: carries out what the phase machine decides.

The machine (`method.phases`) knows the method and nothing of Megatron; the rooms under `megatron/`
know how to score, snapshot, generate and rewind and nothing of the method. This file is where they
meet. Actions run between two training steps, on every rank, in the same order:

    before step 1     keep theta_0, measure accuracy
    after each step   measure, keep a candidate, finish
    before a step     score theta_b, rewind, score theta_0, select

What changes weights in the middle of a run waits for the start of the next step, because Megatron
adds the finished step to its sample counter, logs it and saves its checkpoint after
`on_train_step_end`. Where no step follows (`--t3s-stop-after`), it does not wait.
"""

from __future__ import annotations

import time

from t3s_megatron.accuracy.measurement import Measurement
from t3s_megatron.answering.server import ServerBackend
from t3s_megatron.data.arrangement import TrainingRows
from t3s_megatron.megatron.batches import RowMaker
from t3s_megatron.megatron.forward import TrainingForward
from t3s_megatron.megatron.meter import StepTokens, step_figures
from t3s_megatron.megatron.process import get_args
from t3s_megatron.megatron.rewind import StartingPoint
from t3s_megatron.megatron.seam import CallbackContext
from t3s_megatron.megatron.weights import WeightSnapshot, free_host_memory, transfer_residual
from t3s_megatron.method.overlap import OverlappingPhases
from t3s_megatron.method.phases import Action, ActionKind, Phase, PhaseMachine
from t3s_megatron.run.base import Run
from t3s_megatron.run.in_flight import InFlight
from t3s_megatron.run.inputs import Inputs
from t3s_megatron.run.persistence import Persistence
from t3s_megatron.run.selector import Selector
from t3s_megatron.run.state import RunState

#: Actions that wait for the start of the next step; the module's docstring says why.
_BEFORE_A_STEP = (ActionKind.SCORE_THETA_B, ActionKind.REWIND)
#: What the final weights of a phase are called; those of plain training are theta_f.
_FINAL_WEIGHTS = {Phase.TARGETED: "theta_targeted", Phase.TRANSFERRED: "theta_rrt"}


class T3SRun(Run):
    """A run of `--t3s`. `state` is all of it that survives a kill.

    A subclass may override what `Run` says, calling `super()`, or a single action: `handlers` says
    which method carries out which.
    """

    def __init__(self, inputs: Inputs, rows: RowMaker, forward: TrainingForward):
        super().__init__(inputs, rows, forward)
        depth = self.config.accuracy_overlap
        machine = OverlappingPhases(self.config, depth) if depth else PhaseMachine(self.config)
        self.state = RunState(machine, rows)
        weigh = self.config.chosen.weigh
        if weigh is not None:
            forward.weigh = lambda p: weigh(p, self.config.min_probability)
        self.handlers = {
            ActionKind.KEEP_THETA_0: self._keep_theta_0,
            ActionKind.MEASURE: self._measure,
            ActionKind.SCORE: self._watch_confidence,
            ActionKind.KEEP_CANDIDATE: self._keep_candidate,
            ActionKind.SCORE_THETA_B: self._score_theta_b,
            ActionKind.REWIND: self._rewind,
            ActionKind.SCORE_THETA_0: self._score_theta_0,
            ActionKind.NEXT_PROFILE: self._next_profile,
            ActionKind.SELECT: self._select,
            ActionKind.RESIDUAL_TRANSFER: self._transfer_residual,
            ActionKind.FINISH: self._finish,
            ActionKind.KEEP_WEIGHTS: self._keep_weights,
            ActionKind.BEGIN_MEASUREMENT: self._begin_measurement,
            ActionKind.COLLECT: self._collect,
            ActionKind.DISCARD: self._discard,
        }

    # ------------------------------------------------------------------------------ where it is

    @property
    def machine(self) -> PhaseMachine:
        return self.state.machine

    @property
    def training_rows(self) -> TrainingRows:
        """Rows of the phase under way: a teacher's profile, or training on the samples of all."""
        if self.machine.phase is Phase.PROFILE:
            return self.inputs.rows_of(self.machine.teacher)
        return self.inputs.training_rows

    @property
    def phase(self) -> str:
        return self.machine.phase.value

    @property
    def step(self) -> int:
        return self.machine.live_step

    @property
    def train_iters(self) -> int:
        """An upper bound while the profile is open."""
        return self.machine.train_iters_now

    @property
    def finished(self) -> bool:
        return self.machine.phase is Phase.DONE

    @property
    def kind(self) -> str:
        return self.config.method + ("-simple" if self.config.simple else "")

    # ------------------------------------------------------------------------------------ events

    def begin(self, context: CallbackContext) -> None:
        config = self.config
        if config.teachers:
            several = len(config.profiles) > 1
            self.journal.introduce_teachers(
                self.inputs.parts, config.budget, config.longest_profile if several else None
            )
        taken = sum(len(part.samples) for part in self.inputs.profile_parts.values())
        if taken < len(self.inputs.corpus.samples):
            self.journal.say(
                f"the profile takes {taken} of {len(self.inputs.corpus.samples)} samples "
                f"(--t3s-profile-samples {config.profile_samples})"
            )
        self.selector = Selector(self.inputs, self.state, self.journal, self.non_finite, self.root)
        self.in_flight: InFlight | None = None
        if isinstance(self.backend, ServerBackend):  # no other answers while training goes on
            self.in_flight = InFlight(
                self.state.flights, self.backend, self.measurer, self.journal, self.root
            )
        self.persistence = Persistence(
            self.inputs, self.state, self.selector, self.journal, context
        )
        if get_args().iteration > 0:
            self.persistence.restore(context, get_args().iteration)

    def before_step(self, context: CallbackContext) -> None:
        if self.machine.total_steps == 0:
            self.evaluate(context, "theta_0")
            self._watch_heldout(context)
        self._carry_out(context, between_steps=False)
        if self.config.chosen.leaves_out and not self.finished:
            self.selector.leave_out(context, self.step_rows())

    def after_step(self, context: CallbackContext, tokens: StepTokens) -> None:
        profiling = self.machine.phase is Phase.PROFILE
        self.machine.step_done()
        if profiling:
            self.state.history.append(tokens)
        self._report_step(tokens, context.iteration)
        self._watch_heldout(context)
        self._carry_out(context, between_steps=True)

    def on_checkpoint_save(self, context: CallbackContext) -> None:
        self.persistence.save(context.iteration)

    def end(self, context: CallbackContext) -> None:
        if self.in_flight is not None:
            self.in_flight.close()

    def _watch_heldout(self, context: CallbackContext) -> None:
        interval = self.config.heldout_interval
        if interval and self.step % interval == 0:
            self.journal.heldout(self.heldout_accuracy(context), self.machine.teacher)

    def _report_step(self, tokens: StepTokens, iteration: int) -> None:
        keep, groups = self.rows.keep, self.state.groups
        figures = step_figures(tokens, keep, groups)
        if not figures:
            return
        self.journal.step(figures["kept"], self.step_rows(), self.machine.phase)
        if groups is None:
            return
        self.journal.token_groups("targeted", tokens.step, figures, iteration)
        for part in self.inputs.parts:
            if part.teacher is not None:
                of_teacher = step_figures(tokens.among(part.targets), keep, groups)
                self.journal.token_groups(
                    "targeted", tokens.step, of_teacher, iteration, part.teacher
                )

    # ----------------------------------------------------------------------------------- actions

    def _carry_out(self, context: CallbackContext, between_steps: bool) -> None:
        while (action := self.machine.next_action()) is not None:
            waits = between_steps and not self.config.stop_after
            if waits and action.kind in _BEFORE_A_STEP:
                break
            self.handlers[action.kind](context, action)
            self._forget_weights()
            self.journal.phases(self.machine.records)
            for line in self.machine.drain_log():
                self.journal.say(line)
        self.set_train_iters()

    def _keep_theta_0(self, context: CallbackContext, action: Action) -> None:
        self.state.theta_0 = StartingPoint(context)
        self.machine.done(action)

    def _keep_candidate(self, context: CallbackContext, action: Action) -> None:
        state, step = self.state, self.machine.phase_step
        if step in state.weights_in_flight:
            state.candidate = state.weights_in_flight.pop(step)
        elif state.candidate is None:
            state.candidate = WeightSnapshot(context)
        else:
            state.candidate.copy_from(context)
        self.machine.done(action)

    def _measure(self, context: CallbackContext, action: Action) -> None:
        settles = self.machine.settles if self.machine.seeks_minimum else None
        self._take_outcome(self.training_accuracy(context, self.machine.teacher, settles))

    def _take_outcome(self, measured: Measurement) -> None:
        teacher = self.machine.teacher
        self.machine.measured(measured.outcome)
        self.journal.measured(measured, teacher)

    def _watch_confidence(self, context: CallbackContext, action: Action) -> None:
        profile, step = self.machine.profile, self.machine.phase_step
        fall = self.selector.confidence_fall(context, profile, step)
        self.machine.scored(fall)
        self.journal.confidence(step, fall, profile)

    def _score_theta_b(self, context: CallbackContext, action: Action) -> None:
        if not action.live:
            assert self.state.candidate is not None
            self.state.candidate.restore(context)
        self.selector.score_theta_b(context, self.machine.profile)
        self.machine.done(action)

    def _rewind(self, context: CallbackContext, action: Action) -> None:
        assert self.state.theta_0 is not None
        started = time.perf_counter()
        self.state.theta_0.rewind(context)
        seconds = time.perf_counter() - started
        self.machine.done(action)
        self.order_data(context)
        self.journal.spent("rewind", seconds)

    def _score_theta_0(self, context: CallbackContext, action: Action) -> None:
        self.selector.score_theta_0(context, self.machine.profile)
        self.machine.done(action)

    def _next_profile(self, context: CallbackContext, action: Action) -> None:
        self._close_profile(context)
        self.machine.done(action)
        self.order_data(context)
        self.journal.write()

    def _select(self, context: CallbackContext, action: Action) -> None:
        self._close_profile(context)
        self.apply_mask(self.selector.select())
        if self.machine.theta_b_step is not None:
            self.state.groups = self.selector.groups
        self._let_go()
        self.machine.done(action)
        self.journal.write()

    def _close_profile(self, context: CallbackContext) -> None:
        self.selector.close_profile(context, self.machine.profile)
        self.state.history.clear()
        self.journal.theta_b(self.machine.profile)

    def _transfer_residual(self, context: CallbackContext, action: Action) -> None:
        self.evaluate(context, "theta_f")
        assert self.state.theta_0 is not None and self.state.candidate is not None
        transfer_residual(context, self.state.theta_0.weights, self.state.candidate)
        self.machine.done(action)

    def _finish(self, context: CallbackContext, action: Action) -> None:
        if not self.config.stop_after:
            self.evaluate(context, _FINAL_WEIGHTS.get(self.machine.phase, "theta_f"))
        self._let_go()
        self.machine.done(action)
        self.journal.phases(self.machine.records)
        self.journal.theta_b(self.machine.profile)
        self.journal.write()

    def _let_go(self) -> None:
        """There is no way back from here: free the host."""
        self.state.theta_0 = self.state.candidate = None
        free_host_memory()

    # ---------------------------------------------------------------------- measurements in flight

    def _keep_weights(self, context: CallbackContext, action: Action) -> None:
        self.state.weights_in_flight[self.step] = WeightSnapshot(context)
        self.machine.done(action)

    def _begin_measurement(self, context: CallbackContext, action: Action) -> None:
        assert self.in_flight is not None
        samples = self.inputs.asked_in_training(self.machine.teacher)
        self.in_flight.begin(context, samples, step=self.step, phase=self.phase)
        self.machine.done(action)

    def _collect(self, context: CallbackContext, action: Action) -> None:
        assert self.in_flight is not None
        started = time.perf_counter()
        measured = self.in_flight.collect()
        self.journal.spent("waiting", time.perf_counter() - started)
        self._take_outcome(measured)

    def _discard(self, context: CallbackContext, action: Action) -> None:
        assert self.in_flight is not None
        self.in_flight.discard()
        self.machine.done(action)

    def _forget_weights(self) -> None:
        if isinstance(self.machine, OverlappingPhases):
            for step in set(self.state.weights_in_flight) - set(self.machine.kept):
                del self.state.weights_in_flight[step]
