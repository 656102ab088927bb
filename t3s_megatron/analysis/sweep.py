# SPDX-License-Identifier: Apache-2.0
"""Runs whose selections are of different steps of one profile (section 4.4, Table 8)."""

from __future__ import annotations

from collections.abc import Sequence

from t3s_megatron.errors import T3SError
from t3s_megatron.monitor.analyses import Analysis, Lines, Table


def selector_sweep(summaries: Sequence[dict], paths: Sequence[str]) -> Analysis:
    """The last accuracies of each run by the step of its selector: those of
    --t3s-report-temperatures, or else the last training accuracy."""
    points: dict[str, dict[int, dict]] = {}
    for summary, path in zip(summaries, paths, strict=True):
        step = (summary.get("selection") or {}).get("theta_b_step", summary.get("theta_b_step"))
        if not isinstance(step, int):
            raise T3SError(f"{path}: trained with no selection of one step; nothing to place it by")
        for title, found in _last_accuracies(summary):
            if step in points.setdefault(title, {}):
                raise T3SError(f"{path}: a second run whose selection is of step {step}")
            points[title][step] = found | {
                "masked_share": summary.get("tokens", {}).get("masked_share")
            }
    if not points:
        raise T3SError(f"{paths[0]}: no accuracy was measured in these runs")
    rows = [
        [f"{step}", title, found["masked_share"], found["accuracy"], found["standard_error"]]
        for title, by_step in points.items()
        for step, found in sorted(by_step.items())
    ]
    charts = [
        Lines("Accuracy at the end by step of the selector", "theta_b", "accuracy", {
            title: [(float(step), by_step[step]["accuracy"]) for step in sorted(by_step)]
            for title, by_step in points.items()
        })
    ]  # fmt: skip
    return Analysis(
        "sweep",
        "Accuracy by the step that selects (Table 8)",
        ", ".join(paths),
        {title: {str(s): by_step[s] for s in sorted(by_step)} for title, by_step in points.items()},
        [Table("After training with the selection of each step",
               ["theta_b", "accuracy of", "masked", "accuracy", "standard error"], rows)],
        list(charts),
    )  # fmt: skip


def _last_accuracies(summary: dict) -> list[tuple[str, dict]]:
    final = [e for e in summary["evaluations"] if e["weights"] not in ("theta_0", "theta_f")]
    measured = [m for m in summary["measurements"] if m["accuracy"] is not None]
    found = [(f"{e['split']} at T = {e['temperature']:g}", e) for e in final]
    if not found and measured:
        found = [(f"train at T = {measured[-1]['temperature']:g}", measured[-1])]
    return [
        (title, {"accuracy": e["accuracy"], "standard_error": e["standard_error"]})
        for title, e in found
    ]
