# SPDX-License-Identifier: Apache-2.0
"""The families of students: one file each, and one line here.

A family says how config.json and Megatron's arguments describe the same model, and which tensors
of a folder make up which of Megatron's parameters. Nothing else knows a family by name.
"""

from t3s_megatron.huggingface.families.family import Family
from t3s_megatron.huggingface.families.qwen3 import QWEN3, QWEN3_MOE

FAMILIES: dict[str, Family] = {family.model_type: family for family in (QWEN3, QWEN3_MOE)}
