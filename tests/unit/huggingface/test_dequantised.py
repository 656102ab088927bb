# SPDX-License-Identifier: Apache-2.0
"""The way out of MXFP4 that docs/huggingface.md shows, on a tiny gpt-oss as one is released."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Mxfp4Config

from t3s_megatron.errors import T3SError
from t3s_megatron.huggingface.config import read_config
from tests.support.families import save_student

#: Of four bits (OCP Microscaling Formats 1.0, E2M1).
VALUES = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def _release(folder: str) -> dict[str, torch.Tensor]:
    """Make the experts of a folder MXFP4: random blocks of 32 input features with a scale each.
    What they are, [experts, input, output] by name."""
    file, wanted = f"{folder}/model.safetensors", {}
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(file).items()}
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = tensors.pop(name).shape
        shape = experts, outputs, inputs // 32
        blocks = torch.randint(256, (*shape, 16), dtype=torch.uint8)
        scales = torch.randint(118, 124, shape, dtype=torch.uint8)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        pairs = torch.stack([VALUES[(blocks & 15).long()], VALUES[(blocks >> 4).long()]], -1)
        rows = pairs.flatten(-2) * 2.0 ** (scales.int() - 127)[..., None]
        wanted[name] = rows.flatten(-2).transpose(1, 2).bfloat16()
    save_file(tensors, file, metadata={"format": "pt"})
    with open(f"{folder}/config.json") as config:
        written = json.load(config)
    quantised = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn",
                 "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]}  # fmt: skip
    with open(f"{folder}/config.json", "w") as config:
        json.dump(written | {"quantization_config": quantised}, config)
    return wanted


def test_out_of_mxfp4(tmp_path):
    folder, dequantised = str(tmp_path / "released"), str(tmp_path / "bf16")
    wanted = _release(save_student("gpt_oss", folder))
    with pytest.raises(T3SError, match=r"quantised: .* bfloat16, .* dequantize=True"):
        read_config(folder)
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype="bfloat16", quantization_config=Mxfp4Config(dequantize=True)
    )
    model.save_pretrained(dequantised)
    assert read_config(dequantised).model_type == "gpt_oss"
    found = load_file(f"{dequantised}/model.safetensors")
    assert len(wanted) == 8
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name
