# SPDX-License-Identifier: Apache-2.0
"""The tables of `benchmarks/tiny_diffusion.sh`: losses on the tokens that fell in the selector and
on the others, accuracy and tokens of answers, by method and tau, over the seeds that are there.

python benchmarks/tiny_diffusion.py runs/tiny-diffusion
"""

from __future__ import annotations

import collections
import json
import pathlib
import statistics
import sys

START = "converted student"
SPLITS = ("heldout", "train")


def main(folder: str) -> None:
    seeds = sorted(pathlib.Path(folder).glob("seed-*"))
    runs = {seed.name: finished(seed) for seed in seeds}
    runs = {seed: found for seed, found in runs.items() if found}
    names = list(dict.fromkeys(name for found in runs.values() for name in found))
    names.sort(key=_order)
    print(f"mean [lowest - highest] over seeds ({', '.join(runs)}; n: how many have the run)\n")
    learned(runs, names)
    print()
    answered(runs, names)
    print()
    shares(runs)


def finished(seed: pathlib.Path) -> dict[str, dict]:
    """Summaries of the finished runs of a seed, by method or method@tau."""
    found = {}
    for path in sorted(seed.glob("diffusion-*/t3s/summary.json")):
        summary = json.loads(path.read_text())
        if summary["finished"]:
            found[path.parts[-3].removeprefix("diffusion-")] = summary
    return found


def learned(runs: dict, names: list[str]) -> None:
    """Losses are means over the first and the last tenth of the steps."""
    print("| | n | tau | forced | masked of targets | loss of what fell, first -> last steps | "
          "loss of the others | loss of what is forced | loss of fill |")  # fmt: skip
    print("|---" * 9 + "|")
    for name in names:
        found = [of_seed[name] for of_seed in runs.values() if name in of_seed]
        cells = [
            name,
            str(len(found)),
            f"{found[0]['arguments']['drop_threshold']:g}",
            _cell([100 * s["targeting"]["forced_share"] for s in found], 1) + " %",
            _cell([100 * _mean(s["masked_losses"], "masked_share") for s in found], 1) + " %",
        ]
        for figure in ("loss_fell", "loss_other", "loss_forced", "loss_fill"):
            cells.append(_first_and_last([s["masked_losses"] for s in found], figure))
        print("| " + " | ".join(cells) + " |")


def answered(runs: dict, names: list[str]) -> None:
    """Greedy accuracy, and tokens of an answer with its forwards, at the end."""
    titles = [f"{split} {what}" for split in SPLITS for what in ("accuracy", "tokens an answer")]
    print("| | " + " | ".join(titles) + " | tokens a forward, heldout |")
    print("|---" * (len(titles) + 2) + "|")
    rows = collections.defaultdict(list)
    for found in runs.values():
        first = next(iter(found.values()))
        rows[START].append(by_split(first, at_start=True))
        for name, summary in found.items():
            rows[name].append(by_split(summary, at_start=False))
    for name in (START, *names):
        cells = [name]
        for split in SPLITS:
            of_split = [row[split] for row in rows[name]]
            cells.append(_cell([e["accuracy"] for e in of_split], 3))
            cells.append(_cell([e["generated_tokens"] / e["total"] for e in of_split], 1))
        cells.append(_cell([row["heldout"]["tokens_per_forward"] for row in rows[name]], 2))
        print("| " + " | ".join(cells) + " |")


def by_split(summary: dict, *, at_start: bool) -> dict[str, dict]:
    """What was evaluated before the first step, or after the last."""
    return {
        e["split"]: e for e in summary["evaluations"] if (e["weights"] == "theta_0") == at_start
    }


def shares(runs: dict) -> None:
    """The middle column of Table 11."""
    for seed, found in runs.items():
        about = next(iter(found.values()))["targeting"]
        at = ", ".join(f"{100 * s:.1f} % at {t}" for t, s in about["fell_share_by_tau"].items())
        step = about["selector"]["theta_b_step"]["all"]
        print(f"- {seed}: theta_b of the selector = step {step}; fell {at}")


def _order(name: str) -> tuple:
    method, _, tau = name.partition("@")
    order = ("sft", "random", "t3s")
    return (order.index(method) if method in order else len(order), float(tau or 0.2))


def _first_and_last(runs: list[list[dict]], figure: str) -> str:
    ends = []
    for steps in runs:
        some = max(1, len(steps) // 10)
        ends.append((_mean(steps[:some], figure), _mean(steps[-some:], figure)))
    if any(value is None for pair in ends for value in pair):
        return "-"
    first = statistics.mean(a for a, _ in ends)
    return f"{first:.3f} -> {_cell([b for _, b in ends], 3)}"


def _mean(steps: list[dict], figure: str) -> float | None:
    values = [step[figure] for step in steps if step.get(figure) is not None]
    return statistics.mean(values) if values else None


def _cell(values: list[float], digits: int) -> str:
    said = f"{statistics.mean(values):.{digits}f}"
    if len(values) > 1:
        said += f" [{min(values):.{digits}f} - {max(values):.{digits}f}]"
    return said


if __name__ == "__main__":
    main(sys.argv[1])
