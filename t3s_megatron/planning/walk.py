# SPDX-License-Identifier: Apache-2.0
"""How many steps, measurements and copies a run makes: its own phase machine, walked in no time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

from t3s_megatron.method.options import MethodOptions
from t3s_megatron.method.outcome import Outcome
from t3s_megatron.method.overlap import OverlappingPhases
from t3s_megatron.method.phases import ActionKind, Phase, PhaseMachine


class Event(NamedTuple):
    """Something of a run that takes time: a training step (None), or what has to do with a
    measurement. `profile`: the number of the one it belongs to, None after them; `exports`: whether
    a server is first given the weights (those of the start it has)."""

    kind: ActionKind | None
    profile: int | None
    exports: bool


@dataclass(frozen=True)
class Walk:
    """Counts over a whole run; `theta_b_step` is where its bottleneck was put, in each of its
    `profiles`. `scoring_passes` are over all samples, `watching_passes` (--t3s-signal confidence)
    over those that the profiles take, `scored_steps` over those of a step, before it; `scored`:
    weights whose log-probs are stored.
    Measurements count when they are begun. With an overlap, `discarded_steps` of the profiles' are
    made beyond a decision, and `in_flight` copies of the weights wait for outcomes at once."""

    theta_b_step: int | None
    profiles: int
    profile_steps: int
    targeted_steps: int
    discarded_steps: int
    measurements: int
    targeted_measurements: int  # of them
    scoring_passes: int
    watching_passes: int
    scored_steps: int
    scored: int
    evaluations: int
    keeps_theta_0: bool
    keeps_candidate: bool
    in_flight: int
    events: tuple[Event, ...] = field(repr=False)

    @property
    def steps(self) -> int:
        return self.profile_steps + self.targeted_steps

    @property
    def snapshots(self) -> int:
        """Copies of the weights that are on the host at once, at the most."""
        return int(self.keeps_theta_0) + int(self.keeps_candidate) + self.in_flight


def walk(asked: MethodOptions, bottleneck: int, *, overlap: int = 0) -> Walk:
    """The run `asked` whose accuracy and confidence fall up to step `bottleneck`, then rise.

    `overlap`: of measurements with training.
    """
    # The valley has no noise: its fall is a shock at any level.
    asked = replace(asked, shock_level=0.0)
    machine = OverlappingPhases(asked, overlap) if overlap else PhaseMachine(asked)
    did = dict.fromkeys(ActionKind, 0)
    steps = dict.fromkeys(Phase, 0)
    targeted = discarded = in_flight = 0
    events: list[Event] = []
    while machine.phase is not Phase.DONE:
        action = machine.next_action()
        kind = None if action is None else action.kind
        if kind in _TIMED:
            profile = machine.number if machine.phase is Phase.PROFILE else None
            start = machine.live_step == 0 and not any(event.exports for event in events)
            events.append(Event(kind, profile, kind in _BEGUN and not start))
        if action is None:
            steps[machine.phase] += 1
            machine.step_done()
            continue
        did[action.kind] += 1
        if kind in _BEGUN:
            targeted += machine.phase is Phase.TARGETED
        if kind is ActionKind.DISCARD:
            discarded += machine.live_step - machine.phase_step
        if kind in (ActionKind.MEASURE, ActionKind.COLLECT):  # of the step that is decided about
            machine.measured(Outcome(_accuracy(machine.phase_step, bottleneck, asked)))
        elif kind is ActionKind.SCORE:
            machine.scored(_fall(machine.phase_step, bottleneck))
        else:
            machine.done(action)
        if isinstance(machine, OverlappingPhases):
            in_flight = max(in_flight, len(machine.kept))
    stored = did[ActionKind.SCORE_THETA_0] + did[ActionKind.SCORE_THETA_B]
    entropies = did[ActionKind.SCORE_THETA_0] * ("entropy" in asked.chosen.reads(asked.mask_share))
    profiles = len(machine.profiles)  # each scores the samples of its teacher
    return Walk(
        theta_b_step=machine.theta_b_step,
        profiles=profiles,
        profile_steps=steps[Phase.PROFILE],
        targeted_steps=steps[Phase.TARGETED],
        discarded_steps=discarded,
        measurements=sum(did[kind] for kind in _BEGUN),
        targeted_measurements=targeted,
        scoring_passes=(stored + entropies) // profiles,
        watching_passes=did[ActionKind.SCORE] // profiles,
        scored_steps=sum(steps.values()) if asked.chosen.leaves_out else 0,
        scored=stored // profiles,
        # At theta_0, at theta_f before a residual transfer, and at the end.
        evaluations=1
        + did[ActionKind.RESIDUAL_TRANSFER]
        + (0 if asked.stop_after else did[ActionKind.FINISH]),
        keeps_theta_0=did[ActionKind.KEEP_THETA_0] > 0,
        keeps_candidate=did[ActionKind.KEEP_CANDIDATE] > 0,
        in_flight=in_flight,
        events=tuple(events),
    )


_BEGUN = (ActionKind.MEASURE, ActionKind.BEGIN_MEASUREMENT)
_TIMED = (None, *_BEGUN, ActionKind.COLLECT, ActionKind.DISCARD)


def _fall(step: int, bottleneck: int) -> float:
    return -float(step) if step <= bottleneck else min(0.0, step - 2.0 * bottleneck)


def _accuracy(step: int, bottleneck: int, asked: MethodOptions) -> float:
    """A valley whose every step is larger than --t3s-min-delta."""
    slope = 1 + asked.min_delta  # and where it begins: there is something to fall from
    return slope - slope * (step if step <= bottleneck else 2 * bottleneck - step)


def expected_and_longest(asked: MethodOptions, *, overlap: int = 0) -> tuple[Walk, Walk]:
    """theta_b at the step that T3S-simple takes (the paper's), and as late as it can be. See
    `walk`."""
    last = asked.last_profile_step
    likely, most = (
        walk(asked, bottleneck, overlap=overlap)
        for bottleneck in (min(asked.simple_step, last), last)
    )
    return likely, most
