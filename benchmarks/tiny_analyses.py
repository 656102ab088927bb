# SPDX-License-Identifier: Apache-2.0
"""The table and the pictures of `benchmarks/tiny_analyses.sh`: mean and range over seeds.

python benchmarks/tiny_analyses.py runs/tiny-analyses --pictures docs
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
from collections.abc import Callable, Iterable

from t3s_megatron.monitor.analyses import Scatter, read_analysis
from t3s_megatron.monitor.figures import pyplot_without_screen, write_figure

ANCHORS, OTHERS = "tab:blue", "tab:orange"
SUBSETS = ("anchor-easy", "anchor-hard", "other-easy", "other-hard")
#: By step, out of a record of an analysis of the trajectory: title, analysis, value.
BY_STEP: list[tuple[str, str, Callable]] = [
    ("delta_c, anchors", "confidence", lambda r: r["groups"]["anchors"]["delta"]),
    ("delta_c, others", "confidence", lambda r: r["groups"]["others"]["delta"]),
    ("norm ratio", "gradients", lambda r: r["ratio"]),
    ("norm ratio, of sums", "gradients", lambda r: r["share_ratio"]),
    ("cosine", "gradients", lambda r: r["cosine"]),
    ("others' loss, step on anchors", "one-step", lambda r: r["change"]["anchors"]["others"]),
    ("others' loss, step on others", "one-step", lambda r: r["change"]["others"]["others"]),
    ("anchors' loss, step on others", "one-step", lambda r: r["change"]["others"]["anchors"]),
    ("neighbours of own group", "sketches", lambda r: r["sketch"]["neighbours"]),
    ("the same in 2D", "sketches", lambda r: r["plane"]["neighbours"]),
    ("silhouette", "sketches", lambda r: r["sketch"]["silhouette"]),
    ("variance in 2D", "sketches", lambda r: r["explained"]),
]
#: Panels of the picture: title, and lines of BY_STEP with their colours.
PANELS = [
    ("Mean delta_c, plain fine-tuning (Figure 4a)", {"delta_c, anchors": ANCHORS,
                                                      "delta_c, others": OTHERS}),
    ("Gradient norms, anchors over others (Figure 6a)", {"norm ratio": "tab:green"}),
    ("Cosine of the two gradients (Figure 6b)", {"cosine": "tab:green"}),
    ("Change of the others' loss by one step (Figure 5)", {
        "others' loss, step on anchors": ANCHORS, "others' loss, step on others": OTHERS}),
    ("Neighbours of a token's own group, by gradient (Figure 11)", {
        "neighbours of own group": "tab:green", "the same in 2D": "tab:grey"}),
]  # fmt: skip


def cell(values: Iterable[float]) -> str:
    known = list(values)
    return f"{statistics.mean(known):.3g} [{min(known):.3g}, {max(known):.3g}]"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def by_step(seeds: list[pathlib.Path]) -> dict[str, dict[int, list[float]]]:
    """By title and step, the values of all seeds."""
    found: dict[str, dict[int, list[float]]] = {}
    for title, name, value in BY_STEP:
        for seed in seeds:
            for record in read_analysis(f"{seed}/analyses/{name}.json").figures["records"]:
                found.setdefault(title, {}).setdefault(record["step"], []).append(value(record))
    return found


def one_number(seeds: list[pathlib.Path]) -> list[list[str]]:
    rows: dict[str, list[float]] = {}
    for seed in seeds:
        drops = read_analysis(f"{seed}/analyses/drops.json").figures
        base = read_analysis(f"{seed}/analyses/base-confidence.json").figures
        signal = base["signals"]["probability at theta_0"]
        for title, value in {
            "theta_b": drops["steps"]["all"],
            "tokens below theta_0 at theta_b (Table 2)": drops["teachers"]["all"]["fell"],
            "anchor share": base["anchor_share"],
            "base confidence, AUC (Figure 12)": signal["auc"],
            "base confidence, best threshold": signal["best_threshold_accuracy"],
            "base confidence, shared area": signal["shared_area"],
            "base confidence of anchors": signal["first_mean"],
            "base confidence of others": signal["second_mean"],
        }.items():
            rows.setdefault(title, []).append(value)
    return [[title, cell(values), *(f"{v:.3g}" for v in values)] for title, values in rows.items()]


def trends(seeds: list[pathlib.Path]) -> list[list[str]]:
    """Figure 4b: delta_c of both groups along the targeted phase."""
    rows: dict[int, dict[str, list[float]]] = {}
    for seed in seeds:
        for entry in read_analysis(f"{seed}/analyses/trends.json").figures["figure_4"]:
            if entry["phase"] == "targeted":
                at = rows.setdefault(entry["step"], {"delta_other": [], "delta_anchor": []})
                for name, values in at.items():
                    values.append(entry[name])
    return [
        [str(step), *(cell(values) for values in rows[step].values())]
        for step in sorted(rows)
        if step in (2, 5, 10, 15, 20)
    ]


def masked(seeds: list[pathlib.Path]) -> list[list[str]]:
    """Figure 13: training accuracy by step of runs with as many tokens masked in other ways."""
    rows = []
    for method in ("t3s", "mask-bottom-confidence", "mask-top-confidence"):
        at: dict[int, list[float]] = {}
        lowest = []
        for seed in seeds:
            path = seed / method / "t3s/summary.json"
            if path.exists():
                measured = [
                    m for m in json.loads(path.read_text())["measurements"]
                    if m["phase"] == "targeted" and m["step"] <= 14
                ]  # fmt: skip
                lowest.append(min(m["accuracy"] for m in measured))
                for m in measured:
                    at.setdefault(m["step"], []).append(m["accuracy"])
        if lowest:
            steps = [cell(at[s]) if s in at else "-" for s in (2, 4, 6, 8, 14)]
            rows.append([method, cell(lowest), *steps])
    return rows


def transfer(seeds: list[pathlib.Path], what: str) -> list[list[str]]:
    """Table 6, in "percent", or its losses in nats ("loss", with those at theta_0)."""
    paths = [seed / "analyses/transfer.json" for seed in seeds]
    found = [read_analysis(str(path)).figures[what] for path in paths if path.exists()]
    return [
        [trained, *(cell(values[trained][other] for values in found) for other in SUBSETS)]
        for trained in (found[0] if found else ())
    ]


def draw(values: dict[str, dict[int, list[float]]], path: str) -> None:
    pyplot = pyplot_without_screen()
    figure, panels = pyplot.subplots(3, 2, figsize=(11, 10))
    for panel, (title, lines) in zip(panels.flat, PANELS, strict=False):
        for name, colour in lines.items():
            steps = sorted(values[name])
            means = [statistics.mean(values[name][step]) for step in steps]
            lowest, highest = ([f(values[name][s]) for s in steps] for f in (min, max))
            panel.plot(steps, means, marker="o", markersize=3, color=colour, label=name)
            panel.fill_between(steps, lowest, highest, color=colour, alpha=0.2, linewidth=0)
        level = 1 if "over" in title else 0.5 if "Neighbours" in title else 0
        panel.axhline(level, color="grey", linewidth=0.6)
        panel.set_title(title, loc="left", fontsize=10)
        panel.set_xlabel("step of plain fine-tuning")
        panel.legend(fontsize=8)
    panels.flat[-1].axis("off")
    write_figure(figure, path, 90, path)


def draw_sketches(seed: pathlib.Path, path: str) -> None:
    analysis = read_analysis(f"{seed}/analyses/sketches.json")
    clouds = [chart for chart in analysis.charts if isinstance(chart, Scatter)]
    pyplot = pyplot_without_screen()
    figure, panels = pyplot.subplots(1, len(clouds), figsize=(11, 4.6), squeeze=False)
    for panel, cloud in zip(panels[0], clouds, strict=True):
        for colour, (name, points) in zip((ANCHORS, OTHERS), cloud.groups.items(), strict=True):
            across, up = zip(*points, strict=True)
            panel.scatter(across, up, s=10, alpha=0.6, linewidths=0, color=colour, label=name)
        panel.set_title(cloud.title, loc="left", fontsize=10)
        panel.set_xlabel(cloud.x)
        panel.set_ylabel(cloud.y)
        panel.legend(fontsize=8)
    write_figure(figure, path, 90, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--pictures", help="folder for the two pictures")
    options = parser.parse_args()
    seeds = sorted(pathlib.Path(options.folder).glob("seed-*"))
    seeds = [seed for seed in seeds if (seed / "analyses/sketches.json").exists()]
    if not seeds:
        print("no seed has its analyses yet")
        return
    print(f"mean [lowest, highest] over {len(seeds)} seeds of traces\n")
    print(table(["at theta_b", "mean", *(seed.name for seed in seeds)], one_number(seeds)))
    values = by_step(seeds)
    steps = sorted(next(iter(values.values())))
    print("\nAlong plain fine-tuning:\n")
    rows = [[title, *(cell(values[title][step]) for step in steps)] for title in values]
    print(table(["by step", *map(str, steps)], rows))
    for title, head, made in (
        ("Along the targeted phase (Figure 4b):", ["step", "delta_c, others", "delta_c, anchors"],
         trends(seeds)),
        ("Training accuracy with as many tokens masked (Figure 13), by step:",
         ["masked", "lowest", *map(str, (2, 4, 6, 8, 14))], masked(seeds)),
        ("Change of mean loss in percent, trained on (row), measured on (column) (Table 6):",
         ["", *SUBSETS], transfer(seeds, "percent")),
        ("The same losses in nats, at theta_0 and after training on (row):",
         ["", *SUBSETS], transfer(seeds, "loss")),
    ):  # fmt: skip
        if made:
            print(f"\n{title}\n\n{table(head, made)}")
    if options.pictures:
        draw(values, f"{options.pictures}/tiny_analyses.png")
        draw_sketches(seeds[0], f"{options.pictures}/tiny_sketches.png")


if __name__ == "__main__":
    main()
