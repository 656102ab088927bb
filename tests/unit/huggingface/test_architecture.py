# SPDX-License-Identifier: Apache-2.0
"""Which Megatron arguments describe the model of a config.json, field by field."""

from __future__ import annotations

from argparse import Namespace
from types import SimpleNamespace

import pytest
from transformers import AutoConfig

from t3s_megatron.errors import MismatchError, T3SError
from t3s_megatron.huggingface.architecture import (
    check,
    config_from_arguments,
    differences,
    family_of,
    vocabulary_rows,
)
from t3s_megatron.huggingface.families.table import FAMILIES

ARGUMENTS = dict(
    num_layers=4,
    hidden_size=64,
    ffn_hidden_size=128,
    num_attention_heads=4,
    group_query_attention=True,
    num_query_groups=2,
    kv_channels=32,
    layernorm_epsilon=1e-6,
    rotary_base=1000000,
    use_rope_scaling=False,
    rope_scaling_factor=8.0,
    untie_embeddings_and_output_weights=True,
    vocab_size=None,
    padded_vocab_size=24,
    max_position_embeddings=64,
    swiglu=True,
    window_size=None,
    add_qkv_bias=False,
    add_bias_linear=False,
    normalization="RMSNorm",
    qk_layernorm=True,
    position_embedding_type="rope",
    rotary_percent=1.0,
    rotary_interleaved=False,
    multi_latent_attention=False,
    mtp_num_layers=None,
    attention_dropout=0.0,
    num_experts=None,
    moe_router_topk=2,
    moe_ffn_hidden_size=None,
    moe_router_pre_softmax=False,
    moe_layer_freq=1,
    moe_router_score_function="softmax",
    moe_router_topk_scaling_factor=None,
    moe_router_enable_expert_bias=False,
    moe_router_bias_update_rate=1e-3,
    moe_router_num_groups=None,
    moe_router_group_topk=None,
    moe_shared_expert_intermediate_size=None,
    moe_shared_expert_gate=False,
)
EXPERTS = dict(num_experts=8, moe_ffn_hidden_size=16)
TOKENIZER = SimpleNamespace(bos_token_id=None, eos_token_id=1, pad_token_id=0)


def args(moe: bool = False, **changed) -> Namespace:
    return Namespace(**ARGUMENTS | (EXPERTS if moe else {}) | changed)


def config(moe: bool = False, **changed):
    written = config_from_arguments(args(moe), TOKENIZER, "here")[1]
    return AutoConfig.for_model(**written | changed)


def different(config, args) -> list:
    return differences(family_of(config, "here"), config, args)


@pytest.mark.parametrize("moe", [False, True])
def test_the_config_of_the_arguments_is_that_model(moe):
    found = config(moe)
    assert found.model_type == ("qwen3_moe" if moe else "qwen3")
    check(found, args(moe), "here")


@pytest.mark.parametrize("scaled", [False, True])
def test_without_norms_on_heads_it_is_a_llama(scaled):
    found = args(qk_layernorm=False, use_rope_scaling=scaled, rope_scaling_factor=32.0)
    config, written = config_from_arguments(found, TOKENIZER, "here")
    assert written["model_type"] == "llama"
    assert config.rope_parameters.get("rope_type") == ("llama3" if scaled else "default")
    check(config, found, "here")
    if scaled:
        (difference,) = different(config, args(**vars(found) | {"rope_scaling_factor": 8.0}))
        assert difference.wanted == 32.0


CHANGES = {
    "num_layers": 5,
    "hidden_size": 128,
    "ffn_hidden_size": 64,
    "num_attention_heads": 8,
    "num_query_groups": 4,
    "group_query_attention": False,
    "kv_channels": 16,
    "layernorm_epsilon": 1e-5,
    "rotary_base": 10000,
    "use_rope_scaling": True,
    "untie_embeddings_and_output_weights": False,
    "max_position_embeddings": 128,
    "swiglu": False,
    "window_size": (128, 0),
    "add_qkv_bias": True,
    "add_bias_linear": True,
    "normalization": "LayerNorm",
    "qk_layernorm": False,
    "position_embedding_type": "learned_absolute",
    "rotary_percent": 0.5,
    "rotary_interleaved": True,
    "layernorm_zero_centered_gamma": True,
    "attention_output_gate": True,
    "multi_latent_attention": True,
    "mtp_num_layers": 1,
    "num_experts": 8,
    "attention_dropout": 0.1,
    "softmax_type": "learnable",
    "qk_l2_norm": True,
}
CHANGES_OF_EXPERTS = {
    "num_experts": 4,
    "moe_router_topk": 3,
    "moe_ffn_hidden_size": 32,
    "moe_router_pre_softmax": True,
    "moe_layer_freq": [0, 1, 1, 1],
    "moe_router_score_function": "sigmoid",
    "moe_router_topk_scaling_factor": 2.5,
    "moe_router_enable_expert_bias": True,
    "moe_shared_expert_intermediate_size": 16,
}


@pytest.mark.parametrize(
    ("moe", "name", "value"),
    [(False, *item) for item in CHANGES.items()]
    + [(True, *item) for item in CHANGES_OF_EXPERTS.items()],
)
def test_every_argument_counts(moe, name, value):
    (difference,) = different(config(moe), args(moe, **{name: value}))
    assert "--" in difference.argument and str(difference.wanted) in str(difference)


@pytest.mark.parametrize("frequency", [1, [1, 1, 1, 1]])
def test_experts_in_every_layer_may_be_said_in_two_ways(frequency):
    assert not different(config(True), args(True, moe_layer_freq=frequency))


@pytest.mark.parametrize(
    ("changed", "pattern"),
    [({"mlp_only_layers": [0, 2]}, [0, 1, 0, 1]), ({"decoder_sparse_step": 2}, [0, 1, 0, 1])],
)
def test_layers_without_experts(changed, pattern):
    found = config(True, **changed)
    assert not different(found, args(True, moe_layer_freq=pattern))
    assert different(found, args(True, moe_layer_freq=[1, 0, 1, 0]))
    # The width of their feed-forward block counts only where there are such layers.
    assert different(found, args(True, moe_layer_freq=pattern, ffn_hidden_size=96))
    assert not different(config(True), args(True, ffn_hidden_size=96))


def test_a_shorter_context_than_the_folders_is_fine():
    assert not different(config(), args(max_position_embeddings=32))


def test_all_differences_are_named_in_one_error():
    with pytest.raises(MismatchError) as caught:
        check(config(), args(num_layers=2, kv_channels=16, rotary_base=10000), "DIR")
    text = str(caught.value)
    assert text.startswith("DIR is not the model that the arguments describe:")
    assert "num_hidden_layers is 4, but --num-layers is 2" in text
    assert "head_dim is 32, but --kv-channels is 16" in text
    assert "rope_theta is 1000000.0, but --rotary-base is 10000" in text


def test_other_architectures_are_refused():
    with pytest.raises(T3SError, match="model_type gemma2 is not supported: .*qwen3_moe, "):
        family_of(AutoConfig.for_model("gemma2"), "here")


LIMITS = {
    "hidden_act": ("gelu", "hidden_act is gelu; supported: silu"),
    "attention_bias": (True, "attention_bias is True; supported: False"),
    "rope_parameters": (
        {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0},
        "rope_type is yarn; supported: default",
    ),
    "use_sliding_window": (True, "use_sliding_window is True; supported: False"),
}


@pytest.mark.parametrize("field", LIMITS)
def test_what_megatron_has_nothing_for_is_refused_by_name(field):
    value, wanted = LIMITS[field]
    with pytest.raises(T3SError, match=f"a qwen3 that is not supported:\n  {wanted}"):
        family_of(config(**{field: value}), "here")


def test_arguments_of_no_model_say_what_is_in_the_way():
    with pytest.raises(MismatchError, match="nearest is qwen3:\n.*--normalization is LayerNorm"):
        config_from_arguments(args(normalization="LayerNorm"), TOKENIZER, "--t3s-hf-export")


def test_rows_of_the_vocabulary():
    qwen = SimpleNamespace(vocab_size=151936)
    assert [vocabulary_rows(qwen, tensor) for tensor in (1, 2, 8)] == [151936] * 3
    assert vocabulary_rows(SimpleNamespace(vocab_size=23), 2) == 24


def test_tensors_for_multi_token_prediction_are_known_by_their_layer_or_their_prefix():
    ahead = {
        model_type: [
            name
            for name in ("mtp.norm.weight", "model.layers.4.a", "model.layers.3.a", "model.norm.a")
            if FAMILIES[model_type].is_ahead(name, 4)
        ]
        for model_type in ("qwen3", "glm4_moe", "qwen3_next")
    }
    assert ahead == {
        "qwen3": [],
        "glm4_moe": ["model.layers.4.a"],
        "qwen3_next": ["mtp.norm.weight"],
    }


@pytest.mark.parametrize(
    ("kinds", "frequency"),
    [("lllf" * 2, 4), ("lf" * 4, 2), ("l" * 8, 9), ("lfll" * 2, [1, 0, 1, 1] * 2)],
)
def test_which_layers_are_gated_delta_nets(kinds, frequency):
    long = {"l": "linear_attention", "f": "full_attention"}
    config = AutoConfig.for_model(
        "qwen3_next", num_hidden_layers=8, layer_types=[long[kind] for kind in kinds]
    )
    options = FAMILIES["qwen3_next"].options(config)
    assert options["--linear-attention-freq"] == frequency
