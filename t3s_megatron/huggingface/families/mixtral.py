# SPDX-License-Identifier: Apache-2.0
"""Mixtral: Mistral's decoder with experts in every layer, softmax over the chosen ones."""

from __future__ import annotations

from t3s_megatron.huggingface.families import decoder, experts
from t3s_megatron.huggingface.families.family import Family, unused

MIXTRAL = Family(
    "mixtral",
    arguments=(
        *decoder.NUMBERS,
        *decoder.HEADS,
        *decoder.PLAIN_ROPE,
        *decoder.SHAPE,
        *decoder.NO_MLA,
        *decoder.NO_QKV_BIAS,
        unused("--qk-layernorm"),
        *experts.in_every_layer("num_local_experts", "intermediate_size"),
        *experts.NO_SHARED_EXPERT,
        *experts.PLAIN_EXPERTS,
    ),
    tensors=(
        *decoder.DECODER,
        decoder.in_layer("mlp.router.weight", "block_sparse_moe.gate.weight"),
        *experts.experts("block_sparse_moe.experts.{expert}", gate="w1", up="w3", down="w2"),
    ),
    limits=(decoder.ACTIVATION, decoder.DEFAULT_ROPE),
    unless_asked=decoder.UNLESS_ASKED | experts.UNLESS_ASKED,
)
