# SPDX-License-Identifier: Apache-2.0
"""How often theta_b is found, and at what cost, on trajectories whose true minimum is known.

    python benchmarks/detector.py      (about 5 minutes on one core)

Prints the tables of benchmarks/results/detector.md. What searches is the package's own detector,
schedule and blocks; what is searched is drawn here.

Synthetic: 200 prompts, and a curve of the mean accuracy. Prompt i is answered rightly with
probability sigmoid(a(t) + 2 z_i + 0.7 w_i(t)): z_i is its difficulty, w_i its own smooth way (a
Gaussian process with correlation 0.8 from step to step), both standard normal, and a(t) follows the
curve. The draws of one answer at two steps have correlation RHO: seeds are the same at every step,
and the texts are still others. The truth is the mean of the probabilities of all 200 prompts.
Unpaired: every prompt is as difficult, and every answer is drawn anew. Pairing then helps nothing,
and noise is the binomial one: the worst case.

Recorded: real SFT runs of the tiny example with 8 answers a prompt (detector_record.sh). A repeat
takes some prompts and some numbers of answers, the same at every step, so the pairing is the real
one. The truth is the mean over all prompts and answers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from detector_record import read

from t3s_megatron.accuracy.blocks import in_blocks
from t3s_megatron.method.detector import BottleneckDetector
from t3s_megatron.method.evidence import Evidence
from t3s_megatron.method.outcome import NOT_ASKED, RIGHT, WRONG, Outcome
from t3s_megatron.method.schedule import MeasurementSchedule

REPEATS = 200
STEPS = 50
PROMPTS = 200
DIFFICULTY, OWN, SMOOTH, RHO = 2.0, 0.7, 0.8, 0.3
SETTINGS = ((200, 1), (200, 4), (100, 1), (100, 4))  # prompts, answers a prompt
ONE_ANSWER = ((200, 1), (100, 1))

#: Knots (step, mean accuracy), joined by half a cosine each.
CURVES = {
    "shallow": ((0, 0.70), (8, 0.62), (20, 0.71), (50, 0.74)),
    "deep": ((0, 0.75), (8, 0.35), (25, 0.68), (50, 0.74)),
    "slow recovery": ((0, 0.70), (8, 0.45), (50, 0.62)),
    "unstable after": (
        (0, 0.75), (6, 0.42), (14, 0.68), (18, 0.56), (22, 0.68), (27, 0.52), (32, 0.68), (50, 0.7),
    ),
    "double": ((0, 0.70), (5, 0.50), (8, 0.58), (12, 0.45), (25, 0.66), (50, 0.72)),
    "late double": ((0, 0.70), (5, 0.55), (9, 0.61), (14, 0.45), (27, 0.66), (50, 0.72)),
    "no shock, rising": ((0, 0.60), (20, 0.70), (50, 0.75)),
    "no shock, flat": ((0, 0.70), (50, 0.70)),
}  # fmt: skip
UNPAIRED = {
    f"{name}, unpaired": CURVES[name]
    for name in ("double", "late double", "no shock, rising", "no shock, flat")
}


@dataclass(frozen=True)
class Rule:
    name: str
    patience: int = 8
    confirm: float = 0.0
    shock: float = 0.0
    coarse: int = 0
    blocks: int = 1
    stop: float = 0.0


RULES = (
    *(Rule(f"patience {n}", n) for n in (3, 5, 6, 8, 10, 12)),
    Rule("patience 5 or test 0.05", 5, 0.05),
    *(Rule(f"patience 8 or test {level:g}", 8, level) for level in (0.01, 0.05, 0.2)),
    *(Rule(f"shock {level:g}", shock=level) for level in (0.01, 0.05)),
    *(Rule(f"coarse {n}", coarse=n) for n in (2, 3, 5)),
    *(Rule(f"{n} blocks", blocks=n) for n in (4, 8)),
    *(Rule(f"4 blocks, stop {level:g}", blocks=4, stop=level) for level in (0.05, 0.2)),
    Rule("8 blocks, stop 0.2", blocks=8, stop=0.2),
    Rule("coarse 2, 4 blocks, stop 0.2", coarse=2, blocks=4, stop=0.2),
    Rule("the same, or test 0.05", 8, 0.05, coarse=2, blocks=4, stop=0.2),
)
BASELINE = "patience 8"
#: Those that the other settings, and the tables by scenario, are about.
KEY = ("patience 3", "patience 5", "patience 8", "patience 12", "patience 8 or test 0.05",
       "shock 0.05", "coarse 2", "4 blocks, stop 0.2", "the same, or test 0.05")  # fmt: skip


# ------------------------------------------------------------------------------------ trajectories


@dataclass(frozen=True)
class Trajectory:
    """`truth`: float64[steps]; `right`: bool[steps, prompts, samples]; `tokens` an answer."""

    truth: np.ndarray
    right: np.ndarray
    tokens: list[float]


def curve(knots) -> np.ndarray:
    steps = np.arange(STEPS + 1)
    values = np.empty(STEPS + 1)
    for (start, a), (end, b) in zip(knots, knots[1:], strict=False):
        inside = (steps >= start) & (steps <= end)
        phase = (steps[inside] - start) / (end - start)
        values[inside] = a + (b - a) * (1 - np.cos(np.pi * phase)) / 2
    return values


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def common_part(accuracy: np.ndarray, spread: float) -> np.ndarray:
    """a(t) such that the mean over all prompts is `accuracy`, by bisection. `spread`: standard
    deviation of what is added to it."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    nodes, weights = nodes * spread, weights / weights.sum()
    low, high = np.full(len(accuracy), -15.0), np.full(len(accuracy), 15.0)
    for _ in range(50):
        middle = (low + high) / 2
        below = sigmoid(middle[:, None] + nodes) @ weights < accuracy
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return low


def synthetic(knots, seed: int, paired: bool = True) -> Callable[[int, int], Iterator[Trajectory]]:
    difficulty, own_way, rho = (DIFFICULTY, OWN, RHO) if paired else (0.0, 0.0, 0.0)
    a = common_part(curve(knots), math.hypot(difficulty, own_way))
    n = STEPS + 1

    def draw(prompts: int, samples: int) -> Iterator[Trajectory]:
        rng = np.random.default_rng(seed)
        for _ in range(REPEATS):
            own = np.empty((n, PROMPTS))
            own[0] = rng.normal(size=PROMPTS)
            for t in range(1, n):
                fresh = rng.normal(size=PROMPTS)
                own[t] = SMOOTH * own[t - 1] + math.sqrt(1 - SMOOTH**2) * fresh
            p = sigmoid(a[:, None] + difficulty * rng.normal(size=PROMPTS) + own_way * own)
            common = rng.normal(size=(1, PROMPTS, 4))
            draws = math.sqrt(rho) * common
            draws = draws + math.sqrt(1 - rho) * rng.normal(size=(n, PROMPTS, 4))
            uniform = torch.special.ndtr(torch.from_numpy(draws)).numpy()
            right = uniform < p[:, :, None]
            yield Trajectory(p.mean(1), right[:, :prompts, :samples], [10_000.0] * n)

    return draw


def recorded(run: dict, seed: int) -> Callable[[int, int], Iterator[Trajectory]]:
    marks = run["marks"]
    truth = marks.mean((1, 2))

    def draw(prompts: int, samples: int) -> Iterator[Trajectory]:
        rng = np.random.default_rng(seed)
        for _ in range(REPEATS):
            rows = rng.permutation(marks.shape[1])[:prompts]
            numbers = rng.permuted(np.tile(np.arange(marks.shape[2]), (len(rows), 1)), axis=1)[
                :, :samples
            ]
            yield Trajectory(truth, marks[:, rows[:, None], numbers], run["tokens"])

    return draw


def pairing(run: dict) -> float:
    """Correlation of an answer with that of its number one step later, beyond its prompt's mean."""
    centred = run["marks"] - run["marks"].mean(2, keepdims=True)
    return float((centred[1:] * centred[:-1]).mean() / (centred**2).mean())


# ------------------------------------------------------------------------------------------ search


@dataclass
class Measurements:
    """What a trajectory shows to any rule: outcomes are made once, and compared once."""

    trajectory: Trajectory
    _made: dict = field(default_factory=dict)

    def ask(self, step: int, blocks: int, detector: BottleneckDetector, stop: float):
        """(outcome, answers asked) of a measurement in blocks."""
        for count in range(1, blocks):
            so_far = self.outcome(step, blocks, count)
            if detector.rules_out(so_far, stop / (blocks - 1)):
                return so_far, len(so_far.marks) - so_far.marks.count(NOT_ASKED)
        whole = self.outcome(step, 1, 1)
        return whole, len(whole.marks)

    def outcome(self, step: int, blocks: int, count: int) -> Outcome:
        """After `count` of `blocks` blocks."""
        key = (step, blocks, count)
        if key not in self._made:
            right = self.trajectory.right[step]
            prompts, samples = right.shape
            marks = np.where(right.reshape(-1), RIGHT, WRONG)
            accuracy = right.mean()
            if count < blocks:
                numbers = order(prompts, samples, blocks)
                asked = np.concatenate(numbers[:count])
                accuracy = right.reshape(-1)[asked].mean()
                marks[np.concatenate(numbers[count:])] = NOT_ASKED
            self._made[key] = Outcome(float(accuracy), "".join(marks), samples)
        return self._made[key]


@functools.cache
def order(prompts: int, samples: int, blocks: int) -> list[np.ndarray]:
    return [np.array(block) for block in in_blocks(prompts, samples, blocks, seed=1234)]


@dataclass(frozen=True)
class Found:
    """`off`: steps between what was found and the true minimum, None without a shock; `excess`:
    true accuracy at what was found above the lowest; `evidence`: what is said of it."""

    off: int | None
    excess: float
    steps: int
    tokens: float
    evidence: Evidence | None = None


def search(rule: Rule, measurements: Measurements) -> Found:
    truth, tokens = measurements.trajectory.truth, measurements.trajectory.tokens
    detector = BottleneckDetector(rule.patience, confirm_level=rule.confirm, shock_level=rule.shock)
    schedule = MeasurementSchedule(1, rule.coarse)
    last = len(truth) - 1
    spent = 0.0
    for step in range(last + 1):
        if schedule.is_due(step) or step == last:
            outcome, asked = measurements.ask(step, rule.blocks, detector, rule.stop)
            spent += asked * tokens[step]
            detector.observe(step, outcome)
            if detector.shock_seen:
                schedule.measure_densely(step)
        if detector.confirmed:
            break
    lowest = int(truth.argmin())
    found = detector.theta_b_step
    if found is None:
        return Found(None, math.nan, step, spent)
    excess = float(truth[found] - truth[lowest])
    return Found(abs(found - lowest), excess, step, spent, detector.evidence())


# ------------------------------------------------------------------------------------------ tables


def main() -> None:
    scenarios = {name: synthetic(knots, i) for i, (name, knots) in enumerate(CURVES.items())}
    for i, (name, knots) in enumerate(UNPAIRED.items(), start=len(CURVES)):
        scenarios[name] = synthetic(knots, i, paired=False)
    for i, run in enumerate(read()):
        name = f"recorded, seed {run['seed']}, lr {run['lr']}"
        scenarios[name] = recorded(run, 100 + i)
        truth = run["marks"].mean((1, 2))
        print(
            f"- {name}: accuracy {truth[0]:.3f} at step 0, lowest {truth.min():.3f} at step "
            f"{truth.argmin()}, {truth[-1]:.3f} at step {len(truth) - 1}; correlation of paired "
            f"answers {pairing(run):.2f}"
        )
    without = [name for name in scenarios if name.startswith("no shock")]
    none = [name for name in without if name in CURVES]
    twice = [name for name in scenarios if "double" in name]
    recordings = [name for name in scenarios if name.startswith("recorded")]
    groups = {
        "one dip": [name for name in CURVES if name not in (*none, *twice)],
        "two dips": ["double", "late double"],
        "recorded": recordings,
    }
    results: dict[tuple, list[Found]] = {}
    for setting in SETTINGS:
        rules = [r for r in RULES if setting == SETTINGS[0] or r.name in KEY]
        for name, draw in scenarios.items():
            for trajectory in draw(*setting):
                measurements = Measurements(trajectory)
                for rule in rules:
                    found = search(rule, measurements)
                    results.setdefault((setting, rule.name, name), []).append(found)
    print(f"\n{REPEATS} repeats of each of {len(scenarios)} scenarios, the same for all rules")
    for setting in SETTINGS:
        print(f"\n{setting[0]} prompts, answers to each: {setting[1]}\n")
        row("", *groups, "no shock")
        row("---", *["---"] * (len(groups) + 1))
        for rule in RULES:
            if (setting, rule.name, none[0]) not in results:
                continue
            cells = [dip_cell(*of(results, setting, rule.name, names)) for names in groups.values()]
            row(rule.name, *cells, no_shock_cell(*of(results, setting, rule.name, none)))
    print("\nwithout a shock, 1 answer to each: runs that take a minimum\n")
    row("", *(f"{setting[0]} prompts, {name}" for setting in ONE_ANSWER for name in without))
    row("---", *["---"] * len(without) * len(ONE_ANSWER))
    for rule in KEY:
        row(rule, *(alarm_cell(results[setting, rule, name]) for setting in ONE_ANSWER
                    for name in without))  # fmt: skip
    print("\ntwo dips: within 2 steps of the deeper, second one\n")
    settings = [(setting, name) for setting in SETTINGS for name in twice]
    row("", *(f"{name}, {n} x {answers}" for (n, answers), name in settings))
    row("---", *["---"] * len(settings))
    for rule in KEY:
        row(rule, *(f"{within(results[setting, rule, name], 2):.2f}" for setting, name in settings))
    print(f"\n{BASELINE}: runs whose fall, and whose rise, are not called chance\n")
    row("", *scenarios)
    row("---", *["---"] * len(scenarios))
    for setting in SETTINGS:
        row(f"{setting[0]} prompts, answers to each: {setting[1]}",
            *(evidence_cell(results[setting, BASELINE, name]) for name in scenarios))  # fmt: skip
    dips = [name for name in scenarios if name not in without]
    print("\nby scenario, 200 prompts, 1 answer to each: within 2 steps, excess, steps\n")
    row("", *dips)
    row("---", *["---"] * len(dips))
    for rule in KEY:
        row(rule, *(short_cell(results[SETTINGS[0], rule, name]) for name in dips))


def row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |")


def of(results, setting, rule: str, names: list[str]) -> tuple[list[Found], list[Found]]:
    """What the rule found, and the baseline on the same trajectories."""
    return tuple([one for n in names for one in results[setting, r, n]] for r in (rule, BASELINE))


def rate(values: list[bool]) -> float:
    return sum(values) / len(values)


def mean(values) -> float:
    values = [v for v in values if not math.isnan(v)]
    return sum(values) / len(values) if values else math.nan


def within(found: list[Found], steps: int) -> float:
    return rate([one.off is not None and one.off <= steps for one in found])


def share_of_tokens(found: list[Found], baseline: list[Found]) -> str:
    return f"{sum(one.tokens for one in found) / sum(one.tokens for one in baseline):.0%}"


def dip_cell(found: list[Found], baseline: list[Found]) -> str:
    if not found:
        return "-"
    rates = " / ".join(f"{within(found, k):.2f}" for k in (0, 1, 2))
    error = math.sqrt(within(found, 2) * (1 - within(found, 2)) / len(found))
    return (
        f"{rates} +- {error:.2f}, {mean(one.excess for one in found):.3f}, "
        f"{mean(one.steps for one in found):.1f}, {share_of_tokens(found, baseline)}"
    )


def no_shock_cell(found: list[Found], baseline: list[Found]) -> str:
    alarms = rate([one.off is not None for one in found])
    error = math.sqrt(alarms * (1 - alarms) / len(found))
    return (
        f"{alarms:.2f} +- {error:.2f}, {mean(one.steps for one in found):.1f}, "
        f"{share_of_tokens(found, baseline)}"
    )


def alarm_cell(found: list[Found]) -> str:
    return f"{rate([one.off is not None for one in found]):.2f}"


def evidence_cell(found: list[Found]) -> str:
    """Shares of all runs."""
    known = [one.evidence for one in found]
    falls = rate([one is not None and not one.fall_may_be_chance for one in known])
    rises = rate([one is not None and not one.rise_may_be_chance for one in known])
    return f"{falls:.2f}, {rises:.2f}"


def short_cell(found: list[Found]) -> str:
    return (
        f"{within(found, 2):.2f}, {mean(one.excess for one in found):.3f}, "
        f"{mean(one.steps for one in found):.1f}"
    )


if __name__ == "__main__":
    main()
