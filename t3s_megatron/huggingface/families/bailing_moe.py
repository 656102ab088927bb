# SPDX-License-Identifier: Apache-2.0
"""Ling 2 (BailingMoeV2) and LLaDA 2, which was made of it: GLM-4.5's layer under names of its own,
q, k and v in one tensor, experts in groups.

transformers has neither; config.json is read with the defaults of their own configuration classes
(inclusionAI/Ling-V2 configuration_bailing_moe_v2.py, inclusionAI/dFactory
configuration_llada2_moe.py). LLaDA 2 learns by block diffusion (docs/diffusion.md); its layers and
weights do not differ.
"""

from __future__ import annotations

from t3s_megatron.huggingface.families import decoder, experts
from t3s_megatron.huggingface.families.family import Family, Limit, Tensor, fixed, same
from t3s_megatron.huggingface.packing import Packing, QueryKeyValueInOne, Row, Vocabulary

_DEFAULTS = dict(
    hidden_act="silu",
    attention_dropout=0.0,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
    rope_theta=600000.0,
    rope_scaling=None,
    partial_rotary_factor=0.5,
    num_shared_experts=1,
    n_group=8,
    topk_group=4,
    routed_scaling_factor=2.5,
    norm_topk_prob=True,
    score_function="sigmoid",
    moe_router_enable_expert_bias=True,
    first_k_dense_replace=0,
    use_bias=False,
    use_qkv_bias=False,
    use_qk_norm=True,
    norm_head=False,
    use_sliding_window=False,
    num_nextn_predict_layers=0,
)

_ARGUMENTS = (
    *decoder.NUMBERS,
    *decoder.HEADS,
    *decoder.ROPE,
    *decoder.NO_SCALING,
    decoder.PART_OF_HEAD,
    *decoder.SHAPE,
    *decoder.NO_MLA,
    *decoder.NO_QKV_BIAS,
    fixed("--qk-layernorm", True),
    same("num_experts", "--num-experts"),
    *experts.chosen_by_bias("num_shared_experts"),
)

_TENSORS = (
    Tensor("embedding.word_embeddings.weight", ("model.word_embeddings.weight",), Vocabulary()),
    Tensor("decoder.final_layernorm.weight", ("model.norm.weight",), Packing()),
    Tensor("output_layer.weight", ("lm_head.weight",), Vocabulary()),
    *decoder.NORMS,
    decoder.in_layer(
        "self_attention.linear_qkv.weight",
        "attention.query_key_value.weight",
        QueryKeyValueInOne(),
    ),
    decoder.in_layer("self_attention.linear_proj.weight", "attention.dense.weight", Row()),
    decoder.in_layer("self_attention.q_layernorm.weight", "attention.query_layernorm.weight"),
    decoder.in_layer("self_attention.k_layernorm.weight", "attention.key_layernorm.weight"),
    *decoder.MLP,
    *experts.ROUTER,
    decoder.in_layer("mlp.router.expert_bias", "mlp.gate.expert_bias"),
    *experts.experts(),
    *experts.SHARED,
)


def _is(said: str, value) -> Limit:
    return Limit(said, lambda config: getattr(config, said), (value,))


_LIMITS = (
    decoder.ACTIVATION,
    decoder.DEFAULT_ROPE,
    decoder.NO_WINDOW,
    *experts.CHOSEN_BY_BIAS_LIMITS,
    _is("score_function", "sigmoid"),
    _is("moe_router_enable_expert_bias", True),
    _is("use_bias", False),
    _is("use_qkv_bias", False),
    _is("use_qk_norm", True),
    _is("norm_head", False),
)


def _family(model_type: str) -> Family:
    return Family(
        model_type,
        arguments=_ARGUMENTS,
        tensors=_TENSORS,
        limits=_LIMITS,
        unless_asked=decoder.UNLESS_ASKED | experts.UNLESS_ASKED | experts.BIAS_STAYS,
        predicts_ahead="num_nextn_predict_layers",
        defaults=_DEFAULTS,
    )


BAILING_MOE_V2 = _family("bailing_moe_v2")
LLADA2_MOE = _family("llada2_moe")
