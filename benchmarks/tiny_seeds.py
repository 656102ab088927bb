# SPDX-License-Identifier: Apache-2.0
"""The table of `benchmarks/tiny_seeds.sh`: held-out and training accuracy by method, over seeds.

python benchmarks/tiny_seeds.py runs/tiny-seeds
"""

from __future__ import annotations

import json
import pathlib
import statistics
import sys

COLUMNS = [(split, t) for split in ("heldout", "train") for t in (0.0, 0.6, 1.0)]
NAMES = {
    "theta_0": "base (theta_0)",
    "theta_f": "SFT (theta_f)",
    "rrt": "RRT",
    "t3s": "T3S",
    "inverse": "-T3S (anchors only)",
    "random": "random mask, same share",
    "mask-top-confidence": "most confident masked, same share",
    "mask-bottom-confidence": "least confident masked, same share",
}


def main(folder: str) -> None:
    seeds = sorted(pathlib.Path(folder).glob("seed-*"))
    accuracies: dict[str, dict[tuple, list[float]]] = {}
    trajectories = []
    for seed in seeds:
        seen = set()
        for path in sorted(seed.glob("*/t3s/summary.json")):
            summary = json.loads(path.read_text())
            method = summary["arguments"]["method"]
            for one in summary["evaluations"]:
                weights = one["weights"]
                name = weights if weights in ("theta_0", "theta_f") else method
                column = (one["split"], one["temperature"])
                if (name, column) not in seen:  # theta_0 is the same in every run of a seed
                    seen.add((name, column))
                    cells = accuracies.setdefault(name, {})
                    cells.setdefault(column, []).append(one["accuracy"])
            if method in ("t3s", "rrt"):
                trajectories.append(_trajectory(seed.name, summary))
    titles = [f"{split} T={t:g}" for split, t in COLUMNS]
    print(f"mean [lowest - highest] over {len(seeds)} seeds\n")
    print("| | " + " | ".join(titles) + " |")
    print("|---" * (len(titles) + 1) + "|")
    for name, title in NAMES.items():
        if name in accuracies:
            row = [_cell(accuracies[name][column]) for column in COLUMNS]
            print(f"| {title} | " + " | ".join(row) + " |")
    print()
    print("\n".join(trajectories))


def _cell(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} [{min(values):.3f} - {max(values):.3f}]"


def _trajectory(seed: str, summary: dict) -> str:
    profile = [m["accuracy"] for m in summary["measurements"] if m["phase"] == "profile"]
    rest = [m["accuracy"] for m in summary["measurements"] if m["phase"] == "targeted"]
    line = f"- {seed}, {summary['method']}: profile {profile[0]:.3f} at step 0, lowest "
    line += f"{min(profile):.3f}, last {profile[-1]:.3f} at step {len(profile) - 1}"
    line += f"; theta_b = step {summary['theta_b_step']}"
    if rest:
        line += f"; lowest in the targeted phase {min(rest):.3f}; anchor share "
        line += f"{summary['tokens']['anchor_share']:.2f}"
    return line


if __name__ == "__main__":
    main(sys.argv[1])
