# SPDX-License-Identifier: Apache-2.0
"""Norms of Megatron's local layers in torch, for a CPU."""

from __future__ import annotations

import torch

from t3s_megatron.errors import T3SError


class RMSNormAroundZero(torch.nn.RMSNorm):
    """A norm whose factor is 1 + `weight` (--apply-layernorm-1p)."""

    def reset_parameters(self) -> None:
        torch.nn.init.zeros_(self.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        factor = 1 + self.weight.float()
        return torch.rms_norm(x.float(), self.normalized_shape, factor, self.eps).to(x.dtype)


def make_norm(cls, config, hidden_size: int, eps: float = 1e-5, **_unused) -> torch.nn.Module:
    """In the place of `WrappedTorchNorm.__new__`, which asserts against sequence parallelism and
    against factors around zero (torch_norm.py:46, :50).

    A norm is elementwise over the sequence; all it lacks is the mark by which
    finalize_model_grads.py:451 all-reduces its gradients over tensor-parallel ranks.
    """
    kinds = {"LayerNorm": torch.nn.LayerNorm, "RMSNorm": torch.nn.RMSNorm}
    if config.layernorm_zero_centered_gamma:
        kinds = {"RMSNorm": RMSNormAroundZero}
    if config.normalization not in kinds:
        raise T3SError(
            f"--apply-layernorm-1p with --normalization {config.normalization} is not available on "
            "CPU"
        )
    norm = kinds[config.normalization](hidden_size, eps=eps)
    for parameter in norm.parameters():
        parameter.sequence_parallel = config.sequence_parallel
    return norm
