# SPDX-License-Identifier: Apache-2.0
"""`t3s-megatron watch OUT`: where a run is, and how long it will take."""

from __future__ import annotations

import argparse
import glob
import os
import time

from t3s_megatron.errors import T3SError
from t3s_megatron.method.patience import PatientMinimum
from t3s_megatron.monitor.curve_pictures import accuracy_text
from t3s_megatron.monitor.progress import Reached, read_progress
from t3s_megatron.monitor.report import read_summary
from t3s_megatron.planning.remaining import finder_of, options_of_run, remaining

_SUMMARY = "summary.json"
#: A run that has not been heard of for so many of its own steps and measurements may be dead.
_SILENT = 10


def add_command(commands) -> None:
    """The `watch` command of `t3s-megatron`."""
    command = commands.add_parser("watch", help="where a run is, and how long it will take")
    command.add_argument(
        "folder", metavar="OUT", help="of a run, or of several: shown is the one that is under way"
    )
    command.add_argument(
        "--every", type=float, metavar="SECONDS", help="again and again, until the run has ended"
    )
    command.set_defaults(run=run_command)


def run_command(args: argparse.Namespace) -> int:
    """T3SError where there is no run."""
    if args.every is not None and args.every <= 0:
        raise T3SError("--every has to be above 0")
    while True:
        folder = _folder(args.folder)
        summary = read_summary(os.path.join(folder, _SUMMARY))
        print(describe(folder, summary, read_progress(folder), time.time()), flush=True)
        if args.every is None or summary.get("finished"):
            return 0
        time.sleep(args.every)
        print()


def _folder(given: str) -> str:
    """The `t3s/` folder of the run under `given` that has spoken last."""
    inside = glob.escape(given)
    found = [
        path
        for pattern in ("", "t3s", "*/t3s")
        for path in glob.glob(os.path.join(inside, pattern, _SUMMARY))
    ]
    if not found:
        raise T3SError(
            f"{given}: no {_SUMMARY} there, in t3s/, or in */t3s/: a run writes it with its first "
            "measurement; give what --t3s-dir, --save or OUT named"
        )
    return os.path.dirname(max(found, key=os.path.getmtime))


def describe(folder: str, summary: dict, reached: Reached | None, now: float) -> str:
    """A few lines for a person. `now`: seconds since the epoch."""
    lines = [f"{summary['method']}, {folder}"]
    if summary.get("finished"):
        lines.append(f"finished after {_time(summary['seconds']['run'])}")
        return "\n".join(lines + _accuracies(summary))
    if reached is None:
        return "\n".join([*lines, "before its first step", *_accuracies(summary)])
    options = options_of_run(summary, reached.budget)
    lines.append(
        f"phase {reached.phase}, step {reached.step}; {reached.iteration} training steps of at "
        f"most {reached.train_iters}, {reached.step_seconds:.1f} s each"
    )
    lines += _accuracies(summary)
    if reached.phase == "profile":
        lines += _search(finder_of(summary, options), options.patience)
    soonest, longest = remaining(
        summary,
        options,
        done=reached.iteration,
        phase=reached.phase,
        step_seconds=reached.step_seconds,
    )
    since = max(0.0, now - reached.time)
    left = [max(0.0, one.seconds - since) for one in (soonest, longest)]
    said = _time(left[0]) if left[0] == left[1] else f"{_time(left[0])} to {_time(left[1])}"
    lines.append(
        f"left: about {said} ({soonest.steps} to {longest.steps} steps, {soonest.measurements} to "
        f"{longest.measurements} measurements), without scoring and saving"
    )
    longest_pause = max([reached.step_seconds, *(m["seconds"] for m in summary["measurements"])])
    if since > _SILENT * longest_pause:
        lines.append(
            f"WARNING: nothing for {_time(since)}, and its longest measurement or step took "
            f"{_time(longest_pause)}: it may hang, or have ended"
        )
    return "\n".join(lines)


def _accuracies(summary: dict) -> list[str]:
    lines = []
    for name, key in (("accuracy", "measurements"), ("held-out", "heldout")):
        measured = [m for m in summary.get(key, []) if m["accuracy"] is not None]
        if not measured:
            continue
        last, lowest = measured[-1], min(measured, key=lambda m: m["accuracy"])
        lines.append(
            f"{name}: {accuracy_text(last)} at {last['phase']} step {last['step']}; lowest "
            f"{accuracy_text(lowest)} at {lowest['phase']} step {lowest['step']}; first "
            f"{accuracy_text(measured[0])}"
        )
    return lines


def _search(finder: PatientMinimum | None, patience: int) -> list[str]:
    if finder is None:
        return []
    if finder.confirmed:
        return [f"theta_b is step {finder.theta_b_step} ({finder.confirmed_by})"]
    if not finder.shock_seen:
        return ["nothing has fallen below step 0 yet"]
    left = patience - finder.waited
    return [
        f"lowest is step {finder.theta_b_step}; confirmed after {left} more "
        f"{'measurement' if left == 1 else 'measurements'} without a new minimum"
    ]


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
