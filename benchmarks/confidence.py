# SPDX-License-Identifier: Apache-2.0
"""The tables of `benchmarks/confidence.sh`: where the falling tokens turn, and what it is good for.

python benchmarks/confidence.py runs/confidence
"""

from __future__ import annotations

import json
import pathlib
import statistics
import sys

import numpy as np

from t3s_megatron.method.confidence import confidence_fall
from t3s_megatron.method.options import MethodOptions
from t3s_megatron.method.outcome import Outcome
from t3s_megatron.method.phases import ActionKind, Phase, PhaseMachine
from t3s_megatron.method.selection import anchors, delta_c

EPOCH = 3  # 200 samples, 64 a step
SIMPLE = 10


class Trajectory:
    """One file of `confidence_job.py`: `accuracy[k]` and `c[k]` after k steps, k = 0 .. steps."""

    def __init__(self, path: pathlib.Path):
        self.name = path.stem
        data = np.load(path)
        self.marks, self.c = data["marks"], data["c"]
        self.seen, self.seen_c, self.seen_step = data["seen"], data["seen_c"], data["seen_step"]
        self.seconds = data["seconds"]
        self.accuracy = self.marks.mean((1, 2))
        self.steps = len(self.c) - 1
        self.bottleneck = _argmin(self.accuracy)
        self.falls = [confidence_fall(c, self.c[0]) for c in self.c]
        trained = path.with_suffix(".json")
        self.trained = json.loads(trained.read_text()) if trained.exists() else []

    def as_low(self) -> list[int]:
        """Steps whose accuracy, paired answer by answer, is not above the lowest by 2 errors."""
        lowest = self.marks[self.bottleneck].astype(float)
        found = []
        for step in range(1, self.steps + 1):
            lost = (self.marks[step] - lowest).mean(1)  # by prompt: its answers are not independent
            if lost.mean() <= 2 * lost.std() / len(lost) ** 0.5:
                found.append(step)
        return found

    def delta(self, step: int) -> np.ndarray:
        return delta_c(self.c[step], self.c[0])

    def first_fallers(self, at: int, share: float = 0.2) -> list[float]:
        """Mean delta_c of the `share` of tokens that have fallen most by step `at`."""
        group = self.delta(at) <= np.quantile(self.delta(at), share)
        return [self.delta(k)[group].mean() for k in range(self.steps + 1)]

    def falling_log_probs(self) -> list[float]:
        """Mean delta_c of the tokens that are below theta_0."""
        deltas = (self.delta(k) for k in range(self.steps + 1))
        return [d[d < 0].mean() if (d < 0).any() else 0.0 for d in deltas]

    def in_batch(self) -> list[float]:
        """The fall over the batch of step k + 1, whose forward saw the weights of step k."""
        steps = (self.seen_step == k + 1 for k in range(self.steps))
        return [confidence_fall(self.seen_c[s], self.c[0][self.seen[s]]) for s in steps]

    def in_batch_smoothed(self) -> list[float]:
        """The mean of that over the last epoch, as a run would know it after step k."""
        values = self.in_batch()
        return [np.mean(values[max(0, k - EPOCH) : k]) if k else 0.0 for k in range(self.steps + 1)]

    def total_log_probs(self) -> list[float]:
        """Sum of the same, a token of the corpus."""
        return [np.minimum(self.delta(k), 0).mean() for k in range(self.steps + 1)]

    def total_probabilities(self) -> list[float]:
        return [np.minimum(np.exp(c) - np.exp(self.c[0]), 0).mean() for c in self.c]

    def estimates(self) -> dict[str, int]:
        return {
            "**fall**": _argmin(self.falls),
            "in log-probs": _argmin(self.falling_log_probs()),
            "total": _argmin(self.total_probabilities()),
            "total, log-probs": _argmin(self.total_log_probs()),
            "first 20 % at step 2": _argmin(self.first_fallers(2)),
            "first 20 % at step 3": _argmin(self.first_fallers(3)),
            "in batch": _argmin(self.in_batch()),
            "in batch, epoch's mean": _argmin(self.in_batch_smoothed()),
        }


def _argmin(values) -> int:
    return 1 + int(np.argmin(values[1:]))


def turns(runs: list[Trajectory]) -> None:
    names = list(runs[0].estimates())
    rows = []
    for run in runs:
        low = run.as_low()
        found = run.estimates()
        span = f"{low[0]} - {low[-1]}" if len(low) > 1 else str(low[0])
        lowest = f"{run.accuracy[0]:.3f} -> {run.accuracy[run.bottleneck]:.3f}"
        rows.append([run.name, lowest, f"{run.bottleneck} ({span})", *(found[n] for n in names)])
    _table(["trajectory", "accuracy", "its minimum (as low)", *names], rows)
    rows = []
    for name in names:
        away = [run.estimates()[name] - run.bottleneck for run in runs]
        inside = sum(run.estimates()[name] in run.as_low() for run in runs)
        rows.append([name, *_distance(away), f"{inside} of {len(runs)}", *_cost(runs, away)])
    one = [_argmin(run.marks[:, :, j].mean(1)) - run.bottleneck
           for run in runs for j in range(run.marks.shape[2])]  # fmt: skip
    rows.append(["accuracy, one answer a prompt", *_distance(one), "", "", ""])
    ten = [min(SIMPLE, run.steps) - run.bottleneck for run in runs]
    rows.append(["step 10", *_distance(ten), "", *_cost(runs, ten)])
    _table(["estimator", "mean distance", "mean", "within 1 step", "as low",
            "accuracy above the lowest: mean, worst", "same mask: mean, worst"], rows)  # fmt: skip


def _distance(away: list[int]) -> list[str]:
    return [f"{statistics.mean(map(abs, away)):.1f}", f"{statistics.mean(away):+.1f}",
            f"{sum(abs(a) <= 1 for a in away)} of {len(away)}"]  # fmt: skip


def _cost(runs: list[Trajectory], away: list[int]) -> list[str]:
    """What it costs to take the step `away` from the accuracy minimum."""
    above, same = [], []
    for run, steps in zip(runs, away, strict=True):
        step = run.bottleneck + steps
        above.append(run.accuracy[step] - run.accuracy[run.bottleneck])
        same.append(_agreement(run, step)[0])
    return [f"{np.mean(above):.3f}, {max(above):.3f}", f"{np.mean(same):.3f}, {min(same):.3f}"]


def _agreement(run: Trajectory, step: int) -> tuple[float, float]:
    """Of the masks at `step` and at the accuracy minimum: the share of tokens in which they agree,
    and the Jaccard index of their anchors."""
    there, here = anchors(run.delta(run.bottleneck)), anchors(run.delta(step))
    either = int((there | here).sum())
    return float((there == here).mean()), int((there & here).sum()) / either if either else 1.0


def overlaps(runs: list[Trajectory]) -> None:
    rows = []
    for run in runs:
        row = [run.name]
        for step in (_argmin(run.falls), SIMPLE):
            same, jaccard = _agreement(run, min(step, run.steps))
            row.append(f"{step}: {same:.3f}, {jaccard:.3f}")
        row.append(f"{anchors(run.delta(run.bottleneck)).mean():.2f}")
        rows.append(row)
    _table(["trajectory", "turn: same mask, Jaccard", "fixed 10: same mask, Jaccard",
            "anchor share"], rows)  # fmt: skip


def training(runs: list[Trajectory]) -> None:
    rows = []
    for run in filter(lambda run: run.trained, runs):
        names = {"theta_0": "(theta_0)", f"theta_b={run.bottleneck}": "accuracy"}
        cells: dict[str, dict] = {}
        for one in run.trained:
            column = (one["split"], one["temperature"])
            cells.setdefault(one["weights"], {})[column] = one["accuracy"]
        turn, fixed = f"theta_b={_argmin(run.falls)}", f"theta_b={SIMPLE}"
        for weights, values in cells.items():
            by = [names[weights]] if weights in names else []
            by += ["confidence"] if weights == turn else []
            by += ["fixed"] if weights == fixed else []
            figures = [f"{values[split, t]:.3f}" for split in ("heldout", "train")
                       for t in (0.0, 0.6, 1.0)]  # fmt: skip
            rows.append([run.name, weights, ", ".join(by), *figures])
    _table(["trajectory", "T3S with", "chosen by", *(f"{s} T={t}" for s in ("heldout", "train")
            for t in ("0", "0.6", "1"))], rows)  # fmt: skip


def policies(runs: list[Trajectory]) -> None:
    """Each plan's phase machine over the recorded trajectory, once for each answer a prompt."""
    plans = {
        "accuracy, every step": dict(signal="accuracy"),
        "accuracy, every 5 steps": dict(signal="accuracy", accuracy_interval=5),
        "accuracy, coarse 5": dict(signal="accuracy", accuracy_interval_coarse=5),
        "both, coarse 5": dict(signal="both", accuracy_interval_coarse=5),
        "both, coarse 10": dict(signal="both", accuracy_interval_coarse=10),
        "confidence": dict(signal="confidence"),
    }
    rows = []
    for name, settings in plans.items():
        measured, steps, away, lost, inside = [], [], [], [], []
        for run in runs:
            for answer in range(run.marks.shape[2]):
                found = walk(run, answer, MethodOptions(
                    budget=1, profile_iters=run.steps, targeted_accuracy_interval=0,
                    simple_step=min(SIMPLE, run.steps), **settings))  # fmt: skip
                measured.append(found[1])
                steps.append(found[2])
                away.append(abs(found[0] - run.bottleneck))
                lost.append(run.accuracy[found[0]] - run.accuracy[run.bottleneck])
                inside.append(found[0] in run.as_low())
        rows.append([name, f"{statistics.mean(measured):.1f}", f"{statistics.mean(steps):.1f}",
                     f"{statistics.mean(away):.2f}", f"{max(away)}", f"{np.mean(inside):.0%}",
                     f"{statistics.mean(lost):.3f}"])  # fmt: skip
    _table(["signal", "measurements", "profile steps", "mean distance", "largest", "as low",
            "accuracy above the lowest"], rows)  # fmt: skip


def walk(run: Trajectory, answer: int, asked: MethodOptions) -> tuple[int, int, int]:
    """(theta_b, measurements, steps) of the profile."""
    machine = PhaseMachine(asked)
    measured = 0
    while machine.phase is Phase.PROFILE:
        action, step = machine.next_action(), machine.phase_step
        if action is None:
            machine.step_done()
        elif action.kind is ActionKind.MEASURE:
            measured += 1
            marks = "".join("01"[int(mark)] for mark in run.marks[step, :, answer])
            machine.measured(Outcome(run.marks[step, :, answer].mean(), marks))
        elif action.kind is ActionKind.SCORE:
            machine.scored(run.falls[step])
        elif action.kind is ActionKind.REWIND:
            break
        else:
            machine.done(action)
    assert machine.theta_b_step is not None
    return machine.theta_b_step, measured, machine.phase_step


def seconds(runs: list[Trajectory]) -> None:
    """Of one step, one measurement with one answer a prompt, one scoring pass."""
    steps = sum(run.steps for run in runs)
    answers = sum((run.steps + 1) * run.marks.shape[2] for run in runs)
    spent = sum(run.seconds for run in runs)
    print(
        f"\nseconds: a training step {spent[0] / steps:.2f}, a measurement with one answer a "
        f"prompt {spent[1] / answers:.2f}, a scoring pass {spent[2] / (steps + len(runs)):.2f}"
    )


def _table(head: list, rows: list[list]) -> None:
    print("\n| " + " | ".join(map(str, head)) + " |\n" + "|---" * len(head) + "|")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")


def main(folder: str) -> None:
    runs = [Trajectory(path) for path in sorted(pathlib.Path(folder).glob("*.npz"))]
    for part in (turns, overlaps, training, policies, seconds):
        part(runs)


if __name__ == "__main__":
    main(sys.argv[1])
