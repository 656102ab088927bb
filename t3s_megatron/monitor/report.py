# SPDX-License-Identifier: Apache-2.0
"""Tables and a picture of finished runs, from their summaries."""

from __future__ import annotations

import json

from t3s_megatron.errors import T3SError
from t3s_megatron.method.evidence import Evidence
from t3s_megatron.method.outcome import NOT_ASKED
from t3s_megatron.monitor.figures import pyplot_without_screen, write_figure
from t3s_megatron.monitor.summary import FORMAT

#: Names of weights in the tables; theta_0 is the same student in every run.
_WEIGHTS = {"theta_0": "base (theta_0)", "theta_f": "SFT (theta_f)", "theta_rrt": "RRT"}


#: What the tables and the picture read; every summary that a run has written holds it.
_KEYS = (
    "method", "arguments", "measurements", "evaluations", "tokens", "phases",
    "theta_b_step", "theta_b_reason", "theta_b_evidence",
)  # fmt: skip


def read_summary(path: str, name: str | None = None) -> dict:
    """T3SError when the file is not a summary of this package. `name`: what the run is called in
    tables instead of its method."""
    try:
        with open(path, encoding="utf-8") as file:
            summary = json.load(file)
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not JSON, or not UTF-8
        raise T3SError(f"{path}: cannot be read as a t3s/summary.json ({error})") from error
    if not isinstance(summary, dict) or "measurements" not in summary:
        raise T3SError(f"{path}: not a t3s/summary.json")
    if summary.get("format") != FORMAT:
        raise T3SError(
            f"{path}: a summary of format {summary.get('format')}, expected {FORMAT}; read it "
            "with the version of t3s-megatron that wrote it"
        )
    missing = [key for key in _KEYS if key not in summary]
    if missing:
        raise T3SError(f"{path}: damaged, it lacks {', '.join(missing)}; run it again")
    return summary | ({} if name is None else {"name": name})


def called(summary: dict) -> str:
    """What a run is called: its method, unless it was given a name."""
    return summary.get("name") or summary["method"]


def tables(summaries: list[dict]) -> str:
    """The text a person sees at the end: accuracy by step, then accuracy by weights."""
    parts = [_by_step(summary) for summary in summaries]
    if any(summary.get("targeting") for summary in summaries):
        parts.append(_masked_losses(summaries))
    evaluations = _by_weights(summaries)
    if evaluations:
        parts.append(evaluations)
    if tokens := _answer_tokens(summaries):
        parts.append(tokens)
    return "\n\n".join(parts)


def _by_step(summary: dict) -> str:
    lines = [_headline(summary)]
    titles = {
        (phase, teacher): phase if teacher is None else f"{phase} {teacher}"
        for phase, teacher in _phases(summary["measurements"])
    }
    width = max([11, *map(len, titles.values())]) + 1
    for (phase, teacher), title in titles.items():
        measured = _of(summary["measurements"], phase, teacher)
        cells = [f"{m['step']}:{_accuracy(m)}" for m in measured]
        for first in range(0, len(cells), 12):
            shown = title if first == 0 else ""
            lines.append(f"  {shown:<{width}}{'  '.join(cells[first : first + 12])}")
    return "\n".join(lines)


def _masked_losses(summaries: list[dict]) -> str:
    """Of diffusion students: what was forced, and the losses of masked tokens that fell in the
    selector and of the others, as means over the first and the last steps (a tenth, at least 1)."""
    lines = [
        "losses of masked tokens, first and last steps: those that fell in the selector; others"
    ]
    for summary in summaries:
        steps, about = summary.get("masked_losses", []), summary.get("targeting")
        if not about or not steps:
            continue
        some = max(1, len(steps) // 10)
        cells = [
            f"{_mean(steps[:some], name)} -> {_mean(steps[-some:], name)}"
            for name in ("loss_fell", "loss_other")
        ]
        masked = _mean(steps, "masked_share")
        lines.append(
            f"  {called(summary):<28}{cells[0]}; {cells[1]}   "
            f"forced {about['forced_share']:.1%}, masked {masked} of the targets"
        )
    return "\n".join(lines)


def _mean(steps: list[dict], name: str) -> str:
    values = [step[name] for step in steps if step.get(name) is not None]
    return f"{sum(values) / len(values):.3f}" if values else "-"


def _accuracy(measurement: dict) -> str:
    """ "~0.83" where the measurement ended early, and is an estimate over what was asked."""
    if measurement["accuracy"] is None:
        return "void"
    ended_early = NOT_ASKED in measurement.get("marks", "")
    return f"{'~' if ended_early else ''}{measurement['accuracy']:.2f}"


def _headline(summary: dict) -> str:
    temperature = summary["arguments"]["temperature"]
    line = f"{called(summary)}: training accuracy by step at T = {temperature:g}"
    line += _selected(summary) + _how_sure(summary)
    for teacher, found in summary.get("teachers", {}).items():
        line += f"\n  teacher {teacher}: {found['samples']} samples{_selected(found)}"
        line += _how_sure(found)
    return line


def _how_sure(found: dict) -> str:
    """A line about the fall to theta_b and the rise after it, and one for each that may be chance;
    nothing where theta_b is no minimum of accuracy."""
    known = found.get("theta_b_evidence")
    if known is None:
        return ""
    evidence = Evidence.from_dict(known)
    return "".join(f"\n  {line}" for line in (evidence.describe(), *evidence.warnings()))


def _selected(found: dict) -> str:
    """theta_b and what was masked, of a run or of one of its teachers, as far as there is any."""
    said = ""
    if found.get("theta_b_step") is not None:
        said += f"; theta_b = step {found['theta_b_step']} ({found['theta_b_reason']})"
    tokens = found.get("tokens")
    if tokens:
        said += f"; {tokens['masked_share']:.0%} of {tokens['target_tokens']} tokens masked"
        if tokens.get("anchor_share") is not None:
            said += f", anchor share {tokens['anchor_share']:.2f}"
        if tokens.get("mean_weight") is not None:
            said += f", mean weight of the others {tokens['mean_weight']:.2f}"
    return said


def _phases(entries: list[dict]) -> list[tuple[str, str | None]]:
    """(phase, teacher) of measurements or phase records, in the order of their first."""
    return list(dict.fromkeys((one["phase"], one.get("teacher")) for one in entries))


def _of(entries: list[dict], phase: str, teacher: str | None) -> list[dict]:
    return [one for one in entries if (one["phase"], one.get("teacher")) == (phase, teacher)]


def _by_weights(summaries: list[dict]) -> str:
    cells: dict[str, dict[tuple, str]] = {}
    columns: list[tuple] = []
    for number, summary in enumerate(summaries, start=1):
        rows: dict[str, dict[tuple, str]] = {}
        for e in summary["evaluations"]:
            name = _WEIGHTS.get(e["weights"], called(summary).upper())
            if "name" in summary and e["weights"] != "theta_0":
                name = called(summary).upper()
            column = (e["split"], e["temperature"])
            if column not in columns:
                columns.append(column)
            text = "void"
            if e["accuracy"] is not None:
                text = f"{e['accuracy']:.3f} +- {e['standard_error']:.3f}"
            rows.setdefault(name, {})[column] = text
        for name, row in rows.items():
            known = cells.setdefault(name, {})
            if any(known.get(column, text) != text for column, text in row.items()):
                # Runs that differ (seeds, students) each keep their numbers.
                cells[f"{name}, run {number}"] = row
            else:
                known.update(row)
    if not cells:
        return ""
    width = max(len(name) for name in cells) + 2
    titles = [f"{split} T={temperature:g}" for split, temperature in columns]
    lines = ["accuracy by weights (T=0 is greedy, one answer a prompt)"]
    lines.append(" " * width + "  ".join(f"{title:>14}" for title in titles))
    for name, row in cells.items():
        values = "  ".join(f"{row.get(column, '-'):>14}" for column in columns)
        lines.append(f"{name:<{width}}{values}")
    return "\n".join(lines)


def _answer_tokens(summaries: list[dict]) -> str:
    """Table 10: tokens of all answers at the named weights of diffusion students, and the forwards
    that they took."""
    cells: list[tuple[str, ...]] = []
    for summary in summaries:
        for e in summary["evaluations"]:
            if not e.get("forwards"):
                continue
            name = _WEIGHTS["theta_0"] if e["weights"] == "theta_0" else called(summary)
            cell = (
                name, f"{e['split']} T={e['temperature']:g}", f"{e['total']:,}",
                f"{e['generated_tokens']:,}", f"{e['generated_tokens'] / e['total']:.1f}",
                f"{e['forwards']:,}", f"{e['tokens_per_forward']:.2f}",
            )  # fmt: skip
            if cell not in cells:  # theta_0 is the same in every run
                cells.append(cell)
    if not cells:
        return ""
    titles = ("", "prompts", "answers", "tokens", "an answer", "forwards", "a forward")
    width = max(len(cell[0]) for cell in cells) + 2
    lines = ["tokens of answers, and forwards that set them"]
    for row in (titles, *cells):
        lines.append(f"{row[0]:<{width}}" + "  ".join(f"{value:>12}" for value in row[1:]))
    return "\n".join(lines)


def draw(summaries: list[dict], path: str) -> None:
    """Accuracy by Megatron iteration with the phases shaded, one panel a run, as a .png."""
    pyplot = pyplot_without_screen()
    figure, panels = pyplot.subplots(
        len(summaries), 1, figsize=(9, 3.2 * len(summaries)), squeeze=False
    )
    colours = {"profile": "tab:blue", "targeted": "tab:green", "transferred": "tab:red"}
    for panel, summary in zip(panels[:, 0], summaries, strict=True):
        offsets = {
            (r["phase"], r.get("teacher")): r["first_iteration"] - 1 for r in summary["phases"]
        }
        for record in summary["phases"]:
            span = (record["first_iteration"] - 1, record["last_iteration"])
            panel.axvspan(*span, color=colours[record["phase"]], alpha=0.08)
            title = record.get("teacher", record["phase"])
            panel.text(sum(span) / 2, 1.03, title, ha="center", fontsize=9)
        for phase, teacher in _phases(summary["measurements"]):
            colour = colours[phase]
            points = [
                m for m in _of(summary["measurements"], phase, teacher) if m["accuracy"] is not None
            ]
            if points:
                panel.errorbar(
                    [offsets.get((phase, teacher), 0) + m["step"] for m in points],
                    [m["accuracy"] for m in points],
                    yerr=[m["standard_error"] for m in points],
                    marker="o", markersize=3, linewidth=1, color=colour,
                )  # fmt: skip
            if points and phase == "transferred":  # weights after the last step, not a step
                place = (points[-1]["step"], points[-1]["accuracy"])
                label = "theta_0 + (theta_f - theta_b)  "
                panel.annotate(label, place, ha="right", va="center", color=colour, fontsize=9)
        found = [(None, summary), *summary.get("teachers", {}).items()]
        for teacher, known in found:
            if known.get("theta_b_step") is not None:
                at = offsets.get(("profile", teacher), 0) + known["theta_b_step"]
                panel.axvline(at, color="black", linestyle=":", linewidth=1)
                panel.text(at, 0.02, " theta_b", fontsize=9)
        panel.set_ylim(0, 1.1)
        panel.set_ylabel("training accuracy")
        panel.set_title(called(summary), loc="left", fontsize=10)
    panels[-1, 0].set_xlabel("iteration")
    write_figure(figure, path, 110, f"--picture {path}: cannot be written")
