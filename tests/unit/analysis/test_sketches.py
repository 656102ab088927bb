# SPDX-License-Identifier: Apache-2.0
"""Overlap of two groups of vectors against counting by hand, and sketches from files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from t3s_megatron.analysis.records import Sketches, read_trajectory, write_sketches
from t3s_megatron.analysis.sketches import NEIGHBOURS, gradient_sketches, overlap, plane
from t3s_megatron.errors import T3SError
from t3s_megatron.monitor.analyses import Analysis, analysis_sections


def test_overlap_is_counted_over_all_pairs():
    rng = np.random.default_rng(0)
    vectors, is_first = rng.normal(size=(23, 4)), rng.random(23) < 0.3
    found = overlap(vectors, is_first)
    shares, apart = [], []
    for i, vector in enumerate(vectors):
        others = [j for j in range(23) if j != i]
        far = {j: float(np.linalg.norm(vector - vectors[j])) for j in others}
        nearest = sorted(others, key=far.get)[:NEIGHBOURS]
        shares.append(np.mean([is_first[j] == is_first[i] for j in nearest]))
        a = np.mean([far[j] for j in others if is_first[j] == is_first[i]])
        b = np.mean([far[j] for j in others if is_first[j] != is_first[i]])
        apart.append((b - a) / max(a, b))
    assert found.neighbours == pytest.approx(np.mean(shares))
    assert found.silhouette == pytest.approx(np.mean(apart))
    n = int(is_first.sum())
    assert found.chance == pytest.approx((n * (n - 1) + (23 - n) * (22 - n)) / 22 / 23)


def test_groups_that_are_apart_or_mixed():
    rng = np.random.default_rng(0)
    is_first = np.arange(400) % 2 == 0
    cloud = rng.normal(size=(400, 8))
    mixed, apart = overlap(cloud, is_first), overlap(cloud + 100 * is_first[:, None], is_first)
    assert mixed.neighbours == pytest.approx(0.5, abs=0.05) and abs(mixed.silhouette) < 0.02
    assert apart.neighbours == 1 and apart.silhouette > 0.95


def test_the_plane_keeps_most_of_the_variance():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 6)) * [5, 3, 0.1, 0.1, 0.1, 0.1]
    flat, share = plane(vectors)
    centred = vectors - vectors.mean(0)
    values = np.sort(np.linalg.eigvalsh(centred.T @ centred))[::-1]
    assert (flat**2).sum(0) == pytest.approx(values[:2])
    assert share == pytest.approx(values[:2].sum() / values.sum())
    equal, none = plane(np.ones((4, 3)))
    assert not equal.any() and none == 0


@pytest.fixture
def looked(tmp_path):
    """looked(is_anchor): a trajectory with sketches at two steps."""

    def write(is_anchor: np.ndarray):
        rng = np.random.default_rng(0)
        steps = []
        for step in (0, 2):
            sketches = rng.normal(size=(len(is_anchor), 16)).astype(np.float32)
            found = Sketches(sketches, np.arange(len(is_anchor)), is_anchor)
            write_sketches(str(tmp_path), step, found)
            steps.append({"step": step, "groups": {"anchors": {"loss": 1.0}},
                          "sketches": {"tokens": len(is_anchor), "directions": 16}})  # fmt: skip
        about = {"format": 1, "trained_on": None, "groups_of": "t3s", "records": steps}
        (tmp_path / "trajectory.json").write_text(json.dumps(about))
        return read_trajectory(str(tmp_path))

    return write


def test_sketches_become_tables_and_clouds(looked):
    analysis = gradient_sketches(looked(np.arange(40) < 20))
    written = json.dumps(analysis.to_dict(), allow_nan=False)
    again = Analysis.from_dict(json.loads(written))
    assert json.dumps(again.to_dict()) == written
    assert [row[0] for row in analysis.tables[0].rows] == ["0", "2"]
    assert [chart.title[-6:] for chart in analysis.charts[:2]] == ["step 0", "step 2"]
    (section,) = analysis_sections([analysis])
    assert str(section).count('class="cloud c0"') == 2 * (20 + 1)  # and the legend


def test_what_cannot_be_compared_is_said(looked, tmp_path):
    with pytest.raises(T3SError, match="fewer than two tokens of a group at step 0"):
        gradient_sketches(looked(np.arange(9) < 1))
    seen = looked(np.arange(8) < 4)
    (tmp_path / "sketches-2.safetensors").write_bytes(b"none")
    with pytest.raises(T3SError, match=r"sketches-2.*cannot be read as sketches"):
        gradient_sketches(seen)
    (tmp_path / "sketches-2.safetensors").unlink()
    with pytest.raises(T3SError, match="cannot be read as sketches"):
        gradient_sketches(seen)
