# SPDX-License-Identifier: Apache-2.0
"""The paper's figures of one table beside those of an evaluation.

python examples/reproduce/beside.py 3 --set BOBA-200 --teacher R1 --evaluation OUT/evaluation.json
"""

from __future__ import annotations

import argparse
import json
import os

from t3s_megatron.monitor.comparison import Comparison, read_comparisons

BENCHMARKS = ("AIME24", "AIME25")


def paper_rows(table: str, data: str, teacher: str) -> dict[str, list[float]]:
    """By student, AIME24, AIME25 and their mean, as far as the paper has them."""
    with open(os.path.join(os.path.dirname(__file__), "paper.json"), encoding="utf-8") as file:
        settings = json.load(file)[table]
    for wanted in (f"{data}, {teacher}", data, "all"):
        if wanted in settings:
            return settings[wanted]
    raise SystemExit(f"the paper's Table {table} is of {', '.join(settings)}")


def ours(comparisons: list[Comparison]) -> dict[str, dict[str, str]]:
    """By student and set of problems: accuracy in percent and its standard error."""
    found: dict[str, dict[str, str]] = {}
    for comparison in comparisons:
        for student, score in comparison.scores.items():
            if score.accuracy is not None:
                error = score.standard_error
                after = "" if error is None else f" +- {100 * error:.1f}"
                found.setdefault(student, {})[comparison.name] = (
                    f"{100 * score.accuracy:.2f}{after}"
                )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table")
    parser.add_argument("--set", default="BOBA-200")
    parser.add_argument("--teacher", default="R1")
    parser.add_argument("--evaluation", help="evaluation.json; without it the paper's alone")
    options = parser.parse_args()
    paper = paper_rows(options.table, options.set, options.teacher)
    comparisons = read_comparisons(options.evaluation) if options.evaluation else []
    measured = ours(comparisons)
    sets = [comparison.name for comparison in comparisons]
    print(f"Table {options.table} of the paper ({options.set}, {options.teacher}; Qwen3 students)")
    head = ["student", *(f"paper {name}" for name in (*BENCHMARKS, "mean")), *sets]
    rows = [head]
    for student in dict.fromkeys([*paper, *measured]):
        theirs = paper.get(student, [])
        written = [f"{value:.2f}" for value in theirs]
        if len(theirs) == 1:  # the mean alone
            written = ["-", "-", *written]
        written += ["-"] * (3 - len(written))
        rows.append([student, *written, *(measured.get(student, {}).get(s, "-") for s in sets)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    for comparison in comparisons:
        for difference in comparison.differences:
            print(f"{comparison.name}: {difference.describe()}")


if __name__ == "__main__":
    main()
