# SPDX-License-Identifier: Apache-2.0
"""An analysis as figures, tables and charts: to a file, to the terminal and onto the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from t3s_megatron.data.durable import write_bytes
from t3s_megatron.errors import T3SError
from t3s_megatron.monitor.charts import Point, Series, histogram, line_chart, scatter
from t3s_megatron.monitor.markup import Markup, table, tag

FORMAT = 1

#: A cell: text, a number, or nothing known.
type Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """The first column names the rows."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Lines:
    """`series`: by name, points (x, y)."""

    title: str
    x: str
    y: str
    series: dict[str, list[tuple[float, float]]]


@dataclass(frozen=True)
class Scatter:
    """`groups`: by name, points (x, y) that nothing joins."""

    title: str
    x: str
    y: str
    groups: dict[str, list[tuple[float, float]]]


@dataclass(frozen=True)
class Bars:
    """A histogram. `edges`: n + 1 of n bins; `counts`: by name, n each."""

    title: str
    x: str
    edges: list[float]
    counts: dict[str, list[int]]


@dataclass(frozen=True)
class Ranking:
    """Names with a signed number each, in their order."""

    title: str
    x: str
    values: list[tuple[str, float]]


type Chart = Lines | Scatter | Bars | Ranking

_CHARTS: dict[str, type] = {
    "lines": Lines,
    "scatter": Scatter,
    "bars": Bars,
    "ranking": Ranking,
}


@dataclass(frozen=True)
class Analysis:
    """`name`: as the command has it; `title`: what it is, with its place in the paper; `source`:
    what was read; `figures`: every number, JSON-able; `notes`: what a reader has to know."""

    name: str
    title: str
    source: str
    figures: dict
    tables: list[Table]
    charts: list[Chart]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict:
        kinds = {kind: name for name, kind in _CHARTS.items()}
        charts = [{"kind": kinds[type(chart)]} | asdict(chart) for chart in self.charts]
        return asdict(self) | {"format": FORMAT, "charts": charts}

    @classmethod
    def from_dict(cls, content: dict) -> Analysis:
        """KeyError, TypeError or ValueError for what `to_dict` has not made."""
        if content["format"] != FORMAT:
            raise ValueError(f"of format {content['format']}, expected {FORMAT}")
        charts = [
            _CHARTS[chart["kind"]](**{k: v for k, v in chart.items() if k != "kind"})
            for chart in content["charts"]
        ]
        return cls(
            content["name"],
            content["title"],
            content["source"],
            content["figures"],
            [Table(**found) for found in content["tables"]],
            charts,
            list(content["notes"]),
        )


def write_analysis(analysis: Analysis, path: str) -> None:
    """As JSON. WriteError where it cannot be written."""
    write_bytes(path, json.dumps(analysis.to_dict(), indent=1, allow_nan=False).encode())


def read_analysis(path: str) -> Analysis:
    """T3SError for a file that `write_analysis` has not written."""
    try:
        with open(path, encoding="utf-8") as file:
            return Analysis.from_dict(json.load(file))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise T3SError(f"{path}: cannot be read as an analysis ({error!r})") from error


def written(cell: Cell) -> str:
    """A cell for a person."""
    if cell is None:
        return "-"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def as_text(analysis: Analysis) -> str:
    """Tables for the terminal."""
    parts = [f"{analysis.title}\n{analysis.source}"]
    for found in analysis.tables:
        cells = [found.columns, *([written(cell) for cell in row] for row in found.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0])]
                      + [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)])
            for row in cells
        ]  # fmt: skip
        parts.append("\n".join([found.title, *(line.rstrip() for line in lines)]))
    parts += analysis.notes
    return "\n\n".join(parts)


# ------------------------------------------------------------------------------------- on the page


def analysis_sections(analyses: Sequence[Analysis]) -> list[Markup]:
    """One section an analysis."""
    return [_section(analysis) for analysis in analyses]


def _section(analysis: Analysis) -> Markup:
    parts: list[Markup] = [
        tag("h2", analysis.title),
        tag("p", analysis.source, class_="soft"),
        *(drawn for chart in analysis.charts if (drawn := _drawn(chart))),
    ]
    for found in analysis.tables:
        rows = [[written(cell) for cell in row] for row in found.rows]
        parts.append(table(found.columns, rows, found.title))
    parts += [tag("p", note) for note in analysis.notes]
    return tag("section", *parts, id=f"analysis-{analysis.name}")


def _drawn(chart: Chart) -> Markup:
    if isinstance(chart, Lines):
        series = [
            Series(name, [Point(x, y, label=f"{y:.4g} at {x:g}") for x, y in points], colour)
            for colour, (name, points) in enumerate(chart.series.items())
        ]
        return line_chart(chart.title, series, x_title=chart.x, y_title=chart.y)
    if isinstance(chart, Scatter):
        return scatter(chart.title, chart.groups, x_title=chart.x, y_title=chart.y)
    if isinstance(chart, Bars):
        return histogram(chart.title, chart.edges, list(chart.counts.items()), x_title=chart.x)
    return Markup("")  # its numbers stand in a table
