# SPDX-License-Identifier: Apache-2.0
"""Recovering-residual transfer (section 2.2)."""

from __future__ import annotations

import torch


def residual_transfer(
    theta_0: torch.Tensor, theta_f: torch.Tensor, theta_b: torch.Tensor
) -> torch.Tensor:
    """theta_0 + (theta_f - theta_b), in float32 and in this order of operations.

    Tensors of one shape on one device; a new tensor is returned. ValueError for other dtypes (in
    bfloat16 the small difference would be rounded away) and for shapes that differ.
    """
    for name, tensor in (("theta_0", theta_0), ("theta_f", theta_f), ("theta_b", theta_b)):
        if tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype}; residual transfer needs float32")
        if tensor.shape != theta_0.shape:  # or it would be broadcast
            raise ValueError(f"{name} has shape {tensor.shape}, theta_0 {theta_0.shape}")
    return theta_0 + (theta_f - theta_b)
