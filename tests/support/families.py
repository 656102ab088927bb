# SPDX-License-Identifier: Apache-2.0
"""Random tiny students of every family, made and saved by transformers."""

from __future__ import annotations

import json
import os
import shutil

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 23  # not a multiple of 2

#: Of every tiny student; tests.support.launch.MODEL is the same in Megatron's words.
SHAPE = dict(
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    rms_norm_eps=1e-6,
    initializer_range=0.1,
)
_SHAPE = SHAPE | dict(
    vocab_size=VOCABULARY,
    rope_theta=10000.0,
    tie_word_embeddings=False,
    bos_token_id=None,
    eos_token_id=1,
    pad_token_id=None,  # transformers would not learn its embedding
)
WIDE_HEADS = dict(head_dim=32)  # not hidden_size / num_attention_heads, as in Qwen3-32B
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
_SIGMOID_ROUTER = dict(
    n_routed_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=32,
    n_shared_experts=2,
    routed_scaling_factor=2.5,
    first_k_dense_replace=1,
    norm_topk_prob=True,
)

#: What differs from _SHAPE in config.json.
STUDENTS: dict[str, dict] = {
    "qwen3": dict(model_type="qwen3", **WIDE_HEADS, rope_theta=1e6),
    "qwen3-tied": dict(model_type="qwen3", **WIDE_HEADS, tie_word_embeddings=True),
    "qwen3_moe": dict(
        model_type="qwen3_moe",
        **WIDE_HEADS,
        **EXPERTS,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        mlp_only_layers=[1],
    ),
    "llama": dict(
        model_type="llama",
        tie_word_embeddings=True,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 32.0,  # Llama 3.2's; Megatron's default is 8
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    ),
    # Fewer heads of keys than tensor-parallel ranks, as Qwen3-235B's 4 at 8 ranks.
    "mistral": dict(model_type="mistral", **WIDE_HEADS, num_key_value_heads=1, sliding_window=None),
    "qwen2": dict(model_type="qwen2"),
    "qwen2_moe": dict(
        model_type="qwen2_moe", **EXPERTS, shared_expert_intermediate_size=96, norm_topk_prob=False
    ),
    "mixtral": dict(
        model_type="mixtral", num_local_experts=4, num_experts_per_tok=2, sliding_window=None
    ),
    "glm4_moe": dict(
        model_type="glm4_moe",
        **WIDE_HEADS,
        **_SIGMOID_ROUTER,
        attention_bias=True,
        use_qk_norm=False,
        n_group=1,
        topk_group=1,
        partial_rotary_factor=0.5,
    ),
    "gpt_oss": dict(
        model_type="gpt_oss",
        **WIDE_HEADS,
        intermediate_size=32,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=8,
        swiglu_limit=0.5,  # is met
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 150000.0,
            "factor": 4.0,
            "beta_fast": 4.0,
            "beta_slow": 0.5,
            "truncate": False,
            "original_max_position_embeddings": 512,
        },
    ),
    "kimi_k2": dict(
        model_type="deepseek_v3",  # renamed by `_as_kimi`
        **_SIGMOID_ROUTER,
        num_key_value_heads=4,
        q_lora_rank=24,
        kv_lora_rank=16,
        qk_nope_head_dim=16,
        qk_rope_head_dim=8,
        v_head_dim=12,
        n_group=2,
        topk_group=1,
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            # None is Megatron's default, and each changes the angles.
            "beta_fast": 4,
            "beta_slow": 0.5,
            "original_max_position_embeddings": 512,
        },
    ),
    "deepseek_v3": dict(
        model_type="deepseek_v3",
        **_SIGMOID_ROUTER,
        num_key_value_heads=4,
        q_lora_rank=None,  # Moonlight
        kv_lora_rank=16,
        qk_nope_head_dim=16,
        qk_rope_head_dim=8,
        v_head_dim=16,
        n_group=1,
        topk_group=1,
    ),
    "bailing_moe_v2": dict(
        model_type="glm4_moe",  # renamed by `_as_bailing`
        **WIDE_HEADS,
        **_SIGMOID_ROUTER,
        attention_bias=False,
        use_qk_norm=True,
        n_group=2,
        topk_group=1,
        partial_rotary_factor=0.5,
    ),
}

_DELTA_NET = dict(
    **WIDE_HEADS,
    layer_types=["linear_attention", "full_attention"] * 2,
    partial_rotary_factor=0.25,
    linear_conv_kernel_dim=4,
    linear_key_head_dim=8,
    linear_value_head_dim=12,
    linear_num_key_heads=2,
    linear_num_value_heads=6,
)
STUDENTS |= {
    "qwen3_next": dict(
        model_type="qwen3_next",
        **_DELTA_NET,
        **EXPERTS,
        shared_expert_intermediate_size=48,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        mlp_only_layers=[1],
    ),
    "qwen3_5_text": dict(model_type="qwen3_5_text", **_DELTA_NET),
    "qwen3_5_moe_text": dict(
        model_type="qwen3_5_moe_text",
        **_DELTA_NET,
        **EXPERTS,
        shared_expert_intermediate_size=48,
    ),
}

WITH_EXPERTS = [name for name, config in STUDENTS.items() if "num_experts_per_tok" in config]


def save_student(name: str, folder: str, *, shard_size: str = "5GB", seed: int = 0) -> str:
    """The folder of a random student; neither norms are ones nor biases zeros. What transformers
    computes of it: of `reference(folder)`."""
    if name in _UNKNOWN:
        _save(name, f"{folder}-reference", shard_size, seed)
        return _UNKNOWN[name](f"{folder}-reference", folder)
    _save(name, folder, shard_size, seed)
    if name == "glm4_moe":
        _add_layer_ahead(folder)
    return folder


def reference(folder: str) -> str:
    """The same model in a folder that transformers reads."""
    return f"{folder}-reference" if os.path.isdir(f"{folder}-reference") else folder


def _save(name: str, folder: str, shard_size: str, seed: int) -> str:
    torch.manual_seed(seed)
    config = AutoConfig.for_model(**_SHAPE | STUDENTS[name])
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if "norm" in key:
                around = 0.0 if _is_around_zero(name, key) else 1.0
                tensor.uniform_(around - 0.5, around + 0.5)
            elif "bias" in key or "sinks" in key:
                tensor.uniform_(-0.3, 0.3)
            elif "conv1d" in key:
                tensor.uniform_(-1, 1)
            elif "linear_attn.out_proj" in key:  # the norm before it makes much of rounding
                tensor.mul_(0.05)
    model.save_pretrained(folder, max_shard_size=shard_size)
    return folder


def _is_around_zero(name: str, key: str) -> bool:
    """Whether a norm is kept as its difference from one."""
    return "linear_key_head_dim" in STUDENTS[name] and "linear_attn" not in key


#: How the tensors of a layer for multi-token prediction begin.
AHEAD = f"model.layers.{_SHAPE['num_hidden_layers']}."


def _add_layer_ahead(folder: str) -> None:
    """As published GLM-4.5 folders have one after the last; transformers leaves it out."""
    file = f"{folder}/model.safetensors"
    ahead = {f"{AHEAD}{name}.weight": torch.ones(64) for name in ("enorm", "hnorm")}
    save_file(load_file(file) | ahead, file, metadata={"format": "pt"})
    with open(f"{folder}/config.json") as config:
        written = json.load(config) | {"num_nextn_predict_layers": 1}
    with open(f"{folder}/config.json", "w") as config:
        json.dump(written, config)


_RENAMED = (
    ("embed_tokens", "word_embeddings"),
    ("self_attn.o_proj", "attention.dense"),
    ("self_attn.q_norm", "attention.query_layernorm"),
    ("self_attn.k_norm", "attention.key_layernorm"),
    ("e_score_correction_bias", "expert_bias"),
)


def _as_bailing(source: str, folder: str) -> str:
    """A GLM-4.5 with norms on its heads is a Ling 2 under other names (inclusionAI/Ling-V2,
    modeling_bailing_moe_v2.py); transformers has only the first."""
    tensors = load_file(f"{source}/model.safetensors")
    for layer in range(_SHAPE["num_hidden_layers"]):
        names = [f"model.layers.{layer}.self_attn.{x}_proj.weight" for x in "qkv"]
        tensors[f"model.layers.{layer}.attention.query_key_value.weight"] = torch.cat(
            [tensors.pop(name) for name in names]
        )
    for old, new in _RENAMED:
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    os.makedirs(folder)
    save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})
    glm = STUDENTS["bailing_moe_v2"]
    kept = ("head_dim", "num_experts_per_tok", "moe_intermediate_size", "routed_scaling_factor",
            "first_k_dense_replace", "norm_topk_prob", "n_group", "topk_group",
            "partial_rotary_factor")  # fmt: skip
    config = _SHAPE | {key: glm[key] for key in kept}
    config |= dict(
        model_type="bailing_moe_v2",
        auto_map={"AutoConfig": "configuration_bailing.Config"},
        num_experts=glm["n_routed_experts"],
        num_shared_experts=glm["n_shared_experts"],
    )
    with open(f"{folder}/config.json", "w") as file:
        json.dump(config, file)
    with open(f"{folder}/configuration_bailing.py", "w") as file:
        file.write("raise RuntimeError('the code of a folder is not run')\n")
    return folder


def _as_kimi(source: str, folder: str) -> str:
    """Kimi-K2 is a DeepSeek-V3 by another name, with its rope as older folders say it."""
    os.makedirs(folder)
    shutil.copy(f"{source}/model.safetensors", folder)
    said = STUDENTS["kimi_k2"].copy()
    rope = said.pop("rope_parameters").copy()
    config = _SHAPE | said | dict(
        model_type="kimi_k2",
        auto_map={"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
        scoring_func="sigmoid",
        topk_method="noaux_tc",
        rope_theta=rope.pop("rope_theta"),
        rope_scaling={"type": rope.pop("rope_type")} | rope,
    )  # fmt: skip
    with open(f"{folder}/config.json", "w") as file:
        json.dump(config, file)
    with open(f"{folder}/configuration_deepseek.py", "w") as file:
        file.write("raise RuntimeError('the code of a folder is not run')\n")
    return folder


#: Those that transformers does not know, and what makes a folder of each of one that it does.
_UNKNOWN = {"bailing_moe_v2": _as_bailing, "kimi_k2": _as_kimi}


@torch.no_grad()
def greedy(folder: str, prompt: list[int], tokens: int) -> list[int]:
    """What transformers answers, each token from the whole sequence."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    sequence = torch.tensor([prompt])
    for _ in range(tokens):
        chosen = model(sequence, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
        sequence = torch.cat((sequence, chosen), dim=1)
    return sequence[0, len(prompt) :].tolist()
