# SPDX-License-Identifier: Apache-2.0
"""Qwen3 and Qwen3-MoE: no biases, a norm on every query and key head."""

from __future__ import annotations

from t3s_megatron.huggingface.families import decoder, experts
from t3s_megatron.huggingface.families.family import Family, fixed

_DECODER = (
    *decoder.NUMBERS,
    *decoder.HEADS,
    *decoder.PLAIN_ROPE,
    *decoder.SHAPE,
    *decoder.NO_MLA,
    *decoder.NO_QKV_BIAS,
    fixed("--qk-layernorm", True),
)
_LIMITS = (
    decoder.ACTIVATION,
    decoder.DEFAULT_ROPE,
    decoder.NO_ATTENTION_BIAS,
    decoder.NO_WINDOW,
)

QWEN3 = Family(
    "qwen3",
    arguments=(*_DECODER, *decoder.DENSE),
    tensors=(*decoder.DECODER, *decoder.QK_NORM, *decoder.MLP),
    limits=_LIMITS,
    unless_asked=decoder.UNLESS_ASKED,
    architecture="Qwen3ForCausalLM",
)


QWEN3_MOE = Family(
    "qwen3_moe",
    arguments=(
        *_DECODER,
        *experts.QWENS,
        *experts.NO_SHARED_EXPERT,
        *experts.PLAIN_EXPERTS,
    ),
    tensors=(
        *decoder.DECODER,
        *decoder.QK_NORM,
        *decoder.MLP,
        *experts.ROUTER,
        *experts.experts(),
    ),
    limits=_LIMITS,
    unless_asked=decoder.UNLESS_ASKED | experts.UNLESS_ASKED,
    architecture="Qwen3MoeForCausalLM",
)
