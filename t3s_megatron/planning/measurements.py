# SPDX-License-Identifier: Apache-2.0
"""What measuring accuracy costs: one measurement, all of a run, and what would make it less.

The alternatives are other runs, planned like this one: each has its own phase machine walked, so
that "measured every second step" counts the steps by which theta_b is then found later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from t3s_megatron.method.options import MethodOptions
from t3s_megatron.planning.colocated import answers_at_once
from t3s_megatron.planning.facts import Answers, Colocated, Layout, Model, Servers
from t3s_megatron.planning.serving import waited
from t3s_megatron.planning.walk import Walk, expected_and_longest
from t3s_megatron.planning.work import Speed, Work, forwards, generating, scoring, training

#: Advice is given when measuring takes more than this share of the run.
DOMINATES = 0.5


@dataclass(frozen=True)
class Costs:
    """What the parts of a run cost, however many of them there are. `lengths`: of the corpus's
    rows, in positions computed; `teachers`: the numbers of the samples of each, where there are
    several; `server`: one that would find room on the GPUs of a run whose live weights answer;
    `profile_share`: of the samples, those that the profiles take."""

    layout: Layout
    model: Model
    lengths: list[int]
    answers: Answers | None
    speed: Speed
    teachers: tuple[tuple[int, ...], ...] = ()
    server: Colocated | None = None
    profile_share: float = 1.0

    def walks(self, asked: MethodOptions) -> tuple[Walk, Walk]:
        """The run `asked` as it is expected, and at the most."""
        overlap = 0 if self.answers is None else self.answers.overlap
        return expected_and_longest(asked, overlap=overlap)

    def of(self, walk: Walk, *, longest: bool = False) -> dict[str, Work]:
        """By part; answers as long as expected, or all of them at the limit. Where servers answer,
        the seconds of generation are those for which training waits, and so are an export's."""
        how = self.layout, self.model, self.lengths
        passes = walk.scoring_passes + walk.watching_passes * self.profile_share
        work = {
            "profile": self._profiles(walk),
            "scoring": scoring(*how, passes, self.speed)
            + forwards(*how, walk.scored_steps, self.speed),
            "targeted": training(*how, walk.targeted_steps, self.speed),
        }
        if self.answers is not None:
            work["generation"] = self.generation(walk, longest=longest)
            if self.answers.servers is not None:
                waits = self._waited(walk, longest)
                work["generation"] = replace(work["generation"], seconds=waits)
                work["export"] = Work(0.0, 0.0, self.exports(walk) * self.export)
        return work

    def _profiles(self, walk: Walk) -> Work:
        """With several, each over the samples of its teacher."""
        steps = walk.profile_steps // walk.profiles
        first, *others = (self._training(walk, k, steps) for k in range(walk.profiles))
        return sum(others, first)

    def _training(self, walk: Walk, profile: int | None, steps: int) -> Work:
        lengths = self.lengths
        if profile is not None and walk.profiles > 1:
            lengths = [lengths[i] for i in self.teachers[profile]]
        return training(self.layout, self.model, lengths, steps, self.speed)

    def generation(self, walk: Walk, *, longest: bool = False) -> Work:
        """All of it, whether or not training waits for it."""
        assert self.answers is not None
        asked = [self.answers.evaluated] * walk.evaluations
        asked += [self.answers.asked] * walk.targeted_measurements
        asked += [self.answers.heldout] * self.answers.heldout_measurements(walk.steps)
        in_profiles = walk.measurements - walk.targeted_measurements
        of_each = [self._asked(walk, k) for k in range(walk.profiles)]
        return self._generating(asked + of_each * (in_profiles // walk.profiles))[longest]

    def _asked(self, walk: Walk, profile: int | None) -> int:
        """Answers of a measurement."""
        assert self.answers is not None
        if profile is None or walk.profiles == 1:
            return self.answers.asked
        return self.answers.asked_in_profiles[profile]

    def _waited(self, walk: Walk, longest: bool) -> float:
        assert self.answers is not None

        def seconds(asked: int) -> float:
            return self._generating([asked])[longest].seconds

        evaluations = walk.evaluations * seconds(self.answers.evaluated)
        held_out = self.answers.heldout_measurements(walk.steps)
        evaluations += held_out * (seconds(self.answers.heldout) + self.export)
        return evaluations + waited(
            walk.events,
            step=lambda profile: self._training(walk, profile, 1).seconds,
            measurement=lambda profile: seconds(self._asked(walk, profile)),
            export=self.export,
        )

    @property
    def exported(self) -> int:
        """Bytes of one copy of the weights for a server."""
        return self.model.parameters * self.model.bytes_a_parameter

    @property
    def export(self) -> float:
        """Seconds."""
        return self.exported / self.speed.export

    def exports(self, walk: Walk) -> int:
        """The first one, with which servers are tried, is evaluated as well."""
        assert self.answers is not None
        evaluated = walk.evaluations - 1 if self.answers.evaluated else 0
        return 1 + sum(event.exports for event in walk.events) + evaluated

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
class Beside:
    """A run whose live weights answer, if servers did. Seconds of the whole run: on as many GPUs
    more, `waits`, training waiting for each measurement, and `overlapped`, with one in flight, None
    where its arguments do not allow that; `colocated` on the GPUs that train, None where a server
    finds no room there."""

    waits: float
    overlapped: float | None
    colocated: float | None


@dataclass(frozen=True)
class Alternative:
    """`change`: the argument; what the run then comes to."""

    change: str
    measurements: int
    seconds: float


@dataclass(frozen=True)
class Measuring:
    """`one` measurement and its `prompts`; how many there are, and in the targeted phase; `seconds`
    and `share` of the whole run, evaluations and exports included; `generating`: seconds of those
    who answer, waited for or not. `exported` bytes and `export` seconds: of one copy of the weights
    for servers; `exports`: (expected, at most), None where live weights answer; `beside`: what
    servers would then come to, None where they are those of the run, or could not answer."""

    prompts: int
    one: Work
    measurements: int
    targeted: int
    seconds: float
    share: float
    generating: float
    exported: int
    export: float
    exports: tuple[int, int] | None
    beside: Beside | None
    alternatives: tuple[Alternative, ...]

    @property
    def dominates(self) -> bool:
        return self.share > DOMINATES


def measuring(asked: MethodOptions, costs: Costs) -> Measuring | None:
    """None for a run that generates nothing."""
    answers = costs.answers
    if answers is None:
        return None
    walk, longest = costs.walks(asked)
    work = costs.of(walk)
    spent = sum(work[part].seconds for part in ("generation", "export") if part in work)
    whole = costs.seconds(walk)
    served = answers.servers is not None
    return Measuring(
        prompts=answers.prompts,
        one=costs.one()[0],
        measurements=walk.measurements,
        targeted=walk.targeted_measurements,
        seconds=spent,
        share=spent / whole if whole else 0.0,
        generating=costs.generation(walk).seconds,
        exported=costs.exported,
        export=costs.export,
        exports=(costs.exports(walk), costs.exports(longest)) if served else None,
        beside=_beside(asked, costs, answers) if answers.servable and not served else None,
        alternatives=tuple(_alternatives(asked, walk, costs)),
    )


def _beside(asked: MethodOptions, costs: Costs, answers: Answers) -> Beside:
    def seconds(servers: Servers) -> float:
        other = replace(costs, answers=replace(answers, servers=servers))
        return other.seconds(other.walks(asked)[0])

    def elsewhere(overlap: int) -> float:
        return seconds(Servers(costs.layout.data, answers.batch_size, overlap))

    colocated, server = None, costs.server
    if server is not None and answers_at_once(costs.model, server, answers):
        many = costs.layout.world_size // server.gpus
        colocated = seconds(Servers(many, answers.asked, colocated=server))
    measures = asked.profile_interval or asked.targeted_accuracy_interval
    overlaps = measures and not asked.coarse_interval and answers.blocks == 1
    return Beside(
        waits=elsewhere(0),
        overlapped=elsewhere(1) if overlaps else None,
        colocated=colocated,
    )


def _alternatives(asked: MethodOptions, walk: Walk, costs: Costs) -> Iterator[Alternative]:
    for change, other, answers in _changes(asked, costs.answers):
        changed = replace(costs, answers=answers)
        run, _ = changed.walks(other)
        seconds = changed.seconds(run)
        if seconds < costs.seconds(walk):
            yield Alternative(change, run.measurements, seconds)


def _changes(
    asked: MethodOptions, answers: Answers | None
) -> Iterator[tuple[str, MethodOptions, Answers]]:
    assert answers is not None
    first = ""
    if asked.targeted_accuracy_interval:
        first = "--t3s-targeted-accuracy-interval 0"
        asked = replace(asked, targeted_accuracy_interval=0)
        yield first, asked, answers
    if asked.profile_interval:
        interval = 2 * asked.accuracy_interval
        coarse = asked.accuracy_interval_coarse and max(interval, asked.accuracy_interval_coarse)
        fewer = replace(asked, accuracy_interval=interval, accuracy_interval_coarse=coarse)
        yield f"{first} --t3s-accuracy-interval {interval}".strip(), fewer, answers
        if not asked.coarse_interval and asked.detects and not answers.overlap:
            coarse = 3 * asked.accuracy_interval
            change = f"{first} --t3s-accuracy-interval-coarse {coarse}"
            yield change.strip(), replace(asked, accuracy_interval_coarse=coarse), answers
    if answers.prompts > 1 and not answers.asked_in_profiles:  # else it counts for each teacher
        half = answers.prompts // 2
        fewer_answers = replace(
            answers, prompts=half, asked=answers.asked * half // answers.prompts
        )
        yield f"{first} --t3s-accuracy-prompts {half}".strip(), asked, fewer_answers
    if asked.detects:
        # Nothing is left that could overlap, or be measured coarsely or in blocks.
        silent = replace(
            asked, accuracy_overlap=0, accuracy_interval_coarse=0, targeted_accuracy_interval=0
        )
        drop = ""
        if answers.servers is not None and answers.overlap:
            drop = " without --t3s-accuracy-overlap"  # there is nothing to overlap
            answers = replace(answers, servers=replace(answers.servers, overlap=0))
        yield f"--t3s-signal confidence{drop}", replace(silent, signal="confidence"), answers
        simple = replace(silent, signal="accuracy", simple=True)
        yield f"--t3s-simple{drop} (theta_b is step {asked.simple_step})", simple, answers
