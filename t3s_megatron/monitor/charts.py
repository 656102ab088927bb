# SPDX-License-Identifier: Apache-2.0
"""Line charts, clouds of points and histograms as inline SVG, in the colours of the
page they stand in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from t3s_megatron.monitor.markup import Markup, joined, tag

_WIDTH, _HEIGHT = 760, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 744, 28, 254
#: How many colours of series the style sheet has.
COLOURS = 6


@dataclass(frozen=True)
class Point:
    """`error`: half the length of its bar. `label`: what hovering says."""

    x: float
    y: float
    error: float | None = None
    label: str = ""


@dataclass(frozen=True)
class Series:
    """Points that a line joins, in their order."""

    name: str
    points: Sequence[Point]
    colour: int = 0
    dashed: bool = False


@dataclass(frozen=True)
class Band:
    """A shaded range of the horizontal axis, with its name above."""

    first: float
    last: float
    name: str


@dataclass(frozen=True)
class Axes:
    """Where values stand in the picture."""

    x: tuple[float, float]
    y: tuple[float, float]

    def across(self, value: float) -> float:
        return _between(value, self.x, (_LEFT, _RIGHT))

    def up(self, value: float) -> float:
        return _between(value, self.y, (_BOTTOM, _TOP))


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_title: str,
    y_title: str,
    y_range: tuple[float, float] | None = None,
    bands: Sequence[Band] = (),
    marks: Sequence[tuple[float, str]] = (),
) -> Markup:
    """A figure with its legend. `marks`: vertical lines with a name; `y_range`: of the vertical
    axis, else as far as points and their bars reach. Empty where there is no point."""
    points = [point for line in series for point in line.points]
    if not points:
        return Markup("")
    across = [point.x for point in points] + [place for place, _ in marks]
    across += [edge for band in bands for edge in (band.first, band.last)]
    ends = [point.y + sign * (point.error or 0) for point in points for sign in (-1, 1)]
    axes = Axes(_wide(across), y_range or _with_room(ends))
    drawn = [
        *(_band(band, axes, number) for number, band in enumerate(bands)),
        _grid(axes, ticks(*axes.x, whole=True), ticks(*axes.y)),
        *(_mark(place, name, axes) for place, name in marks),
        *(_line(one, axes) for one in series),
        _titles(x_title, y_title),
    ]
    legend = [_legend(one.name, _stroke(one)) for one in series] if len(series) > 1 else []
    return _figure(title, drawn, legend)


def scatter(
    title: str,
    groups: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_title: str,
    y_title: str,
) -> Markup:
    """Points (x, y) of each group. Empty where there is none."""
    points = [point for of in groups.values() for point in of]
    if not points:
        return Markup("")
    axes = Axes(_with_room([x for x, _ in points]), _with_room([y for _, y in points]))
    # One of each group after the other: the last to be drawn would cover the first.
    by_turns = sorted(
        ((place / len(of), f"c{colour % COLOURS}", *point)
         for colour, of in enumerate(groups.values()) for place, point in enumerate(of)),
    )  # fmt: skip
    dots = [
        tag("circle", class_=f"cloud {kind}", cx=_round(axes.across(x)), cy=_round(axes.up(y)), r=3)
        for _, kind, x, y in by_turns
    ]
    drawn = [_grid(axes, ticks(*axes.x), ticks(*axes.y)), *dots, _titles(x_title, y_title)]
    legend = [
        _legend(name, tag("circle", cx=12, cy=6, r=4, class_=f"cloud c{colour % COLOURS}"))
        for colour, name in enumerate(groups)
    ]
    return _figure(title, drawn, legend)


def histogram(
    title: str,
    edges: Sequence[float],
    counts: Sequence[tuple[str, Sequence[int]]],
    *,
    x_title: str,
    marks: Sequence[tuple[float, str]] = (),
) -> Markup:
    """Bars by bin, of one group beside those of the next, on a logarithmic axis of counts.

    `edges`: n + 1 of n bins; `counts`: the name of each group and its n counts.
    """
    most = max((max(values) for _, values in counts), default=0)
    if not most:
        return Markup("")
    top = math.ceil(math.log10(most + 1))
    axes = Axes((edges[0], edges[-1]), (0.0, float(max(top, 1))))
    bars = []
    for number, (name, values) in enumerate(counts):
        for count, left, right in zip(values, edges[:-1], edges[1:], strict=True):
            if not count:
                continue
            width = (axes.across(right) - axes.across(left)) / len(counts)
            high = axes.up(math.log10(count + 1))
            said = tag("title", f"{left:.3g} to {right:.3g}: {count} {name}")
            bars.append(
                tag(
                    "rect",
                    said,
                    class_=f"bar c{number}",
                    x=_round(axes.across(left) + number * width),
                    y=_round(high),
                    width=_round(max(width - 0.6, 0.6)),
                    height=_round(_BOTTOM - high),
                )
            )
    decades = [(math.log10(10**n + 1), f"{10**n:,}") for n in range(top + 1)]
    drawn = [
        _grid(axes, ticks(*axes.x), [(place, name) for place, name in decades if place <= top]),
        *bars,
        *(_mark(place, name, axes) for place, name in marks),
        _titles(x_title, "tokens (logarithmic)"),
    ]
    legend = [
        _legend(name, tag("rect", width=24, height=12, class_=f"bar c{number}"))
        for number, (name, _) in enumerate(counts)
    ]
    return _figure(title, drawn, legend)


def bar(share: float, kind: str) -> Markup:
    """A small bar for a cell of a table; `share` of its full length, `kind`: rise or fall."""
    length = _round(120 * min(max(share, 0.0), 1.0))
    drawn = tag("rect", x=0, y=2, width=length, height=10, class_=f"small {kind}")
    return tag("svg", drawn, viewBox="0 0 120 14", width=120, height=14, aria_hidden="true")


def ticks(low: float, high: float, whole: bool = False) -> list[tuple[float, str]]:
    """About six round values from `low` to `high`, and how each is written."""
    raw = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    if whole:
        step = max(1.0, round(step))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [(n * step, f"{n * step:.6g}") for n in range(first, last + 1)]


def _wide(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _with_room(values: list[float]) -> tuple[float, float]:
    low, high = _wide(values)
    room = 0.06 * (high - low)
    return low - room, high + room


def _between(value: float, of: tuple[float, float], to: tuple[float, float]) -> float:
    return to[0] + (value - of[0]) / (of[1] - of[0]) * (to[1] - to[0])


def _round(value: float) -> str:
    return f"{value:.1f}"


def _figure(title: str, drawn: Iterable[Markup], legend: Sequence[Markup]) -> Markup:
    picture = tag(
        "svg",
        tag("title", title),
        *drawn,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=title,
    )
    listed = tag("ul", *legend, class_="legend") if legend else None
    return tag("figure", picture, tag("figcaption", title, listed))


def _grid(
    axes: Axes, across: Sequence[tuple[float, str]], up: Sequence[tuple[float, str]]
) -> Markup:
    parts = []
    for value, name in up:
        y = _round(axes.up(value))
        parts.append(tag("line", x1=_LEFT, x2=_RIGHT, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", name, x=_LEFT - 6, y=y, dy="0.35em", text_anchor="end"))
    for value, name in across:
        x = _round(axes.across(value))
        parts.append(tag("line", x1=x, x2=x, y1=_BOTTOM, y2=_BOTTOM + 4, class_="axis"))
        parts.append(tag("text", name, x=x, y=_BOTTOM + 17, text_anchor="middle"))
    parts.append(tag("line", x1=_LEFT, x2=_RIGHT, y1=_BOTTOM, y2=_BOTTOM, class_="axis"))
    return joined(parts)


def _titles(x_title: str, y_title: str) -> Markup:
    middle = (_TOP + _BOTTOM) / 2
    return joined(
        (
            tag("text", x_title, x=(_LEFT + _RIGHT) / 2, y=_HEIGHT - 8, text_anchor="middle"),
            tag(
                "text",
                y_title,
                text_anchor="middle",
                transform=f"translate(14 {middle}) rotate(-90)",
            ),
        )
    )


def _band(band: Band, axes: Axes, number: int) -> Markup:
    left, right = axes.across(band.first), axes.across(band.last)
    shade = tag(
        "rect",
        x=_round(left),
        y=_TOP,
        width=_round(right - left),
        height=_BOTTOM - _TOP,
        class_=f"band b{number % 2}",
    )
    name = tag("text", band.name, x=_round((left + right) / 2), y=_TOP - 8, text_anchor="middle")
    return joined((shade, name))


def _mark(place: float, name: str, axes: Axes) -> Markup:
    x = axes.across(place)
    line = tag("line", x1=_round(x), x2=_round(x), y1=_TOP, y2=_BOTTOM, class_="mark")
    is_left = x < (_LEFT + _RIGHT) / 2
    side = {"x": _round(x + (5 if is_left else -5)), "text_anchor": "start" if is_left else "end"}
    return joined((line, tag("text", name, y=_TOP + 12, class_="strong", **side)))


def _line(series: Series, axes: Axes) -> Markup:
    kind = f"c{series.colour % COLOURS}"
    places = [(axes.across(point.x), axes.up(point.y)) for point in series.points]
    path = " ".join(f"{_round(x)},{_round(y)}" for x, y in places)
    parts = [tag("polyline", points=path, class_=f"line {kind}{' dashed' * series.dashed}")]
    for point, (x, y) in zip(series.points, places, strict=True):
        if point.error:
            ends = [_round(axes.up(point.y + sign * point.error)) for sign in (-1, 1)]
            at = _round(x)
            parts.append(tag("line", x1=at, x2=at, y1=ends[0], y2=ends[1], class_=f"error {kind}"))
        said = tag("title", f"{series.name}: {point.label}")
        dot = {"cx": _round(x), "cy": _round(y), "r": 3.5}
        parts.append(tag("circle", said, class_=f"dot {kind}", **dot))
    return joined(parts)


def _stroke(series: Series) -> Markup:
    kind = f"c{series.colour % COLOURS}{' dashed' * series.dashed}"
    return tag("line", x1=0, x2=24, y1=6, y2=6, class_=f"line {kind}")


def _legend(name: str, swatch: Markup) -> Markup:
    picture = tag("svg", swatch, viewBox="0 0 24 12", width=24, height=12, aria_hidden="true")
    return tag("li", picture, " ", name)
