# SPDX-License-Identifier: Apache-2.0
"""Qwen2, Qwen2.5 and Qwen2-MoE: biases on queries, keys and values alone.

DeepSeek-R1-Distill-Qwen is a Qwen2. Qwen2-MoE has a shared expert behind a gate of its own.
"""

from __future__ import annotations

from t3s_megatron.huggingface.families import decoder, experts
from t3s_megatron.huggingface.families.family import Family, Limit, fixed, same, unused
from t3s_megatron.huggingface.packing import Packing

_DECODER = (
    *decoder.NUMBERS,
    *decoder.HEADS,
    *decoder.PLAIN_ROPE,
    *decoder.SHAPE,
    *decoder.NO_MLA,
    fixed("--add-qkv-bias", True),
    unused("--qk-layernorm"),
)
_TENSORS = (*decoder.DECODER, *decoder.QKV_BIAS, *decoder.MLP)
_LIMITS = (decoder.ACTIVATION, decoder.DEFAULT_ROPE, decoder.NO_WINDOW)

QWEN2 = Family(
    "qwen2",
    arguments=(*_DECODER, *decoder.DENSE),
    tensors=_TENSORS,
    limits=_LIMITS,
    unless_asked=decoder.UNLESS_ASKED,
)

QWEN2_MOE = Family(
    "qwen2_moe",
    arguments=(
        *_DECODER,
        *experts.QWENS,
        same("shared_expert_intermediate_size", "--moe-shared-expert-intermediate-size"),
        fixed("--moe-shared-expert-gate", True),
        *experts.PLAIN_EXPERTS,
    ),
    tensors=(
        *_TENSORS,
        *experts.ROUTER,
        *experts.experts(),
        *decoder.gated("mlp.shared_experts", "mlp.shared_expert"),
        decoder.in_layer(
            "mlp.shared_experts.gate_weight", "mlp.shared_expert_gate.weight", Packing()
        ),
    ),
    limits=(
        *_LIMITS,
        Limit("qkv_bias", lambda config: bool(getattr(config, "qkv_bias", True)), (True,)),
    ),
    unless_asked=decoder.UNLESS_ASKED | experts.UNLESS_ASKED,
)
