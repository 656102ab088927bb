# SPDX-License-Identifier: Apache-2.0
"""DeepSeek-V3 and R1, Moonlight, Kimi-K2: latent attention, GLM-4.5's router and experts.

Released in 8-bit blocks, DeepSeek's own folders and Kimi-K2's have to be brought to bfloat16 first.
Moonlight is a deepseek_v3 whose queries have no low rank. Kimi-K2 is one by another name, which
transformers does not know: its config.json is read with the defaults of transformers'
DeepseekV3Config, of which Moonshot's own configuration class is a copy.

A norm's epsilon of 1e-5 (Moonlight): Megatron and vLLM take it for the norms of the latents as
well, where Hugging Face's code has 1e-6 whatever config.json says.
"""

from __future__ import annotations

from t3s_megatron.huggingface.families import decoder, experts
from t3s_megatron.huggingface.families.family import Argument, Family, Limit, fixed, same
from t3s_megatron.huggingface.packing import Column, ColumnOrWhole, Row


def _is_yarn(config) -> bool:
    return config.rope_parameters.get("rope_type", "default") == "yarn"


def _yarn(name: str, default: float, option: str) -> Argument:
    """A figure of YaRN; Megatron's default where config.json has another kind of rope. `option`: a
    word without hyphens before it is a field of Megatron's config without an argument."""
    dest = option.lstrip("-").replace("-", "_")

    def wanted(config) -> float:
        return float(config.rope_parameters.get(name, default)) if _is_yarn(config) else default

    return Argument(
        f"rope_parameters.{name}",
        option,
        wanted=wanted,
        found=lambda args: getattr(args, dest, default),
        options=lambda config: {option: wanted(config)} if _is_yarn(config) else {},
        written=lambda args: {},
    )


_ROPE_TYPE = Argument(
    "rope_type",
    "--rope-type",
    wanted=lambda config: "yarn" if _is_yarn(config) else "rope",
    found=lambda args: args.rope_type,
    options=lambda config: {"--rope-type": "yarn" if _is_yarn(config) else "rope"},
    written=lambda args: {},
)

ATTENTION = (
    decoder.in_layer(
        "self_attention.linear_q_down_proj.weight", "self_attn.q_a_proj.weight", ColumnOrWhole()
    ),
    decoder.in_layer("self_attention.q_layernorm.weight", "self_attn.q_a_layernorm.weight"),
    # Queries without a low rank.
    decoder.in_layer("self_attention.linear_q_proj.weight", "self_attn.q_proj.weight", Column()),
    decoder.in_layer(
        "self_attention.linear_q_up_proj.weight", "self_attn.q_b_proj.weight", Column()
    ),
    decoder.in_layer(
        "self_attention.linear_kv_down_proj.weight",
        "self_attn.kv_a_proj_with_mqa.weight",
        ColumnOrWhole(),
    ),
    decoder.in_layer("self_attention.kv_layernorm.weight", "self_attn.kv_a_layernorm.weight"),
    decoder.in_layer(
        "self_attention.linear_kv_up_proj.weight", "self_attn.kv_b_proj.weight", Column()
    ),
    decoder.in_layer("self_attention.linear_proj.weight", "self_attn.o_proj.weight", Row()),
)

_ARGUMENTS = (
    *decoder.NUMBERS,
    fixed("--multi-latent-attention", True),
    same("q_lora_rank", "--q-lora-rank"),
    same("kv_lora_rank", "--kv-lora-rank"),
    same("qk_nope_head_dim", "--qk-head-dim"),
    same("qk_rope_head_dim", "--qk-pos-emb-head-dim"),
    same("v_head_dim", "--v-head-dim"),
    *decoder.ROPE,
    _ROPE_TYPE,
    _yarn("factor", 1.0, "--rotary-scaling-factor"),
    _yarn("mscale", 1.0, "--mscale"),
    _yarn("mscale_all_dim", 0.0, "--mscale-all-dim"),
    _yarn("original_max_position_embeddings", 4096, "original_max_position_embeddings"),
    _yarn("beta_fast", 32, "beta_fast"),
    _yarn("beta_slow", 1, "beta_slow"),
    *decoder.WHOLE_HEAD,
    *decoder.SHAPE,
    *decoder.NO_QKV_BIAS,
    fixed("--qk-layernorm", True),
    same("n_routed_experts", "--num-experts"),
    *experts.chosen_by_bias(),
)
_TENSORS = (
    *decoder.ENDS,
    *decoder.NORMS,
    *ATTENTION,
    *decoder.MLP,
    *experts.ROUTER,
    *experts.CORRECTION_BIAS,
    *experts.experts(),
    *experts.SHARED,
)
_LIMITS = (
    decoder.ACTIVATION,
    Limit("rope_type", decoder.rope_type, ("default", "yarn")),
    Limit("rms_norm_eps", lambda config: config.rms_norm_eps, (1e-6, 1e-5)),
    Limit("rope_interleave", lambda config: bool(config.rope_interleave), (True,)),
    Limit("scoring_func", lambda config: getattr(config, "scoring_func", "sigmoid"), ("sigmoid",)),
    Limit("topk_method", lambda config: getattr(config, "topk_method", "noaux_tc"), ("noaux_tc",)),
    decoder.NO_ATTENTION_BIAS,
    *experts.CHOSEN_BY_BIAS_LIMITS,
)
_DEFAULTS = dict(
    hidden_act="silu",
    attention_bias=False,
    attention_dropout=0.0,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
    rope_theta=10000.0,
    rope_scaling=None,
    rope_interleave=True,
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_nope_head_dim=128,
    qk_rope_head_dim=64,
    v_head_dim=128,
    n_shared_experts=1,
    num_experts_per_tok=8,
    n_group=8,
    topk_group=4,
    routed_scaling_factor=2.5,
    norm_topk_prob=True,
    first_k_dense_replace=3,
    num_nextn_predict_layers=0,
)


def _family(model_type: str, defaults: dict | None = None) -> Family:
    return Family(
        model_type,
        arguments=_ARGUMENTS,
        tensors=_TENSORS,
        limits=_LIMITS,
        # With a key-value cache, and with another rope than YaRN, Megatron has no fused rotation.
        unless_asked=decoder.UNLESS_ASKED
        | experts.UNLESS_ASKED
        | experts.BIAS_STAYS
        | {"--no-rope-fusion": True},
        predicts_ahead="num_nextn_predict_layers",
        defaults=defaults,
    )


DEEPSEEK_V3 = _family("deepseek_v3")
KIMI_K2 = _family("kimi_k2", _DEFAULTS)
