# SPDX-License-Identifier: Apache-2.0
"""Every tensor of the full-size Qwen3 folders has its place in Megatron, and the other way round.

Without weights: the models are built on the meta device, and the folders' tensor names are written
out here from the published naming scheme. The parameter counts are half of the `total_size` in
their model.safetensors.index.json (bfloat16; for the 8B model worked out).
"""

from __future__ import annotations

import json
import sys
from collections import Counter

import pytest

from tests.support.qwen3 import MODELS, SHARED

PARAMETERS = {
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-32B": 32_762_123_264,
    "Qwen3-235B-A22B": 235_093_634_560,
}


def published_names(config: dict) -> list[str]:
    names = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    attention = ["q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm"]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        names += [f"{layer}.input_layernorm.weight", f"{layer}.post_attention_layernorm.weight"]
        names += [f"{layer}.self_attn.{name}.weight" for name in attention]
        blocks = ["mlp"]
        if config["model_type"] == "qwen3_moe":
            names.append(f"{layer}.mlp.gate.weight")
            blocks = [f"mlp.experts.{k}" for k in range(config["num_experts"])]
        for block in blocks:
            names += [f"{layer}.{block}.{p}_proj.weight" for p in ("gate", "up", "down")]
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

    facts = SHARED | MODELS[name]
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
    assert all("layernorm" in n or "router" in n for n in real), real[:5]  # small ones
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
