# SPDX-License-Identifier: Apache-2.0
"""Every tensor of full-size folders has its place in Megatron, and the other way round.

Without weights: the models are built on the meta device, and the folders' tensor names are written
out here from the published naming schemes. The parameter counts are published ones (Qwen3: half of
the `total_size` in model.safetensors.index.json, in bfloat16; for the 8B model worked out) or, for
those of fewer layers, what transformers counts in its own model (Moonlight, Kimi-K2: worked out; by
the same sum all 27 and 61 layers are 15,960,108,544 and 1,026,408,209,408 parameters). Tensors for
multi-token prediction do not count.
"""

from __future__ import annotations

import json
import sys
from collections import Counter

import pytest

from tests.support.delta_net_names import CONFIG, FILE
from tests.support.published import MODELS

PARAMETERS = {
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-32B": 32_762_123_264,
    # Four of its 94 layers of 2,487,755,008: all together have 235,093,634,560, as published.
    "Qwen3-235B-A22B": 235_093_634_560 - 90 * 2_487_755_008,
    "Llama-3.1-8B": 8_030_261_248,
    "Mistral-7B-v0.3": 7_248_023_552,
    "Qwen2.5-7B": 7_615_616_512,
    "Qwen1.5-MoE-A2.7B": 14_315_784_192,
    "Mixtral-8x7B-v0.1": 46_702_792_704,
    "gpt-oss-20b": 20_914_757_184,
    "GLM-4.5-Air, eight layers": 17_875_521_536,
    "DeepSeek-V3, eight layers": 61_140_245_504,
    "Moonlight-16B-A3B, four layers": 2_508_607_488,
    "Kimi-K2-Instruct, three layers": 36_965_047_296,
    # Four of its 20 layers. All together have 16,255,638,528 without the bias that chooses experts
    # (19 x 256), which is a buffer here as in transformers.
    "Ling-mini-2.0": 16_255_638_528 - 16 * 819_466_496,
    # Four of its 48 layers; eleven times as much is in the others.
    "Qwen3-Next-80B-A3B": 79_674_391_296 - 11 * 6_587_671_616,
}

# The other layers are the same.
CUT = {
    name: {"num_hidden_layers": 4}
    for name in ("Qwen3-235B-A22B", "Ling-mini-2.0", "Qwen3-Next-80B-A3B")
}

_QKVO = [f"self_attn.{x}_proj.weight" for x in "qkvo"]
_QKV_BIAS = [f"self_attn.{x}_proj.bias" for x in "qkv"]
_QK_NORM = ["self_attn.q_norm.weight", "self_attn.k_norm.weight"]
_BIAS = ["mlp.gate.weight", "mlp.gate.e_score_correction_bias"]
_DELTA_NET = [f"linear_attn.{x}.weight" for x in ("conv1d", "norm", "out_proj")]
_DELTA_NET += ["linear_attn.A_log", "linear_attn.dt_bias"]
_DELTA_NET += [f"linear_attn.in_proj_{x}.weight" for x in ("qkvz", "ba")]
_BAILING = [f"attention.{x}.weight" for x in ("query_key_value", "dense")]
_BAILING += [f"attention.{x}_layernorm.weight" for x in ("query", "key")]
_LATENT = [
    "q_a_proj",
    "q_a_layernorm",
    "q_b_proj",
    "kv_a_proj_with_mqa",
    "kv_a_layernorm",
    "kv_b_proj",
    "o_proj",
]

_STACKS = ("gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias")

#: (in every layer's attention, number of experts, router, experts, shared experts)
SCHEMES = {
    "qwen3": (_QKVO + _QK_NORM, None, [], "", None),
    "qwen3_moe": (_QKVO + _QK_NORM, "num_experts", ["mlp.gate.weight"], "mlp.experts", None),
    "llama": (_QKVO, None, [], "", None),
    "mistral": (_QKVO, None, [], "", None),
    "qwen2": (_QKVO + _QKV_BIAS, None, [], "", None),
    "qwen2_moe": (
        _QKVO + _QKV_BIAS,
        "num_experts",
        ["mlp.gate.weight", "mlp.shared_expert_gate.weight"],
        "mlp.experts",
        "mlp.shared_expert",
    ),
    "mixtral": (
        _QKVO,
        "num_local_experts",
        ["block_sparse_moe.gate.weight"],
        "block_sparse_moe.experts",
        None,
    ),
    # All experts of a layer in one tensor: a name for each of them.
    "gpt_oss": (
        _QKVO + _QKV_BIAS + ["self_attn.o_proj.bias", "self_attn.sinks"],
        "num_local_experts",
        ["mlp.router.weight", "mlp.router.bias"],
        "mlp.experts",
        None,
    ),
    "glm4_moe": (
        _QKVO + _QKV_BIAS, "n_routed_experts", _BIAS, "mlp.experts", "mlp.shared_experts"
    ),
    "deepseek_v3": (
        [f"self_attn.{x}.weight" for x in _LATENT],
        "n_routed_experts",
        _BIAS,
        "mlp.experts",
        "mlp.shared_experts",
    ),
    "kimi_k2": (
        [f"self_attn.{x}.weight" for x in _LATENT],
        "n_routed_experts",
        _BIAS,
        "mlp.experts",
        "mlp.shared_experts",
    ),
    "qwen3_next": (
        _QKVO + _QK_NORM,  # of every fourth layer
        "num_experts",
        ["mlp.gate.weight", "mlp.shared_expert_gate.weight"],
        "mlp.experts",
        "mlp.shared_expert",
    ),
    "bailing_moe_v2": (
        _BAILING,
        "num_experts",
        ["mlp.gate.weight", "mlp.gate.expert_bias"],
        "mlp.experts",
        "mlp.shared_experts",
    ),
}  # fmt: skip


def published_names(config: dict) -> list[str]:
    family = config["model_type"]
    attention, experts, router, block, shared = SCHEMES[family]
    if config.get("kv_lora_rank") and not config["q_lora_rank"]:
        low = ("q_a_proj", "q_a_layernorm", "q_b_proj")
        kept = [name for name in attention if name.split(".")[1] not in low]
        attention = ["self_attn.q_proj.weight", *kept]
    gated = ["w1", "w3", "w2"] if family == "mixtral" else ["gate_proj", "up_proj", "down_proj"]
    embedding = "word_embeddings" if family == "bailing_moe_v2" else "embed_tokens"
    names = [f"model.{embedding}.weight", "model.norm.weight", "lm_head.weight"]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        blocks = ["mlp"]
        is_delta_net = (i + 1) % config.get("full_attention_interval", 1) != 0
        inside = ["input_layernorm.weight", "post_attention_layernorm.weight"]
        inside += _DELTA_NET if is_delta_net else attention
        if experts is not None and i >= config.get("first_k_dense_replace", 0):
            inside += router
            if family == "gpt_oss":
                blocks = []
                inside += [f"{block}.{name}" for name in _STACKS] * config[experts]
            else:
                blocks = [f"{block}.{k}" for k in range(config[experts])]
            blocks += [] if shared is None else [shared]
        inside += [f"{block}.{name}.weight" for block in blocks for name in gated]
        names += [f"{layer}.{name}" for name in inside]
    return names


RUNTIME = """
    --seq-length 4096 --micro-batch-size 1 --transformer-impl local --bf16
    --no-gradient-accumulation-fusion --no-persist-layer-norm --no-rope-fusion
    --no-masked-softmax-fusion --no-bias-swiglu-fusion --attention-backend unfused
"""


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.child
def test_every_tensor_is_used_once_and_every_parameter_filled(name, tmp_path):
    import torch
    from megatron.core import mpu
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
    from megatron.training.arguments import parse_args, validate_args
    from megatron.training.global_vars import set_args

    from t3s_megatron.huggingface.architecture import family_of, fit_to_folder
    from t3s_megatron.megatron.hf_weights import _LiveModel, check_names
    from t3s_megatron.megatron.model import model_provider
    from t3s_megatron.plugin import T3S

    facts = MODELS[name] | CUT.get(name, {})
    (tmp_path / "config.json").write_text(json.dumps(facts))
    sys.argv = ["pretrain", *RUNTIME.split(), "--t3s-hf-model", str(tmp_path)]
    args = parse_args(T3S().add_arguments)
    validate_args(args)
    config = fit_to_folder(args, str(tmp_path))
    set_args(args)

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    mpu.initialize_model_parallel()
    model_parallel_cuda_manual_seed(0)
    torch.cuda.current_device = lambda: torch.device("meta")
    with torch.device("meta"):
        model = model_provider()
    real = [n for n, p in model.named_parameters() if p.device.type != "meta"]
    small = ("layernorm", "router", "gate_weight", "out_norm")
    assert all(any(word in n for word in small) for n in real), real[:5]
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]

    live = _LiveModel([model], config, family_of(config, name))
    used = Counter(key for p in live.parameters for key in live.names(p.name))
    wanted = published_names(facts)
    assert used == Counter(wanted)
    check_names(set(used), name, set(wanted), tied=False)


@pytest.mark.child
def test_names_of_transformer_engines_layers():
    """As megatron-core 0.19.2 names them (extensions/transformer_engine.py); nothing of it runs
    here."""
    from t3s_megatron.megatron.hf_weights import plain_name

    layer = "decoder.layers.3."
    for native, plain in (
        ("self_attention.linear_qkv.layer_norm_weight", "input_layernorm.weight"),
        ("self_attention.linear_qkv.weight", "self_attention.linear_qkv.weight"),
        ("self_attention.in_proj.layer_norm_weight", "input_layernorm.weight"),
        ("mlp.linear_fc1.layer_norm_weight", "pre_mlp_layernorm.weight"),
        ("pre_mlp_layernorm.weight", "pre_mlp_layernorm.weight"),
        ("mlp.experts.linear_fc2.weight12", "mlp.experts.12.linear_fc2.weight"),
        ("mlp.experts.linear_fc1.bias0", "mlp.experts.0.linear_fc1.bias"),
        ("mlp.shared_experts.linear_fc1.weight", "mlp.shared_experts.linear_fc1.weight"),
        (
            "self_attention.linear_q_up_proj.layer_norm_weight",
            "self_attention.q_layernorm.weight",
        ),
        (
            "self_attention.linear_kv_up_proj.layer_norm_weight",
            "self_attention.kv_layernorm.weight",
        ),
    ):
        assert plain_name(layer + native) == layer + plain
        assert plain_name(layer + plain) == layer + plain
    # SequentialMLP's, of local and of Transformer Engine's layers.
    local = "mlp.experts.local_experts.12.linear_fc2.weight"
    assert plain_name(layer + local) == f"{layer}mlp.experts.12.linear_fc2.weight"


@pytest.mark.child
def test_a_folder_with_other_tensors_is_refused():
    from t3s_megatron.errors import MismatchError
    from t3s_megatron.megatron.hf_weights import check_names

    check_names({"a"}, "DIR", {"a", "model.layers.0.self_attn.rotary_emb.inv_freq"}, tied=False)
    check_names({"a"}, "DIR", {"a", "lm_head.weight"}, tied=True)
    with pytest.raises(MismatchError, match="DIR: it lacks 2 tensors: b, c"):
        check_names({"a", "b", "c"}, "DIR", {"a"}, tied=False)
    with pytest.raises(MismatchError, match="has, and the model does not, 1 tensors: lm_head"):
        check_names({"a"}, "DIR", {"a", "lm_head.weight"}, tied=False)


@pytest.mark.child
def test_gated_delta_nets_of_transformer_engines_layers_are_whole_folders():
    """Names and shapes as Megatron builds them (tests/support/delta_net_names.py says how), against
    those of the model that transformers makes of the same config.json."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from t3s_megatron.huggingface.families.qwen3_next import QWEN3_NEXT
    from t3s_megatron.megatron.hf_weights import plain_name

    config = AutoConfig.for_model(**CONFIG)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    wanted = {}
    for name, tensor in model.state_dict().items():
        if name.endswith("experts.gate_up_proj"):  # as save_pretrained writes them
            for k, gate_up in enumerate(tensor):
                for half, shape in zip(("gate", "up"), gate_up.chunk(2), strict=True):
                    key = name.replace("gate_up_proj", f"{k}.{half}_proj.weight")
                    wanted[key] = tuple(shape.shape)
        elif name.endswith("experts.down_proj"):
            for k, down in enumerate(tensor):
                wanted[name.replace("down_proj", f"{k}.down_proj.weight")] = tuple(down.shape)
        else:
            wanted[name] = tuple(tensor.shape)
    with open(FILE) as file:
        recorded = json.load(file)
    used = []
    for name, shape in recorded.items():
        known = QWEN3_NEXT.tensor(plain_name(name))
        assert known is not None, name
        tensor, names = known
        used += names
        assert tensor.packing.fits([wanted[key] for key in names], tuple(shape), 1, config), name
    assert Counter(used) == Counter(list(wanted))
