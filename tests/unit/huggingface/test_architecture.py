# SPDX-License-Identifier: Apache-2.0
"""Which Megatron arguments describe the model of a config.json, field by field."""

from __future__ import annotations

from argparse import Namespace
from types import SimpleNamespace

import pytest
from transformers import AutoConfig, LlamaConfig

from t3s_megatron.errors import MismatchError, T3SError
from t3s_megatron.huggingface.architecture import (
    check,
    config_from_arguments,
    differences,
    vocabulary_rows,
)

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
    untie_embeddings_and_output_weights=True,
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
    num_experts=None,
    moe_router_topk=2,
    moe_ffn_hidden_size=None,
    moe_router_pre_softmax=False,
    moe_layer_freq=1,
    moe_router_score_function="softmax",
    moe_router_topk_scaling_factor=None,
    moe_router_enable_expert_bias=False,
    moe_shared_expert_intermediate_size=None,
)
EXPERTS = dict(num_experts=8, moe_ffn_hidden_size=16)
TOKENIZER = SimpleNamespace(bos_token_id=None, eos_token_id=1, pad_token_id=0)


def config(moe: bool = False, **changed):
    args = Namespace(**ARGUMENTS | (EXPERTS if moe else {}))
    return AutoConfig.for_model(**config_from_arguments(args, TOKENIZER) | changed)


def args(moe: bool = False, **changed) -> Namespace:
    return Namespace(**ARGUMENTS | (EXPERTS if moe else {}) | changed)


@pytest.mark.parametrize("moe", [False, True])
def test_the_config_of_the_arguments_is_that_model(moe):
    check(config(moe), args(moe), "here")


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
    "apply_layernorm_1p": True,
    "attention_output_gate": True,
    "multi_latent_attention": True,
    "mtp_num_layers": 1,
    "num_experts": 8,
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
    (difference,) = differences(config(moe), args(moe, **{name: value}))
    assert "--" in difference.argument and str(difference.wanted) in str(difference)


@pytest.mark.parametrize("frequency", [1, [1, 1, 1, 1]])
def test_experts_in_every_layer_may_be_said_in_two_ways(frequency):
    assert not differences(config(True), args(True, moe_layer_freq=frequency))


@pytest.mark.parametrize("changed", [{"mlp_only_layers": [0]}, {"decoder_sparse_step": 2}])
def test_layers_without_experts_are_refused(changed):
    with pytest.raises(MismatchError, match="layers without experts"):
        check(config(True, **changed), args(True), "here")


def test_a_shorter_context_than_the_folders_is_fine():
    assert not differences(config(), args(max_position_embeddings=32))


def test_all_differences_are_named_in_one_error():
    with pytest.raises(MismatchError) as caught:
        check(config(), args(num_layers=2, kv_channels=16, rotary_base=10000), "DIR")
    text = str(caught.value)
    assert text.startswith("DIR is not the model that the arguments describe:")
    assert "num_hidden_layers is 4, but --num-layers is 2" in text
    assert "head_dim is 32, but --kv-channels is 16" in text
    assert "rope_theta is 1000000.0, but --rotary-base is 10000" in text


def test_other_architectures_are_refused():
    with pytest.raises(T3SError, match="model_type llama is not supported: qwen3 and qwen3_moe"):
        check(LlamaConfig(), args(), "here")


def test_rows_of_the_vocabulary():
    qwen = SimpleNamespace(vocab_size=151936)
    assert [vocabulary_rows(qwen, tensor) for tensor in (1, 2, 8)] == [151936] * 3
    assert vocabulary_rows(SimpleNamespace(vocab_size=23), 2) == 24
