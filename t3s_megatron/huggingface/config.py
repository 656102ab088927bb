# SPDX-License-Identifier: Apache-2.0
"""config.json of a folder: read, and refused where it is of a kind that cannot be a student.

No code of a folder is ever run. A model_type that transformers does not know is read as it stands
where a family says what the fields are that it may leave out.
"""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

from t3s_megatron.errors import T3SError
from t3s_megatron.huggingface.families.refused import REFUSED
from t3s_megatron.huggingface.families.table import FAMILIES

#: Keys of config.json that make a folder one of another kind.
_KINDS = {
    "quantization_config": "its weights are quantised: give the folder in bfloat16, as "
    "transformers saves what it has loaded with dequantize=True (docs/huggingface.md, gpt-oss)",
    "compression_config": "its weights are compressed: give the folder in bfloat16",
    "vision_config": "it is a model of images and text: only text models are students",
    "audio_config": "it is a model of sound and text: only text models are students",
    "text_config": "it is a model of several kinds of input: only text models are students",
}


def read_config(folder: str):
    """The config of a folder: of transformers, or a namespace with the same fields.

    T3SError when there is none that can be read, or the folder is of a kind that is not supported.
    """
    path = os.path.join(folder, "config.json")
    if not os.path.isfile(path):
        raise T3SError(f"{folder}: {_no_config(folder)}")
    written = read_json(path)
    if (why := REFUSED.get(written.get("model_type", ""))) is not None:
        raise T3SError(f"{folder}: model_type {written['model_type']} is not supported: {why}")
    for key, why in _KINDS.items():
        if written.get(key):
            raise T3SError(f"{folder}: {key} in config.json: {why}")
    family = FAMILIES.get(written.get("model_type", ""))
    if family is not None and family.defaults is not None:
        config = _namespace(family.defaults | written)
        try:
            family.options(config)
        except AttributeError as error:
            raise T3SError(f"{path}: it lacks {error.name}") from None
        return config
    return _transformers_config(folder, path, written)


def read_json(path: str) -> dict:
    """T3SError for a file that is no JSON object."""
    try:
        with open(path, encoding="utf-8") as file:
            written = json.load(file)
    except (OSError, ValueError) as error:
        raise T3SError(f"{path}: not a config that can be read ({error})") from error
    if not isinstance(written, dict):
        raise T3SError(f"{path}: not a config: it is no JSON object")
    return written


def _no_config(folder: str) -> str:
    if not os.path.isdir(folder):
        return (
            "no such folder. A student of the Hugging Face hub is OWNER/NAME, or has to be "
            "downloaded first: hf download OWNER/NAME --local-dir DIR"
        )
    if any(name.endswith(".gguf") for name in os.listdir(folder)):
        return (
            "GGUF files without a config.json, which are not read: give the folder of safetensors "
            "that they were made of"
        )
    return "not a Hugging Face model folder: there is no config.json in it"


def _transformers_config(folder: str, path: str, written: dict):
    from transformers import CONFIG_MAPPING, AutoConfig

    model_type = written.get("model_type")
    if model_type not in CONFIG_MAPPING and "auto_map" in written:
        raise T3SError(
            f"{path}: model_type {model_type} needs the code that comes with the folder "
            "(auto_map), which is not run"
        )
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # transformers raises many types
        raise T3SError(f"{path}: not a config that transformers reads ({error})") from error


def _namespace(fields: dict) -> SimpleNamespace:
    """Fields by name, the rope's as transformers 5 keeps them."""
    scaling = fields.get("rope_scaling") or {}
    rope = {"rope_type": "default", "rope_theta": fields.get("rope_theta")}
    if "partial_rotary_factor" in fields:
        rope["partial_rotary_factor"] = fields["partial_rotary_factor"]
    rope |= {("rope_type" if key == "type" else key): value for key, value in scaling.items()}
    return SimpleNamespace(**{"rope_parameters": rope} | fields)
