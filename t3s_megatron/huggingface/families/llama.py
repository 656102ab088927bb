# SPDX-License-Identifier: Apache-2.0
"""Llama 2 and 3, and Mistral: no biases, no norm inside of the attention.

DeepSeek-R1-Distill-Llama is a Llama; Ministral's dense models are Mistrals. Mistral's sliding
window, where config.json has one, bounds the positions: up to its length it hides nothing.
"""

from __future__ import annotations

from t3s_megatron.huggingface.families import decoder
from t3s_megatron.huggingface.families.family import Family, Limit, unused

_DECODER = (
    *decoder.NUMBERS,
    *decoder.HEADS,
    *decoder.SHAPE,
    *decoder.NO_MLA,
    *decoder.NO_QKV_BIAS,
    unused("--qk-layernorm"),
    *decoder.DENSE,
)
_TENSORS = (*decoder.DECODER, *decoder.MLP)

LLAMA = Family(
    "llama",
    arguments=(*_DECODER, *decoder.LLAMA3_ROPE),
    tensors=_TENSORS,
    limits=(
        decoder.ACTIVATION,
        decoder.ROPE_OR_LLAMA3,
        *decoder.LLAMA3_FIGURES,
        decoder.NO_ATTENTION_BIAS,
        Limit("mlp_bias", lambda config: bool(config.mlp_bias), (False,)),
    ),
    unless_asked=decoder.UNLESS_ASKED,
    architecture="LlamaForCausalLM",
)

MISTRAL = Family(
    "mistral",
    arguments=(*_DECODER, *decoder.PLAIN_ROPE),
    tensors=_TENSORS,
    limits=(decoder.ACTIVATION, decoder.DEFAULT_ROPE),
    unless_asked=decoder.UNLESS_ASKED,
)
