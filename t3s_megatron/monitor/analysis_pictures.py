# SPDX-License-Identifier: Apache-2.0
"""The charts of an analysis as one .png, with matplotlib (the extra `pictures`)."""

from __future__ import annotations

from t3s_megatron.monitor.analyses import Analysis, Bars, Chart, Lines, Scatter
from t3s_megatron.monitor.figures import pyplot_without_screen, write_figure

_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")
#: Of a ranking, so many names are drawn: half from each end.
_NAMES = 40


def draw_analysis(analysis: Analysis, path: str) -> None:
    """T3SError without matplotlib, or where the picture cannot be written."""
    pyplot = pyplot_without_screen()
    sizes = [7.0 if _is_long(chart) else 3.4 for chart in analysis.charts]
    figure, panels = pyplot.subplots(
        len(sizes), 1, figsize=(8, sum(sizes)), squeeze=False, height_ratios=sizes
    )
    for panel, chart in zip(panels[:, 0], analysis.charts, strict=True):
        _draw(panel, chart)
        panel.set_title(chart.title, loc="left", fontsize=10)
    write_figure(figure, path, 100, f"{path}: the picture cannot be written")


def _is_long(chart: Chart) -> bool:
    return not isinstance(chart, Lines | Bars)


def _draw(panel, chart: Chart) -> None:
    if isinstance(chart, Lines):
        for colour, (name, points) in zip(_COLOURS * 4, chart.series.items(), strict=False):
            across, up = zip(*points, strict=True) if points else ((), ())
            panel.plot(across, up, marker="o", markersize=3, linewidth=1, label=name, color=colour)
        panel.axhline(0, color="grey", linewidth=0.5)
        panel.set_xlabel(chart.x)
        panel.set_ylabel(chart.y)
        panel.legend(fontsize=8)
    elif isinstance(chart, Scatter):
        for colour, (name, points) in zip(_COLOURS * 4, chart.groups.items(), strict=False):
            across, up = zip(*points, strict=True) if points else ((), ())
            panel.scatter(across, up, s=9, alpha=0.6, linewidths=0, label=name, color=colour)
        panel.set_xlabel(chart.x)
        panel.set_ylabel(chart.y)
        panel.legend(fontsize=8)
    elif isinstance(chart, Bars):
        for colour, (name, counts) in zip(_COLOURS * 4, chart.counts.items(), strict=False):
            panel.stairs(counts, chart.edges, fill=True, alpha=0.45, label=name, color=colour)
        panel.set_xlabel(chart.x)
        panel.set_ylabel("tokens")
        panel.set_yscale("symlog")
        panel.legend(fontsize=8)
    else:
        values = chart.values
        if len(values) > _NAMES:
            values = values[: _NAMES // 2] + values[-_NAMES // 2 :]
        names = [_shown(name) for name, _ in reversed(values)]
        numbers = [number for _, number in reversed(values)]
        colours = [_COLOURS[1] if number > 0 else _COLOURS[0] for number in numbers]
        panel.barh(range(len(names)), numbers, color=colours)
        panel.set_yticks(range(len(names)), names, fontsize=7)
        panel.set_xlabel(chart.x)


def _shown(name: str) -> str:
    """Without what matplotlib would set as a formula."""
    return repr(name).replace("$", r"\$")
