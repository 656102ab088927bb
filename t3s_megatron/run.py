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
from t3s_megatron.data.arrangement import StepPlan
from t3s_megatron.data.selection_file import Selection
from t3s_megatron.data.stores import LogProbStore
from t3s_megatron.errors import T3SError
from t3s_megatron.flights import Flights
from t3s_megatron.measuring import Measurer
from t3s_megatron.megatron import layout
from t3s_megatron.megatron.batches import RowMaker
from t3s_megatron.megatron.forward import TrainingForward
from t3s_megatron.megatron.guard import StepGuard
from t3s_megatron.megatron.meter import (
    StepTokens,
    TokenGroups,
    TokenMeter,
    inline_snapshots,
    step_figures,
)
from t3s_megatron.megatron.process import (
    get_args,
    get_tensorboard_writer,
    get_wandb_writer,
    print_rank_0,
)
from t3s_megatron.megatron.residual import transfer_residual
from t3s_megatron.megatron.rewind import StartingPoint
from t3s_megatron.megatron.scoring import score_corpus
from t3s_megatron.megatron.seam import CallbackContext, Seam
from t3s_megatron.megatron.source_seam import SourceSeam
from t3s_megatron.megatron.uneven import let_lengths_vary
from t3s_megatron.megatron.weights import WeightSnapshot
from t3s_megatron.method.confidence import confidence_fall
from t3s_megatron.method.overlap import OverlappingPhases
from t3s_megatron.method.phases import Action, ActionKind, Phase, PhaseMachine
from t3s_megatron.method.selection import (
    anchors,
    delta_c,
    disagreement,
    keep_mask,
    selection_counts,
)
from t3s_megatron.monitor.curves import Curves, measurement_figures
from t3s_megatron.monitor.summary import Summary
from t3s_megatron.non_finite import NonFinitePolicy
from t3s_megatron.persistence import Persistence
from t3s_megatron.prepare import Prepared
from t3s_megatron.provenance import model_shape, provenance

#: Actions that wait for the start of the next step; the module's docstring says why.
_BEFORE_A_STEP = (ActionKind.SCORE_THETA_B, ActionKind.REWIND)


class T3SRun:
    """One run in one process. Nothing of it outlives the object."""

    def __init__(self, prepared: Prepared, rows: RowMaker, forward: TrainingForward):
        self.prepared = prepared
        self.config = prepared.config
        self.rows = rows
        depth = self.config.accuracy_overlap
        self.machine = (
            OverlappingPhases(prepared.plan, depth) if depth else PhaseMachine(prepared.plan)
        )
        self.meter = TokenMeter()
        self.forward = forward
        forward.observer = self.meter
        self.seam: Seam | SourceSeam  # set by whoever installs it
        self.groups: TokenGroups | None = None
        self.theta_0: StartingPoint | None = None
        self.candidate: WeightSnapshot | None = None
        # Of steps whose measurement is in flight, by step of the phase.
        self.weights_in_flight: dict[int, WeightSnapshot] = {}
        self.c_0: np.ndarray | None = None  # root rank only
        self.c_b: np.ndarray | None = None  # root rank only
        self._phase_started = time.perf_counter()

    # ------------------------------------------------------------------------------------ events

    def on_train_start(self, context: CallbackContext) -> None:
        self.root = layout.root_rank()
        self.is_root = layout.rank() == self.root
        self.curves = Curves(get_tensorboard_writer(), get_wandb_writer())
        self.measurer = Measurer(
            self.prepared,
            self.root,
            lambda what, seconds: self._spent(what, seconds, context.iteration),
            self.say,
        )
        self.flights = Flights(self.measurer)
        path = os.path.join(self.config.dir, "summary.json") if self.is_root else None
        self.summary = Summary(path)
        self.summary.update(
            method=self.config.method + ("-simple" if self.prepared.plan.simple else ""),
            data=self.prepared.corpus.counts,
            unusable_gold=sorted(self.prepared.unusable_gold),
            arrangement=self.prepared.training_plans.summary(self.prepared.plan.budget),
            **provenance(self.prepared, get_args()),
        )
        if self.config.arrangement != "padded":
            let_lengths_vary(context.model)
        loaded = self.prepared.selection
        if loaded is not None:
            self.say(f"training with the selection of {self.config.selection_load}")
            self._apply(loaded.keep)
            made_by = {"method": loaded.method, "theta_b_step": loaded.theta_b_step}
            self.summary.update(
                tokens=selection_counts(loaded.keep, None),
                selection={"file": self.config.selection_load, "model": loaded.model} | made_by,
            )
        if unusable := len(self.prepared.unusable_gold):
            self.say(
                f"--t3s-verifier {self.config.verifier} cannot read {unusable} gold answers: their "
                "samples are trained on and never asked (unusable_gold in the summary)"
            )
        self.non_finite = NonFinitePolicy(
            self.config.non_finite == "skip", self.rows, self.summary, self.say
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
        if self.config.needs_answers:
            self.measurer.check(context)
        # Megatron's loop ends at args.train_iters: an upper bound while the profile is open.
        get_args().train_iters = self.machine.train_iters_now

    def on_train_step_start(self, context: CallbackContext) -> None:
        if self.machine.total_steps == 0:
            self._evaluate(context, "theta_0")
        self._carry_out(context, between_steps=False)
        context.num_microbatches = len(self._step_plan().micro_batches)
        self.guard.before_step()

    def _step_plan(self) -> StepPlan:
        """Of the step that is about to begin, or has just been done."""
        return self.prepared.training_plans.at(get_args().consumed_train_samples)

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
        settles = self.machine.settles if self.machine.seeks_minimum else None
        measured = self.measurer.training_accuracy(context, settles=settles, **self._now())
        self._take_outcome(context, measured)

    def _keep_weights(self, context, action: Action) -> None:
        self.weights_in_flight[self.machine.live_step] = WeightSnapshot(context)
        self.machine.done(action)

    def _begin_measurement(self, context, action: Action) -> None:
        self.flights.begin(context, **self._now())
        self.machine.done(action)

    def _collect(self, context, action: Action) -> None:
        started = time.perf_counter()
        measured = self.flights.collect()
        self._spent("waiting", time.perf_counter() - started, context.iteration)
        self._take_outcome(context, measured)

    def _discard(self, context, action: Action) -> None:
        self.flights.discard()
        self.machine.done(action)

    def _forget_weights(self) -> None:
        if isinstance(self.machine, OverlappingPhases):
            for step in set(self.weights_in_flight) - set(self.machine.kept):
                del self.weights_in_flight[step]

    def _take_outcome(self, context, measured: Measurement) -> None:
        self.machine.measured(measured.outcome)
        self.summary.append("measurements", measured)
        self.curves.scalars(measurement_figures(measured), context.iteration)
        self.say(
            f"{measured.phase} step {measured.step}: accuracy {measured.describe()}, "
            f"{measured.seconds:.1f} s"
        )
        self.summary.write()

    def _watch_confidence(self, context, action: Action) -> None:
        c, _ = self._finite_scores(context, "the live weights")
        fall = None
        if c is not None:
            if self.machine.phase_step == 0:
                self.c_0 = c
            assert self.c_0 is not None
            fall = confidence_fall(c, self.c_0)
        fall = layout.broadcast(fall, self.root)
        step = self.machine.phase_step
        self.machine.scored(fall)
        self.summary.append("confidence", {"step": step, "fall": fall})
        turn = self.machine.turn.theta_b_step
        self.curves.scalars({"confidence_fall": fall, "confidence_turn": turn}, context.iteration)

    def _score_theta_b(self, context, action: Action) -> None:
        if self.config.scoring != "inline":  # else read from the training forwards in _select
            if not action.live:
                assert self.candidate is not None
                self.candidate.restore(context)
            assert self.machine.theta_b_step is not None
            self.c_b = self._score(context, "theta_b", self.machine.theta_b_step)
        self.machine.done(action)

    def _rewind(self, context, action: Action) -> None:
        assert self.theta_0 is not None
        started = time.perf_counter()
        self.theta_0.rewind(context)
        seconds = time.perf_counter() - started
        self.machine.done(action)
        self._spent("rewind", seconds, context.iteration)

    def _score_theta_0(self, context, action: Action) -> None:
        if self.config.scoring != "inline":
            self.c_0 = self._score(context, "theta_0", 0)
        self.machine.done(action)

    def _select(self, context, action: Action) -> None:
        keep = self._selection(context) if layout.speaks_for_its_samples() else None
        keep = layout.broadcast(None if keep is None else np.packbits(keep), self.root)
        n = self.prepared.corpus.n_targets
        self._apply(np.unpackbits(keep, count=n).astype(bool))
        self._draw_figure_4(context)
        self.theta_0 = self.candidate = None  # there is no way back from here: free the host
        self.meter.history.clear()
        self.machine.done(action)
        self.summary.write()

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
        self.summary.update(
            theta_b_step=self.machine.theta_b_step,
            theta_b_reason=self.machine.theta_b_reason,
            turn_step=self.machine.turn.theta_b_step,
        )
        self.summary.write()

    def _non_finite(self, what: str, samples: list[int]) -> None:
        self.non_finite.found(what, samples, self.machine.phase.value, self.machine.live_step + 1)

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

    # --------------------------------------------------------------------- scoring and selection

    def _score(self, context, tag: str, step: int) -> np.ndarray | None:
        started = time.perf_counter()
        c, bad = self._finite_scores(context, tag)
        if c is not None:
            self._store(c, tag, step, "exact")
            if bad and self.c_b is not None:
                self._store(self.c_b, "theta_b", self.machine.theta_b_step or 0, "exact")
        seconds = time.perf_counter() - started
        self.say(f"scored {tag}: {self.prepared.corpus.n_targets} tokens in {seconds:.1f} s")
        return c

    def _finite_scores(self, context, where: str) -> tuple[np.ndarray | None, list[int]]:
        """The scores of the corpus, on the root rank, and the samples that are left out from now on
        because theirs are not finite."""
        started = time.perf_counter()
        c = score_corpus(context, self.rows)
        bad: list[int] = []
        if c is not None:
            found = self.prepared.corpus.sample_index(np.flatnonzero(~np.isfinite(c)))
            bad = sorted(set(found.tolist()) - self.rows.excluded)
        bad = layout.broadcast(bad, self.root)
        if bad:
            self.non_finite.found(f"log-prob at {where}", bad, **self._now())
        if c is not None:
            self._level_excluded(c)
        self._spent("scoring", time.perf_counter() - started, context.iteration)
        return c, bad

    def _level_excluded(self, c: np.ndarray) -> None:
        """Samples that were left out have delta_c = 0: neither anchors nor learned."""
        for i in self.rows.excluded:
            for values in (c, self.c_0, self.c_b):
                if values is not None:
                    values[self.prepared.corpus.target_slice(i)] = 0.0

    def _store(self, c: np.ndarray, tag: str, step: int, mode: str) -> None:
        shape = model_shape(get_args())
        store = LogProbStore(c, self.prepared.corpus, tag=tag, step=step, mode=mode, model=shape)
        store.save(os.path.join(self.config.dir, f"c_{tag}.safetensors"))

    def _selection(self, context) -> np.ndarray | None:
        """Compute and save on the root rank: bool[n_target_tokens], None on other ranks."""
        config, corpus, step = self.config, self.prepared.corpus, self.machine.theta_b_step
        approximate = None
        if config.scoring != "exact" and step is not None:
            approximate = inline_snapshots(self.meter.history, step, corpus.n_targets)
        if not self.is_root:
            return None
        if config.scoring == "inline":
            assert approximate is not None and step is not None
            self.c_0, self.c_b, unseen = approximate
            self._store(self.c_0, "theta_0", 0, "inline")
            self._store(self.c_b, "theta_b", step, "inline")
            self.say(
                "inline scoring is approximate: a value may be one epoch old, and "
                f"{unseen} of {corpus.n_targets} tokens were never seen",
                root=True,
            )
        elif approximate is not None:
            assert self.c_0 is not None and self.c_b is not None
            difference = disagreement(
                delta_c(self.c_b, self.c_0), delta_c(approximate[1], approximate[0])
            )
            self.summary.update(inline_disagreement=difference)
            self.say(f"inline against exact scoring: {difference}", root=True)
        keep = keep_mask(
            config.method,
            c_0=self.c_0,
            c_b=self.c_b,
            seed=config.seed,
            share=config.mask_share,
            tau=config.anchor_threshold,
            n=corpus.n_targets,
        )
        delta = None
        if self.c_b is not None and self.c_0 is not None:
            delta = delta_c(self.c_b, self.c_0)
        counts = selection_counts(keep, delta, tau=config.anchor_threshold)
        self.summary.update(tokens=counts)
        selection = Selection(keep, corpus, config.method, step, counts, model_shape(get_args()))
        paths = [os.path.join(config.dir, "selection.safetensors"), config.selection_save]
        for path in filter(None, paths):
            selection.save(path)
        return keep

    def _apply(self, keep: np.ndarray) -> None:
        if not keep.any():
            raise T3SError(
                f"every one of the {keep.size} target tokens is masked: nothing is left to learn. "
                "Look at delta_c_at_theta_b in TensorBoard; --t3s-anchor-threshold masks fewer."
            )
        self.rows.use_selection(keep)
        share = 1 - keep.mean()
        self.say(f"{share:.1%} of {keep.size} target tokens are masked out of the loss")

    def _draw_figure_4(self, context) -> None:
        """Mean delta_c of both groups over the profile's steps, now that the groups are known."""
        known = layout.broadcast(self.c_b is not None, self.root)
        if not known:
            return
        c_0, c_b = layout.broadcast((self.c_0, self.c_b), self.root)
        delta = delta_c(c_b, c_0)
        self.group_tokens(c_0, c_b)
        assert self.groups is not None
        iteration = context.iteration
        self.curves.histogram("delta_c_at_theta_b", delta, iteration)
        self.curves.scalars({"anchor_share": float(self.groups.is_anchor.mean())}, iteration)
        first = iteration - len(self.meter.history)
        for tokens in self.meter.history:
            figures = step_figures(tokens, None, self.groups)
            self._plot_groups(figures, first + tokens.step)
            self.summary.append("figure_4", {"phase": "profile", "step": tokens.step} | figures)

    def group_tokens(self, c_0: np.ndarray, c_b: np.ndarray) -> None:
        """From here on each step's figures are told for anchors and the others apart."""
        self.groups = TokenGroups(anchors(delta_c(c_b, c_0), self.config.anchor_threshold), c_0)

    # ---------------------------------------------------------------------------------- watching

    def _report_step(self, tokens: StepTokens, iteration: int) -> None:
        figures = step_figures(tokens, self.rows.keep, self.groups)
        if not figures:
            return
        phase = {Phase.PROFILE: 0, Phase.TARGETED: 1}.get(self.machine.phase, 2)
        scalars = {"kept_tokens": figures["kept"], "phase": phase}
        plan = self._step_plan()
        scalars |= plan.efficiency() | {"micro_batches": len(plan.micro_batches)}
        self.curves.scalars(scalars, iteration)
        if self.groups is not None:
            self._plot_groups(figures, iteration)
            self.summary.append("figure_4", {"phase": "targeted", "step": tokens.step} | figures)

    def _plot_groups(self, figures: dict, iteration: int) -> None:
        names = ("loss_anchor", "loss_other", "delta_anchor", "delta_other")
        self.curves.scalars({name: figures[name] for name in names if name in figures}, iteration)

    def _spent(self, what: str, seconds: float, iteration: int) -> None:
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
