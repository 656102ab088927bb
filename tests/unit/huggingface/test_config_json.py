# SPDX-License-Identifier: Apache-2.0
"""config.json is read as it is; folders that cannot be students are refused, each kind by name."""

from __future__ import annotations

import json

import pytest

from t3s_megatron.errors import T3SError
from t3s_megatron.huggingface.architecture import options
from t3s_megatron.huggingface.config import read_config
from t3s_megatron.huggingface.families.refused import REFUSED
from t3s_megatron.huggingface.families.table import FAMILIES
from tests.support.published import MODELS

QWEN = {"model_type": "qwen3", "hidden_size": 64, "rope_theta": 1e6}


def write(folder, **config) -> str:
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_what_transformers_knows_is_filled_in(tmp_path):
    config = read_config(write(tmp_path, **QWEN))
    assert config.hidden_size == 64 and config.rms_norm_eps == 1e-6
    assert config.rope_parameters["rope_theta"] == 1e6


KINDS = {
    "quantised": (QWEN | {"quantization_config": {"quant_method": "fp8"}}, "weights are quantised"),
    "gpt-oss as released": (
        MODELS["gpt-oss-20b"] | {"quantization_config": {"quant_method": "mxfp4"}},
        "weights are quantised: give the folder in bfloat16",
    ),
    "vision": ({"model_type": "qwen3_vl", "vision_config": {"depth": 2}}, "images and text"),
    "remote code": (
        {"model_type": "mine", "auto_map": {"AutoConfig": "configuration_mine.C"}},
        "model_type mine needs the code that comes with the folder",
    ),
    "unknown": ({"model_type": "mine"}, "not a config that transformers reads"),
    "no model_type": ({}, "not a config that transformers reads"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_kind_of_folder_is_named(kind, tmp_path):
    config, wanted = KINDS[kind]
    with pytest.raises(T3SError, match=wanted):
        read_config(write(tmp_path, **config))


@pytest.mark.parametrize("model_type", REFUSED)
def test_a_student_that_is_asked_for_and_not_supported_is_refused_with_its_reason(
    model_type, tmp_path
):
    """Before its weights' format is looked at: another one would not help."""
    assert model_type not in FAMILIES
    config = {"model_type": model_type, "quantization_config": {"quant_method": "mxfp4"}}
    config |= {"vision_config": {"depth": 2}, "auto_map": {"AutoConfig": "configuration_x.C"}}
    with pytest.raises(T3SError, match=f"model_type {model_type} is not supported: ") as raised:
        read_config(write(tmp_path, **config))
    assert REFUSED[model_type] in str(raised.value)


def test_kimi_is_read_as_the_deepseek_that_it_is(tmp_path):
    name = "Kimi-K2-Instruct, three layers"
    given = MODELS[name]
    kimi = read_config(write(tmp_path, **given))
    deepseek = read_config(write(tmp_path, **given | {"model_type": "deepseek_v3"}))
    assert options(kimi, name) == options(deepseek, name)
    assert options(kimi, name)["beta_fast"] == 1.0


def test_a_model_that_transformers_does_not_know_is_read_without_its_code(tmp_path):
    written = MODELS["Ling-mini-2.0"] | {
        "model_type": "llada2_moe",
        "auto_map": {"AutoConfig": "configuration_mine.C"},
        "rope_theta": 1000.0,
        "n_group": 4,
    }
    del written["topk_group"]
    config = read_config(write(tmp_path, **written))
    assert config.n_group == 4 and config.topk_group == 4  # the second by default
    assert config.rope_parameters == {
        "rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.5
    }  # fmt: skip


def test_a_field_that_has_no_default(tmp_path):
    written = {key: value for key, value in MODELS["Ling-mini-2.0"].items() if key != "num_experts"}
    with pytest.raises(T3SError, match="config.json: it lacks num_experts"):
        read_config(write(tmp_path, **written))


def test_no_code_of_a_folder_is_run(tmp_path):
    (tmp_path / "configuration_mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    config = {"model_type": "mine", "auto_map": {"AutoConfig": "configuration_mine.C"}}
    with pytest.raises(T3SError):
        read_config(write(tmp_path, **config))
    assert not (tmp_path / "ran").exists()


def test_a_folder_without_config(tmp_path):
    with pytest.raises(T3SError, match="no config.json in it"):
        read_config(str(tmp_path))
    for text in ("{", "[]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(T3SError, match="config.json: not a config"):
            read_config(str(tmp_path))


def test_gguf(tmp_path):
    (tmp_path / "model-q8_0.gguf").write_bytes(b"GGUF")
    with pytest.raises(T3SError, match="GGUF files"):
        read_config(str(tmp_path))


def test_a_name_of_the_hub(tmp_path):
    with pytest.raises(T3SError, match="Qwen/Qwen3-8B: no such folder.*hf download"):
        read_config("Qwen/Qwen3-8B")
