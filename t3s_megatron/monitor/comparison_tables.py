# SPDX-License-Identifier: Apache-2.0
"""Comparisons on the HTML page: a table a set of problems, and the differences below it."""

from __future__ import annotations

from collections.abc import Sequence

from t3s_megatron.monitor.comparison import ROWS, Comparison
from t3s_megatron.monitor.markup import Markup, table, tag

_HOW = (
    "Accuracy is the mean over problems of the share of right answers, with the standard error of "
    "that mean. Differences are paired by problem; p: the exact sign-flip test, two-sided."
)


def comparison_sections(compared: Sequence[Comparison]) -> list[Markup]:
    """One section, or none where nothing was compared."""
    if not compared:
        return []
    parts: list[Markup] = [tag("h2", "Comparison"), tag("p", _HOW, class_="soft")]
    for found in compared:
        names = list(found.scores)
        caption = f"{found.name} ({found.k} answers a problem)"
        cells = {title: [cell(found.scores[name]) for name in names] for title, cell in ROWS}
        rows = [(title, *known) for title, known in cells.items() if set(known) != {"-"}]
        parts.append(table(("", *names), rows, caption))
        if found.differences:
            parts.append(
                table(
                    ("difference", "by", "p", "problems"),
                    [(one.between, one.by, one.chance, one.problems) for one in found.differences],
                    f"{found.name}: paired differences",
                )
            )
        parts += [tag("p", note, class_="warning") for note in found.notes]
    return [tag("section", *parts, id="comparison")]
