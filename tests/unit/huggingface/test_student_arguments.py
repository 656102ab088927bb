# SPDX-License-Identifier: Apache-2.0
"""What a folder says of the student becomes the parser's defaults; what is given stands."""

from __future__ import annotations

import argparse
import json

import pytest

from t3s_megatron.cli import main
from t3s_megatron.errors import T3SError
from t3s_megatron.huggingface.arguments import take_from_folder

CONFIG = dict(
    model_type="qwen3_moe",
    num_hidden_layers=3,
    hidden_size=64,
    intermediate_size=128,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    rms_norm_eps=1e-6,
    rope_theta=1000000,
    max_position_embeddings=64,
    vocab_size=24,
    tie_word_embeddings=False,
    attention_dropout=0.1,
    num_experts=8,
    num_experts_per_tok=2,
    moe_intermediate_size=32,
    norm_topk_prob=True,
    decoder_sparse_step=1,
    mlp_only_layers=[0],
)

WORDS = """
--hidden-dropout 0.0
--moe-router-load-balancing-type none
--moe-token-dispatcher-type alltoall
--moe-router-dtype fp32
--num-layers 3
--hidden-size 64
--num-attention-heads 4
--norm-epsilon 1e-06
--untie-embeddings-and-output-weights
--max-position-embeddings 64
--attention-dropout 0.1
--group-query-attention
--num-query-groups 2
--kv-channels 32
--rotary-base 1000000
--position-embedding-type rope
--normalization RMSNorm
--swiglu
--disable-bias-linear
--qk-layernorm
--num-experts 8
--moe-router-topk 2
--moe-ffn-hidden-size 32
--ffn-hidden-size 128
--moe-layer-freq '([0]*1+[1]*2)'
"""


@pytest.fixture
def folder(tmp_path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return str(tmp_path)


def test_the_command_prints_them(folder, capsys):
    assert main(["arguments", folder]) == 0
    assert capsys.readouterr().out.split("\n") == WORDS.strip("\n").split("\n") + [""]


def test_the_command_refuses_what_is_no_student(tmp_path, capsys):
    assert main(["arguments", str(tmp_path)]) == 2
    assert "no config.json in it" in capsys.readouterr().err


def test_without_a_folder_that_is_here_nothing_changes(tmp_path):
    parser = argparse.ArgumentParser()
    for line in ([], ["--t3s-hf-model", str(tmp_path / "gone")]):
        assert take_from_folder(parser, line) is parser


def test_an_option_that_this_megatron_has_not(folder):
    with pytest.raises(T3SError, match="this release of Megatron has no --hidden-dropout"):
        take_from_folder(argparse.ArgumentParser(), ["--t3s-hf-model", folder])
