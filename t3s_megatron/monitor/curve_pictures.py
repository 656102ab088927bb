# SPDX-License-Identifier: Apache-2.0
"""The curves of a run's summary as pictures: accuracy, confidence, and the paper's Figure 4."""

from __future__ import annotations

from collections.abc import Sequence

from t3s_megatron.method.outcome import NOT_ASKED
from t3s_megatron.monitor.charts import Band, Point, Series, line_chart
from t3s_megatron.monitor.markup import Markup, joined

#: A phase's colour in the charts of one run, and its dashes where colours tell runs apart.
_COLOURS = {"profile": 0, "targeted": 2, "transferred": 3}

Key = tuple[str, str | None]  # phase and, where there are several, teacher


def accuracy_by_iteration(summary: dict) -> Markup:
    """Training accuracy with its standard error, the phases behind it, theta_b marked."""
    offsets = _offsets(summary)
    series = [
        Series(_named(key), _accuracies(entries, offsets.get(key, 0)), _COLOURS.get(key[0], 1))
        for key, entries in _by_phase(summary["measurements"]).items()
    ]
    series += [
        Series(f"{_named(key)}, held-out", _accuracies(entries, offsets.get(key, 0)), 1, True)
        for key, entries in _by_phase(summary.get("heldout", [])).items()
    ]
    return line_chart(
        "Training accuracy by iteration, one standard error up and down",
        series,
        x_title="iteration of training (steps of all phases, one after the other)",
        y_title="training accuracy",
        y_range=(0.0, _top(series)),
        bands=_bands(summary),
        marks=_marks(summary),
    )


def accuracy_of_several(summaries: Sequence[dict], names: Sequence[str]) -> Markup:
    """Training accuracy of several runs by steps from theta_0; the profile of each is dashed where
    training began anew after it."""
    series = []
    for number, (summary, name) in enumerate(zip(summaries, names, strict=True)):
        for key, entries in _by_phase(summary["measurements"]).items():
            dashed = key[0] == "profile" and any(
                p["phase"] == "targeted" for p in summary["phases"]
            )
            title = f"{name}, {_named(key)}"
            # A little aside, or the bars of runs that agree would hide one another.
            aside = (number - (len(summaries) - 1) / 2) * min(0.06, 0.3 / len(summaries))
            series.append(Series(title, _accuracies(entries, aside), number, dashed))
    return line_chart(
        "Training accuracy of all runs by steps from theta_0, one standard error up and down",
        series,
        x_title="steps from theta_0 (dashed: a profile whose steps were taken back)",
        y_title="training accuracy",
        y_range=(0.0, _top(series)),
    )


def confidence_by_step(summary: dict) -> Markup:
    """The mean fall of the falling tokens, where --t3s-signal watches it."""
    offsets = _offsets(summary)
    entries: dict[Key, list[dict]] = {}
    for entry in summary.get("confidence", []):
        entries.setdefault(("profile", entry.get("teacher")), []).append(entry)
    series = [
        Series(_named(key), _points(of, "fall", offsets.get(key, 0)), number)
        for number, (key, of) in enumerate(entries.items())
    ]
    return line_chart(
        "Fall of the falling tokens' log-probs by iteration",
        series,
        x_title="iteration of training",
        y_title="mean delta_c (nats)",
        marks=_marks(summary),
    )


def figure_4(summary: dict) -> Markup:
    """Loss and delta_c of anchors and of the other tokens by iteration."""
    return joined(
        (
            _groups(summary, "loss", "Loss of anchors and of the others by iteration", "loss"),
            _groups(
                summary,
                "delta",
                "Change of log-prob since theta_0 of anchors and of the others by iteration",
                "mean delta_c (nats)",
            ),
        )
    )


def masked_losses(summary: dict) -> Markup:
    """Of a diffusion student: the loss of masked tokens that fell in the selector, and of the
    others, by step; and of those that are masked every time, where they are not the same."""
    steps = summary.get("masked_losses", [])
    fell = [
        Series("others", _points(steps, "loss_other", 0), 0),
        Series("fell in the selector", _points(steps, "loss_fell", 0), 1),
    ]
    forced = [
        Series("masked at random", _points(steps, "loss_random", 0), 0),
        Series("masked every time", _points(steps, "loss_forced", 0), 1),
    ]
    titles = "Loss of the masked tokens that fell in the selector and of the others by step"
    charts = [line_chart(titles, fell, x_title="step", y_title="loss")]
    if any(step.get("loss_forced") != step.get("loss_fell") for step in steps) or not charts[0]:
        titles = "Loss of the tokens masked every time and of those masked at random by step"
        charts.append(line_chart(titles, forced, x_title="step", y_title="loss"))
    return joined(charts)


def _groups(summary: dict, what: str, title: str, y_title: str) -> Markup:
    offsets = _offsets(summary)
    series = []
    for key, entries in _by_phase(summary.get("figure_4", [])).items():
        for colour, (group, name) in enumerate((("other", "others"), ("anchor", "anchors"))):
            points = _points(entries, f"{what}_{group}", offsets.get(key, 0))
            series.append(Series(f"{name}, {_named(key)}", points, colour, key[0] == "profile"))
    return line_chart(
        f"{title} (Figure 4)",
        series,
        x_title="iteration of training",
        y_title=y_title,
        bands=_bands(summary),
        marks=_marks(summary),
    )


def _named(key: Key) -> str:
    phase, teacher = key
    return phase if teacher is None else f"{phase} {teacher}"


def _by_phase(entries: Sequence[dict]) -> dict[Key, list[dict]]:
    found: dict[Key, list[dict]] = {}
    for entry in entries:
        found.setdefault((entry["phase"], entry.get("teacher")), []).append(entry)
    return found


def _offsets(summary: dict) -> dict[Key, int]:
    """Iterations before the first step of each phase."""
    return {(p["phase"], p.get("teacher")): p["first_iteration"] - 1 for p in summary["phases"]}


def _bands(summary: dict) -> list[Band]:
    return [
        Band(p["first_iteration"] - 1, p["last_iteration"], p.get("teacher") or p["phase"])
        for p in summary["phases"]
    ]


def _marks(summary: dict) -> list[tuple[float, str]]:
    offsets = _offsets(summary)
    whose = [(None, summary), *summary.get("teachers", {}).items()]
    return [
        (offsets.get(("profile", teacher), 0) + found["theta_b_step"], "theta_b")
        for teacher, found in whose
        if found.get("theta_b_step") is not None
    ]


def _points(entries: Sequence[dict], key: str, offset: int) -> list[Point]:
    return [
        Point(offset + entry["step"], entry[key], None, f"step {entry['step']}: {entry[key]:.4f}")
        for entry in entries
        if entry.get(key) is not None
    ]


def _accuracies(entries: Sequence[dict], offset: float) -> list[Point]:
    """Those that are not void."""
    return [
        Point(offset + e["step"], e["accuracy"], e["standard_error"], accuracy_label(e))
        for e in entries
        if e["accuracy"] is not None
    ]


def accuracy_label(entry: dict) -> str:
    """A measurement in a few words."""
    return f"step {entry['step']}: {accuracy_text(entry)}"


def accuracy_text(entry: dict) -> str:
    """An accuracy with its standard error; "~" before one that is an estimate over what was asked
    before the measurement ended early."""
    if entry["accuracy"] is None:
        return "void"
    about = "~" if NOT_ASKED in entry.get("marks", "") else ""
    return f"{about}{entry['accuracy']:.3f} ± {entry['standard_error']:.3f}"


def _top(series: Sequence[Series]) -> float:
    """Of the axis: a little above the highest bar, and never far above 1."""
    ends = [point.y + (point.error or 0) for line in series for point in line.points]
    return min(1.05, max([0.1, *(1.1 * end for end in ends)]))
