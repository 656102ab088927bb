# SPDX-License-Identifier: Apache-2.0
"""Students that are asked for and cannot be trained here, by the model_type of their config.json:
why, and what to do instead. Read in megatron-core 0.19.2."""

from __future__ import annotations

# Not even on the meta device is one built without both: GatedDeltaNet.__init__ asks for the
# first (ssm/gated_delta_net/common.py:141), the specification of its layers for the second
# (models/gpt/experimental_attention_variant_module_specs.py:442). A table could not be tested.
_GATED_DELTA_NET = (
    "three of four layers are gated delta nets, which Megatron builds with flash-linear-attention "
    "and Transformer Engine only, on a GPU, and runs without a key-value cache "
    "(ssm/gated_delta_net), and this project has no table of their tensors. Train it with --t3s "
    "from a pretrain script of your own that builds and loads the model (docs/huggingface.md), "
    "with --t3s-generation server or --t3s-signal confidence for theta_b"
)
_SPARSE = (
    "its sparse attention (DSA) needs Transformer Engine's kernels, and this project has no table "
    "of its tensors. DeepSeek-V3, GLM-4.5 and Kimi-K2 are its nearest relatives that are supported"
)
_IMAGES = "it is a model of images and text: only text models are students"

REFUSED: dict[str, str] = {
    "qwen3_next": _GATED_DELTA_NET,
    "qwen3_5_text": _GATED_DELTA_NET,
    "qwen3_5_moe_text": _GATED_DELTA_NET,
    "qwen3_5": _GATED_DELTA_NET,
    "qwen3_5_moe": _GATED_DELTA_NET,
    "kimi_linear": (
        "its linear attention (KDA) is not in Megatron. Kimi-K2 and Moonlight are supported"
    ),
    "kimi_k25": _IMAGES,
    "deepseek_v32": _SPARSE,
    "deepseek_v4": _SPARSE,
    "glm_moe_dsa": _SPARSE,
    "glm4_moe_lite": (
        "GLM-4.7-Flash has GLM's experts with latent attention, a pair that this project has no "
        "table for. GLM-4.5-Air (glm4_moe) is its nearest relative that is supported"
    ),
}
