# SPDX-License-Identifier: Apache-2.0
"""Recovering-residual transfer on live weights (section 2.2)."""

from __future__ import annotations

import torch

from t3s_megatron.megatron.seam import CallbackContext
from t3s_megatron.megatron.weights import (
    WeightSnapshot,
    main_parameters,
    publish_main_parameters,
)
from t3s_megatron.method.residual import residual_transfer


@torch.no_grad()
def transfer_residual(
    context: CallbackContext, theta_0: WeightSnapshot, theta_b: WeightSnapshot
) -> None:
    """Live weights theta_f := theta_0 + (theta_f - theta_b), float32, each rank its own shard.

    Buffers (MoE expert bias) stay those of theta_f: they are running statistics, not a sum of
    updates. Collective over the data-parallel group.
    """
    live = main_parameters(context.optimizer)
    for kept_0, theta_f, kept_b in zip(theta_0.parameters, live, theta_b.parameters, strict=True):
        device = theta_f.device
        result = residual_transfer(kept_0.to(device), theta_f.data, kept_b.to(device))
        theta_f.data.copy_(result)
    publish_main_parameters(context)
