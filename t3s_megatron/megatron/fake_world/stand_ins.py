# SPDX-License-Identifier: Apache-2.0
"""What Transformer Engine's kernels keep for the backward pass, without Transformer Engine.

A plan is made from Megatron's local layers, which have the same parameters. Where a fused kernel
keeps less than the local layer does, the local one is replaced by a function that keeps what the
fused one keeps and computes nothing. The rest (linear layers, SwiGLU, residuals, the loss) keep
the same in both. Never used with `--transformer-impl local`: that is measured as it is.

Shapes: s sequence length (of this rank), b micro-batch size, h heads (of this rank), d head size.
"""

from __future__ import annotations

from types import MethodType

import torch
from megatron.core.transformer.dot_product_attention import DotProductAttention
from megatron.core.transformer.moe.experts import SequentialMLP

from t3s_megatron.megatron.cpu_attention import ContextParallelAttention

#: Positions that flash-linear-attention's chunked delta rule takes at once.
_CHUNK = 64


def use_fused_kernels(model: torch.nn.Module) -> None:
    """Replace attention and normalisation layers of `model` in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, DotProductAttention | ContextParallelAttention):
                setattr(parent, name, FusedAttention())
            elif isinstance(child, torch.nn.RMSNorm | torch.nn.LayerNorm):
                child.forward = MethodType(_fused_norm, child)
            elif hasattr(child, "gated_delta_rule"):
                _use_fused_delta_rule(child)


def _use_fused_delta_rule(layer) -> None:
    """A gated delta net on its way for kernels, with stand-ins for them; what is around them is
    Megatron's, not fused, and so an upper bound."""
    from megatron.core.ssm.gated_delta_net import gdn

    layer.config.deterministic_mode = False  # a config of its own
    layer.gated_delta_rule = _delta_rule
    gdn.causal_conv1d = _convolution


def _delta_rule(query, key, value, *, g, beta, **_ignored):
    return _FusedDeltaRule.apply(query, key, value, g, beta), None


class _FusedDeltaRule(torch.autograd.Function):
    """Keeps its inputs [b, s, h, d] and, of every chunk and head, one square matrix."""

    @staticmethod
    def forward(ctx, *inputs):
        query, _, value, _, _ = inputs
        squares = query.new_empty(*query.shape[:3], _CHUNK)
        ctx.save_for_backward(*inputs, squares)
        return torch.empty_like(value)

    @staticmethod
    def backward(ctx, gradient):
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:-1])


def _convolution(x, weight, **_ignored):
    return _FusedConvolution.apply(x, weight), None


class _FusedConvolution(torch.autograd.Function):
    """Keeps its input [b, s, d]; its activation is computed again."""

    @staticmethod
    def forward(ctx, x, weight):
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx, gradient):
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors)


def balance_experts(model: torch.nn.Module) -> None:
    """Give every expert of a rank the same number of tokens, so that no size depends on data."""
    for module in model.modules():
        if isinstance(module, SequentialMLP):
            module.forward = MethodType(_balanced_forward, module)


class FusedAttention(torch.nn.Module):
    """Flash attention keeps q, k, v, its output [s, b, h, d] and a float32 a query and head."""

    def forward(self, query, key, value, *_ignored, **_also_ignored):
        out = _FusedAttention.apply(query, key, value)
        return out.reshape(*out.shape[:2], -1)


class _FusedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value):
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        log_sum_exp = query.new_empty(query.shape[:3], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, log_sum_exp)
        return out

    @staticmethod
    def backward(ctx, gradient):
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


def _fused_norm(self, x):
    return _FusedNorm.apply(x, self.weight, getattr(self, "bias", None))


class _FusedNorm(torch.autograd.Function):
    """Keeps its input and a float32 a row."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        scale = x.new_empty(x.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(x, weight, scale)
        ctx.has_bias = bias is not None
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx, gradient):
        x, weight, _ = ctx.saved_tensors
        return (
            torch.empty_like(x),
            torch.empty_like(weight),
            torch.empty_like(weight) if ctx.has_bias else None,
        )


def _balanced_forward(self, hidden_states, tokens_per_expert, probs):
    """As SequentialMLP.forward, with equal parts. hidden_states [tokens, hidden], sorted by
    expert."""
    n = len(self.local_experts)
    parts = zip(self.local_experts, hidden_states.chunk(n), probs.chunk(n), strict=True)
    return torch.cat([expert(tokens, weight)[0] for expert, tokens, weight in parts]), None
