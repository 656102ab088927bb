# SPDX-License-Identifier: Apache-2.0
"""The noise of c_t, and what it could flip: worked out by hand, and against a simulation."""

from __future__ import annotations

import numpy as np
import pytest

from t3s_megatron.method.noise import scoring_noise

NAN = np.nan


def test_worked_out_by_hand():
    c = np.array([-1.0, -2.0, -3.0, -4.0, -5.0], dtype=np.float32)
    again = c + np.array([0.01, -0.02, 0.04, NAN, NAN], dtype=np.float32)  # two are not finite
    delta = np.array([0.015, -0.03, 0.5, 0.005, -0.001], dtype=np.float32)
    found = scoring_noise(c, again, [delta[:2], delta[2:]])
    assert found.tokens == 3
    assert found.median == pytest.approx(0.02, rel=1e-4)
    assert found.level == pytest.approx(0.036, rel=1e-4)
    # Anchors at 0.015, 0.5 and 0.005.
    assert found.unsure_anchors == pytest.approx(2 / 3)
    # Differences larger than each |delta_c|: 2, 1, 0, 3 and 3 of 3; half of them cross over.
    assert found.wrong == pytest.approx((2 + 1 + 0 + 3 + 3) / 3 / 5 / 2)
    assert found.threshold == 0.036
    assert "3 tokens scored twice" in found.describe()
    assert "--t3s-anchor-threshold 0.036 " in found.describe()
    assert found.to_dict()["threshold"] == 0.036


def test_the_distance_is_from_the_threshold_of_the_run():
    c = np.zeros(4, dtype=np.float32)
    again = np.full(4, 0.01, dtype=np.float32)
    delta = np.array([0.505, 0.6, 0.4, 0.495], dtype=np.float32)
    found = scoring_noise(c, again, [delta], tau=0.5)
    assert found.unsure_anchors == 0.5
    assert found.wrong == pytest.approx(2 / 4 / 2)


def test_equal_passes_say_nothing():
    c = np.arange(4, dtype=np.float32)
    found = scoring_noise(c, c.copy(), [np.ones(4, dtype=np.float32)])
    assert (found.level, found.threshold, found.wrong) == (0.0, 0.0, 0.0)
    assert "the noise of c_t is not known" in found.describe()


def test_nothing_scored_twice():
    c = np.zeros(3, dtype=np.float32)
    assert scoring_noise(c, np.full(3, NAN, dtype=np.float32), [c]) is None


def test_no_anchors():
    c = np.zeros(2, dtype=np.float32)
    found = scoring_noise(c, c + np.float32(0.1), [np.full(2, -1, dtype=np.float32)])
    assert found.unsure_anchors == 0.0


@pytest.mark.parametrize("scale", [1e-3, 1e-2, 1e-1])
def test_the_expected_share_of_wrong_signs_is_about_the_real_one(scale):
    random = np.random.default_rng(3)
    n = 20_000
    truth = random.standard_t(3, n) * 1e-2

    def noise():
        return random.standard_t(3, n) * scale

    first, again, other = noise(), noise(), noise()
    delta = truth + other - first
    found = scoring_noise(first.astype(np.float32), again.astype(np.float32),
                          [delta.astype(np.float32)])  # fmt: skip
    really = ((delta > 0) != (truth > 0)).mean()
    # From what was measured alone: delta_c is wider than the truth, so it is a little too low.
    assert really / 2.5 < found.wrong <= really * 1.25
