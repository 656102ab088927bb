# SPDX-License-Identifier: Apache-2.0
"""What measuring accuracy costs: one measurement, all of a run, and what would make it less.

The alternatives are other runs, planned like this one: each has its own phase machine walked, so
that "measured every second step" counts the steps by which theta_b is then found later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from t3s_megatron.method.phases import Plan
from t3s_megatron.planning.facts import Answers, Layout, Model
from t3s_megatron.planning.phases import Walk, expected_and_longest
from t3s_megatron.planning.work import Speed, Work, generating, scoring, training

#: Advice is given when measuring takes more than this share of the run.
DOMINATES = 0.5


@dataclass(frozen=True)
class Costs:
    """What the parts of a run cost, however many of them there are. `lengths`: of the corpus's
    rows, in positions computed; `scores`: whether there are scoring passes; `teachers`: the numbers
    of the samples of each, where there are several."""

    layout: Layout
    model: Model
    lengths: list[int]
    answers: Answers | None
    scores: bool
    speed: Speed
    teachers: tuple[tuple[int, ...], ...] = ()

    def of(self, walk: Walk, *, longest: bool = False) -> dict[str, Work]:
        """By part; answers as long as expected, or all of them at the limit."""
        how = self.layout, self.model, self.lengths
        work = {
            "profile": self._profiles(walk),
            "scoring": scoring(*how, walk.scoring_passes if self.scores else 0, self.speed),
            "targeted": training(*how, walk.targeted_steps, self.speed),
        }
        if self.answers is not None:
            asked = self._asked(self.answers, walk)
            work["generation"] = self._generating(asked)[longest]
        return work

    def _profiles(self, walk: Walk) -> Work:
        """With several, each over the samples of its teacher."""
        parts = [self.lengths]
        if walk.profiles > 1:
            parts = [[self.lengths[i] for i in samples] for samples in self.teachers]
        steps = walk.profile_steps // walk.profiles
        first, *others = (
            training(self.layout, self.model, lengths, steps, self.speed) for lengths in parts
        )
        return sum(others, first)

    @staticmethod
    def _asked(answers: Answers, walk: Walk) -> list[int]:
        asked = [answers.evaluated] * walk.evaluations
        asked += [answers.asked] * walk.targeted_measurements
        in_profiles = walk.measurements - walk.targeted_measurements
        of_each = answers.asked_in_profiles if walk.profiles > 1 else (answers.asked,)
        return asked + [*of_each] * (in_profiles // walk.profiles)

    def seconds(self, walk: Walk) -> float:
        return sum(part.seconds for part in self.of(walk).values())

    def one(self) -> tuple[Work, Work]:
        """A single accuracy measurement: (expected, at most). There have to be answers."""
        assert self.answers is not None
        return self._generating([self.answers.asked])

    def _generating(self, asked: list[int]) -> tuple[Work, Work]:
        assert self.answers is not None
        return generating(self.layout, self.model, self.answers, asked, self.speed)


@dataclass(frozen=True)
class Served:
    """The measurements of the profile by a server of the same speed as the training GPUs, on GPUs
    of its own. Seconds. `export`: of one copy of the weights, `exported` bytes; `waits`: of the
    whole run, training waiting for each measurement; `overlapped`: measured while the steps up to
    the next one train."""

    exported: int
    export: float
    waits: float
    overlapped: float


@dataclass(frozen=True)
class Alternative:
    """`change`: the argument; what the run then comes to."""

    change: str
    measurements: int
    seconds: float


@dataclass(frozen=True)
class Measuring:
    """`one` measurement and its `prompts`; how many there are, and in the targeted phase; `seconds`
    and `share` of the whole run, evaluations included."""

    prompts: int
    one: Work
    measurements: int
    targeted: int
    seconds: float
    share: float
    served: Served
    alternatives: tuple[Alternative, ...]

    @property
    def dominates(self) -> bool:
        return self.share > DOMINATES


def measuring(plan: Plan, costs: Costs, bandwidth: float) -> Measuring | None:
    """None for a run that generates nothing. `bandwidth`: bytes a second at which all ranks
    together write the weights for a server."""
    if costs.answers is None:
        return None
    walk, _ = expected_and_longest(plan)
    work = costs.of(walk)
    spent, whole = work["generation"].seconds, costs.seconds(walk)
    return Measuring(
        prompts=costs.answers.prompts,
        one=costs.one()[0],
        measurements=walk.measurements,
        targeted=walk.targeted_measurements,
        seconds=spent,
        share=spent / whole if whole else 0.0,
        served=_served(plan, walk, costs, bandwidth),
        alternatives=tuple(_alternatives(plan, walk, costs)),
    )


def _served(plan: Plan, walk: Walk, costs: Costs, bandwidth: float) -> Served:
    """Every measurement needs the weights of its step, so training always waits for the export.

    With overlap it waits for the server only where that takes longer than the steps between two
    measurements; and once, at the end of each profile, for the last one.
    """
    exported = costs.model.parameters * costs.model.bytes_a_parameter
    export = exported / bandwidth
    one = costs.one()[0].seconds
    live = costs.seconds(walk)
    waits = live + walk.measurements * export
    between = 0.0
    if walk.profile_steps:
        step = costs.of(walk)["profile"].seconds / walk.profile_steps
        between = step * max(1, plan.accuracy_interval)
    in_profile = walk.measurements - walk.targeted_measurements
    hidden = max(0, in_profile - walk.profiles) * min(one, between)
    if plan.targeted_accuracy_interval and walk.targeted_steps:
        step = costs.of(walk)["targeted"].seconds / walk.targeted_steps
        interval = step * plan.targeted_accuracy_interval
        hidden += max(0, walk.targeted_measurements - 1) * min(one, interval)
    return Served(exported, export, waits, waits - hidden)


def _alternatives(plan: Plan, walk: Walk, costs: Costs) -> Iterator[Alternative]:
    for change, other, answers in _changes(plan, costs.answers):
        run, _ = expected_and_longest(other)
        seconds = replace(costs, answers=answers).seconds(run)
        if seconds < costs.seconds(walk):
            yield Alternative(change, run.measurements, seconds)


def _changes(plan: Plan, answers: Answers | None) -> Iterator[tuple[str, Plan, Answers]]:
    assert answers is not None
    first = ""
    if plan.targeted_accuracy_interval:
        first = "--t3s-targeted-accuracy-interval 0"
        plan = replace(plan, targeted_accuracy_interval=0)
        yield first, plan, answers
    if plan.accuracy_interval:
        fewer = replace(plan, accuracy_interval=2 * plan.accuracy_interval)
        change = f"{first} --t3s-accuracy-interval {fewer.accuracy_interval}"
        yield change.strip(), fewer, answers
        if not plan.coarse_interval and plan.detects:
            coarse = replace(plan, coarse_interval=3 * plan.accuracy_interval)
            change = f"{first} --t3s-accuracy-interval-coarse {coarse.coarse_interval}"
            yield change.strip(), coarse, answers
    if answers.prompts > 1 and not answers.asked_in_profiles:  # else it counts for each teacher
        half = answers.prompts // 2
        fewer_answers = replace(
            answers, prompts=half, asked=answers.asked * half // answers.prompts
        )
        yield f"{first} --t3s-accuracy-prompts {half}".strip(), plan, fewer_answers
    if plan.detects:
        silent = replace(plan, accuracy_interval=0, coarse_interval=0, targeted_accuracy_interval=0,
                         measure_final=answers.evaluated > 0)  # fmt: skip
        yield "--t3s-signal confidence", replace(silent, signal="confidence"), answers
        simple = replace(silent, signal="fixed")
        yield f"--t3s-simple (theta_b is step {plan.simple_step})", simple, answers
