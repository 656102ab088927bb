# SPDX-License-Identifier: Apache-2.0
"""GLM-4.5, 4.6 and 4.7: half of each head rotated, sigmoid router with a bias that only chooses,
shared expert, first layers dense. Norms on heads and biases on q, k, v as config.json has them."""

from __future__ import annotations

from t3s_megatron.huggingface.families import decoder, experts
from t3s_megatron.huggingface.families.family import Family, flag, same

GLM4_MOE = Family(
    "glm4_moe",
    arguments=(
        *decoder.NUMBERS,
        *decoder.HEADS,
        *decoder.ROPE,
        *decoder.NO_SCALING,
        decoder.PART_OF_HEAD,
        *decoder.SHAPE,
        *decoder.NO_MLA,
        flag("attention_bias", "--add-qkv-bias"),
        flag("use_qk_norm", "--qk-layernorm"),
        same("n_routed_experts", "--num-experts"),
        *experts.chosen_by_bias(),
    ),
    tensors=(
        *decoder.DECODER,
        *decoder.QKV_BIAS,
        *decoder.QK_NORM,
        *decoder.MLP,
        *experts.ROUTER,
        *experts.CORRECTION_BIAS,
        *experts.experts(),
        *experts.SHARED,
    ),
    limits=(decoder.ACTIVATION, decoder.DEFAULT_ROPE, *experts.CHOSEN_BY_BIAS_LIMITS),
    unless_asked=decoder.UNLESS_ASKED | experts.UNLESS_ASKED | experts.BIAS_STAYS,
    predicts_ahead="num_nextn_predict_layers",
)
