# SPDX-License-Identifier: Apache-2.0
"""A T3S run as a Megatron callback: carries out what the phase machine decides.

The machine (`method.phases`) knows the method and nothing of Megatron; the rooms under `megatron/`
know how to score, snapshot, generate and rewind and nothing of the method. This file is where they
meet. Actions run between two training steps, on every rank, in the same order:

    before step 1     keep theta_0, measure accuracy
    after each step   measure, keep a candidate, finish
    before a step     score theta_b, rewind, score theta_0, select

What changes weights in the middle of a run waits for the start of the next step, because Megatron
adds the finished step to its sample counter, logs it and saves its checkpoint after
`on_train_step_end`.
"""

from __future__ import annotations

import os
import time

import numpy as np

from t3s_megatron.accuracy.measurement import Measurement
from t3s_megatron.accuracy.measuring import Measurer
from t3s_megatron.data.arrangement import StepRows, TrainingRows
from t3s_megatron.errors import T3SError
from t3s_megatron.megatron import layout
from t3s_megatron.megatron.batches import RowMaker
from t3s_megatron.megatron.forward import TrainingForward
from t3s_megatron.megatron.guard import StepGuard
from t3s_megatron.megatron.meter import (
    StepTokens,
    TokenGroups,
    TokenMeter,
    step_figures,
)
from t3s_megatron.megatron.process import (
    get_args,
    get_tensorboard_writer,
    get_wandb_writer,
    print_rank_0,
)
from t3s_megatron.megatron.residual import transfer_residual
from t3s_megatron.megatron.rewind import StartingPoint, training_batches
from t3s_megatron.megatron.seam import CallbackContext, Seam
from t3s_megatron.megatron.source_seam import SourceSeam
from t3s_megatron.megatron.uneven import let_lengths_vary
from t3s_megatron.megatron.weights import WeightSnapshot
from t3s_megatron.method.overlap import OverlappingPhases
from t3s_megatron.method.phases import Action, ActionKind, Phase, PhaseMachine
from t3s_megatron.method.selection import selection_counts
from t3s_megatron.monitor.curves import Curves, measurement_figures
from t3s_megatron.monitor.summary import Summary
from t3s_megatron.run.identity import provenance
from t3s_megatron.run.in_flight import Flights
from t3s_megatron.run.inputs import Inputs
from t3s_megatron.run.non_finite import NonFinitePolicy
from t3s_megatron.run.persistence import Persistence
from t3s_megatron.run.selector import Selecting

#: Actions that wait for the start of the next step; the module's docstring says why.
_BEFORE_A_STEP = (ActionKind.SCORE_THETA_B, ActionKind.REWIND)


class T3SRun:
    """One run in one process. Nothing of it outlives the object."""

    def __init__(self, inputs: Inputs, rows: RowMaker, forward: TrainingForward):
        self.inputs = inputs
        self.config = inputs.config
        self.rows = rows
        depth = self.config.accuracy_overlap
        self.machine = OverlappingPhases(self.config, depth) if depth else PhaseMachine(self.config)
        self.meter = TokenMeter()
        self.forward = forward
        forward.observer = self.meter
        self.seam: Seam | SourceSeam  # set by whoever installs it
        self.groups: TokenGroups | None = None
        self.theta_0: StartingPoint | None = None
        self.candidate: WeightSnapshot | None = None
        # Of steps whose measurement is in flight, by step of the phase.
        self.weights_in_flight: dict[int, WeightSnapshot] = {}
        self.selecting = Selecting(self)
        self._phase_started = time.perf_counter()

    # ------------------------------------------------------------------------------------ events

    def on_train_start(self, context: CallbackContext) -> None:
        self.root = layout.root_rank()
        self.is_root = layout.rank() == self.root
        self.curves = Curves(get_tensorboard_writer(), get_wandb_writer())
        self.measurer = Measurer(
            self.inputs,
            self.root,
            lambda what, seconds: self.spent(what, seconds, context.iteration),
            self.say,
        )
        self.flights = Flights(self.measurer)
        path = os.path.join(self.config.dir, "summary.json") if self.is_root else None
        self.summary = Summary(path)
        self.summary.update(
            method=self.config.method + ("-simple" if self.config.simple else ""),
            data=self.inputs.corpus.counts,
            unusable_gold=sorted(self.inputs.unusable_gold),
            arrangement=self.inputs.training_rows.summary(self.config.budget),
            **provenance(self.inputs, get_args()),
        )
        if self.config.arrangement != "padded":
            let_lengths_vary(context.model)
        loaded = self.inputs.selection
        if loaded is not None:
            self.say(f"training with the selection of {self.config.selection_load}")
            self._apply(loaded.keep)
            made_by = {"method": loaded.method, "theta_b_step": loaded.theta_b_step}
            self.summary.update(
                tokens=selection_counts(loaded.keep, None),
                selection={"file": self.config.selection_load, "model": loaded.model} | made_by,
            )
        if unusable := len(self.inputs.unusable_gold):
            self.say(
                f"--t3s-verifier {self.config.verifier} cannot read {unusable} gold answers: their "
                "samples are trained on and never asked (unusable_gold in the summary)"
            )
        self._introduce_teachers()
        self.non_finite = NonFinitePolicy(
            self.config.non_finite == "skip",
            self.rows,
            [part.samples for part in self.inputs.parts],
            self.summary,
            self.say,
        )
        self.guard = StepGuard(
            context,
            self.rows,
            self.forward,
            self.meter,
            non_finite=self._non_finite,
            nothing_kept=self._nothing_kept,
        )
        self.persistence = Persistence(self, context)
        if get_args().iteration > 0:
            self.persistence.restore(context, get_args().iteration)
        self._phases_noted = len(self.machine.records)
        self._order_data(context)
        if self.config.needs_answers:
            self.measurer.check(context)
        # Megatron's loop ends at args.train_iters: an upper bound while the profile is open.
        get_args().train_iters = self.machine.train_iters_now

    def on_train_step_start(self, context: CallbackContext) -> None:
        if self.machine.total_steps == 0:
            self._evaluate(context, "theta_0")
        self._carry_out(context, between_steps=False)
        context.num_microbatches = len(self._step_rows().micro_batches)
        self.guard.before_step()

    @property
    def plans(self) -> TrainingRows:
        """Of the phase: a teacher's profile, or training on the samples of all."""
        return self.inputs.rows_of(self.machine.teacher)

    def _step_rows(self) -> StepRows:
        """Of the step that is about to begin, or has just been done."""
        return self.plans.at(get_args().consumed_train_samples)

    def _order_data(self, context: CallbackContext) -> None:
        """Where each step of the phase finds its samples; what was consumed is not changed."""
        for batches in training_batches(context.data_iterator):
            batches.plans = self.plans

    def on_train_step_end(self, context: CallbackContext) -> None:
        self.seam.assert_called("train", "train_step")
        profiling = self.machine.phase is Phase.PROFILE
        tokens = self.meter.finish_step(self.machine.live_step + 1)
        self.machine.step_done()
        if profiling:
            self.meter.history.append(tokens)
        self._report_step(tokens, context.iteration)
        self._carry_out(context, between_steps=True)

    def on_log(self, context: CallbackContext) -> None:
        if self.seam.calls["training_log"] == 1:
            calls = ", ".join(f"{name} {n}x" for name, n in self.seam.calls.items())
            print_rank_0(f"[t3s] Megatron runs through the {self.seam.kind}: {calls}")
        self.curves.flush()

    def on_checkpoint_save(self, context: CallbackContext) -> None:
        self.persistence.save(context.iteration)

    def on_train_end(self, context: CallbackContext) -> None:
        if self.seam.calls["train_step"]:
            self.seam.assert_called("train", "train_step", "training_log")
        self.flights.close()
        self.measurer.close()
        self.summary.update(finished=self.machine.phase is Phase.DONE)
        self.summary.write()
        self.curves.flush()

    # ----------------------------------------------------------------------------------- actions

    def _carry_out(self, context: CallbackContext, between_steps: bool) -> None:
        handlers = {
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
        while (action := self.machine.next_action()) is not None:
            if between_steps and action.kind in _BEFORE_A_STEP:
                break
            handlers[action.kind](context, action)
            self._forget_weights()
            self._note_finished_phases()
            self._say_reasons()
        # Ends Megatron's loop with this step once the machine is done.
        get_args().train_iters = self.machine.train_iters_now

    def _keep_theta_0(self, context, action: Action) -> None:
        self.theta_0 = StartingPoint(context)
        self.machine.done(action)

    def _keep_candidate(self, context, action: Action) -> None:
        if self.machine.phase_step in self.weights_in_flight:
            self.candidate = self.weights_in_flight.pop(self.machine.phase_step)
        elif self.candidate is None:
            self.candidate = WeightSnapshot(context)
        else:
            self.candidate.copy_from(context)
        self.machine.done(action)

    def _measure(self, context, action: Action) -> None:
        teacher = self.machine.teacher
        settles = self.machine.settles if self.machine.seeks_minimum else None
        measured = self.measurer.training_accuracy(
            context, settles=settles, teacher=teacher, **self._now()
        )
        self._take_outcome(context, measured)

    def _keep_weights(self, context, action: Action) -> None:
        self.weights_in_flight[self.machine.live_step] = WeightSnapshot(context)
        self.machine.done(action)

    def _begin_measurement(self, context, action: Action) -> None:
        self.flights.begin(context, **self._now(), teacher=self.machine.teacher)
        self.machine.done(action)

    def _collect(self, context, action: Action) -> None:
        started = time.perf_counter()
        measured = self.flights.collect()
        self.spent("waiting", time.perf_counter() - started, context.iteration)
        self._take_outcome(context, measured)

    def _discard(self, context, action: Action) -> None:
        self.flights.discard()
        self.machine.done(action)

    def _forget_weights(self) -> None:
        if isinstance(self.machine, OverlappingPhases):
            for step in set(self.weights_in_flight) - set(self.machine.kept):
                del self.weights_in_flight[step]

    def _take_outcome(self, context, measured: Measurement) -> None:
        teacher = self.machine.teacher
        self.machine.measured(measured.outcome)
        self.summary.append("measurements", measured.to_dict() | _whose(teacher))
        self.curves.scalars(measurement_figures(measured), context.iteration, teacher)
        self.say(
            f"{_prefix(teacher)}{measured.phase} step {measured.step}: accuracy "
            f"{measured.describe()}, {measured.seconds:.1f} s"
        )
        self.summary.write()

    def _watch_confidence(self, context, action: Action) -> None:
        profile, step = self.machine.profile, self.machine.phase_step
        fall = self.selecting.confidence_fall(context, profile, step)
        self.machine.scored(fall)
        self.summary.append("confidence", {"step": step, "fall": fall} | _whose(profile.teacher))
        self.curves.scalars(
            {"confidence_fall": fall, "confidence_turn": profile.turn.theta_b_step},
            context.iteration,
            profile.teacher,
        )

    def _score_theta_b(self, context, action: Action) -> None:
        if self.config.scoring != "inline" and not action.live:
            assert self.candidate is not None
            self.candidate.restore(context)
        self.selecting.score_theta_b(context, self.machine.profile)
        self.machine.done(action)

    def _rewind(self, context, action: Action) -> None:
        assert self.theta_0 is not None
        started = time.perf_counter()
        self.theta_0.rewind(context)
        seconds = time.perf_counter() - started
        self.machine.done(action)
        self._order_data(context)
        self.spent("rewind", seconds, context.iteration)

    def _score_theta_0(self, context, action: Action) -> None:
        self.selecting.score_theta_0(context, self.machine.profile)
        self.machine.done(action)

    def _next_profile(self, context, action: Action) -> None:
        self._close_profile(context)
        self.machine.done(action)
        self._order_data(context)
        self.summary.write()

    def _select(self, context, action: Action) -> None:
        self._close_profile(context)
        self._apply(self.selecting.select())
        if self.machine.theta_b_step is not None:
            self.groups = self.selecting.groups
        self.theta_0 = self.candidate = None  # there is no way back from here: free the host
        self.machine.done(action)
        self.summary.write()

    def _close_profile(self, context) -> None:
        self.selecting.close_profile(context, self.machine.profile)
        self.meter.history.clear()
        self._note_theta_b()

    def _transfer_residual(self, context, action: Action) -> None:
        self._evaluate(context, "theta_f")
        assert self.theta_0 is not None and self.candidate is not None
        transfer_residual(context, self.theta_0.weights, self.candidate)
        self.machine.done(action)

    def _finish(self, context, action: Action) -> None:
        names = {Phase.TARGETED: "theta_targeted", Phase.TRANSFERRED: "theta_rrt"}
        self._evaluate(context, names.get(self.machine.phase, "theta_f"))
        self.theta_0 = self.candidate = None
        self.machine.done(action)
        self._note_finished_phases()
        self._note_theta_b()
        self.summary.write()

    def _note_theta_b(self) -> None:
        """Of the profile under way, or the last."""
        profile = self.machine.profile
        self.note(profile.teacher, **profile.findings())

    def _non_finite(self, what: str, samples: list[int]) -> None:
        self.non_finite.found(what, samples, self.machine.phase.value, self.machine.live_step + 1)

    def non_finite_log_prob(self, where: str, samples: list[int]) -> None:
        """A scoring pass has found those of these samples."""
        self.non_finite.found(f"log-prob at {where}", samples, **self._now())

    def _nothing_kept(self) -> None:
        self.summary.update(empty_steps=self.summary.content["empty_steps"] + 1)
        self.say(
            f"{self.machine.phase.value} step {self.machine.live_step + 1}: no token of the batch "
            "is kept, so it changes nothing"
        )

    def _evaluate(self, context, weights: str) -> None:
        """The accuracies of --t3s-report-temperatures at the live weights."""
        for measured in self.measurer.evaluations(context, **self._now()):
            self.summary.append("evaluations", measured.to_dict() | {"weights": weights})
            self.say(
                f"{weights}, {measured.split} prompts at T = {measured.temperature:g}: accuracy "
                f"{measured.describe()}"
            )

    def _now(self) -> dict:
        return {"step": self.machine.live_step, "phase": self.machine.phase.value}

    def _note_finished_phases(self) -> None:
        """Their iterations and seconds, for the summary."""
        for record in self.machine.records[self._phases_noted :]:
            now = time.perf_counter()
            seconds = round(now - self._phase_started, 3)
            self.summary.append("phases", record | {"seconds": seconds})
            self._phase_started = now
            self._phases_noted += 1

    def _apply(self, keep: np.ndarray) -> None:
        if not keep.any():
            raise T3SError(
                f"every one of the {keep.size} target tokens is masked: nothing is left to learn. "
                "Look at delta_c_at_theta_b in TensorBoard; --t3s-anchor-threshold masks fewer."
            )
        self.rows.use_selection(keep)
        share = 1 - keep.mean()
        self.say(f"{share:.1%} of {keep.size} target tokens are masked out of the loss")

    # ---------------------------------------------------------------------------------- watching

    def _report_step(self, tokens: StepTokens, iteration: int) -> None:
        figures = step_figures(tokens, self.rows.keep, self.groups)
        if not figures:
            return
        phase = {Phase.PROFILE: 0, Phase.TARGETED: 1}.get(self.machine.phase, 2)
        scalars = {"kept_tokens": figures["kept"], "phase": phase}
        plan = self._step_rows()
        scalars |= plan.efficiency() | {"micro_batches": len(plan.micro_batches)}
        self.curves.scalars(scalars, iteration)
        if self.groups is None:
            return
        self.plot_groups("targeted", tokens.step, figures, iteration)
        for part in self.inputs.parts:
            if part.teacher is not None:
                of_teacher = step_figures(tokens.among(part.targets), self.rows.keep, self.groups)
                self.plot_groups("targeted", tokens.step, of_teacher, iteration, part.teacher)

    def plot_groups(
        self, phase: str, step: int, figures: dict, iteration: int, teacher: str | None = None
    ) -> None:
        """A step's point of Figure 4; `figures` is empty but on the last pipeline stage."""
        names = ("loss_anchor", "loss_other", "delta_anchor", "delta_other")
        found = {name: figures[name] for name in names if name in figures}
        self.curves.scalars(found, iteration, teacher)
        where = {"phase": phase, "step": step} | _whose(teacher)
        self.summary.append("figure_4", where | figures)

    def spent(self, what: str, seconds: float, iteration: int) -> None:
        self.summary.add_seconds(what, seconds)
        self.curves.scalars({f"seconds_{what}": seconds}, iteration)

    def _say_reasons(self) -> None:
        for line in self.machine.drain_log():
            self.say(line)

    def say(self, line: str, root: bool = False) -> None:
        """A line in plain words: on rank 0's log, and in the summary. `root`: said by root only."""
        self.summary.append("log", line)
        if root:
            print(f"[t3s] {line}", flush=True)
        else:
            print_rank_0(f"[t3s] {line}")

    def note(self, teacher: str | None, **values) -> None:
        """In the summary: of one of several teachers, or (None) of the run."""
        if teacher is None:
            self.summary.update(**values)
        else:
            self.summary.content["teachers"][teacher].update(values)

    def _introduce_teachers(self) -> None:
        config, parts = self.config, self.inputs.parts
        if not config.teachers:
            return
        self.summary.update(teachers={part.teacher: dict(part.corpus.counts) for part in parts})
        named = ", ".join(f"{part.teacher} ({len(part.samples)} samples)" for part in parts)
        steps = f"{config.budget} steps on all of them"
        if len(config.profiles) > 1:
            steps = f"a profile of at most {config.longest_profile} steps for each, then {steps}"
        self.say(
            f"{len(parts)} teachers: {named}; {steps}, {config.budget / len(parts):g} a teacher "
            "(the paper: 50)"
        )


def _whose(teacher: str | None) -> dict:
    """Part of an entry in the summary; with one teacher there is nothing to say."""
    return {} if teacher is None else {"teacher": teacher}


def _prefix(teacher: str | None) -> str:
    return "" if teacher is None else f"teacher {teacher}: "
