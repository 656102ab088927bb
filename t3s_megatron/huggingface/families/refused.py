# SPDX-License-Identifier: Apache-2.0
"""Students that are asked for and cannot be trained here, by the model_type of their config.json:
why, and what to do instead. Read in megatron-core 0.19.2."""

from __future__ import annotations

_SPARSE = (
    "its sparse attention (DSA) needs Transformer Engine's kernels, and this project has no table "
    "of its tensors. DeepSeek-V3, GLM-4.5 and Kimi-K2 are its nearest relatives that are supported"
)
_IMAGES = "it is a model of images and text: only text models are students"
_IMAGES_AND_QWEN = (
    f"{_IMAGES}. Its text model (qwen3_5_text, qwen3_5_moe_text) is: save it by itself with "
    "transformers, AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(TEXT_DIR), with its "
    "tokenizer"
)

REFUSED: dict[str, str] = {
    "qwen3_5": _IMAGES_AND_QWEN,
    "qwen3_5_moe": _IMAGES_AND_QWEN,
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
