# SPDX-License-Identifier: Apache-2.0
"""Qwen3 and Qwen3-MoE: no biases, a norm on every query and key head."""

from __future__ import annotations

from t3s_megatron.huggingface.families import decoder, experts
from t3s_megatron.huggingface.families.family import Argument, Family, fixed, same

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


def has_experts(config) -> list[bool]:
    """For each layer. `decoder_sparse_step`: every so many layers have them."""
    return [
        layer not in (config.mlp_only_layers or ())
        and (layer + 1) % config.decoder_sparse_step == 0
        for layer in range(config.num_hidden_layers)
    ]


#: Softmax over the chosen experts alone is softmax over all, normalised again.
NORMALISED = Argument(
    "norm_topk_prob",
    "the opposite of --moe-router-pre-softmax",
    wanted=lambda config: config.norm_topk_prob,
    found=lambda args: not args.moe_router_pre_softmax,
    options=lambda config: {"--moe-router-pre-softmax": not config.norm_topk_prob},
    written=lambda args: {"norm_topk_prob": not args.moe_router_pre_softmax},
)

QWEN3_MOE = Family(
    "qwen3_moe",
    arguments=(
        *_DECODER,
        same("num_experts", "--num-experts"),
        same("num_experts_per_tok", "--moe-router-topk"),
        experts.width("moe_intermediate_size"),
        experts.dense_width(has_experts),
        experts.layers(has_experts),
        NORMALISED,
        *experts.SOFTMAX_ROUTER,
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
