# SPDX-License-Identifier: Apache-2.0
"""Whether the gradients of single tokens tell anchors and the others apart (Appendix J.1)."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from t3s_megatron.analysis.records import Seen, read_sketches
from t3s_megatron.errors import T3SError
from t3s_megatron.monitor.analyses import Analysis, Cell, Lines, Scatter, Table

#: Neighbours of a token that are looked at.
NEIGHBOURS = 10


@dataclass(frozen=True)
class Overlap:
    """`neighbours`: share of a token's nearest neighbours that are of its own group, and `chance`:
    what it would be of random ones. `silhouette`: mean over tokens of (b - a) / max(a, b), with a
    the mean distance to its own group and b to the other: 0 where the groups lie in one another, 1
    where each is a point, below 0 where a group is wider than it is far from the other."""

    neighbours: float
    chance: float
    silhouette: float


def overlap(vectors: np.ndarray, is_first: np.ndarray) -> Overlap:
    """Of the two groups of `vectors` float[n, k], by Euclidean distance. Each group has two or
    more."""
    squares = (vectors**2).sum(1)
    distance = squares[:, None] + squares - 2 * vectors @ vectors.T
    distance = np.sqrt(np.maximum(distance, 0))
    same = is_first[:, None] == is_first
    np.fill_diagonal(same, False)
    size = np.where(is_first, is_first.sum(), (~is_first).sum())
    n = len(vectors)
    to_own = np.where(same, distance, 0).sum(1) / (size - 1)
    to_other = np.where(is_first[:, None] != is_first, distance, 0).sum(1) / (n - size)
    wider = np.maximum(np.maximum(to_own, to_other), 1e-300)
    apart = distance.copy()
    np.fill_diagonal(apart, np.inf)
    nearest = np.argsort(apart, axis=1, kind="stable")[:, : min(NEIGHBOURS, n - 1)]
    return Overlap(
        float(np.take_along_axis(same, nearest, 1).mean()),
        float(((size - 1) / (n - 1)).mean()),
        float(((to_other - to_own) / wider).mean()),
    )


def plane(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """(float64[n, 2], share of the variance): the two main components of `vectors`, each with its
    largest coordinate above 0."""
    centred = vectors - vectors.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    flat = np.zeros((len(vectors), 2))
    found = left[:, :2] * sizes[:2]
    found *= np.sign(found[np.abs(found).argmax(0), range(found.shape[1])])
    flat[:, : found.shape[1]] = found
    whole = float((sizes**2).sum())
    return flat, float((sizes[:2] ** 2).sum()) / whole if whole else 0.0


def gradient_sketches(seen: Seen) -> Analysis:
    """Figure 11, with numbers: of the directions of the gradients, as all are of length 1."""
    found: list[dict] = []
    clouds: list[tuple[int, np.ndarray, np.ndarray]] = []
    rows: list[list[Cell]] = []
    for record in seen.with_("sketches"):
        step, of = record["step"], read_sketches(seen, record["step"])
        if min(of.is_anchor.sum(), (~of.is_anchor).sum()) < 2:
            raise T3SError(
                f"{seen.path}: fewer than two tokens of a group at step {step}: take more"
            )
        length = np.linalg.norm(of.sketches.astype(np.float64), axis=1)
        unit = of.sketches / np.maximum(length, 1e-300)[:, None]
        flat, explained = plane(unit)
        whole, drawn = overlap(unit, of.is_anchor), overlap(flat, of.is_anchor)
        norms = {
            name: float(np.median(length[which]))
            for name, which in (("anchors", of.is_anchor), ("others", ~of.is_anchor))
        }
        clouds.append((step, flat, of.is_anchor))
        found.append({
            "step": step, "tokens": len(unit), "sketch": asdict(whole), "plane": asdict(drawn),
            "explained": explained, "median_norm": norms,
        })  # fmt: skip
        rows.append([str(step), whole.neighbours, drawn.neighbours, whole.chance, whole.silhouette,
                     explained, *norms.values()])  # fmt: skip
    columns = ["step", "own group", "own group in 2D", "chance", "silhouette", "variance in 2D",
               "norm anchors", "norm others"]  # fmt: skip
    first, last = clouds[0], clouds[-1]
    scatters = [
        Scatter(
            f"Gradients of single tokens at step {step}", "first component", "second component",
            {name: [(float(x), float(y)) for x, y in flat[which]]
             for name, which in (("anchors", is_anchor), ("others", ~is_anchor))},
        )
        for step, flat, is_anchor in ([first, last] if len(clouds) > 1 else [first])
    ]  # fmt: skip
    shares = {
        "in the sketch": [(float(f["step"]), f["sketch"]["neighbours"]) for f in found],
        "in 2D": [(float(f["step"]), f["plane"]["neighbours"]) for f in found],
        "chance": [(float(f["step"]), f["sketch"]["chance"]) for f in found],
    }
    return Analysis(
        "sketches",
        "Gradients of single tokens (Figure 11)",
        seen.source,
        {"directions": seen.with_("sketches")[0]["sketches"]["directions"],
         "neighbours": NEIGHBOURS, "records": found},
        [Table(f"Of the {NEIGHBOURS} nearest neighbours by the direction of the gradient, those of "
               "a token's own group", columns, rows)],
        [*scatters, Lines("Share of neighbours of a token's own group", "step", "share", shares)],
        ["As many anchors as others, where there are so many: chance is about one half. "
         "Silhouette: 0 is full overlap, 1 none. The gradients are of all parameters (the paper's "
         "of LoRA's), made equally long: their norms are told apart in the table. The picture is "
         "of the two main components."],
    )  # fmt: skip
