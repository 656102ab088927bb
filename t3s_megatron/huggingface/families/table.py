# SPDX-License-Identifier: Apache-2.0
"""Every family of students, by the model_type of its config.json."""

from t3s_megatron.huggingface.families.bailing_moe import BAILING_MOE_V2, LLADA2_MOE
from t3s_megatron.huggingface.families.deepseek_v3 import DEEPSEEK_V3, KIMI_K2
from t3s_megatron.huggingface.families.family import Family
from t3s_megatron.huggingface.families.glm4_moe import GLM4_MOE
from t3s_megatron.huggingface.families.gpt_oss import GPT_OSS
from t3s_megatron.huggingface.families.llama import LLAMA, MISTRAL
from t3s_megatron.huggingface.families.mixtral import MIXTRAL
from t3s_megatron.huggingface.families.qwen2 import QWEN2, QWEN2_MOE
from t3s_megatron.huggingface.families.qwen3 import QWEN3, QWEN3_MOE
from t3s_megatron.huggingface.families.qwen3_next import QWEN3_5, QWEN3_5_MOE, QWEN3_NEXT

_ALL = (
    QWEN3,
    QWEN3_MOE,
    LLAMA,
    MISTRAL,
    QWEN2,
    QWEN2_MOE,
    MIXTRAL,
    GLM4_MOE,
    GPT_OSS,
    DEEPSEEK_V3,
    KIMI_K2,
    BAILING_MOE_V2,
    LLADA2_MOE,
    QWEN3_NEXT,
    QWEN3_5,
    QWEN3_5_MOE,
)

FAMILIES: dict[str, Family] = {family.model_type: family for family in _ALL}
