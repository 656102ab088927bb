# SPDX-License-Identifier: Apache-2.0
"""Qwen3-Next, and the text models of Qwen3.5 and 3.6: three of four layers are gated delta nets,
the attention between them has a gate on its output, norms are kept as their difference from one.

Megatron trains the delta nets on CUDA with flash-linear-attention and Transformer Engine, and has
no cache to generate with: answers come from servers, or theta_b from the confidence
(docs/huggingface.md). A published Qwen3.5 is a model of images and text, whose text model has to be
saved by itself first.
"""

from __future__ import annotations

from t3s_megatron.huggingface.delta_packing import (
    AroundZero,
    DeltaConvolution,
    DeltaProjections,
    DeltaProjectionsByKeyHead,
    GatedQueryKeyValue,
)
from t3s_megatron.huggingface.families import decoder, experts
from t3s_megatron.huggingface.families.family import Argument, Family, Limit, fixed, same
from t3s_megatron.huggingface.packing import Column, Packing, Row

_LINEAR, _FULL = "linear_attention", "full_attention"


def _pattern(config) -> list[int]:
    """1 for a gated delta net, 0 for attention, by layer."""
    return [int(kind == _LINEAR) for kind in config.layer_types]


def _regular(every: int, layers: int) -> list[int]:
    """Attention in every so many layers, as Megatron means a whole number."""
    return [int((i + 1) % every != 0) for i in range(layers)]


def _frequency(config) -> int | list[int]:
    """The pattern in Megatron's shortest form."""
    pattern = _pattern(config)
    every = pattern.index(0) + 1 if 0 in pattern else len(pattern) + 1
    return every if _regular(every, len(pattern)) == pattern else pattern


def _found_pattern(args) -> list[int] | None:
    frequency = args.linear_attention_freq
    return _regular(frequency, args.num_layers) if isinstance(frequency, int) else frequency


_LAYERS = Argument(
    "layer_types",
    "--linear-attention-freq",
    wanted=_pattern,
    found=_found_pattern,
    options=lambda config: {"--linear-attention-freq": _frequency(config)},
    written=lambda args: {},
)

_DELTA_NET = (
    fixed("--experimental-attention-variant", "gated_delta_net"),
    _LAYERS,
    same("linear_conv_kernel_dim", "--linear-conv-kernel-dim"),
    same("linear_key_head_dim", "--linear-key-head-dim"),
    same("linear_value_head_dim", "--linear-value-head-dim"),
    same("linear_num_key_heads", "--linear-num-key-heads"),
    same("linear_num_value_heads", "--linear-num-value-heads"),
)
_NORMS_AND_GATE = (
    fixed("--apply-layernorm-1p", True, "layernorm_zero_centered_gamma"),
    fixed("--attention-output-gate", True),
    fixed("--qk-layernorm", True),
)
_ITS_OWN = {argument.option for argument in (*_NORMS_AND_GATE, *_DELTA_NET)}

_DECODER = (
    *decoder.NUMBERS,
    *decoder.HEADS,
    *decoder.ROPE,
    *decoder.NO_SCALING,
    decoder.PART_OF_HEAD,
    *(argument for argument in decoder.SHAPE if argument.option not in _ITS_OWN),
    *_NORMS_AND_GATE,
    *_DELTA_NET,
    *decoder.NO_MLA,
    *decoder.NO_QKV_BIAS,
)
_SHARED_EXPERT = (
    same("shared_expert_intermediate_size", "--moe-shared-expert-intermediate-size"),
    fixed("--moe-shared-expert-gate", True),
    *experts.PLAIN_EXPERTS,
)

_ATTENTION = (
    decoder.in_layer(
        "self_attention.linear_qkv.weight",
        tuple(f"self_attn.{x}_proj.weight" for x in "qkv"),
        GatedQueryKeyValue(),
    ),
    decoder.in_layer("self_attention.linear_proj.weight", "self_attn.o_proj.weight", Row()),
    *decoder.QK_NORM,
)


def _delta_net(*projections: str, packing: Packing):
    return (
        decoder.in_layer(
            "self_attention.in_proj.weight",
            tuple(f"linear_attn.in_proj_{name}.weight" for name in projections),
            packing,
        ),
        decoder.in_layer(
            "self_attention.conv1d.weight", "linear_attn.conv1d.weight", DeltaConvolution()
        ),
        decoder.in_layer("self_attention.dt_bias", "linear_attn.dt_bias", Column()),
        decoder.in_layer("self_attention.A_log", "linear_attn.A_log", Column()),
        decoder.in_layer("self_attention.out_norm.weight", "linear_attn.norm.weight", AroundZero()),
        decoder.in_layer("self_attention.out_proj.weight", "linear_attn.out_proj.weight", Row()),
    )


_TENSORS = (*decoder.ENDS, *decoder.NORMS, *_ATTENTION, *decoder.MLP)
_EXPERTS = (
    *experts.ROUTER,
    *experts.experts(),
    *decoder.gated("mlp.shared_experts", "mlp.shared_expert"),
    decoder.in_layer("mlp.shared_experts.gate_weight", "mlp.shared_expert_gate.weight", Packing()),
)
_TOGETHER = _delta_net("qkvz", "ba", packing=DeltaProjectionsByKeyHead())
_APART = _delta_net("qkv", "z", "b", "a", packing=DeltaProjections())

_LIMITS = (
    decoder.ACTIVATION,
    decoder.DEFAULT_ROPE,
    decoder.NO_ATTENTION_BIAS,
    Limit(
        "layer_types",
        lambda config: " and ".join(sorted(set(config.layer_types))),
        (f"{_FULL} and {_LINEAR}", _LINEAR),
    ),
    Limit(
        "linear_num_value_heads % linear_num_key_heads",
        lambda config: config.linear_num_value_heads % config.linear_num_key_heads,
        (0,),
    ),
)
_AHEAD = "mtp."

QWEN3_NEXT = Family(
    "qwen3_next",
    arguments=(*_DECODER, *experts.QWENS, *_SHARED_EXPERT),
    tensors=(*_TENSORS, *_TOGETHER, *_EXPERTS),
    limits=_LIMITS,
    unless_asked=decoder.UNLESS_ASKED | experts.UNLESS_ASKED,
    ahead=_AHEAD,
)
QWEN3_5 = Family(
    "qwen3_5_text",
    arguments=(*_DECODER, *decoder.DENSE),
    tensors=(*_TENSORS, *_APART),
    limits=_LIMITS,
    unless_asked=decoder.UNLESS_ASKED,
    predicts_ahead="mtp_num_hidden_layers",
    ahead=_AHEAD,
)
QWEN3_5_MOE = Family(
    "qwen3_5_moe_text",
    arguments=(
        *_DECODER,
        *experts.in_every_layer("num_experts", "moe_intermediate_size"),
        *_SHARED_EXPERT,
    ),
    tensors=(*_TENSORS, *_APART, *_EXPERTS),
    limits=_LIMITS,
    unless_asked=decoder.UNLESS_ASKED | experts.UNLESS_ASKED,
    predicts_ahead="mtp_num_hidden_layers",
    ahead=_AHEAD,
)
