# SPDX-License-Identifier: Apache-2.0
"""What a run says: lines in its log, curves, and the summary that it leaves.

Every rank of a run has a journal and says the same; which of them prints, draws and writes is
decided by what they are handed (`print_line`, the writers of `Curves`, the path of `Summary`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from t3s_megatron.accuracy.measurement import Measurement
from t3s_megatron.data.arrangement import StepRows
from t3s_megatron.data.teachers import Part
from t3s_megatron.method.phases import Phase
from t3s_megatron.method.profile import Profile
from t3s_megatron.monitor.curves import Curves, measurement_figures
from t3s_megatron.monitor.progress import Progress
from t3s_megatron.monitor.summary import Summary

#: The curve `phase`; whatever comes after is 2.
_PHASES = {Phase.PROFILE: 0, Phase.TARGETED: 1}
#: Those of a step's figures that are curves: the paper's Figure 4.
_FIGURE_4 = ("loss_anchor", "loss_other", "delta_anchor", "delta_other")


#: Those of a diffusion student's step.
_MASKED = (
    "mask_rate", "masked_share", "forced_share", "forced_of_masked", "loss_forced", "loss_random",
    "loss_fill", "masked_fell", "loss_fell", "loss_other",
)  # fmt: skip


class Journal:
    """The journal of one run. `iteration()`: Megatron's count of finished steps, which is where a
    curve has its next point."""

    def __init__(
        self,
        summary: Summary,
        progress: Progress,
        curves: Curves,
        print_line: Callable[[str], None],
        iteration: Callable[[], int],
    ):
        self.summary = summary
        self.progress = progress
        self.curves = curves
        self.print_line = print_line
        self.iteration = iteration
        self._phase_started = time.perf_counter()

    # ------------------------------------------------------------------------------ in plain words

    def say(self, line: str) -> None:
        """A line in plain words, in the log and in the summary."""
        self.summary.append("log", line)
        self.tell(line)

    def tell(self, line: str) -> None:
        """A line for whoever watches, and not in the summary."""
        self.print_line(f"[t3s] {line}")

    def introduce_teachers(self, parts: Sequence[Part], budget: int, bound: int | None) -> None:
        """Who the several teachers are. `bound`: of the steps of each one's profile; None where
        they have no profiles of their own."""
        self.note(None, teachers={part.teacher: dict(part.corpus.counts) for part in parts})
        named = ", ".join(f"{part.teacher} ({len(part.samples)} samples)" for part in parts)
        steps = f"{budget} steps on all of them"
        if bound is not None:
            steps = f"a profile of at most {bound} steps for each, then {steps}"
        self.say(
            f"{len(parts)} teachers: {named}; {steps}, {budget / len(parts):g} a teacher "
            "(the paper: 50)"
        )

    # --------------------------------------------------------------------------- what was measured

    def measured(self, measured: Measurement, teacher: str | None) -> None:
        """A training accuracy that the bottleneck detector is shown."""
        self.summary.append("measurements", measured.to_dict() | _whose(teacher))
        self._draw(measurement_figures(measured), teacher)
        whose = "" if teacher is None else f"teacher {teacher}: "
        self.say(
            f"{whose}{measured.phase} step {measured.step}: accuracy "
            f"{measured.describe()}, {measured.seconds:.1f} s"
        )
        self.write()

    def heldout(self, measured: Measurement, teacher: str | None) -> None:
        """An accuracy of --t3s-heldout-interval; nothing is decided by it."""
        self.summary.append("heldout", measured.to_dict() | _whose(teacher))
        self._draw({"accuracy_heldout": measured.accuracy}, teacher)
        self.say(
            f"{measured.phase} step {measured.step}, held-out prompts: accuracy "
            f"{measured.describe()}, {measured.seconds:.1f} s"
        )

    def advanced(self, phase: str, step: int, train_iters: int, seconds: float) -> None:
        """A training step is done, which took this long without its measurements; `train_iters`:
        steps of the whole run, at the most. For whoever watches, and in no summary."""
        self.progress.write(phase, step, self.iteration(), train_iters, seconds)

    def evaluated(self, measured: Measurement, weights: str) -> None:
        """An accuracy of --t3s-report-temperatures at the named weights."""
        self.summary.append("evaluations", measured.to_dict() | {"weights": weights})
        self.say(
            f"{weights}, {measured.split} prompts at T = {measured.temperature:g}: accuracy "
            f"{measured.describe()}"
        )

    def confidence(self, step: int, fall: float, profile: Profile) -> None:
        """The fall of the falling tokens at a step of this profile, and its lowest point so far."""
        self.summary.append("confidence", {"step": step, "fall": fall} | _whose(profile.teacher))
        figures = {"confidence_fall": fall, "confidence_turn": profile.turn.theta_b_step}
        self._draw(figures, profile.teacher)

    def step(self, kept: int, rows: StepRows, phase: Phase) -> None:
        """A training step on these rows, in which `kept` tokens were in the loss."""
        figures: dict[str, float] = {"kept_tokens": kept, "phase": _PHASES.get(phase, 2)}
        figures |= rows.efficiency() | {"micro_batches": len(rows.micro_batches)}
        self._draw(figures)

    def token_groups(
        self, phase: str, step: int, figures: dict, iteration: int, teacher: str | None = None
    ) -> None:
        """A step's point of Figure 4; `figures` is empty but on the last pipeline stage."""
        found = {name: figures[name] for name in _FIGURE_4 if name in figures}
        self.curves.scalars(found, iteration, teacher)
        where = {"phase": phase, "step": step} | _whose(teacher)
        self.summary.append("figure_4", where | figures)

    @property
    def draws(self) -> bool:
        """Whether curves are drawn on this rank."""
        return self.curves.tensorboard is not None or self.curves.wandb is not None

    def anchors(self, delta: np.ndarray, share: float, teacher: str | None) -> None:
        """The anchors among a profile's tokens. `delta`: their delta_c at theta_b, float32[n]."""
        self.curves.histogram("delta_c_at_theta_b", delta, self.iteration(), teacher)
        self._draw({"anchor_share": share}, teacher)

    def masked(self, step: int, figures: dict) -> None:
        """A step of a diffusion student: `megatron.meter.masked_figures`, the rate of its noise,
        the share of its targets that were masked and forced, and of the masked ones that were
        forced."""
        self._draw({name: figures[name] for name in _MASKED if name in figures})
        finite = {name: None if value != value else value for name, value in figures.items()}
        self.summary.append("masked_losses", {"step": step} | finite)

    def fallen(self, delta: np.ndarray, shares: dict[str, float]) -> None:
        """Tokens that fell in the selector. `delta`: their delta_c there, float32[n]; `shares`: of
        those that fell, by threshold."""
        self.curves.histogram("delta_c_of_selector", delta, self.iteration(), None)
        named = ", ".join(f"{share:.1%} at {tau}" for tau, share in shares.items())
        self.say(f"target tokens that fell in the selector, by threshold: {named}")

    def spent(self, what: str, seconds: float) -> None:
        """Seconds of generation, verification, scoring, rewind or waiting."""
        self.summary.add_seconds(what, seconds)
        self._draw({f"seconds_{what}": seconds})

    # ------------------------------------------------------------------------------- what was done

    def note(self, teacher: str | None, **values) -> None:
        """Entries of the summary: those of one of several teachers, or (None) of the run."""
        if teacher is None:
            self.summary.update(**values)
        else:
            self.summary.content["teachers"][teacher].update(values)

    def theta_b(self, profile: Profile) -> None:
        """What is known of theta_b at the end of this profile."""
        self.note(profile.teacher, **profile.findings())

    def phases(self, records: Sequence[dict]) -> None:
        """All phases that have ended, with their iterations; the new ones get their seconds."""
        for record in records[len(self.summary.content["phases"]) :]:
            now = time.perf_counter()
            seconds = round(now - self._phase_started, 3)
            self.summary.append("phases", record | {"seconds": seconds})
            self._phase_started = now

    def nothing_kept(self, phase: str, step: int) -> None:
        """A step that changes nothing, since all of its batch is masked."""
        self.note(None, empty_steps=self.summary.content["empty_steps"] + 1)
        self.say(f"{phase} step {step}: no token of the batch is kept, so it changes nothing")

    def skipped(self, uid: str, what: str, phase: str, step: int) -> None:
        """A sample that is left out from here on."""
        entry = {"id": uid, "what": what, "phase": phase, "step": step}
        self.summary.append("skipped_samples", entry)

    # ----------------------------------------------------------------------------- on disk and back

    def write(self) -> None:
        """The summary as it is now, where it is written at all."""
        self.summary.write()

    def flush(self) -> None:
        self.curves.flush()

    def close(self, finished: bool) -> None:
        self.note(None, finished=finished)
        self.write()
        self.flush()

    def to_state(self) -> dict:
        """JSON-able; `restore` takes it back."""
        return self.summary.plain()

    def restore(self, state: dict) -> None:
        """Go on with what was said before a kill."""
        self.summary.content = state

    def _draw(self, figures: dict, teacher: str | None = None) -> None:
        self.curves.scalars(figures, self.iteration(), teacher)


def _whose(teacher: str | None) -> dict:
    """Part of an entry in the summary; with one teacher there is nothing to say."""
    return {} if teacher is None else {"teacher": teacher}
