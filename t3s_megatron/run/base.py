# SPDX-License-Identifier: Apache-2.0
"""A run in Megatron's loop: what all of them have, whatever they do between two steps.

`T3SRun` is one; an analysis, a benchmark or a test job is another. Each is handed to
`plugin.T3S(run=...)` or `pretrain.main(run=...)`, and nothing is rebound.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator

import numpy as np

from t3s_megatron.accuracy.answers import Backend, Sampling
from t3s_megatron.accuracy.blocks import Settles
from t3s_megatron.accuracy.measurement import Measurement
from t3s_megatron.accuracy.measuring import Measurer
from t3s_megatron.accuracy.pool import VerifierPool
from t3s_megatron.answering.live import LiveBackend
from t3s_megatron.answering.server import ServerBackend
from t3s_megatron.data.arrangement import StepRows, TrainingRows
from t3s_megatron.data.kept_bits import KeptBits, n_kept
from t3s_megatron.errors import T3SError
from t3s_megatron.megatron import layout
from t3s_megatron.megatron.batches import RowMaker
from t3s_megatron.megatron.forward import TrainingForward
from t3s_megatron.megatron.generation import Generated, generate
from t3s_megatron.megatron.guard import StepGuard
from t3s_megatron.megatron.meter import StepTokens, TokenMeter
from t3s_megatron.megatron.process import (
    get_args,
    get_tensorboard_writer,
    get_wandb_writer,
    print_rank_0,
)
from t3s_megatron.megatron.rewind import training_batches
from t3s_megatron.megatron.seam import Callback, CallbackContext, Seam
from t3s_megatron.megatron.source_seam import SourceSeam
from t3s_megatron.megatron.uneven import let_lengths_vary
from t3s_megatron.megatron.vocabulary import leave_out_padding
from t3s_megatron.method.selection_counts import selection_counts
from t3s_megatron.monitor.curves import Curves
from t3s_megatron.monitor.journal import Journal
from t3s_megatron.monitor.page import ReportedRun, page
from t3s_megatron.monitor.progress import Progress
from t3s_megatron.monitor.report import read_summary
from t3s_megatron.monitor.summary import Summary
from t3s_megatron.run.identity import provenance
from t3s_megatron.run.inputs import Inputs
from t3s_megatron.run.non_finite import NonFinitePolicy


class Run(Callback):
    """One run in one process, told of Megatron's events. Nothing of it outlives the object.

    As it stands it trains on all samples for --train-iters steps, with the selection of
    --t3s-selection-load where one is given, and keeps nothing across a kill but what Megatron
    saves. A subclass overrides, as far as it wants something else:

        begin(context)          before the first step, when everything below is there
        before_step(context)    before each training step: weights may be changed here
        after_step(context, tokens)     after it: look, but change no weights; Megatron has not yet
                                counted the step, logged it or saved its checkpoint
        end(context)            after the last step
        on_checkpoint_save(context)     to save a state of its own
        training_rows           the rows that the steps are made of; `order_data` when they change
        phase, step             where the run is: in its messages and measurements
        train_iters             training steps in all; `set_train_iters` when they change
        finished                whether all of it was done, for the summary
        kind                    what the summary calls it

    and uses `journal`, `backend`, `measurer`, `non_finite`, `rows`, `forward`, `meter`, `root` and
    `is_root` (the rank that collects, verifies and writes), `training_accuracy`,
    `heldout_accuracy`, `evaluate` and `apply_mask`. Every method is called on every rank, in the
    same order.
    """

    seam: Seam | SourceSeam  # set by whoever installs it

    def __init__(self, inputs: Inputs, rows: RowMaker, forward: TrainingForward):
        self.inputs = inputs
        self.config = inputs.config
        self.rows = rows
        self.meter = TokenMeter()
        self.forward = forward
        forward.observer = self.meter
        self._steps = 0

    # --------------------------------------------------------------- what a subclass may override

    def begin(self, context: CallbackContext) -> None:
        return None

    def before_step(self, context: CallbackContext) -> None:
        return None

    def after_step(self, context: CallbackContext, tokens: StepTokens) -> None:
        """`tokens`: this rank's target tokens of the step."""
        return None

    def end(self, context: CallbackContext) -> None:
        return None

    @property
    def training_rows(self) -> TrainingRows:
        return self.inputs.training_rows

    @property
    def phase(self) -> str:
        return "training"

    @property
    def step(self) -> int:
        """Training steps of the phase that have been done."""
        return self._steps

    @property
    def train_iters(self) -> int:
        return self.config.budget

    @property
    def finished(self) -> bool:
        return self.step >= self.train_iters

    @property
    def kind(self) -> str:
        return type(self).__name__

    # ------------------------------------------------------------------------------------- events

    def on_train_start(self, context: CallbackContext) -> None:
        self.root = layout.root_rank()
        self.is_root = layout.rank() == self.root
        self._steps = get_args().iteration
        folder = self.config.dir if self.is_root else None
        self.journal = Journal(
            Summary(folder and os.path.join(folder, "summary.json")),
            Progress(folder, self.config.budget),
            Curves(get_tensorboard_writer(), get_wandb_writer()),
            print_rank_0,
            lambda: context.iteration,
        )
        self.backend = self._make_backend()
        self.pool = VerifierPool(self.config.verifier, self.config.verify_limits)
        self.measurer = Measurer(
            self.config,
            self._sampling(),
            self.pool,
            self.backend.generate,
            self.journal,
            on_root=self._on_root,
        )
        leave_out_padding(context.model, get_args())  # a run without --t3s is Megatron's
        if self.config.arrangement != "padded":
            let_lengths_vary(context.model)
        self._say_what_is_read()
        self.non_finite = NonFinitePolicy(
            self.config.non_finite == "skip",
            self.rows,
            [part.samples for part in self.inputs.parts],
            self.journal,
        )
        self.guard = StepGuard(
            context,
            self.rows,
            self.forward,
            self.meter,
            non_finite=lambda what, samples: self.non_finite.found(
                what, samples, self.phase, self.step + 1
            ),
            nothing_kept=lambda: self.journal.nothing_kept(self.phase, self.step + 1),
        )
        self.begin(context)
        self.order_data(context)
        if self.config.needs_answers:
            self.backend.check(context)
        self.set_train_iters()

    def on_train_step_start(self, context: CallbackContext) -> None:
        self.before_step(context)
        self._step_began = time.perf_counter()
        context.num_microbatches = len(self.step_rows().micro_batches)
        self.guard.before_step()

    def on_train_step_end(self, context: CallbackContext) -> None:
        self.seam.assert_called("train", "train_step")
        seconds = time.perf_counter() - self._step_began
        tokens = self.meter.finish_step(self.step + 1)
        self._steps += 1
        self.after_step(context, tokens)
        self.journal.advanced(self.phase, self.step, self.train_iters, seconds)

    def on_log(self, context: CallbackContext) -> None:
        if self.seam.calls["training_log"] == 1:
            calls = ", ".join(f"{name} {n}x" for name, n in self.seam.calls.items())
            self.journal.tell(f"Megatron runs through the {self.seam.kind}: {calls}")
        self.journal.flush()

    def on_train_end(self, context: CallbackContext) -> None:
        if self.seam.calls["train_step"]:
            self.seam.assert_called("train", "train_step", "training_log")
        self.end(context)
        self.pool.close()
        self.backend.close()
        self.journal.close(self.finished)
        if self.finished and getattr(get_args(), "wandb_project", None):
            self._hand_in_page()

    # --------------------------------------------------------------------- what a subclass may use

    def training_accuracy(
        self,
        context: CallbackContext,
        teacher: str | None = None,
        settles: Settles | None = None,
    ) -> Measurement:
        """The accuracy of the live weights on the first `--t3s-accuracy-prompts` prompts of this
        teacher, or (None) of all. `settles`: see `Measurer.measure`. Collective."""
        samples = self.inputs.asked_in_training(teacher)
        weights = self.backend.take(context, step=self.step)
        measured = self.measurer.measure(
            weights,
            samples,
            step=self.step,
            phase=self.phase,
            settles=settles,
            blocks=self.config.accuracy_blocks,
        )
        self.backend.release(weights)
        return measured

    def heldout_accuracy(self, context: CallbackContext) -> Measurement:
        """The accuracy of the live weights on the first `--t3s-accuracy-prompts` held-out prompts.
        Collective."""
        assert self.inputs.heldout is not None
        samples = self.inputs.askable(self.inputs.heldout)[: self.config.accuracy_prompts or None]
        weights = self.backend.take(context, step=self.step)
        measured = self.measurer.measure(
            weights, samples, step=self.step, phase=self.phase, split="heldout"
        )
        self.backend.release(weights)
        return measured

    def evaluate(self, context: CallbackContext, weights: str) -> None:
        """The accuracies of --t3s-report-temperatures at the live weights, under this name, on the
        whole training and held-out sets. Collective."""
        if not self.config.report_temperatures:
            return
        splits = {"train": self.inputs.asked(None)}
        if self.inputs.heldout is not None:
            splits["heldout"] = self.inputs.askable(self.inputs.heldout)
        taken = self.backend.take(context, step=self.step)
        for measured in self.measurer.report(taken, splits, step=self.step, phase=self.phase):
            self.journal.evaluated(measured, weights)
        self.backend.release(taken)

    def apply_mask(self, keep: np.ndarray | KeptBits) -> None:
        """Train on these target tokens from here on: bool[n_target_tokens], or float32 of weights.
        T3SError when there is none."""
        if not keep.any():
            raise T3SError(
                f"every one of the {keep.size} target tokens is masked: nothing is left to learn. "
                "Look at delta_c_at_theta_b in TensorBoard; --t3s-anchor-threshold masks fewer."
            )
        self.rows.use_selection(keep)
        share = 1 - n_kept(keep) / keep.size
        weights = "" if keep.dtype == np.bool_ else ", the others have weights"
        self.journal.say(
            f"{share:.1%} of {keep.size} target tokens are masked out of the loss{weights}"
        )

    def step_rows(self) -> StepRows:
        """The rows of the step that is about to begin, or has just been done."""
        return self.training_rows.at(get_args().consumed_train_samples)

    def order_data(self, context: CallbackContext) -> None:
        """Tell where each step finds its samples; what was consumed is not changed."""
        for batches in training_batches(context.data_iterator):
            batches.plans = self.training_rows

    def set_train_iters(self) -> None:
        """Megatron's loop ends at args.train_iters: with the step under way, once all are done."""
        get_args().train_iters = self.train_iters

    def _hand_in_page(self) -> None:
        """The page of `report --html` to wandb, which another rank than the root writes to. Nothing
        that fails here ends the run: its last checkpoint is not saved yet."""
        html = None
        with _told_if_it_fails("the report was not made for wandb"):
            if self.is_root:
                path = os.path.join(self.config.dir, "summary.json")
                why = "Single tokens: t3s-megatron report --html --data --tokenizer-model"
                html = page([ReportedRun(path, read_summary(path), None, why)])
        html = layout.broadcast(html, self.root)
        with _told_if_it_fails("the report is not with wandb"):
            if html is not None:
                self.journal.curves.page(html)

    # -------------------------------------------------------------------------------------- set up

    def _say_what_is_read(self) -> None:
        inputs, config = self.inputs, self.config
        self.journal.note(
            None,
            method=self.kind,
            data=inputs.corpus.counts,
            unusable_gold=sorted(inputs.unusable_gold),
            arrangement=inputs.training_rows.summary(config.budget),
            **provenance(inputs, get_args()),
        )
        loaded = inputs.selection
        if loaded is not None:
            self.journal.say(f"training with the selection of {config.selection_load}")
            self.apply_mask(loaded.keep)
            made_by = {"method": loaded.method, "theta_b_step": loaded.theta_b_step}
            self.journal.note(
                None,
                tokens=selection_counts(loaded.keep, None),
                selection={"file": config.selection_load, "model": loaded.model} | made_by,
            )
        if unusable := len(inputs.unusable_gold):
            self.journal.say(
                f"--t3s-verifier {config.verifier} cannot read {unusable} gold answers: their "
                "samples are trained on and never asked (unusable_gold in the summary)"
            )

    def _make_backend(self) -> Backend:
        inputs, config = self.inputs, self.config
        if config.generation == "server" and config.needs_answers:
            return ServerBackend(
                config,
                inputs.tokenizer,
                inputs.askable(inputs.corpus),
                inputs.max_new_tokens,
                self.root,
                _tell_here,
                self._answer(),
            )
        return LiveBackend(inputs.tokenizer, self.root, _tell_here, self._answer())

    def _answer(self) -> Callable[..., list[Generated]]:
        """How the live weights answer."""
        return generate

    def _sampling(self) -> Sampling:
        tokenizer = self.inputs.tokenizer
        return Sampling(
            temperature=self.config.temperature,
            max_new_tokens=self.inputs.max_new_tokens,
            end_token=tokenizer.eos_token_id,
            seed=self.config.seed,
            vocab_size=len(tokenizer),
            batch_size=self.config.generation_batch_size,
        )

    def _on_root(self, work):
        return layout.together(lambda: work() if self.is_root else None)[self.root]


#: A kind of run: a subclass of `Run`; or a function that makes one, for a script that can import
#: its subclass only after the device layer is there.
type KindOfRun = Callable[[Inputs, RowMaker, TrainingForward], Run]


@contextlib.contextmanager
def _told_if_it_fails(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        _tell_here(f"{what}: {error!r}")


def _tell_here(line: str) -> None:
    """What is of use while it happens, and belongs into no summary; on the rank that says it."""
    print(f"[t3s] {line}", flush=True)
