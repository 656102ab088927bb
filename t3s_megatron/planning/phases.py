# SPDX-License-Identifier: Apache-2.0
"""How many steps, measurements and copies a run makes: its own phase machine, walked in no time."""

from __future__ import annotations

from dataclasses import dataclass, replace

from t3s_megatron.method.outcome import Outcome
from t3s_megatron.method.phases import ActionKind, Phase, PhaseMachine, Plan


@dataclass(frozen=True)
class Walk:
    """Counts over a whole run; `theta_b_step` is where its bottleneck was put, in each of its
    `profiles`. `scoring_passes` are over all samples."""

    theta_b_step: int | None
    profiles: int
    profile_steps: int
    targeted_steps: int
    measurements: int
    targeted_measurements: int  # of them
    scoring_passes: int
    evaluations: int
    keeps_theta_0: bool
    keeps_candidate: bool

    @property
    def steps(self) -> int:
        return self.profile_steps + self.targeted_steps

    @property
    def snapshots(self) -> int:
        """Copies of the weights that are on the host at once, at the most."""
        return int(self.keeps_theta_0) + int(self.keeps_candidate)


def walk(plan: Plan, bottleneck: int) -> Walk:
    """The run `plan` whose accuracy and confidence fall up to step `bottleneck`, then rise."""
    # The valley has no noise: its fall is a shock at any level.
    machine = PhaseMachine(replace(plan, shock_level=0.0))
    did = dict.fromkeys(ActionKind, 0)
    steps = dict.fromkeys(Phase, 0)
    targeted = 0
    while machine.phase is not Phase.DONE:
        action = machine.next_action()
        if action is None:
            steps[machine.phase] += 1
            machine.step_done()
            continue
        did[action.kind] += 1
        if action.kind is ActionKind.MEASURE:
            targeted += machine.phase is Phase.TARGETED
            machine.measured(Outcome(_accuracy(machine.phase_step, bottleneck, plan)))
        elif action.kind is ActionKind.SCORE:
            machine.scored(_fall(machine.phase_step, bottleneck))
        else:
            machine.done(action)
    return Walk(
        theta_b_step=machine.theta_b_step,
        profiles=len(machine.profiles),
        profile_steps=steps[Phase.PROFILE],
        targeted_steps=steps[Phase.TARGETED],
        measurements=did[ActionKind.MEASURE],
        targeted_measurements=targeted,
        # Each profile scores the samples of its teacher.
        scoring_passes=sum(did[kind] for kind in _SCORING) // len(machine.profiles),
        # At theta_0, at theta_f before a residual transfer, and at the end.
        evaluations=1 + did[ActionKind.RESIDUAL_TRANSFER] + did[ActionKind.FINISH],
        keeps_theta_0=did[ActionKind.KEEP_THETA_0] > 0,
        keeps_candidate=did[ActionKind.KEEP_CANDIDATE] > 0,
    )


_SCORING = (ActionKind.SCORE, ActionKind.SCORE_THETA_0, ActionKind.SCORE_THETA_B)


def _fall(step: int, bottleneck: int) -> float:
    return -float(step) if step <= bottleneck else min(0.0, step - 2.0 * bottleneck)


def _accuracy(step: int, bottleneck: int, plan: Plan) -> float:
    """A valley whose every step is larger than --t3s-min-delta."""
    slope = 1 + plan.min_delta
    return -slope * step if step <= bottleneck else -slope * (2 * bottleneck - step)


def expected_and_longest(plan: Plan) -> tuple[Walk, Walk]:
    """theta_b at the step that T3S-simple takes (the paper's), and as late as it can be."""
    last = plan.budget if plan.trains_to_theta_f else plan.profile_iters
    return walk(plan, min(plan.simple_step, last)), walk(plan, last)
