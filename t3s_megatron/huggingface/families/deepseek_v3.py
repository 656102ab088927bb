# SPDX-License-Identifier: Apache-2.0
"""DeepSeek-V3 and R1: multi-head latent attention, GLM-4.5's router and experts.

Released in 8-bit blocks, DeepSeek's own folders have to be brought to bfloat16 first. Moonlight,
whose queries have no low rank, is refused: Megatron 0.19 has a norm before such queries
(mla_qk_norm_config.py), and these models have none.
"""

from __future__ import annotations

from functools import partial

from t3s_megatron.huggingface.families import decoder, experts
from t3s_megatron.huggingface.families.family import Argument, Family, Limit, fixed, same
from t3s_megatron.huggingface.packing import Column, ColumnOrWhole, Row

#: Megatron's own figures for YaRN with latent attention (MLATransformerConfig), which has no
#: arguments for them.
_YARN = {"original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1}


def _is_yarn(config) -> bool:
    return config.rope_parameters.get("rope_type", "default") == "yarn"


def _yarn(name: str, default: float, option: str) -> Argument:
    """A figure of YaRN; Megatron's default where config.json has another kind of rope."""
    dest = option.lstrip("-").replace("-", "_")

    def wanted(config) -> float:
        return float(config.rope_parameters.get(name, default)) if _is_yarn(config) else default

    return Argument(
        f"rope_parameters.{name}",
        option,
        wanted=wanted,
        found=lambda args: getattr(args, dest),
        options=lambda config: {option: wanted(config)} if _is_yarn(config) else {},
        written=lambda args: {},
    )


def _figure(name: str, value: float, config) -> float:
    return config.rope_parameters.get(name, value) if _is_yarn(config) else value


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

DEEPSEEK_V3 = Family(
    "deepseek_v3",
    arguments=(
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
        *decoder.WHOLE_HEAD,
        *decoder.SHAPE,
        *decoder.NO_QKV_BIAS,
        fixed("--qk-layernorm", True),
        same("n_routed_experts", "--num-experts"),
        *experts.chosen_by_bias(),
    ),
    tensors=(
        *decoder.ENDS,
        *decoder.NORMS,
        *ATTENTION,
        *decoder.MLP,
        *experts.ROUTER,
        *experts.CORRECTION_BIAS,
        *experts.experts(),
        *experts.SHARED,
    ),
    limits=(
        decoder.ACTIVATION,
        Limit("rope_type", decoder.rope_type, ("default", "yarn")),
        *(
            Limit(f"rope_parameters.{name}", partial(_figure, name, value), (value,))
            for name, value in _YARN.items()
        ),
        Limit("low rank of queries", lambda config: config.q_lora_rank is not None, (True,)),
        # What Hugging Face's code takes for the norms of the latents, whatever config.json says.
        Limit("rms_norm_eps", lambda config: config.rms_norm_eps, (1e-6,)),
        Limit("rope_interleave", lambda config: bool(config.rope_interleave), (True,)),
        decoder.NO_ATTENTION_BIAS,
        *experts.CHOSEN_BY_BIAS_LIMITS,
    ),
    # With a key-value cache, and with another rope than YaRN, Megatron has no fused rotation.
    unless_asked=decoder.UNLESS_ASKED
    | experts.UNLESS_ASKED
    | experts.BIAS_STAYS
    | {"--no-rope-fusion": True},
    predicts_ahead="num_nextn_predict_layers",
)
