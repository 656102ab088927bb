# SPDX-License-Identifier: Apache-2.0
"""Recovering-residual transfer: the order of operations is part of the result (section 2.2)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from t3s_megatron.method.residual import residual_transfer


def test_theta_0_plus_what_was_learned_after_the_bottleneck():
    theta_0, theta_f, theta_b = torch.tensor([[1.0, 2.0], [5.0, 8.0], [4.0, 9.0]])
    assert residual_transfer(theta_0, theta_f, theta_b).tolist() == [2.0, 1.0]


def test_the_difference_is_taken_first():
    """(theta_0 + theta_f) - theta_b would lose the small update beside the large weight."""
    theta_0, theta_f, theta_b = (torch.tensor([v]) for v in (1.0, 2.0**24, 2.0**24))
    assert ((theta_0 + theta_f) - theta_b).item() == 0.0
    assert residual_transfer(theta_0, theta_f, theta_b).item() == 1.0


def test_bit_equal_to_numpy_float32():
    rng = np.random.default_rng(0)
    theta = [rng.standard_normal((7, 33)).astype(np.float32) for _ in range(3)]
    result = residual_transfer(*(torch.from_numpy(t) for t in theta))
    np.testing.assert_array_equal(result.numpy(), theta[0] + (theta[1] - theta[2]))


def test_a_bottleneck_at_theta_f_gives_theta_0_and_inputs_stay():
    theta_0, theta_f = torch.randn(5), torch.randn(5)
    before = theta_0.clone(), theta_f.clone()
    result = residual_transfer(theta_0, theta_f, theta_f)
    assert torch.equal(result, theta_0) and result.data_ptr() != theta_0.data_ptr()
    assert torch.equal(theta_0, before[0]) and torch.equal(theta_f, before[1])


@pytest.mark.parametrize("position, name", [(0, "theta_0"), (1, "theta_f"), (2, "theta_b")])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.int64])
def test_only_float32(position, name, dtype):
    theta = [torch.ones(2) for _ in range(3)]
    theta[position] = theta[position].to(dtype)
    with pytest.raises(ValueError, match=f"{name} is {dtype}".replace(".", r"\.")):
        residual_transfer(*theta)


@pytest.mark.parametrize("position, name", [(1, "theta_f"), (2, "theta_b")])
def test_shapes_are_not_broadcast(position, name):
    theta = [torch.ones(2, 3) for _ in range(3)]
    theta[position] = torch.ones(3)
    with pytest.raises(ValueError, match=f"{name} has shape"):
        residual_transfer(*theta)
