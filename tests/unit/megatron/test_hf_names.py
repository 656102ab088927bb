# SPDX-License-Identifier: Apache-2.0
"""Every tensor of the full-size Qwen3 folders has its place in Megatron, and the other way round.

Without weights: the models are built on the meta device, and the folders' tensor names are written
out here from the published naming scheme. The parameter counts are half of the `total_size` in
their model.safetensors.index.json (bfloat16; for the 8B model worked out).
"""

from __future__ import annotations

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


def arguments(config: dict) -> list[str]:
    """Megatron's, as a run script would write them."""
    line = f"""
        --num-layers {config["num_hidden_layers"]} --hidden-size {config["hidden_size"]}
        --ffn-hidden-size {config["intermediate_size"]} --kv-channels 128
        --num-attention-heads {config["num_attention_heads"]} --group-query-attention
        --num-query-groups {config["num_key_value_heads"]} --qk-layernorm --normalization RMSNorm
        --norm-epsilon 1e-6 --swiglu --disable-bias-linear --position-embedding-type rope
        --rotary-base 1000000 --untie-embeddings-and-output-weights --seq-length 32768
        --max-position-embeddings 32768 --micro-batch-size 1 --transformer-impl local
        --no-gradient-accumulation-fusion --no-persist-layer-norm --no-rope-fusion --bf16
        --no-masked-softmax-fusion --no-bias-swiglu-fusion --attention-backend unfused
    """
    if config["model_type"] == "qwen3_moe":
        line += """
            --num-experts 128 --moe-router-topk 8 --moe-ffn-hidden-size 1536
            --moe-token-dispatcher-type alltoall --moe-router-load-balancing-type none
        """
    return line.split()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.child
def test_every_tensor_is_used_once_and_every_parameter_filled(name, tmp_path):
    import torch
    from megatron.core import mpu
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
    from megatron.training.arguments import parse_args, validate_args
    from megatron.training.global_vars import set_args
    from transformers import AutoConfig

    from t3s_megatron.huggingface.architecture import check, vocabulary_rows
    from t3s_megatron.megatron.hf_weights import (
        NamedLikeTransformerEngine,
        _bridge,
        _folder_names,
        check_names,
    )
    from t3s_megatron.megatron.model import model_provider

    facts = SHARED | MODELS[name]
    config = AutoConfig.for_model(**facts)
    sys.argv = ["pretrain", *arguments(facts)]
    args = parse_args()
    validate_args(args)
    args.padded_vocab_size = vocabulary_rows(config, 1)
    check(config, args, name)
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

    view = NamedLikeTransformerEngine(model)
    assert set(view.state_dict()) == {key for key, _ in view.named_parameters()}
    bridge = _bridge(config, model.config, args.padded_vocab_size)
    used = Counter(key for keys in _folder_names(bridge, [view]) for key in keys)
    wanted = published_names(facts)
    assert used == Counter(wanted)
    check_names(set(used), name, set(wanted), tied=False)


@pytest.mark.child
def test_local_layers_under_transformer_engines_names():
    from t3s_megatron.megatron.hf_weights import transformer_engine_name

    layer = "decoder.layers.3."
    for local, native, moe in (
        ("input_layernorm.weight", "self_attention.linear_qkv.layer_norm_weight", False),
        ("pre_mlp_layernorm.weight", "mlp.linear_fc1.layer_norm_weight", False),
        ("pre_mlp_layernorm.weight", "pre_mlp_layernorm.weight", True),
        ("mlp.experts.local_experts.12.linear_fc2.weight", "mlp.experts.linear_fc2.weight12", True),
    ):
        assert transformer_engine_name(layer + local, moe) == layer + native
        assert transformer_engine_name(layer + native, moe) == layer + native  # theirs pass


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
def test_without_mbridge_the_error_says_what_to_install(monkeypatch):
    from t3s_megatron.errors import T3SError
    from t3s_megatron.megatron.hf_weights import require_mbridge

    monkeypatch.setitem(sys.modules, "mbridge", None)
    with pytest.raises(T3SError, match=r"pip install 't3s-megatron\[huggingface\]'"):
        require_mbridge()
