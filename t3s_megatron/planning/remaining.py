# SPDX-License-Identifier: Apache-2.0
"""What a run that is under way has still to do: the plan's own walk through its phases, with the
rates that the run has shown so far.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from t3s_megatron.method.confidence import ConfidenceDetector
from t3s_megatron.method.detector import BottleneckDetector
from t3s_megatron.method.options import MethodOptions
from t3s_megatron.method.outcome import Outcome
from t3s_megatron.method.patience import PatientMinimum
from t3s_megatron.planning.walk import Walk, walk

#: A rate is that of the last so many measurements: the first one warms a server up.
_RECENT = 5


@dataclass(frozen=True)
class Remaining:
    """Seconds; `steps` of training and `measurements`. `others`: scoring, evaluations."""

    steps: int
    measurements: int
    seconds: float


def options_of_run(summary: dict, budget: int) -> MethodOptions:
    """What the run was asked to do. `budget`: its --train-iters."""
    names = {declared.name for declared in fields(MethodOptions)} - {"budget", "teachers"}
    known: dict[str, Any] = {
        # As JSON has a tuple.
        k: tuple(v) if isinstance(v, list) else v
        for k, v in summary["arguments"].items()
        if k in names
    }
    return MethodOptions(**known, budget=budget, teachers=tuple(summary.get("teachers", ())))


def finder_of(summary: dict, options: MethodOptions) -> PatientMinimum | None:
    """The detector as it has seen the profile under way; None where none looks for theta_b.

    Of several teachers, that of the last one whose profile has a measurement.
    """
    if not options.detects:
        return None
    if options.by_confidence:
        turn = ConfidenceDetector(options.patience)
        for seen in _of_last_teacher(summary["confidence"]):
            if seen["step"] > 0 and not turn.confirmed:
                turn.observe(seen["step"], seen["fall"])
        return turn
    detector = BottleneckDetector(
        options.patience, options.min_delta, options.confirm_level, options.shock_level
    )
    profile = [m for m in summary["measurements"] if m["phase"] == "profile"]
    for measured in _of_last_teacher(profile):
        if detector.confirmed:
            break
        accuracy = measured["accuracy"]
        detector.observe(
            measured["step"],
            Outcome(
                float("nan") if accuracy is None else accuracy,
                measured["marks"],
                measured["samples_per_prompt"],
                measured["truncated"],
            ),
        )
    return detector


def _of_last_teacher(entries: list[dict]) -> list[dict]:
    return [one for one in entries if one.get("teacher") == entries[-1].get("teacher")]


def remaining(
    summary: dict, options: MethodOptions, *, done: int, phase: str, step_seconds: float
) -> tuple[Remaining, Remaining]:
    """(if the lowest step so far is theta_b, if theta_b comes as late as it can). `done`: training
    steps so far, in `phase`; `step_seconds`: of one, without measurements."""
    profiles = [p["last_iteration"] for p in summary["phases"] if p["phase"] == "profile"]
    finder = finder_of(summary, options)
    last = options.last_profile_step
    if phase != "profile" and profiles:
        offset = max(profiles)
        return (_after_profile(summary, options, done - offset, step_seconds),) * 2
    lowest = finder.theta_b_step if finder is not None else None
    likely = min(last, lowest or max(options.simple_step, done - offset_of(summary)))
    found = []
    for bottleneck in (likely, last):
        planned = walk(options, bottleneck)
        found.append(_minus(planned, summary, done, step_seconds))
    return found[0], found[1]


def offset_of(summary: dict) -> int:
    """Steps of the phases that have ended."""
    return max((p["last_iteration"] for p in summary["phases"]), default=0)


def _minus(planned: Walk, summary: dict, done: int, step_seconds: float) -> Remaining:
    """The rest of a planned run."""
    steps = max(0, planned.steps - done)
    measurements = max(0, planned.measurements - len(summary["measurements"]))
    return _in_seconds(summary, steps, measurements, step_seconds)


def _after_profile(
    summary: dict, options: MethodOptions, step: int, step_seconds: float
) -> Remaining:
    steps = max(0, options.budget - step)
    interval = options.targeted_accuracy_interval
    measurements = steps and int(options.needs_answers)
    if interval:
        measurements = -(-options.budget // interval) - step // interval
    return _in_seconds(summary, steps, measurements, step_seconds)


def _in_seconds(summary: dict, steps: int, measurements: int, step_seconds: float) -> Remaining:
    took = [m["seconds"] for m in summary["measurements"][-_RECENT:]]
    each = sum(took) / len(took) if took else 0.0
    at_start = sum(e["seconds"] for e in summary["evaluations"] if e["weights"] == "theta_0")
    held_out = [m["seconds"] for m in summary.get("heldout", [])[-_RECENT:]]
    interval = summary["arguments"].get("heldout_interval") or 0
    beside = steps // interval * (sum(held_out) / len(held_out)) if interval and held_out else 0.0
    seconds = steps * step_seconds + measurements * each + beside + at_start
    return Remaining(steps, measurements, seconds)
