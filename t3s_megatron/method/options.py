# SPDX-License-Identifier: Apache-2.0
"""What a run was asked to do: what follows from the arguments about the method, and which of them
do not go together."""

from __future__ import annotations

from dataclasses import dataclass

from t3s_megatron.errors import T3SError
from t3s_megatron.method.arguments import MethodArguments
from t3s_megatron.method.selection import METHODS, Method
from t3s_megatron.options import argument_name, check_bounds

#: Options that are of some methods only: see `Method.takes`.
_OF_METHODS = ("mask_share", "soft_temperature", "min_probability", "reference")


@dataclass(frozen=True, kw_only=True)
class MethodOptions(MethodArguments):
    """The phases of a run as they were asked for; `method.phases` carries them out.

    No arguments: `budget`, the training steps of the targeted phase or of plain fine-tuning, which
    is Megatron's --train-iters; `teachers`, their names where the data has several, else empty.
    """

    budget: int
    teachers: tuple[str, ...] = ()

    # ------------------------------------------------------------------------- what follows from it

    @property
    def chosen(self) -> Method:
        """What `method` names."""
        return METHODS[self.method]

    @property
    def selected_before(self) -> bool:
        """What is trained on is known before the run."""
        return bool(self.selection_load)

    @property
    def starts_targeted(self) -> bool:
        """There is no profile: the selection is there, or a share alone makes one."""
        return self.selected_before or self.counts_no_anchors

    @property
    def targeted_steps(self) -> int:
        """Steps of the targeted phase."""
        return 0 if self.stop_after else self.budget

    @property
    def counts_no_anchors(self) -> bool:
        """A masking baseline with a share of its own, which reads nothing at theta_b."""
        shares = self.chosen.baseline and self.mask_share is not None
        return shares and "theta_b" not in self.chosen.needs

    @property
    def trains_to_theta_f(self) -> bool:
        """The first phase is the whole of plain fine-tuning."""
        return not self.chosen.selects

    @property
    def detects(self) -> bool:
        """A theta_b has to be found, by accuracy or by confidence."""
        return self.chosen.has_theta_b and not self.starts_targeted and not self.simple

    @property
    def by_confidence(self) -> bool:
        """The turn of the falling tokens is theta_b."""
        return self.signal == "confidence"

    @property
    def watches_confidence(self) -> bool:
        """The corpus is scored after each step of a profile, until the turn is confirmed."""
        return self.detects and self.signal in ("confidence", "both")

    @property
    def measures_profile(self) -> bool:
        """Accuracy is measured in the first phase."""
        asks = self.accuracy_interval > 0 and not (self.simple or self.by_confidence)
        return asks and not self.starts_targeted

    @property
    def needs_answers(self) -> bool:
        """Accuracy is measured at all, and then at the end of the run as well."""
        return self.targeted_accuracy_interval > 0 or self.measures_profile

    @property
    def profile_interval(self) -> int:
        """Steps from one measurement of a profile to the next; 0: none is made."""
        return self.accuracy_interval if self.measures_profile else 0

    @property
    def coarse_interval(self) -> int:
        """The same until the Imitation Shock; 0: as after it."""
        return self.accuracy_interval_coarse if self.measures_profile else 0

    @property
    def profiles(self) -> tuple[str | None, ...]:
        """Whose samples each profile trains on, in order; None: all samples together."""
        if self.starts_targeted or self.trains_to_theta_f or not self.teachers:
            return (None,)
        return self.teachers

    @property
    def last_profile_step(self) -> int:
        """Steps that a profile has at the most."""
        return self.budget if self.trains_to_theta_f else self.profile_iters

    @property
    def longest_profile(self) -> int:
        """The same where T3S-simple may end it sooner, with nothing to wait for."""
        ends_itself = self.simple and not self.trains_to_theta_f
        return self.simple_step if ends_itself else self.last_profile_step

    # ------------------------------------------------------------------------- what goes together

    def check(self) -> None:
        """T3SError for a run that cannot be carried out, naming the arguments and the way out."""
        check_bounds(self)
        self._check_method()
        self._check_stop()
        self._check_measurements()
        self._check_teachers()
        self._check_profile_samples()
        self._check_ends()

    def _check_method(self) -> None:
        given = f"--t3s-method {self.method}"
        for name in _OF_METHODS:
            self._check_of_methods(name)
        signal = "--t3s-simple" if self.simple else f"--t3s-signal {self.signal}"
        if self.simple and self.signal != "accuracy":
            raise T3SError(
                f"--t3s-simple takes a step for theta_b beforehand, and --t3s-signal {self.signal} "
                "finds one: drop one of the two"
            )
        if self.simple or self.signal != "accuracy":
            if not self.chosen.has_theta_b:
                raise T3SError(
                    f"{signal} has no meaning with {given}: nothing is selected. Drop it"
                )
            if self.counts_no_anchors:
                raise T3SError(
                    f"{signal} chooses theta_b, and with --t3s-mask-share there is none: drop one "
                    "of the two"
                )
            if self.selection_load:
                raise T3SError(f"--t3s-selection-load skips the profile: drop {signal}")
        if self.selection_load and not self.chosen.selects:
            raise T3SError(
                f"--t3s-selection-load has no meaning with {given}, which trains on every token: "
                "drop one of the two"
            )

    def _check_stop(self) -> None:
        if not self.stop_after:
            return
        if not self.chosen.selects or self.starts_targeted:
            raise T3SError(
                "--t3s-stop-after selection: this run has no profile that makes one "
                f"(--t3s-method {self.method}). Drop it, or choose --t3s-method t3s"
            )
        if self.targeted_accuracy_interval:
            raise T3SError(
                "--t3s-targeted-accuracy-interval measures after the selection, where "
                "--t3s-stop-after selection has ended the run: drop one of the two"
            )
        if self.detects and self.no_shock == "sft":
            raise T3SError(
                "--t3s-no-shock sft goes on without a selection, and --t3s-stop-after selection "
                "ends with one: choose --t3s-no-shock simple or stop"
            )

    def _check_of_methods(self, name: str) -> None:
        given, argument = getattr(self, name), argument_name(name)
        unset = given is None or given == ()
        if not unset and not self.chosen.takes(name):
            those = ", ".join(method.name for method in METHODS.values() if method.takes(name))
            raise T3SError(
                f"{argument} only applies to --t3s-method {those}: drop it, since {self.method} "
                "has no use for it"
            )
        if unset and name in self.chosen.requires and not self.selection_load:
            raise T3SError(
                f"--t3s-method {self.method} needs {argument}, for which there is no default that "
                "fits every student: give it (docs/selections.md)"
            )

    def _check_measurements(self) -> None:
        if self.detects and not self.by_confidence and not self.accuracy_interval:
            raise T3SError(
                "the bottleneck detector needs accuracy: set --t3s-accuracy-interval to at least "
                "1, or choose --t3s-simple or --t3s-signal confidence"
            )
        coarse = self.accuracy_interval_coarse
        if 0 < coarse < self.accuracy_interval:
            raise T3SError(
                f"--t3s-accuracy-interval-coarse {coarse} is meant for the time before accuracy "
                f"falls, and is smaller than --t3s-accuracy-interval {self.accuracy_interval}"
            )
        if self.detects and self.signal == "both" and not coarse:
            raise T3SError(
                "--t3s-signal both says when to stop measuring coarsely: give "
                "--t3s-accuracy-interval-coarse, or choose --t3s-signal accuracy"
            )

        if self.accuracy_stop_level and self.accuracy_blocks == 1:
            raise T3SError(
                "--t3s-accuracy-stop-level is for measurements in blocks: give "
                "--t3s-accuracy-blocks, or drop it"
            )
        if self.accuracy_overlap:
            self._check_overlap()

    def _check_overlap(self) -> None:
        if self.accuracy_interval_coarse or self.accuracy_blocks > 1:
            raise T3SError(
                "--t3s-accuracy-overlap does not go with --t3s-accuracy-interval-coarse and "
                "--t3s-accuracy-blocks: which steps are measured, and how far, would depend on "
                "outcomes that are not there yet. Drop one of them"
            )
        if not (self.measures_profile or self.targeted_accuracy_interval):
            raise T3SError(
                "--t3s-accuracy-overlap has nothing to overlap: this run measures no accuracy "
                "while it trains. Give --t3s-targeted-accuracy-interval, or drop it"
            )

    def _check_teachers(self) -> None:
        if not self.teachers:
            return
        if self.chosen.transfers:
            raise T3SError(
                f"--t3s-method {self.method} with {len(self.teachers)} teachers: "
                "theta_0 + (theta_f - theta_b) is of one trajectory with one theta_b, and the "
                "paper defines it for one teacher only. Give the data of one, or choose another "
                "method"
            )
        if self.detects and self.no_shock == "sft":
            raise T3SError(
                f"--t3s-no-shock sft with {len(self.teachers)} teachers: the profile of one cannot "
                "go on as fine-tuning on all of them. Choose --t3s-no-shock simple (for that "
                "teacher only) or stop"
            )

    def _check_profile_samples(self) -> None:
        given = f"--t3s-profile-samples {self.profile_samples}"
        if not self.profile_samples:
            return
        if self.starts_targeted:
            raise T3SError(f"{given} has no meaning in a run without a profile: drop it")
        if self.trains_to_theta_f:
            raise T3SError(
                f"{given} has no meaning with --t3s-method {self.method}, which trains on all "
                "samples from the start: drop it"
            )
        if self.detects and self.no_shock == "sft":
            raise T3SError(
                f"{given} with --t3s-no-shock sft: a profile of some samples cannot go on as "
                "fine-tuning on all of them. Choose --t3s-no-shock simple or stop, or drop it"
            )

    def _check_ends(self) -> None:
        """How a profile may end has to lie within the steps there are."""
        steps, bound = self.last_profile_step, "--t3s-profile-iters"
        if self.trains_to_theta_f:
            bound = "--train-iters"
        if self.chosen.transfers and self.profile_iters < self.budget:
            raise T3SError(
                f"--t3s-method {self.method} trains to theta_f: --t3s-profile-iters "
                f"{self.profile_iters} cannot be shorter than --train-iters {self.budget}; leave "
                "it out"
            )
        if self.simple_step > steps:
            beyond = f"--t3s-simple-step {self.simple_step} lies beyond {bound} {steps}"
            if self.simple:
                raise T3SError(f"{beyond}: theta_b would never be reached. Lower the step")
            if self.detects and self.no_shock == "simple":
                raise T3SError(
                    f"{beyond}, and --t3s-no-shock simple takes that step as theta_b: lower the "
                    "step, or choose --t3s-no-shock sft or stop"
                )
        if self.detects and self.no_shock == "sft" and steps > self.budget:
            raise T3SError(
                f"--t3s-no-shock sft goes on to --train-iters {self.budget} in all: {bound} "
                f"{steps} is more. Lower it, or choose --t3s-no-shock simple or stop"
            )
